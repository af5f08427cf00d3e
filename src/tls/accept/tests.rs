//! Handshakes over real sockets with rustls as the client. Those that take up an earlier one are in `tests/resumption.rs`.

mod resumption;

use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConfig, SignatureScheme, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpListener;
use tokio_rustls::{TlsConnector, client};

use super::super::testing::{Authority, Gullible, Issued, Wanted};
use super::*;
use crate::config::{At, CertificateFiles, Site};

const V12: &[&SupportedProtocolVersion] = &[&version::TLS12];
const V13: &[&SupportedProtocolVersion] = &[&version::TLS13];

/// A scratch folder, an authority, and the `[tls]` made from them.
struct World {
    folder: TempDir,
    ca: Authority,
    tls: config::Tls,
}

impl World {
    fn new() -> Self {
        let tls = config::Tls {
            min_version: TlsVersion::V12,
            client_auth: ClientAuth::Off,
            client_name: CertificateName::Email,
            certificates: Vec::new(),
            directory: None,
            watch: None,
        };
        let mut world = Self { folder: tempfile::tempdir().expect("a scratch folder"), ca: Authority::new(), tls };
        world.server(Wanted { dns: &["mail.example.org"], ..Wanted::default() });
        world
    }

    /// Adds a server certificate.
    fn server(&mut self, wanted: Wanted<'_>) -> Issued {
        let n = self.tls.certificates.len();
        let issued = self.ca.issue(wanted);
        let files = CertificateFiles { chain: self.file(&format!("{n}.pem")), key: self.file(&format!("{n}.key")) };
        issued.write(&files.chain.value, &files.key.value);
        self.tls.certificates.push(files);
        issued
    }

    fn file(&self, name: &str) -> At<PathBuf> {
        let site = Site { key: name.to_owned(), span: 0..0 };
        At { value: self.folder.path().join(name), site }
    }

    /// The file with the authority for client certificates.
    fn client_ca(&self) -> At<PathBuf> {
        let file = self.file("clients.pem");
        std::fs::write(&file.value, self.ca.pem()).expect("a scratch folder");
        file
    }

    fn acceptor(&self) -> Acceptor {
        let (certificates, _) = Certificates::load(&self.tls, None).expect("good certificates");
        Acceptor::new(Arc::new(certificates), &self.tls, None).expect("a good configuration")
    }
}

