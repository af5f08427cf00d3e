//! Opening links over loopback sockets: what goes out first, TLS both ways, and backends that are not there.

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;
use crate::link::Progress;
use crate::link::tests::{backend, caller, password, route};
use crate::proxy_header::{Parsed, parse};
use crate::tls::{Connector, Pki};

const LONG: Duration = Duration::from_secs(20);

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

/// The tag and the command of the next line.
async fn hear<S: AsyncRead + Unpin>(stream: &mut BufReader<S>) -> (String, String) {
    let mut line = String::new();
    stream.read_line(&mut line).await.expect("a line");
    let (tag, command) = line.trim_end().split_once(' ').expect("a tag");
    (tag.to_owned(), command.to_owned())
}

/// `backend` with other settings.
fn with(address: SocketAddr, tls: BackendTls, change: impl FnOnce(&mut crate::config::Backend)) -> Arc<Backend> {
    let plain = backend(&address.ip().to_string(), address.port(), tls);
    let mut config = plain.config.clone();
    change(&mut config);
    let connector = Connector::for_backend(&config.tls).expect("right");
    Arc::new(Backend::new(config, connector, plain.metrics.clone()))
}

fn dialling(own: &[SocketAddr]) -> Dialling {
    Dialling::new(crate::link::Names::by_the_system(), own.to_vec())
}

async fn open(backend: &Arc<Backend>) -> Result<Link<Greeted>, LinkError> {
    Link::open(backend, &dialling(&[]), Some(&caller()), LONG).await
}

#[tokio::test]
async fn the_proxy_header_comes_before_everything_else() {
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let (listener, address) = listen().await;
        let far: JoinHandle<Vec<u8>> = tokio::spawn(async move {
            let (mut tcp, _) = listener.accept().await.expect("a connection");
            let mut header = Vec::new();
            // Byte by byte: not one more than the header may have come before the greeting.
            while !matches!(parse(&header), Parsed::Done(..)) {
                header.push(tcp.read_u8().await.expect("a header"));
            }
            tcp.write_all(b"* OK [CAPABILITY IMAP4rev1] x\r\n").await.expect("written");
            assert_eq!(tcp.read_to_end(&mut Vec::new()).await.expect("closed"), 0, "nothing behind the header");
            header
        });
        let backend = with(address, BackendTls::None, |config| config.proxy_protocol = Some(version));
        drop(open(&backend).await.expect("opened"));
        let Parsed::Done(proxied, _) = parse(&far.await.expect("no panic")) else { panic!("a header") };
        assert_eq!(proxied.source, Some(caller().client));
        assert_eq!(proxied.destination, Some(caller().local));
        let v2 = version == ProxyVersion::V2;
        assert_eq!((proxied.secure, proxied.server_name.as_deref()), (v2, v2.then_some("mail.example.org")));
    }
}

#[tokio::test]
async fn implicit_tls_then_greeting_then_id_and_login_at_once() {
    let pki = Pki::new();
    let (listener, address) = listen().await;
    let acceptor = pki.acceptor(false);
    let far = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.expect("a connection");
        let mut tls = BufReader::new(acceptor.accept(tcp).await.expect("a handshake"));
        tls.write_all(b"* OK [CAPABILITY IMAP4rev1 ID SASL-IR AUTH=PLAIN] x\r\n").await.expect("written");
        let (first, command) = hear(&mut tls).await;
        assert!(command.starts_with("ID (\"x-session-id\" \"abc\""), "{command}");
        // Nothing is answered yet.
        let (second, command) = hear(&mut tls).await;
        assert!(command.starts_with("AUTHENTICATE PLAIN "), "{command}");
        tls.write_all(format!("* ID NIL\r\n{first} OK\r\n{second} OK in\r\n").as_bytes()).await.expect("written");
        let (third, command) = hear(&mut tls).await;
        assert_eq!(command, "CAPABILITY");
        tls.write_all(format!("* CAPABILITY IMAP4rev1\r\n{third} OK\r\n").as_bytes()).await.expect("written");
        tls.flush().await.expect("flushed");
        tls
    });
    let settings = pki.settings("mail.example.org");
    let link = open(&with(address, BackendTls::Implicit(settings), |_| ())).await.expect("opened");
    assert!(link.capabilities.has("ID"));
    let progress = link.log_in(&route(), &password(b"hunter2")).await.expect("let in");
    assert!(matches!(progress, Progress::Done(..)), "{progress:?}");
    drop(far.await.expect("no panic"));
}

