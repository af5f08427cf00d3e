//! The handshake with clients: versions, ALPN, client certificates, resumption. Not here: deadlines (the caller's),
//! which certificate is shown (`certificates.rs`), and what an identity is good for.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert, UnbufferedServerConnection, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CommonState, HandshakeKind, ProtocolVersion, RootCertStore, ServerConfig, version};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use x509_parser::extensions::GeneralName;

use super::certificates::read_chain;
use super::{Certificates, Stream, TlsStream};
use crate::config::{self, At, CertificateName, ClientAuth, Finding, TlsVersion};
use crate::imap::{UserName, escape};

/// The name IANA registered for IMAP (RFC 7301, RFC 9051 11.1). A client that offers only others is a browser that was
/// lured here (ALPACA, CVE-2021-3618); rustls refuses it by itself once this is set.
const ALPN: &[u8] = b"imap";

thread_local! {
    /// The name that was asked for in the handshake which this thread is doing a turn of.
    static ASKED_FOR: Cell<Option<String>> = const { Cell::new(None) };
}

/// Does handshakes. One per configuration, shared by all listeners and workers, so that a ticket given by one is good
/// at every other, and at those that a reload makes of the same setting. It is good nowhere else: its keys die with the
/// last of these, which binds tickets to this setting of client certificates. rustls binds them to the SNI name
/// (CVE-2025-23419 is what happens otherwise).
pub struct Acceptor {
    certificates: Arc<Certificates>,
    config: Arc<ServerConfig>,
    setting: Setting,
}

/// All that decides who is let in and as whom, apart from the server's own certificates. A session that is resumed is not
/// asked for a certificate again, so that it must have begun under the same.
#[derive(PartialEq, Eq)]
struct Setting {
    min_version: TlsVersion,
    clients: Clients,
    client_name: CertificateName,
}

/// Which certificates of clients are taken: those of the authorities that the file held when it was read.
#[derive(PartialEq, Eq)]
enum Clients {
    NotAsked,
    Asked { authorities: Vec<CertificateDer<'static>>, optional: bool },
}

/// What a handshake gave.
#[derive(Debug)]
pub struct Handshake {
    /// The encrypted connection.
    pub stream: Stream,
    /// The host name the client asked for (SNI), in lower case.
    pub server_name: Option<String>,
    /// Whom the client's verified certificate names.
    pub identity: Option<UserName>,
    /// `1.2` or `1.3`.
    pub version: &'static str,
    /// The name of the cipher suite.
    pub cipher: &'static str,
    /// An earlier session was taken up.
    pub resumed: bool,
}

/// A connection after the handshake, and the host name that was asked for.
pub type Shaken<T> = (Box<TlsStream<T, UnbufferedServerConnection>>, Option<String>);

/// No TLS with this client.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// It offered protocols, and IMAP was not among them.
    #[error("the client offered other protocols only")]
    AlpnRefused,
    /// Everything else; the text is for our log.
    #[error("{0}")]
    Failed(String),
}

impl Acceptor {
    /// Gets ready for handshakes with these certificates. Sessions begun with `before` are resumed, unless the setting of
    /// versions and client certificates, the content of the authorities' file included, has changed since.
    ///
    /// # Errors
    /// When the authorities for client certificates cannot be read.
    pub fn new(
        certificates: Arc<Certificates>,
        tls: &config::Tls,
        before: Option<&Self>,
    ) -> Result<Self, Vec<Finding>> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let setting = Setting {
            min_version: tls.min_version,
            clients: Clients::read(&tls.client_auth)?,
            client_name: tls.client_name,
        };
        let versions: &[_] = match tls.min_version {
            TlsVersion::V12 => &[&version::TLS13, &version::TLS12],
            TlsVersion::V13 => &[&version::TLS13],
        };
        let verifier = setting.clients.verifier(&tls.client_auth, &provider)?;
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(|error| unusable(&error))?;
        let mut config =
            builder.with_client_cert_verifier(verifier).with_cert_resolver(Arc::new(Noting(certificates.clone())));
        config.alpn_protocols = vec![ALPN.to_vec()];
        match before.filter(|before| before.setting == setting).map(|before| &before.config) {
            Some(before) => {
                config.ticketer = Arc::clone(&before.ticketer);
                // For clients of TLS 1.2 that know no tickets.
                config.session_storage = Arc::clone(&before.session_storage);
            }
            None => config.ticketer = aws_lc_rs::Ticketer::new().map_err(|error| unusable(&error))?,
        }
        // One for the next connection, one to spare: mail programs open several.
        config.send_tls13_tickets = 2;
        Ok(Self { certificates, config: Arc::new(config), setting })
    }

    /// What clients are shown.
    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// Does the server's side of a handshake. Waits as long as the client likes: put a deadline around it. Dropping it
    /// closes the connection.
    ///
    /// # Errors
    /// [`HandshakeError`]; the client has then been sent an alert, and the connection is closed.
    pub async fn accept(&self, tcp: TcpStream) -> Result<Handshake, HandshakeError> {
        let (stream, server_name) = self.shake(tcp).await?;
        let connection = stream.agreed();
        let identity = self.identity(connection);
        let version = match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "1.3",
            _ => "1.2",
        };
        let cipher = connection.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or("unknown");
        let resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
        Ok(Handshake { stream: Stream::Client(stream), server_name, identity, version, cipher, resumed })
    }

    /// The handshake alone, over anything; with the name that was asked for.
    ///
    /// # Errors
    /// [`HandshakeError`], as above.
    pub async fn shake<T: AsyncRead + AsyncWrite + Unpin>(&self, io: T) -> Result<Shaken<T>, HandshakeError> {
        let connection = UnbufferedServerConnection::new(Arc::clone(&self.config));
        let connection = connection.map_err(|error| HandshakeError::from(&io::Error::other(error)))?;
        let mut stream = Box::new(TlsStream::new(io, connection));
        let mut server_name = None;
        let shaken = poll_fn(|cx| {
            ASKED_FOR.set(None);
            let turn = stream.poll_shake(cx);
            if let Some(name) = ASKED_FOR.take() {
                server_name = Some(name);
            }
            turn
        });
        shaken.await.map_err(|error| HandshakeError::from(&error))?;
        Ok((stream, server_name))
    }

    /// The user that the client's certificate names. rustls has verified it: now, or when the session that is resumed
    /// was begun (the ticket carries it, sealed).
    fn identity(&self, connection: &CommonState) -> Option<UserName> {
        user_named(connection.peer_certificates()?.first()?, self.setting.client_name)
    }
}