/// A client that believes everything, of these versions, perhaps with a certificate.
fn client(versions: &[&'static SupportedProtocolVersion], own: Option<&Issued>) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Gullible::all());
    match own {
        Some(own) => builder.with_client_auth_cert(vec![own.der()], own.key_der()).expect("a good key"),
        None => builder.with_no_client_auth(),
    }
}

type Met = (Result<Handshake, HandshakeError>, io::Result<client::TlsStream<TcpStream>>);

/// A handshake. The server then says one word, with which TLS 1.3 tickets and refusals reach the client.
async fn meet(acceptor: &Acceptor, config: impl Into<Arc<ClientConfig>>, name: &'static str) -> Met {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let connector = TlsConnector::from(config.into());
    let near = async {
        let (tcp, _) = listener.accept().await.expect("connected");
        let mut handshake = acceptor.accept(tcp).await?;
        handshake.stream.write_all(b"hello").await.expect("room");
        handshake.stream.flush().await.expect("room");
        Ok(handshake)
    };
    let far = async {
        let tcp = TcpStream::connect(address).await.expect("listening");
        let mut stream = connector.connect(ServerName::try_from(name).expect("a name"), tcp).await?;
        let mut word = [0; 5];
        stream.read_exact(&mut word).await?;
        assert_eq!(&word, b"hello");
        Ok(stream)
    };
    tokio::join!(near, far)
}

/// A handshake that must succeed: what we learnt, and the certificate the client was shown.
async fn agree(
    acceptor: &Acceptor,
    config: impl Into<Arc<ClientConfig>>,
    name: &'static str,
) -> (Handshake, CertificateDer<'static>) {
    let (near, far) = meet(acceptor, config, name).await;
    let (near, far) = (near.expect("a handshake"), far.expect("a handshake"));
    let shown = far.get_ref().1.peer_certificates().expect("shown")[0].clone().into_owned();
    (near, shown)
}

/// A handshake that must fail, with this alert at the client.
async fn refuse(acceptor: &Acceptor, config: ClientConfig, alert: AlertDescription) -> HandshakeError {
    let (near, far) = meet(acceptor, config, "mail.example.org").await;
    let seen = far.expect_err("the client is told");
    let seen = seen.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    assert_eq!(seen, Some(&rustls::Error::AlertReceived(alert)));
    near.expect_err("refused")
}

#[tokio::test]
async fn the_certificate_follows_the_name_asked_for() {
    let mut world = World::new();
    let wild = world.server(Wanted { dns: &["*.example.net"], ..Wanted::default() }).der();
    let exact = world.server(Wanted { dns: &["imap.example.net"], ..Wanted::default() }).der();
    let acceptor = world.acceptor();
    let (_, default) = agree(&acceptor, client(V13, None), "mail.example.org").await;
    assert!(default != wild && default != exact);
    for versions in [V12, V13] {
        for (name, expected) in [
            ("imap.example.net", &exact),
            ("IMAP.Example.NET", &exact),
            ("other.example.net", &wild),
            ("a.b.example.net", &default),
            ("unknown.example", &default),
            ("127.0.0.1", &default),
        ] {
            let (handshake, shown) = agree(&acceptor, client(versions, None), name).await;
            assert_eq!(shown, *expected, "{name}");
            let asked = (name != "127.0.0.1").then(|| name.to_ascii_lowercase());
            assert_eq!(handshake.server_name, asked, "addresses are not names");
        }
        let mut silent = client(versions, None);
        silent.enable_sni = false;
        let (handshake, shown) = agree(&acceptor, silent, "imap.example.net").await;
        assert_eq!((handshake.server_name, shown), (None, default.clone()));
    }
}

#[tokio::test]
async fn a_client_that_knows_only_rsa_gets_the_rsa_certificate_of_that_name() {
    let mut world = World::new();
    let ecdsa = world.server(Wanted { dns: &["both.example"], ..Wanted::default() }).der();
    let rsa = world.server(Wanted { dns: &["both.example"], rsa: true, ..Wanted::default() }).der();
    let acceptor = world.acceptor();
    let limited = |schemes: &[SignatureScheme]| {
        let mut config = client(&[&version::TLS12, &version::TLS13], None);
        config.dangerous().set_certificate_verifier(Arc::new(Gullible(schemes.to_vec())));
        config
    };
    let old = limited(&[SignatureScheme::RSA_PKCS1_SHA256, SignatureScheme::RSA_PSS_SHA256]);
    assert_eq!(agree(&acceptor, old, "both.example").await.1, rsa);
    let new = limited(&[SignatureScheme::RSA_PSS_SHA256, SignatureScheme::ECDSA_NISTP256_SHA256]);
    assert_eq!(agree(&acceptor, new, "both.example").await.1, ecdsa, "the first that is possible");
}

#[tokio::test]
async fn alpn_may_be_absent_or_hold_imap_but_not_only_others() {
    let acceptor = World::new().acceptor();
    for versions in [V12, V13] {
        let offering = |protocols: &[&[u8]]| {
            let mut config = client(versions, None);
            config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            config
        };
        for (protocols, chosen) in
            [(&[][..], None), (&[&b"imap"[..]], Some(&b"imap"[..])), (&[b"h2", b"imap"], Some(b"imap"))]
        {
            let (near, far) = meet(&acceptor, offering(protocols), "mail.example.org").await;
            near.expect("let in");
            assert_eq!(far.expect("let in").get_ref().1.alpn_protocol(), chosen);
        }
        for protocols in [&[&b"http/1.1"[..]][..], &[b"h2", b"http/1.1"], &[b"IMAP"], &[b"pop3"]] {
            let error = refuse(&acceptor, offering(protocols), AlertDescription::NoApplicationProtocol).await;
            assert!(matches!(error, HandshakeError::AlpnRefused), "{error}");
        }
    }
}

#[tokio::test]
async fn both_versions_are_spoken_unless_one_is_too_old() {
    let mut world = World::new();
    let acceptor = world.acceptor();
    for (versions, expected) in [(V12, "1.2"), (V13, "1.3")] {
        let (handshake, _) = agree(&acceptor, client(versions, None), "mail.example.org").await;
        assert_eq!(handshake.version, expected);
        assert!(handshake.cipher.starts_with("TLS"), "{}", handshake.cipher);
        assert!(!handshake.resumed);
        assert!(handshake.identity.is_none());
    }
    world.tls.min_version = TlsVersion::V13;
    let acceptor = world.acceptor();
    agree(&acceptor, client(V13, None), "mail.example.org").await;
    let error = refuse(&acceptor, client(V12, None), AlertDescription::ProtocolVersion).await;
    assert!(matches!(error, HandshakeError::Failed(_)), "{error}");
}

fn emailed(world: &World, email: &str) -> Issued {
    world.ca.issue(Wanted { emails: &[email], ..Wanted::default() })
}

fn user(handshake: &Handshake) -> Option<String> {
    handshake.identity.as_ref().map(ToString::to_string)
}

#[tokio::test]
async fn client_certificates_are_not_asked_for_when_off() {
    let world = World::new();
    let ann = emailed(&world, "ann@example.org");
    let (handshake, _) = agree(&world.acceptor(), client(V13, Some(&ann)), "mail.example.org").await;
    assert_eq!(user(&handshake), None);
}

#[tokio::test]
async fn an_optional_client_certificate_may_be_absent_but_not_wrong() {
    let mut world = World::new();
    world.tls.client_auth = ClientAuth::Optional { ca: world.client_ca() };
    let acceptor = world.acceptor();
    let ann = emailed(&world, "ann@example.org");
    let by = |ca: Authority| ca.issue(Wanted { emails: &["ann@example.org"], ..Wanted::default() });
    let (stranger, impostor) = (by(Authority::named("a stranger")), by(Authority::new()));
    let old = world.ca.issue(Wanted { emails: &["ann@example.org"], expired: true, ..Wanted::default() });
    for versions in [V12, V13] {
        assert_eq!(user(&agree(&acceptor, client(versions, None), "mail.example.org").await.0), None);
        let (handshake, _) = agree(&acceptor, client(versions, Some(&ann)), "mail.example.org").await;
        assert_eq!(user(&handshake).as_deref(), Some("ann@example.org"));
        refuse(&acceptor, client(versions, Some(&stranger)), AlertDescription::UnknownCA).await;
        // Signed by an authority of the same name.
        refuse(&acceptor, client(versions, Some(&impostor)), AlertDescription::DecryptError).await;
        refuse(&acceptor, client(versions, Some(&old)), AlertDescription::CertificateExpired).await;
    }
}

#[tokio::test]
async fn a_required_client_certificate_is_required() {
    let mut world = World::new();
    world.tls.client_auth = ClientAuth::Required { ca: world.client_ca() };
    let acceptor = world.acceptor();
    let ann = emailed(&world, "ann@example.org");
    for (versions, alert) in
        [(V12, AlertDescription::CertificateRequired), (V13, AlertDescription::CertificateRequired)]
    {
        refuse(&acceptor, client(versions, None), alert).await;
        let (handshake, _) = agree(&acceptor, client(versions, Some(&ann)), "mail.example.org").await;
        assert_eq!(user(&handshake).as_deref(), Some("ann@example.org"));
    }
}

#[test]
fn the_user_comes_from_the_one_field_asked_for() {
    use CertificateName::{CommonName, Email};
    let ca = Authority::new();
    let wanted = |emails, common_names| Wanted { emails, common_names, ..Wanted::default() };
    let both = wanted(&["ann@example.org", "other@example.org"], &["bob"]);
    for (wanted, field, expected) in [
        (both, Email, Some("ann@example.org")),
        (both, CommonName, Some("bob")),
        (wanted(&[], &["bob"]), Email, None),
        (Wanted { dns: &["a.example"], ..wanted(&[], &["bob"]) }, Email, None),
        (wanted(&["ann@example.org"], &[]), CommonName, None),
        (wanted(&[], &["bob", "root"]), CommonName, None),
        (wanted(&[], &["bob\r\na2 DELETE INBOX"]), CommonName, None),
        (wanted(&["ann\0@example.org"], &[]), Email, None),
        (wanted(&[""], &[""]), Email, None),
        (wanted(&[""], &[""]), CommonName, None),
        (Wanted { expired: true, ..both }, Email, None),
    ] {
        let name = user_named(&ca.issue(wanted).der(), field).map(|user| user.to_string());
        assert_eq!(name.as_deref(), expected, "{field:?}");
    }
    assert_eq!(user_named(&CertificateDer::from(&b"junk"[..]), Email), None);
}

#[test]
fn a_bad_authority_file_is_a_finding() {
    let mut world = World::new();
    let (certificates, _) = Certificates::load(&world.tls, None).expect("good certificates");
    let certificates = Arc::new(certificates);
    for (content, text) in [
        (None, "clients.pem: cannot be read"),
        (Some(""), "clients.pem: holds no certificate in PEM form"),
        (Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "clients.pem: not an authority"),
    ] {
        let ca = world.file("clients.pem");
        if let Some(content) = content {
            std::fs::write(&ca.value, content).expect("a scratch folder");
        }
        world.tls.client_auth = ClientAuth::Optional { ca };
        let findings = Acceptor::new(Arc::clone(&certificates), &world.tls, None).err().expect("refused");
        assert!(findings[0].message.contains(text), "{findings:?}");
        assert_eq!(findings[0].site.as_ref().map(|site| site.key.as_str()), Some("clients.pem"));
    }
}

#[tokio::test]
async fn a_certificate_made_on_the_spot_is_trusted_by_its_pem() {
    let (certificates, pem) = Certificates::self_signed(&["localhost", "127.0.0.1"]).expect("made");
    let (_, expiry) = certificates.expiries().next().expect("one");
    assert!(expiry > 0);
    let acceptor = Acceptor::new(Arc::new(certificates), &World::new().tls, None).expect("good");
    let mut roots = RootCertStore::empty();
    let folder = tempfile::tempdir().expect("a scratch folder");
    std::fs::write(folder.path().join("self.pem"), pem).expect("a scratch folder");
    for certificate in read_chain(&folder.path().join("self.pem")).expect("PEM") {
        roots.add(certificate).expect("a root");
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&version::TLS13])
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let config = Arc::new(config);
    for name in ["localhost", "127.0.0.1"] {
        agree(&acceptor, Arc::clone(&config), name).await;
    }
    let (_, far) = meet(&acceptor, config, "mail.example.org").await;
    assert!(far.is_err(), "it is not good for other names");
}

