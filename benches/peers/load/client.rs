//! A session of a mail program: how it connects, and what it says and hears.

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, HandshakeKind, SignatureScheme, version,
};

use crate::report::Wrong;

/// What no answer may take on loopback, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(30);
const NAME: &str = "localhost";

/// How much is read from the network at once: rustls alone reads 4 KiB at a time.
#[derive(Clone, Copy)]
pub(crate) enum Buffers {
    Small,
    Large,
}

/// How keys are exchanged.
#[derive(Clone, Copy)]
pub(crate) enum Group {
    X25519,
    P256,
}

/// How to get at what is measured.
#[derive(Clone)]
pub(crate) struct Client {
    port: u16,
    tls: Option<Arc<ClientConfig>>,
    buffers: Buffers,
}

/// A connection that has been greeted.
pub(crate) struct Session {
    stream: Stream,
    held: Vec<u8>,
}

enum Stream {
    Plain(BufReader<TcpStream>),
    Tls(Box<TlsStream<BufReader<TcpStream>>>),
}

impl Client {
    pub(crate) fn new(port: u16, certificate: Option<&Path>, group: Group, buffers: Buffers) -> Result<Self, Wrong> {
        let tls = certificate.map(|certificate| config(certificate, group)).transpose()?.map(Arc::new);
        Ok(Self { port, tls, buffers })
    }

    /// The same, with a memory of its own for sessions to resume.
    pub(crate) fn resuming(&self) -> Self {
        let tls = self.tls.as_deref().map(|config| {
            let mut config = config.clone();
            config.resumption = Resumption::in_memory_sessions(8);
            Arc::new(config)
        });
        Self { tls, ..*self }
    }

