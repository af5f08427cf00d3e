//! TLS towards a backend with a throw-away authority: what is accepted, what is not, what is resumed.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{HandshakeKind, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::config::Site;

/// An authority, a server certificate for `mail.example.org` and 127.0.0.1, and a client certificate, as files.
pub(crate) struct Pki {
    pub(crate) folder: tempfile::TempDir,
    server: (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>),
    roots: Arc<RootCertStore>,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signed");
        let issue = |names: &[&str], usage| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let mut params = CertificateParams::new(names).expect("names");
            params.extended_key_usages = vec![usage];
            let key = KeyPair::generate().expect("a key");
            (params.signed_by(&key, &authority).expect("signed"), key)
        };
        let (server, key) = issue(&["mail.example.org", "127.0.0.1"], ExtendedKeyUsagePurpose::ServerAuth);
        let (client, client_key) = issue(&["proxy.example.org"], ExtendedKeyUsagePurpose::ClientAuth);
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).expect("written");
        write("ca.pem", authority.pem());
        write("client.pem", client.pem());
        write("client.key", client_key.serialize_pem());
        write("other.key", KeyPair::generate().expect("a key").serialize_pem());
        write("empty.pem", String::new());
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).expect("a certificate");
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        Self { folder, server: (vec![server.der().clone()], key), roots: Arc::new(roots) }
    }

    fn file(&self, name: &str) -> At<PathBuf> {
        At { value: self.folder.path().join(name), site: Site { key: name.to_owned(), span: 1..2 } }
    }

    pub(crate) fn settings(&self, name: &str) -> TlsClient {
        let roots = Roots::File(self.file("ca.pem"));
        TlsClient { name: name.to_owned(), roots, client: None, verify: true }
    }

    pub(crate) fn acceptor(&self, ask_clients: bool) -> TlsAcceptor {
        let provider = Arc::new(crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let builder = builder.expect("versions");
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots.clone(), provider).build();
        let builder = if ask_clients {
            builder.with_client_cert_verifier(verifier.expect("roots"))
        } else {
            builder.with_no_client_auth()
        };
        let (chain, key) = &self.server;
        let config = builder.with_single_cert(chain.clone(), key.clone_key()).expect("a pair");
        TlsAcceptor::from(Arc::new(config))
    }
}

/// One handshake; the server then writes whether it was resumed, and how many certificates it was shown.
async fn shake(connector: &Connector, acceptor: &TlsAcceptor) -> io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let server = async {
        let (tcp, _) = listener.accept().await?;
        let mut tls = acceptor.accept(tcp).await?;
        let connection = tls.get_ref().1;
        let resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
        let certificates = connection.peer_certificates().map_or(0, <[_]>::len);
        let name = connection.server_name().unwrap_or("-").to_owned();
        let alpn = connection.alpn_protocol().is_some();
        tls.write_all(format!("{name} {certificates} {resumed} {alpn}").as_bytes()).await?;
        tls.shutdown().await
    };
    let client = async {
        let mut stream = connector.connect(TcpStream::connect(address).await?).await?;
        let mut said = String::new();
        stream.read_to_string(&mut said).await?;
        Ok(said)
    };
    tokio::join!(client, server).0
}

