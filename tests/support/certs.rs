//! Throw-away certificates.

use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, rustls, server::TlsStream};

use super::soon;

/// An authority.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its key.
pub struct Issued {
    pub certificate: CertificateDer<'static>,
    pub key: PrivateKeyDer<'static>,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "throw-away authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority"))
    }

    /// Writes it as `ca.pem`.
    pub fn write(&self, folder: &Path) {
        std::fs::write(folder.join("ca.pem"), self.0.as_ref().pem()).expect("written");
    }

    /// Issues a server's certificate for these names, as `NAME.pem` and `NAME.key`.
    pub fn issue_server(&self, folder: &Path, file: &str, names: &[&str]) {
        let params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        let key = KeyPair::generate().expect("a key");
        let certificate = params.expect("names").signed_by(&key, &self.0).expect("a certificate");
        std::fs::write(folder.join(format!("{file}.pem")), certificate.pem()).expect("written");
        std::fs::write(folder.join(format!("{file}.key")), key.serialize_pem()).expect("written");
    }

    /// Issues a client's certificate for this address.
    pub fn issue_client(&self, email: &str) -> Issued {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::Rfc822Name(email.try_into().expect("ASCII"))];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate").der().clone();
        Issued { certificate, key: PrivatePkcs8KeyDer::from(key.serialize_der()).into() }
    }

    /// A client that trusts this authority, offers these protocols, and has this certificate.
    pub fn client(&self, alpn: &[&str], identity: Option<Issued>) -> Arc<rustls::ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.0.as_ref().der().clone()).expect("an authority");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let mut config = match identity {
            Some(issued) => builder.with_client_auth_cert(vec![issued.certificate], issued.key).expect("a pair"),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Arc::new(config)
    }

    /// Shakes hands as a server with a certificate that was issued before.
    pub async fn accept(&self, folder: &Path, file: &str, tcp: TcpStream) -> TlsStream<TcpStream> {
        let certificate = CertificateDer::from_pem_file(folder.join(format!("{file}.pem"))).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(folder.join(format!("{file}.key"))).expect("a key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("a pair");
        soon("a handshake", TlsAcceptor::from(Arc::new(config)).accept(tcp)).await.expect("a handshake")
    }
}