#[tokio::test]
async fn starttls_forgets_what_was_said_in_clear() {
    let pki = Pki::new();
    let (listener, address) = listen().await;
    let acceptor = pki.acceptor(false);
    let far = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.expect("a connection");
        let mut tcp = BufReader::new(tcp);
        tcp.write_all(b"* OK [CAPABILITY IMAP4rev1 STARTTLS AUTH=X-EVIL ID] x\r\n").await.expect("written");
        let (tag, command) = hear(&mut tcp).await;
        // Not ID: that tells who the client is.
        assert_eq!(command, "STARTTLS");
        tcp.write_all(format!("{tag} OK go\r\n").as_bytes()).await.expect("written");
        let mut tls = BufReader::new(acceptor.accept(tcp.into_inner()).await.expect("a handshake"));
        let (tag, command) = hear(&mut tls).await;
        assert_eq!(command, "CAPABILITY");
        tls.write_all(format!("* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\n{tag} OK\r\n").as_bytes()).await.expect("written");
        tls.flush().await.expect("flushed");
        tls
    });
    let settings = pki.settings("mail.example.org");
    let link = open(&with(address, BackendTls::StartTls(settings), |_| ())).await.expect("opened");
    assert!(link.capabilities.auth("PLAIN") && !link.capabilities.auth("X-EVIL") && !link.capabilities.has("STARTTLS"));
    drop(far.await.expect("no panic"));
}

#[tokio::test]
async fn a_certificate_that_does_not_verify_is_a_matter_of_configuration() {
    let pki = Pki::new();
    let (listener, address) = listen().await;
    let acceptor = pki.acceptor(false);
    let far = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.expect("a connection");
        acceptor.accept(tcp).await.is_err()
    });
    let settings = pki.settings("other.example.org");
    let error = open(&with(address, BackendTls::Implicit(settings), |_| ())).await;
    let error = error.expect_err("another name");
    assert_eq!((error.kind, error.refusal), (Some(BackendError::Tls), Refusal::BackendMisconfigured));
    assert!(far.await.expect("no panic"));
}

#[tokio::test]
async fn a_backend_that_is_not_there_or_says_nothing_is_down() {
    let (listener, address) = listen().await;
    let silent = with(address, BackendTls::None, |_| ());
    let error =
        Link::open(&silent, &dialling(&[]), Some(&caller()), Duration::from_millis(50)).await.expect_err("silence");
    assert_eq!((error.kind, error.refusal), (Some(BackendError::Timeout), Refusal::BackendDown));
    drop(listener);
    let error = open(&silent).await.expect_err("nobody there");
    assert_eq!((error.kind, error.refusal), (Some(BackendError::Connect), Refusal::BackendDown));
}

#[tokio::test]
async fn every_address_of_a_name_is_tried_from_the_source_that_was_named() {
    // `localhost` is ::1 too on most machines, where nobody listens.
    let (listener, address) = listen().await;
    let far = tokio::spawn(async move {
        let (mut tcp, peer) = listener.accept().await.expect("a connection");
        tcp.write_all(b"* OK [CAPABILITY IMAP4rev1] x\r\n").await.expect("written");
        (tcp, peer)
    });
    let named = with(address, BackendTls::None, |config| {
        config.host = "localhost".to_owned();
        config.source = vec![IpAddr::from([127, 0, 0, 9])];
    });
    let link = open(&named).await.expect("opened");
    let (_tcp, peer) = far.await.expect("no panic");
    assert_eq!(peer.ip(), IpAddr::from([127, 0, 0, 9]));
    let buffered = link.wire.into_buffered();
    let socket = socket2::SockRef::from(buffered.get_ref().tcp());
    assert!(socket.tcp_nodelay().expect("read") && socket.keepalive().expect("read"));
    assert_eq!(socket.tcp_keepalive_time().expect("read"), KEEPALIVE_IDLE);
    assert_eq!(socket.tcp_user_timeout().expect("read"), Some(USER_TIMEOUT));
}

#[tokio::test]
async fn our_own_listeners_are_no_backends() {
    let (listener, address) = listen().await;
    let backend = with(address, BackendTls::None, |_| ());
    let anywhere: SocketAddr = ([0, 0, 0, 0], address.port()).into();
    for own in [address, anywhere] {
        let error = Link::open(&backend, &dialling(&[own]), Some(&caller()), LONG).await.expect_err("a loop");
        assert_eq!(error.refusal, Refusal::Loop);
    }
    drop(listener);
}

#[test]
fn a_listener_on_all_addresses_is_met_on_every_address_of_this_machine() {
    let is = |destination: &str, own: &str| {
        is_own(destination.parse().expect("an address"), &[own.parse().expect("an address")])
    };
    assert!(is("192.0.2.1:143", "192.0.2.1:143") && is("[::ffff:192.0.2.1]:143", "192.0.2.1:143"));
    assert!(is("127.0.0.1:143", "[::]:143") && is("127.0.0.7:143", "0.0.0.0:143") && is("[::1]:143", "[::]:143"));
    assert!(is("0.0.0.0:143", "127.0.0.1:143") && is("[::]:143", "[::]:143"));
    assert!(!is("192.0.2.1:143", "192.0.2.1:993") && !is("127.0.0.1:143", "127.0.0.2:143"));
    assert!(!is("[::1]:143", "0.0.0.0:143"), "an IPv4 listener is not met over IPv6");
    assert!(!is("192.0.2.1:143", "0.0.0.0:143"), "an address of somebody else");
}
