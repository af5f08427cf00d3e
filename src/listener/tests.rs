//! Binding, accepting and what goes wrong in it; the PROXY header from a stream.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;

use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

use super::*;
use crate::config::{At, ListenerTls, Site};

fn listener(address: &str) -> config::Listener {
    let site = Site { key: "listener[0].address".to_owned(), span: 3..9 };
    config::Listener {
        name: "imaps".to_owned(),
        address: At { value: address.parse().expect("an address"), site },
        tls: ListenerTls::Implicit,
        allow_plaintext: false,
        proxy_protocol_from: Vec::new(),
        id_from: Vec::new(),
        mechanisms: Vec::new(),
    }
}

#[tokio::test]
async fn an_address_in_use_is_a_finding_with_a_remedy() {
    let bound = Bound::bind(&listener("127.0.0.1:0"), &mut Inherited::default()).expect("a free port");
    let address = bound.local_addr().to_string();
    let finding = Bound::bind(&listener(&address), &mut Inherited::default()).expect_err("taken");
    assert_eq!(finding.site.map(|site| site.span), Some(3..9));
    assert!(finding.message.starts_with(&format!("cannot listen on {address}: ")), "{}", finding.message);
    assert!(finding.message.ends_with("(`ss -ltnp` shows it) or choose another port"), "{}", finding.message);
    let finding =
        Bound::bind(&listener("192.0.2.1:0"), &mut Inherited::default()).expect_err("a documentation address");
    assert!(finding.message.contains("an address that this machine has"), "{}", finding.message);
}

#[tokio::test]
async fn a_restart_can_bind_again_at_once() {
    let bound = Bound::bind(&listener("127.0.0.1:0"), &mut Inherited::default()).expect("a free port");
    let address = bound.local_addr();
    let far = TcpStream::connect(address).await.expect("listening");
    let (near, _) = bound.socket.accept().expect("connected");
    // Closed from this side first, so that it is this side that waits in TIME_WAIT.
    drop(near);
    drop(bound);
    drop(far);
    Bound::bind(&listener(&address.to_string()), &mut Inherited::default()).expect("free again");
}

#[tokio::test]
async fn the_ipv6_wildcard_takes_both_families() {
    let bound = Bound::bind(&listener("[::]:0"), &mut Inherited::default()).expect("a free port");
    let port = bound.local_addr().port();
    let (running, phase) = watch::channel(Phase::Running);
    let (sender, mut accepted) = mpsc::unbounded_channel();
    let serving = tokio::spawn(bound.run(
        phase,
        |error| panic!("{error}"),
        move |tcp, peer| sender.send((tcp, peer)).expect("somebody looks"),
    ));
    for (target, expected) in [("127.0.0.1", "127.0.0.1"), ("::1", "::1")] {
        let target: IpAddr = target.parse().expect("an address");
        let _far = TcpStream::connect((target, port)).await.expect("listening");
        let (tcp, peer) = accepted.recv().await.expect("accepted");
        assert_eq!(peer.ip().to_string(), expected, "an IPv4 peer is shown as such");
        let socket = SockRef::from(&tcp);
        assert!(socket.tcp_nodelay().expect("an option"));
        assert!(socket.keepalive().expect("an option"));
        assert_eq!(socket.tcp_keepalive_time().expect("an option"), Duration::from_mins(2));
        assert_eq!(socket.tcp_keepalive_interval().expect("an option"), Duration::from_secs(30));
        assert_eq!(socket.tcp_keepalive_retries().expect("an option"), 4);
        assert_eq!(socket.tcp_user_timeout().expect("an option"), Some(Duration::from_mins(5)));
    }
    running.send(Phase::Draining).expect("somebody listens");
    serving.await.expect("no panic");
    let refused = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.expect_err("closed");
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
}

/// What accepting gives, in order; for ever nothing after that.
async fn accept_scripted(
    script: Vec<io::Result<u32>>,
    phase: watch::Receiver<Phase>,
    served: &Cell<u32>,
) -> Vec<(Duration, i32)> {
    let start = Instant::now();
    let script = Mutex::new(VecDeque::from(script));
    let reported = RefCell::new(Vec::new());
    let accept = || {
        let next = script.lock().expect("one thread").pop_front();
        async move {
            match next {
                Some(next) => next,
                None => std::future::pending().await,
            }
        }
    };
    let on_error = |error: &io::Error| reported.borrow_mut().push((start.elapsed(), error.raw_os_error().unwrap_or(0)));
    accept_all(accept, phase, on_error, |n| served.set(served.get() + n)).await;
    reported.into_inner()
}

