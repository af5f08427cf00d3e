//! A handshake for whoever looks for a fault: it comes to its end whatever the certificate, and then says what was shown and what
//! is wrong with it. Nothing secret may follow on a connection with a [`Flaw`]. Not here: what to do about it.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, ProtocolVersion,
    SignatureScheme,
};
use tokio::net::TcpStream;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use super::Stream;
use super::certificates::disorder;
use super::connect::{settings, shake};
use super::facts::{cipher_name, rfc2253};
use crate::config::{Finding, TlsClient};

/// Names of one certificate that are told.
const MOST_NAMES: usize = 10;

/// Shakes hands as a [`Connector`](super::Connector) with the same settings would, but for what follows from a certificate
/// that does not verify. Sessions are not resumed: each time everything is shown.
pub struct Examiner {
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
    witness: Arc<Witness>,
}

/// What a handshake showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// `TLSv1.2` or `TLSv1.3`.
    pub protocol: &'static str,
    /// OpenSSL's name of the cipher suite.
    pub cipher: &'static str,
    /// The certificates, as far as they can be read; the server's own first.
    pub chain: Vec<Shown>,
    /// What is wrong with the order of them.
    pub disorder: Option<String>,
    /// Why the server is not to be believed.
    pub flaw: Option<Flaw>,
}

/// A certificate that was shown. All of it is printable ASCII.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Whose it is.
    pub subject: String,
    /// Who issued it.
    pub issuer: String,
    /// The names and addresses it is for, ten at most.
    pub names: Vec<String>,
    /// From when on it is good, in seconds since 1970.
    pub not_before: i64,
    /// Until when.
    pub not_after: i64,
}

/// Why a certificate does not verify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flaw {
    /// Its time is over; or that of one above it.
    Expired,
    /// Its time has not come.
    NotYet,
    /// It is for others.
    Name,
    /// Nobody who is trusted issued it.
    Issuer,
    /// One who has the name of somebody trusted, but another key.
    IssuerKey,
    /// Anything else, in words.
    Other(String),
}

/// Why a handshake came to no end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unshaken {
    /// What came back is no TLS.
    NotTls,
    /// The other side hung up.
    HungUp,
    /// There is no version or cipher that both sides want.
    NothingInCommon,
    /// It wants a certificate from us, or another one.
    WantsCertificate,
    /// Anything else, in words.
    Other(String),
}

impl Examiner {
    /// Reads the files and puts the settings together.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub fn new(tls: &TlsClient) -> Result<Self, Vec<Finding>> {
        let mut witness = None;
        let (name, mut config, _) = settings(tls, |judge| {
            let made = Arc::new(Witness { judge, flaw: Mutex::default() });
            witness = Some(Arc::clone(&made));
            made
        })?;
        config.resumption = Resumption::disabled();
        let witness = witness.ok_or_else(Vec::new)?;
        Ok(Self { name, config: Arc::new(config), witness })
    }

    /// Does the handshake.
    ///
    /// # Errors
    /// [`Unshaken`].
    pub async fn shake(&self, tcp: TcpStream) -> Result<(Stream, Seen), Unshaken> {
        self.witness.note(None);
        let tls = shake(&self.config, &self.name, tcp).await.map_err(|error| Unshaken::of(&error))?;
        let connection = tls.agreed();
        let protocol = match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => "TLSv1.2",
        };
        let cipher = connection.negotiated_cipher_suite().map_or("unknown", |suite| cipher_name(suite.suite()));
        let certificates = connection.peer_certificates().unwrap_or_default();
        let algorithms = crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        let seen = Seen {
            protocol,
            cipher,
            chain: certificates.iter().filter_map(Shown::read).collect(),
            disorder: disorder(certificates, &algorithms),
            flaw: self.witness.flaw(),
        };
        Ok((Stream::Backend(tls), seen))
    }
}

impl Shown {
    fn read(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        let validity = certificate.validity();
        Some(Self {
            subject: rfc2253(certificate.subject()),
            issuer: rfc2253(certificate.issuer()),
            names: names(&certificate),
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
        })
    }

    /// Whether it was issued by its own owner.
    pub fn is_self_issued(&self) -> bool {
        self.subject == self.issuer
    }
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let names = alternative.iter().flat_map(|extension| &extension.value.general_names);
    let shown = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.escape_debug().to_string()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let address = v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
            address.ok().map(|address| address.to_string())
        }
        _ => None,
    });
    shown.take(MOST_NAMES).collect()
}

impl Flaw {
    fn of(error: &rustls::Error) -> Self {
        use CertificateError as Why;
        match error {
            rustls::Error::InvalidCertificate(Why::Expired | Why::ExpiredContext { .. }) => Self::Expired,
            rustls::Error::InvalidCertificate(Why::NotValidYet | Why::NotValidYetContext { .. }) => Self::NotYet,
            rustls::Error::InvalidCertificate(Why::NotValidForName | Why::NotValidForNameContext { .. }) => Self::Name,
            rustls::Error::InvalidCertificate(Why::UnknownIssuer) => Self::Issuer,
            rustls::Error::InvalidCertificate(Why::BadSignature) => Self::IssuerKey,
            // A leaf that is an authority too: the usual certificate that somebody has signed for himself.
            rustls::Error::InvalidCertificate(Why::Other(why)) if why.to_string().contains("CaUsedAsEndEntity") => {
                Self::Issuer
            }
            other => Self::Other(other.to_string().escape_debug().to_string()),
        }
    }
}

