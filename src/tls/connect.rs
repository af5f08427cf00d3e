//! TLS towards backends. Certificate and name are always verified, unless `tls_verify = false` was written out. No ALPN
//! is offered: servers that know the name `imap` need it no more than the others. Not here: IMAP, deadlines.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{UnbufferedClientConnection, WebPkiServerVerifier};
use rustls::crypto::{self, CryptoProvider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;

use super::{Stream, TlsStream};
use crate::config::{At, BackendTls, CertificateFiles, Finding, Roots, TlsClient};

/// Dials into TLS for one backend. Sessions are resumed; the cache belongs to this connector alone, so what was agreed on
/// with one backend, name and client certificate never serves another (CVE-2025-23419's class).
pub struct Connector {
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
    /// A digest of the settings and of all that was read for them.
    read: [u8; 32],
}

impl Connector {
    /// Reads the files and puts the settings together.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub fn new(tls: &TlsClient) -> Result<Self, Vec<Finding>> {
        let (name, config, read) = settings(tls, |verifier| verifier)?;
        Ok(Self { name, config: Arc::new(config), read })
    }

    /// That of a backend; `None` for one that is spoken to in clear.
    ///
    /// # Errors
    /// As [`Connector::new`].
    pub fn for_backend(tls: &BackendTls) -> Result<Option<Self>, Vec<Finding>> {
        match tls {
            BackendTls::None => Ok(None),
            BackendTls::StartTls(tls) | BackendTls::Implicit(tls) => Self::new(tls).map(Some),
        }
    }

    /// Whether the other one has the same settings, and the files they name held the same when they were read: what connects
    /// with this one need not be done anew. The machine's own store is taken for the same.
    pub fn is_same(&self, other: &Self) -> bool {
        self.read == other.read
    }

    /// Does the handshake. Cancel safe in that dropping the future closes the connection.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] when the certificate is not what it must be, which another try will not change;
    /// any other kind when the handshake fails.
    pub async fn connect(&self, tcp: TcpStream) -> io::Result<Stream> {
        match shake(&self.config, &self.name, tcp).await {
            Ok(tls) => Ok(Stream::Backend(tls)),
            Err(error) if is_certificate(&error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(io::Error::other(error)),
            Err(error) => Err(error),
        }
    }
}

/// The handshake alone.
pub(super) async fn shake(
    config: &Arc<ClientConfig>,
    name: &ServerName<'static>,
    tcp: TcpStream,
) -> io::Result<Box<TlsStream<TcpStream, UnbufferedClientConnection>>> {
    let connection = UnbufferedClientConnection::new(Arc::clone(config), name.clone()).map_err(io::Error::other)?;
    let mut stream = Box::new(TlsStream::new(tcp, connection));
    stream.shake().await?;
    Ok(stream)
}

/// The name to ask for, the settings for it, and the digest of what was read. `judged` may put another verifier in the place of
/// the one that the settings ask for.
pub(super) fn settings(
    tls: &TlsClient,
    judged: impl FnOnce(Arc<dyn ServerCertVerifier>) -> Arc<dyn ServerCertVerifier>,
) -> Result<(ServerName<'static>, ClientConfig, [u8; 32]), Vec<Finding>> {
    let provider = Arc::new(crypto::aws_lc_rs::default_provider());
    let mut findings = Vec::new();
    let mut read = Reading(Context::new(&SHA256));
    let name = ServerName::try_from(tls.name.clone());
    if name.is_err() {
        findings.push(finding(None, format!("tls_name: {:?} is neither a host name nor an IP address", tls.name)));
    }
    let verifier = noted(verifier(tls, &provider, &mut read), &mut findings);
    let identity = tls.client.as_ref().map(|files| identity(files, &mut read)).transpose();
    let identity = noted(identity, &mut findings);
    let (Ok(name), Some(verifier), Some(identity)) = (name, verifier, identity) else { return Err(findings) };
    read.part(tls.name.as_bytes());

    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| vec![finding(None, format!("TLS towards backends: {error}"))])?
        .dangerous()
        .with_custom_certificate_verifier(judged(verifier));
    let config = match (identity, &tls.client) {
        (Some((chain, key)), Some(files)) => builder.with_client_auth_cert(chain, key).map_err(|error| {
            vec![finding(Some(&files.key), format!("{}: cannot be used: {error}", files.key.value.display()))]
        })?,
        _ => builder.with_no_client_auth(),
    };
    Ok((name, config, read.digest()))
}