/// Notes the name that is asked for, which an unbuffered connection does not tell. rustls asks for a certificate in every
/// handshake, also to take up an earlier session, and has read and judged the name by then.
#[derive(Debug)]
struct Noting(Arc<Certificates>);

impl ResolvesServerCert for Noting {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        ASKED_FOR.set(hello.server_name().map(str::to_owned));
        self.0.resolve(hello)
    }
}

impl From<&io::Error> for HandshakeError {
    fn from(error: &io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(rustls::Error::NoApplicationProtocol) => Self::AlpnRefused,
            // The text may quote what the client sent.
            _ => Self::Failed(escape(error.to_string().as_bytes()).to_string()),
        }
    }
}

fn unusable(error: &rustls::Error) -> Vec<Finding> {
    vec![Finding { site: None, message: format!("TLS cannot be set up: {error}") }]
}

impl Clients {
    fn read(auth: &ClientAuth) -> Result<Self, Vec<Finding>> {
        let Some((ca, optional)) = authorities(auth) else { return Ok(Self::NotAsked) };
        let authorities = read_chain(&ca.value).map_err(|message| about(ca, message))?;
        Ok(Self::Asked { authorities, optional })
    }

    /// `auth` is where they were read, for the findings.
    fn verifier(
        &self,
        auth: &ClientAuth,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ClientCertVerifier>, Vec<Finding>> {
        let (Self::Asked { authorities, optional }, Some((ca, _))) = (self, authorities(auth)) else {
            return Ok(WebPkiClientVerifier::no_client_auth());
        };
        let finding = |what: String| about(ca, format!("{}: {what}", ca.value.display()));
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            // Leaving one out silently would lock its clients out.
            roots.add(authority.clone()).map_err(|why| finding(format!("not an authority: {why}")))?;
        }
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        let builder = if *optional { builder.allow_unauthenticated() } else { builder };
        builder.build().map_err(|why| finding(why.to_string()))
    }
}

/// The file, and whether a client may do without a certificate.
fn authorities(auth: &ClientAuth) -> Option<(&At<PathBuf>, bool)> {
    match auth {
        ClientAuth::Off => None,
        ClientAuth::Optional { ca } => Some((ca, true)),
        ClientAuth::Required { ca } => Some((ca, false)),
    }
}

fn about(file: &At<PathBuf>, message: String) -> Vec<Finding> {
    vec![Finding { site: Some(file.site.clone()), message }]
}

/// The name in the one field that is asked for; never from another one when that is absent (CVE-2019-3814), and never
/// one of several common names. A certificate that has expired since the session began names nobody any more.
fn user_named(certificate: &CertificateDer<'_>, field: CertificateName) -> Option<UserName> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    if !certificate.validity().is_valid() {
        return None;
    }
    let name = match field {
        CertificateName::Email => {
            let names = &certificate.subject_alternative_name().ok()??.value.general_names;
            names.iter().find_map(|name| match name {
                GeneralName::RFC822Name(email) => Some(*email),
                _ => None,
            })?
        }
        CertificateName::CommonName => {
            let mut names = certificate.subject().iter_common_name();
            let only = names.next()?;
            if names.next().is_some() {
                return None;
            }
            only.as_str().ok()?
        }
    };
    UserName::new(name.as_bytes()).ok()
}

#[cfg(test)]
mod tests;