impl Unshaken {
    fn of(error: &io::Error) -> Self {
        use AlertDescription as Alert;
        use rustls::Error as Tls;
        match error.get_ref().and_then(|error| error.downcast_ref::<Tls>()) {
            Some(Tls::InvalidMessage(_)) => Self::NotTls,
            Some(
                Tls::PeerIncompatible(_)
                | Tls::AlertReceived(Alert::ProtocolVersion | Alert::HandshakeFailure | Alert::InsufficientSecurity),
            ) => Self::NothingInCommon,
            Some(Tls::AlertReceived(
                Alert::CertificateRequired | Alert::BadCertificate | Alert::UnknownCA | Alert::CertificateUnknown,
            )) => Self::WantsCertificate,
            Some(other) => Self::Other(other.to_string().escape_debug().to_string()),
            None if error.kind() == io::ErrorKind::UnexpectedEof => Self::HungUp,
            None if error.kind() == io::ErrorKind::ConnectionReset => Self::HungUp,
            None => Self::Other(error.to_string()),
        }
    }
}

impl fmt::Debug for Examiner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Examiner").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Lets every certificate pass and remembers what the judge has said of it. That its holder has the key is verified all the
/// same.
#[derive(Debug)]
struct Witness {
    judge: Arc<dyn ServerCertVerifier>,
    flaw: Mutex<Option<Flaw>>,
}

impl Witness {
    fn note(&self, flaw: Option<Flaw>) {
        *self.flaw.lock().unwrap_or_else(PoisonError::into_inner) = flaw;
    }

    fn flaw(&self) -> Option<Flaw> {
        self.flaw.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let judged = self.judge.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        self.note(judged.err().map(|error| Flaw::of(&error)));
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.judge.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.judge.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.judge.supported_verify_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        None
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::config::Roots;
    use crate::tls::Pki;

    /// A handshake with a server that has a certificate for `mail.example.org`.
    async fn shake(pki: &Pki, tls: &TlsClient) -> Seen {
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = socket.local_addr().expect("bound");
        let acceptor = pki.acceptor(false);
        let server = async {
            let (tcp, _) = socket.accept().await.expect("a connection");
            acceptor.accept(tcp).await
        };
        let examiner = Examiner::new(tls).expect("right");
        let client = async { examiner.shake(TcpStream::connect(address).await.expect("connected")).await };
        let (shaken, _server) = tokio::join!(client, server);
        shaken.expect("a handshake").1
    }

    #[tokio::test]
    async fn a_handshake_comes_to_its_end_and_tells_what_is_wrong() {
        let (pki, other) = (Pki::new(), Pki::new());
        let good = pki.settings("mail.example.org");
        let seen = shake(&pki, &good).await;
        assert_eq!((seen.protocol, &seen.flaw, &seen.disorder), ("TLSv1.3", &None, &None));
        assert_eq!(seen.chain[0].names, ["mail.example.org", "127.0.0.1"]);
        assert_eq!(shake(&pki, &pki.settings("other.example.org")).await.flaw, Some(Flaw::Name));
        let stranger = TlsClient { roots: other.settings("").roots, ..good.clone() };
        assert_eq!(shake(&pki, &stranger).await.flaw, Some(Flaw::IssuerKey), "both authorities have one name");
        assert_eq!(shake(&pki, &TlsClient { roots: Roots::WebPki, ..good.clone() }).await.flaw, Some(Flaw::Issuer));
        assert_eq!(shake(&pki, &TlsClient { verify: false, ..stranger }).await.flaw, None, "nobody asked");
    }

    #[tokio::test]
    async fn each_handshake_is_judged_for_itself() {
        let pki = Pki::new();
        let examiner = Examiner::new(&pki.settings("other.example.org")).expect("right");
        let acceptor = pki.acceptor(false);
        for _ in 0..3 {
            let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = socket.local_addr().expect("bound");
            let server = async { acceptor.accept(socket.accept().await.expect("a connection").0).await };
            let client = async { examiner.shake(TcpStream::connect(address).await.expect("connected")).await };
            let (shaken, _server) = tokio::join!(client, server);
            assert_eq!(shaken.expect("a handshake").1.flaw, Some(Flaw::Name), "a session is not resumed unseen");
        }
    }

    #[tokio::test]
    async fn what_is_no_tls_is_called_so() {
        for (said, expected) in [(&b"* OK IMAP ready\r\n"[..], Unshaken::NotTls), (b"", Unshaken::HungUp)] {
            let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = socket.local_addr().expect("bound");
            let server = async {
                let (mut tcp, _) = socket.accept().await.expect("a connection");
                tcp.write_all(said).await.expect("written");
                tcp.shutdown().await.expect("shut");
                tcp
            };
            let examiner = Examiner::new(&Pki::new().settings("mail.example.org")).expect("right");
            let client = async { examiner.shake(TcpStream::connect(address).await.expect("connected")).await };
            let (shaken, _server) = tokio::join!(client, server);
            assert_eq!(shaken.expect_err("no handshake"), expected);
        }
    }
}