/// Writes one byte at a time.
struct Drip(TcpStream);

impl AsyncRead for Drip {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Drip {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, &buf[..buf.len().min(1)])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Both ends of a connection over loopback.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let far = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("listening");
    far.set_nodelay(true).expect("an option");
    (listener.accept().await.expect("connected").0, far)
}

#[tokio::test]
async fn a_handshake_that_drips_is_a_handshake() {
    let acceptor = World::new().acceptor();
    let (near, far) = pair().await;
    let connector = TlsConnector::from(Arc::new(client(V13, None)));
    let name = ServerName::try_from("mail.example.org").expect("a name");
    let (near, far) = tokio::join!(acceptor.accept(near), connector.connect(name, Drip(far)));
    assert_eq!(near.expect("a handshake").server_name.as_deref(), Some("mail.example.org"));
    far.expect("a handshake");
}

#[tokio::test]
async fn what_is_no_handshake_fails_and_is_quoted_safely() {
    let acceptor = World::new().acceptor();
    let noise = vec![0xff; 70_000];
    for sent in [&b""[..], b"\x16\x03\x01\x00", b"a1 LOGIN ann hunter2\r\n", b"GET / HTTP/1.1\r\n\r\n", &noise] {
        let (near, mut far) = pair().await;
        let send = async {
            // The other side may have closed before it read everything.
            let _ = far.write_all(sent).await;
            let _ = far.shutdown().await;
        };
        let (near, ()) = tokio::join!(acceptor.accept(near), send);
        let HandshakeError::Failed(text) = near.expect_err("no handshake") else { panic!("not an ALPN matter") };
        assert!(text.is_ascii() && !text.contains(['\r', '\n']) && !text.contains("hunter2"), "{text}");
    }
}

#[tokio::test]
async fn half_a_hello_waits_until_the_caller_gives_up() {
    let acceptor = World::new().acceptor();
    let (near, mut far) = pair().await;
    far.write_all(b"\x16\x03\x01\x02").await.expect("room");
    {
        let mut handshake = Box::pin(acceptor.accept(near));
        for _ in 0..10 {
            let waiting = poll_fn(|cx| Poll::Ready(handshake.as_mut().poll(cx).is_pending())).await;
            assert!(waiting);
            tokio::task::yield_now().await;
        }
    }
    let mut rest = Vec::new();
    // A close with bytes left unread arrives as a reset.
    let closed = far.read_to_end(&mut rest).await;
    assert!(closed.is_ok_and(|n| n == 0) || rest.is_empty(), "dropping the handshake closes the connection");
}