    pub(crate) fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    pub(crate) async fn tcp(&self) -> Result<TcpStream, Wrong> {
        let stream = within(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Connects and hears the greeting.
    pub(crate) async fn connect(&self) -> Result<Session, Wrong> {
        let size = match self.buffers {
            Buffers::Small => 8 * 1024,
            Buffers::Large => 256 * 1024,
        };
        let tcp = BufReader::with_capacity(size, self.tcp().await?);
        let stream = match &self.tls {
            None => Stream::Plain(tcp),
            Some(config) => {
                let connector = TlsConnector::from(Arc::clone(config));
                let stream = within(connector.connect(ServerName::try_from(NAME)?, tcp)).await;
                Stream::Tls(Box::new(stream.map_err(|wrong| wrong.at("TLS handshake"))?))
            }
        };
        let mut session = Session { stream, held: Vec::new() };
        let greeting = session.line().await.map_err(|wrong| wrong.at("greeting"))?;
        if !greeting.starts_with("* OK") {
            return Err(Wrong::new(format!("greeting: {}", greeting.escape_debug())));
        }
        Ok(session)
    }

    /// The first bytes that a session sends: a hello, or a command where there is no TLS.
    pub(crate) fn first_bytes(&self) -> Result<Vec<u8>, Wrong> {
        let Some(config) = &self.tls else {
            return Ok(b"a LOGIN somebody secret\r\n".to_vec());
        };
        let mut hello = Vec::new();
        ClientConnection::new(Arc::clone(config), ServerName::try_from(NAME)?)?.write_tls(&mut hello)?;
        Ok(hello)
    }
}

impl Session {
    pub(crate) async fn log_in(&mut self, user: usize) -> Result<(), Wrong> {
        self.command(&format!("a LOGIN user{user} secret-{user}\r\n")).await.map_err(|wrong| wrong.at("LOGIN"))
    }

    /// Says so, and waits until the server has closed.
    pub(crate) async fn log_out(mut self) -> Result<(), Wrong> {
        self.command("z LOGOUT\r\n").await.map_err(|wrong| wrong.at("LOGOUT"))?;
        // How it closes is its affair: with a close_notify, without, or with a reset.
        let _ = self.shutdown().await;
        let end = async {
            let mut rest = [0; 256];
            while !matches!(self.read(&mut rest).await, Ok(0) | Err(_)) {}
            Ok::<_, io::Error>(())
        };
        within(end).await.map_err(|wrong| wrong.at("after LOGOUT"))
    }

    pub(crate) fn is_resumed(&self) -> bool {
        match &self.stream {
            Stream::Plain(_) => false,
            Stream::Tls(stream) => stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed),
        }
    }

    /// A command, its line end and one-letter tag included, whose answer must be OK. Other lines before it are skipped.
    pub(crate) async fn command(&mut self, command: &str) -> Result<(), Wrong> {
        self.say(command.as_bytes()).await?;
        self.ok(&command[..1]).await
    }

    /// Lines up to the tagged one, which must be OK.
    pub(crate) async fn ok(&mut self, tag: &str) -> Result<(), Wrong> {
        loop {
            let line = self.line().await?;
            match line.strip_prefix(tag).and_then(|rest| rest.strip_prefix(' ')) {
                Some(rest) if rest.starts_with("OK") => return Ok(()),
                Some(_) => return Err(Wrong::new(line.escape_debug().to_string())),
                None if line.starts_with("* ") => {}
                None => return Err(Wrong::new(format!("unasked: {}", line.escape_debug()))),
            }
        }
    }

    pub(crate) async fn say(&mut self, bytes: &[u8]) -> Result<(), Wrong> {
        let stream = &mut self.stream;
        within(async move {
            match stream {
                Stream::Plain(stream) => stream.write_all(bytes).await,
                Stream::Tls(stream) => {
                    stream.write_all(bytes).await?;
                    stream.flush().await
                }
            }
        })
        .await
    }

    /// The next line, which must come soon.
    pub(crate) async fn line(&mut self) -> Result<String, Wrong> {
        within(self.line_someday()).await
    }

    /// The next line. May be dropped while it waits.
    pub(crate) async fn line_someday(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.held.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.held.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned());
            }
            let mut part = [0; 1024];
            let size = self.read(&mut part).await?;
            if size == 0 {
                return Err(io::Error::other("closed"));
            }
            self.held.extend_from_slice(&part[..size]);
        }
    }

    /// So many bytes, each part of which is given on with its place.
    pub(crate) async fn bytes(
        &mut self,
        size: usize,
        scratch: &mut [u8],
        mut take: impl FnMut(&[u8], usize),
    ) -> Result<(), Wrong> {
        let early = self.held.len().min(size);
        take(&self.held[..early], 0);
        self.held.drain(..early);
        let mut place = early;
        while place < size {
            let most = scratch.len().min(size - place);
            match within(self.read(&mut scratch[..most])).await? {
                0 => return Err(Wrong::new("closed within a literal")),
                read => {
                    take(&scratch[..read], place);
                    place += read;
                }
            }
        }
        Ok(())
    }

    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.stream {
            Stream::Plain(stream) => stream.read(buffer).await,
            Stream::Tls(stream) => stream.read(buffer).await,
        }
    }

    async fn shutdown(&mut self) -> io::Result<()> {
        match &mut self.stream {
            Stream::Plain(stream) => stream.shutdown().await,
            Stream::Tls(stream) => stream.shutdown().await,
        }
    }
}

/// What does not come soon is wrong.
async fn within<T>(what: impl Future<Output = io::Result<T>>) -> Result<T, Wrong> {
    match timeout(PATIENCE, what).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(Wrong::new(format!("nothing came for {} s", PATIENCE.as_secs()))),
    }
}

fn config(certificate: &Path, group: Group) -> Result<ClientConfig, Wrong> {
    let place = certificate.display().to_string();
    let pinned = CertificateDer::from_pem_file(certificate).map_err(|error| Wrong::from(error).at(&place))?;
    let mut provider = default_provider();
    provider.cipher_suites = vec![cipher_suite::TLS13_AES_128_GCM_SHA256];
    provider.kx_groups = vec![match group {
        Group::X25519 => kx_group::X25519,
        Group::P256 => kx_group::SECP256R1,
    }];
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned(pinned)))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// The one certificate that is believed, without a look at its signatures: all is on this machine.
#[derive(Debug)]
struct Pinned(CertificateDer<'static>);

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _others: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if *shown == self.0 {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::General("another certificate was shown".to_owned()))
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("only TLS 1.3 is spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