/// The settings of a TLS client that finds its servers itself, and verifies them: for lookups over HTTPS.
///
/// # Errors
/// What is wrong with the roots.
pub fn client_config(roots: Roots) -> Result<ClientConfig, Finding> {
    let provider = Arc::new(crypto::aws_lc_rs::default_provider());
    let tls = TlsClient { name: String::new(), roots, client: None, verify: true };
    let verifier = verifier(&tls, &provider, &mut Reading(Context::new(&SHA256)))?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| finding(None, format!("TLS towards lookups: {error}")))?;
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").field("name", &self.name).finish_non_exhaustive()
    }
}

fn is_certificate(error: &io::Error) -> bool {
    let rustls = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    matches!(rustls, Some(rustls::Error::InvalidCertificate(_)))
}

fn finding(at: Option<&At<PathBuf>>, message: String) -> Finding {
    Finding { site: at.map(|at| at.site.clone()), message }
}

/// What succeeded, the finding put with the others otherwise.
fn noted<T>(result: Result<T, Finding>, findings: &mut Vec<Finding>) -> Option<T> {
    result.map_err(|finding| findings.push(finding)).ok()
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Takes note of what is read.
struct Reading(Context);

impl Reading {
    /// With its length, so that no two different rows of parts are the same bytes.
    fn part(&mut self, bytes: &[u8]) {
        self.0.update(&bytes.len().to_ne_bytes());
        self.0.update(bytes);
    }

    fn certificates(&mut self, kind: &str, certificates: &[CertificateDer<'_>]) {
        self.part(kind.as_bytes());
        self.part(&certificates.len().to_ne_bytes());
        for certificate in certificates {
            self.part(certificate);
        }
    }

    fn digest(self) -> [u8; 32] {
        let mut digest = [0; 32];
        digest.copy_from_slice(self.0.finish().as_ref());
        digest
    }
}

fn verifier(
    tls: &TlsClient,
    provider: &Arc<CryptoProvider>,
    read: &mut Reading,
) -> Result<Arc<dyn ServerCertVerifier>, Finding> {
    if !tls.verify {
        read.part(b"unverified");
        return Ok(Arc::new(AnyCertificate(provider.clone())));
    }
    let (roots, site) = match &tls.roots {
        Roots::WebPki => {
            read.part(b"webpki");
            (webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect(), None)
        }
        Roots::System => {
            read.part(b"system");
            (system_roots()?, None)
        }
        Roots::File(file) => (file_roots(file, read)?, Some(file)),
    };
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
    verifier.map(|verifier| verifier as _).map_err(|error| finding(site, format!("the roots cannot be used: {error}")))
}

/// The machine's own store. A certificate in it that cannot be read is left out; every distribution has some.
fn system_roots() -> Result<RootCertStore, Finding> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(Finding { site: None, message: "the machine's own store of certificates is empty".to_owned() });
    }
    Ok(roots)
}

/// A file of our own is the operator's word: what it holds must be right to the last certificate.
fn file_roots(file: &At<PathBuf>, read: &mut Reading) -> Result<RootCertStore, Finding> {
    let mut roots = RootCertStore::empty();
    let found = certificates(file)?;
    read.certificates("roots", &found);
    for certificate in found {
        roots
            .add(certificate)
            .map_err(|error| finding(Some(file), format!("{}: not a certificate: {error}", file.value.display())))?;
    }
    Ok(roots)
}

fn identity(files: &CertificateFiles, read: &mut Reading) -> Result<Identity, Finding> {
    let chain = certificates(&files.chain)?;
    read.certificates("client", &chain);
    let key = PrivateKeyDer::from_pem_file(&files.key.value)
        .map_err(|error| finding(Some(&files.key), unreadable(&files.key.value, &error)))?;
    read.part(key.secret_der());
    Ok((chain, key))
}

fn certificates(file: &At<PathBuf>) -> Result<Vec<CertificateDer<'static>>, Finding> {
    let read = || CertificateDer::pem_file_iter(&file.value)?.collect::<Result<Vec<_>, _>>();
    let found: Vec<_> = read().map_err(|error| finding(Some(file), unreadable(&file.value, &error)))?;
    if found.is_empty() {
        return Err(finding(Some(file), format!("{}: no certificate in it", file.value.display())));
    }
    Ok(found)
}

fn unreadable(path: &Path, error: &rustls::pki_types::pem::Error) -> String {
    format!("{}: {error}", path.display())
}

/// `tls_verify = false`: any certificate will do, but its holder must prove to have its key; a recorded handshake or a
/// stolen certificate alone is not enough.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        None
    }
}

#[cfg(test)]
pub(crate) mod tests;