const EMFILE: i32 = 24;
const ECONNABORTED: i32 = 103;

#[tokio::test(start_paused = true)]
async fn out_of_descriptors_it_waits_longer_and_longer_and_serves_on() {
    let (running, phase) = watch::channel(Phase::Running);
    let served = Cell::new(0);
    let mut script: Vec<_> = (0..12).map(|_| Err(io::Error::from_raw_os_error(EMFILE))).collect();
    script.push(Ok(1));
    script.push(Err(io::Error::from_raw_os_error(EMFILE)));
    script.push(Ok(10));
    let start = Instant::now();
    let loop_ = accept_scripted(script, phase, &served);
    let stop = async {
        // 5 + 10 + ... + 640 ms, then four times 1 s: the sum of the twelve waits.
        sleep(Duration::from_millis(1275 + 4000 - 1)).await;
        assert_eq!(served.get(), 0, "it does not try again at once");
        sleep(Duration::from_millis(1)).await;
        sleep(Duration::from_millis(5)).await;
        assert_eq!(served.get(), 11, "the waits begin small again");
        running.send(Phase::Stopped).expect("it still listens");
    };
    let (reported, ()) = tokio::join!(loop_, stop);
    assert!(reported.iter().all(|(_, code)| *code == EMFILE));
    assert!(reported.windows(2).all(|pair| pair[1].0 >= pair[0].0 + REPORT_EVERY), "{reported:?}");
    assert!((4..=6).contains(&reported.len()), "{reported:?}");
    assert!(start.elapsed() < Duration::from_secs(6));
}

#[tokio::test(start_paused = true)]
async fn a_stop_is_heard_while_waiting() {
    let (running, phase) = watch::channel(Phase::Running);
    let served = Cell::new(0);
    let script = (0..100).map(|_| Err(io::Error::from_raw_os_error(EMFILE))).collect();
    let start = Instant::now();
    let stop = async {
        sleep(Duration::from_secs(2)).await;
        running.send(Phase::Draining).expect("it still listens");
    };
    tokio::join!(accept_scripted(script, phase, &served), stop);
    assert_eq!(start.elapsed(), Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_gone_already_costs_nothing() {
    let (running, phase) = watch::channel(Phase::Running);
    let served = Cell::new(0);
    let mut script: Vec<_> = (0..100).map(|_| Err(io::Error::from_raw_os_error(ECONNABORTED))).collect();
    script.push(Ok(1));
    let start = Instant::now();
    let stop = async {
        while served.get() == 0 {
            tokio::task::yield_now().await;
        }
        drop(running);
    };
    let (reported, ()) = tokio::join!(accept_scripted(script, phase, &served), stop);
    assert_eq!(reported, []);
    assert_eq!(start.elapsed(), Duration::ZERO);
}

fn headers() -> Vec<Vec<u8>> {
    let (source, destination) = ("192.0.2.1:4711".parse().expect("ok"), "192.0.2.2:143".parse().expect("ok"));
    vec![
        proxy_header::encode_v1(source, destination),
        proxy_header::encode_v2(source, destination, true, Some("mail.example.org")),
    ]
}

#[tokio::test]
async fn a_header_is_read_to_its_end_and_no_further() {
    for header in headers() {
        for pieces in [1, 7, 4096] {
            // The pipe holds no more than one piece, so that every read ends there.
            let (mut far, mut near) = tokio::io::duplex(pieces);
            let sent = [&header[..], b"PROXY UNKNOWN\r\n"].concat();
            let writer = tokio::spawn(async move { far.write_all(&sent).await });
            let proxied = read_proxy_header(&mut near).await.expect("a header");
            assert_eq!(proxied.source.map(|source| source.port()), Some(4711));
            let mut behind = Vec::new();
            near.read_to_end(&mut behind).await.expect("a pipe");
            assert_eq!(behind, b"PROXY UNKNOWN\r\n", "a second header is data");
            writer.await.expect("no panic").expect("taken");
        }
    }
}

#[tokio::test]
async fn half_a_header_is_an_error_and_so_is_none() {
    for header in headers() {
        for end in 0..header.len() {
            let error = read_proxy_header(&mut &header[..end]).await.expect_err("cut short");
            assert!(matches!(error, HeaderError::Io(_)), "{error}");
        }
    }
    let error = read_proxy_header(&mut &b"a1 LOGIN ann hunter2\r\n"[..]).await.expect_err("IMAP");
    assert_eq!(error.to_string(), "not a PROXY header");
}