#[tokio::test]
async fn a_backend_must_prove_its_name() {
    let pki = Pki::new();
    let acceptor = pki.acceptor(false);
    for (name, said) in [("mail.example.org", "mail.example.org 0 false false"), ("127.0.0.1", "- 0 false false")] {
        let connector = Connector::new(&pki.settings(name)).expect("right");
        assert_eq!(shake(&connector, &acceptor).await.expect("a good certificate"), said);
    }
    let connector = Connector::new(&pki.settings("other.example.org")).expect("right");
    let error = shake(&connector, &acceptor).await.expect_err("another name");
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn only_the_roots_that_were_named_count() {
    let (pki, other) = (Pki::new(), Pki::new());
    for roots in [Roots::WebPki, Roots::File(other.file("ca.pem"))] {
        let connector = Connector::new(&TlsClient { roots, ..pki.settings("mail.example.org") }).expect("right");
        let error = shake(&connector, &pki.acceptor(false)).await.expect_err("an authority nobody knows");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}

#[tokio::test]
async fn without_verification_every_certificate_will_do() {
    let pki = Pki::new();
    let settings = TlsClient { verify: false, roots: Roots::WebPki, ..pki.settings("other.example.org") };
    let connector = Connector::new(&settings).expect("right");
    assert!(shake(&connector, &pki.acceptor(false)).await.is_ok());
}

#[tokio::test]
async fn our_own_certificate_is_shown_when_asked_for() {
    let pki = Pki::new();
    let client = CertificateFiles { chain: pki.file("client.pem"), key: pki.file("client.key") };
    let settings = TlsClient { client: Some(client), ..pki.settings("mail.example.org") };
    let said = shake(&Connector::new(&settings).expect("right"), &pki.acceptor(true)).await.expect("let in");
    assert_eq!(said, "mail.example.org 1 false false");
    let without = Connector::new(&pki.settings("mail.example.org")).expect("right");
    assert!(shake(&without, &pki.acceptor(true)).await.is_err());
}

#[tokio::test]
async fn sessions_are_resumed() {
    let pki = Pki::new();
    let (connector, acceptor) =
        (Connector::new(&pki.settings("mail.example.org")).expect("right"), pki.acceptor(false));
    shake(&connector, &acceptor).await.expect("first");
    assert_eq!(shake(&connector, &acceptor).await.expect("second"), "mail.example.org 0 true false");
    let fresh = Connector::new(&pki.settings("mail.example.org")).expect("right");
    assert_eq!(shake(&fresh, &acceptor).await.expect("another backend's"), "mail.example.org 0 false false");
}

#[tokio::test]
async fn a_handshake_that_fails_is_not_taken_for_a_bad_certificate() {
    let pki = Pki::new();
    let connector = Connector::new(&pki.settings("mail.example.org")).expect("right");
    for answer in [&b"* OK hello, this is no TLS\r\n"[..], b"\x15\x03\x03\x00\x02\x02\x28", b""] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = async {
            let (mut tcp, _) = listener.accept().await.expect("a connection");
            tcp.write_all(answer).await.expect("written");
            tcp.shutdown().await.expect("closed");
            tcp
        };
        let client = async { connector.connect(TcpStream::connect(address).await.expect("connected")).await };
        let error = tokio::join!(client, server).0.expect_err("no TLS");
        assert_ne!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    }
}

#[test]
fn two_are_the_same_when_the_settings_and_the_files_are() {
    let (pki, other) = (Pki::new(), Pki::new());
    let usual = || TlsClient {
        client: Some(CertificateFiles { chain: pki.file("client.pem"), key: pki.file("client.key") }),
        ..pki.settings("mail.example.org")
    };
    let is_same =
        |a: TlsClient, b: TlsClient| Connector::new(&a).expect("right").is_same(&Connector::new(&b).expect("right"));
    assert!(is_same(usual(), usual()));
    assert!(!is_same(usual(), TlsClient { name: "other.example.org".to_owned(), ..usual() }));
    assert!(!is_same(usual(), TlsClient { verify: false, ..usual() }));
    assert!(!is_same(usual(), TlsClient { client: None, ..usual() }));
    let of = |roots| TlsClient { roots, ..usual() };
    assert!(is_same(of(Roots::WebPki), of(Roots::WebPki)));
    assert!(!is_same(of(Roots::WebPki), usual()));
    assert!(!is_same(usual(), of(Roots::File(other.file("ca.pem")))));

    // The same names, other files.
    let ours = |name: &str| pki.folder.path().join(name);
    let now = || Connector::new(&usual()).expect("right");
    let before = now();
    std::fs::copy(ours("ca.pem"), ours("another.pem")).expect("there");
    std::fs::rename(ours("another.pem"), ours("ca.pem")).expect("there");
    assert!(now().is_same(&before), "written anew with the same content");
    for names in [&["ca.pem"][..], &["client.pem", "client.key"]] {
        let before = now();
        for name in names {
            std::fs::copy(other.folder.path().join(name), ours(name)).expect("there");
        }
        assert!(!now().is_same(&before), "{names:?}");
    }
}

#[test]
fn every_mistake_is_found_with_its_place() {
    let pki = Pki::new();
    let broken = TlsClient {
        name: "not a name".to_owned(),
        roots: Roots::File(pki.file("empty.pem")),
        client: Some(CertificateFiles { chain: pki.file("client.pem"), key: pki.file("missing.key") }),
        verify: true,
    };
    let findings = Connector::new(&broken).expect_err("broken");
    let keys: Vec<_> = findings.iter().map(|finding| finding.site.as_ref().map_or("", |site| &site.key)).collect();
    assert_eq!(keys, ["", "empty.pem", "missing.key"]);

    let client = CertificateFiles { chain: pki.file("client.pem"), key: pki.file("other.key") };
    let findings = Connector::new(&TlsClient { client: Some(client), ..pki.settings("mail.example.org") });
    let findings = findings.expect_err("the key of another certificate");
    assert_eq!(findings[0].site.as_ref().map(|site| site.key.as_str()), Some("other.key"));
}
