//! A client's TLS connection, while it is begun and afterwards, under a peer and a network that do anything: nothing panics,
//! little is owned, what is read is what the client has said and no more, and there is no end that it has not told. The first
//! byte chooses the version and whether the handshake comes to its end undisturbed; then each three bytes are a step.
#![no_main]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};

use libfuzzer_sys::fuzz_target;
use mailmux::config::{CertificateName, ClientAuth, Tls, TlsVersion};
use mailmux::tls::{Acceptor, Certificates, HandshakeError, Shaken};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, crypto, version};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Four records that were sealed, one that is not whole, and what a read of a small buffer has left over.
const OWNED_MAX: usize = 7 * (5 + 16_384 + 2048);

static SERVER: LazyLock<(Acceptor, String)> = LazyLock::new(|| {
    let (certificates, pem) = Certificates::self_signed(&["mail.example.org"]).expect("a certificate");
    let tls = Tls {
        min_version: TlsVersion::V12,
        client_auth: ClientAuth::Off,
        client_name: CertificateName::Email,
        certificates: Vec::new(),
        directory: None,
        watch: None,
    };
    (Acceptor::new(Arc::new(certificates), &tls, None).unwrap_or_else(|_| panic!("right")), pem)
});

/// Clients of TLS 1.2 and 1.3, which remember their sessions.
static CLIENTS: LazyLock<[Arc<ClientConfig>; 2]> = LazyLock::new(|| {
    [&version::TLS12, &version::TLS13].map(|version| {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(SERVER.1.as_bytes()).expect("PEM")).expect("a root");
        let mut provider = crypto::aws_lc_rs::default_provider();
        provider.kx_groups = vec![crypto::aws_lc_rs::kx_group::X25519];
        let builder = ClientConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(&[version]);
        Arc::new(builder.expect("a version").with_root_certificates(roots).with_no_client_auth())
    })
});

/// What is between the two.
#[derive(Clone)]
struct Wire(Rc<RefCell<Between>>);

struct Between {
    coming: VecDeque<u8>,
    /// How much comes at once.
    piece: usize,
    gone: Vec<u8>,
    room: usize,
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut between = self.0.borrow_mut();
        let n = between.coming.len().min(between.piece).min(buf.remaining());
        if n == 0 {
            return Poll::Pending;
        }
        between.coming.drain(..n).for_each(|byte| buf.put_slice(&[byte]));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut between = self.0.borrow_mut();
        let n = buf.len().min(between.room);
        if n == 0 {
            return Poll::Pending;
        }
        between.gone.extend_from_slice(&buf[..n]);
        between.room -= n;
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

enum Near<'a> {
    Shaking(Pin<Box<dyn Future<Output = Result<Shaken<Wire>, HandshakeError>> + 'a>>),
    Shaken(Shaken<Wire>),
    Failed,
}

struct World<'a> {
    near: Near<'a>,
    wire: Wire,
    client: Option<ClientConnection>,
    /// The client's ciphertext that has not come yet.
    on_its_way: VecDeque<u8>,
    said: Vec<u8>,
    heard: Vec<u8>,
    written: Vec<u8>,
    taken: Vec<u8>,
    tampered: bool,
    closed: bool,
    refreshed: usize,
}

impl World<'_> {
    fn new(how: u8) -> Self {
        let piece = if how & 4 == 4 { usize::from(how >> 3) + 1 } else { usize::MAX };
        let between = Between { coming: VecDeque::new(), piece, gone: Vec::new(), room: usize::MAX };
        let wire = Wire(Rc::new(RefCell::new(between)));
        let name = "mail.example.org".try_into().expect("a name");
        Self {
            near: Near::Shaking(Box::pin(SERVER.0.shake(wire.clone()))),
            wire,
            client: ClientConnection::new(Arc::clone(&CLIENTS[usize::from(how & 1)]), name).ok(),
            on_its_way: VecDeque::new(),
            said: Vec::new(),
            heard: Vec::new(),
            written: Vec::new(),
            taken: Vec::new(),
            tampered: false,
            closed: false,
            refreshed: 0,
        }
    }

    fn shake(&mut self) {
        let Near::Shaking(shaking) = &mut self.near else { return };
        if let Poll::Ready(shaken) = shaking.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            assert!(shaken.is_ok() || self.tampered);
            self.near = shaken.map_or(Near::Failed, Near::Shaken);
        }
    }

    fn read(&mut self, size: usize) {
        let Near::Shaken((near, name)) = &mut self.near else { return };
        assert_eq!(name.as_deref(), Some("mail.example.org"));
        let mut bytes = vec![0; size + 1];
        let mut buf = ReadBuf::new(&mut bytes);
        match Pin::new(&mut *near).poll_read(&mut Context::from_waker(Waker::noop()), &mut buf) {
            Poll::Ready(Ok(())) if buf.filled().is_empty() => assert!(self.closed && self.heard == self.said),
            Poll::Ready(Ok(())) => self.heard.extend_from_slice(buf.filled()),
            Poll::Ready(Err(_)) => assert!(self.tampered),
            Poll::Pending => {}
        }
        assert!(near.owned() <= OWNED_MAX);
        assert!(self.said.starts_with(&self.heard));
    }

    fn write(&mut self, len: usize) {
        let Near::Shaken((near, _)) = &mut self.near else { return };
        let words = vec![b'w'; len];
        match Pin::new(&mut *near).poll_write(&mut Context::from_waker(Waker::noop()), &words) {
            Poll::Ready(Ok(n)) => self.written.extend_from_slice(&words[..n]),
            Poll::Ready(Err(_)) => assert!(self.tampered),
            Poll::Pending => {}
        }
        assert!(near.owned() <= OWNED_MAX);
    }

    /// The client hears what was sent to it.
    fn carry(&mut self) {
        let gone = std::mem::take(&mut self.wire.0.borrow_mut().gone);
        let Some(client) = &mut self.client else { return };
        let mut rest = &gone[..];
        while !rest.is_empty() {
            let read = client.read_tls(&mut rest);
            if read.is_err() || client.process_new_packets().is_err() {
                assert!(self.tampered);
                self.client = None;
                return;
            }
            let _ = client.reader().read_to_end(&mut self.taken);
        }
        assert!(self.written.starts_with(&self.taken));
        self.send();
    }

    fn send(&mut self) {
        let Some(client) = &mut self.client else { return };
        let mut said = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut said).expect("memory");
        }
        self.on_its_way.extend(said);
    }

    fn say(&mut self, len: usize) {
        let Some(client) = self.client.as_mut().filter(|_| !self.closed) else { return };
        let words: Vec<u8> = (self.said.len()..).map(|at| at.to_le_bytes()[0]).take(len).collect();
        let n = client.writer().write(&words).unwrap_or(0);
        self.said.extend_from_slice(&words[..n]);
        self.send();
    }

    fn come(&mut self, n: usize) {
        let n = n.min(self.on_its_way.len());
        self.wire.0.borrow_mut().coming.extend(self.on_its_way.drain(..n));
    }

    fn step(&mut self, step: u8, n: usize) {
        match step % 12 {
            0 => self.say(n),
            1 | 2 => self.come(n),
            3 | 4 => self.read(n),
            5 => self.write(2 * n),
            6 => self.carry(),
            7 => self.wire.0.borrow_mut().room = n,
            8 if !self.on_its_way.is_empty() => {
                let at = n % self.on_its_way.len();
                self.on_its_way[at] ^= 1 << (step / 12 % 8);
                self.tampered = true;
            }
            9 if !self.on_its_way.is_empty() => {
                let n = n % self.on_its_way.len() + 1;
                if step < 128 {
                    (0..n).for_each(|at| self.on_its_way.push_back(self.on_its_way[at]));
                } else {
                    self.on_its_way.drain(..n);
                }
                self.tampered = true;
            }
            10 if self.refreshed < 20 => {
                let Some(client) = &mut self.client else { return };
                self.refreshed += usize::from(client.refresh_traffic_keys().is_ok());
                self.send();
            }
            11 => {
                let Some(client) = self.client.as_mut().filter(|client| !client.is_handshaking()) else { return };
                client.send_close_notify();
                self.closed = true;
                self.send();
            }
            _ => {}
        }
        self.shake();
    }

    /// All that is under way arrives.
    fn settle(&mut self) {
        self.wire.0.borrow_mut().room = usize::MAX;
        for _ in 0..6 {
            self.come(usize::MAX);
            self.shake();
            for _ in 0..1000 {
                let before = self.heard.len();
                self.read(65_535);
                if self.heard.len() == before && self.wire.0.borrow().coming.is_empty() {
                    break;
                }
            }
            if let Near::Shaken((near, _)) = &mut self.near {
                let _ = Pin::new(near).poll_flush(&mut Context::from_waker(Waker::noop()));
            }
            self.carry();
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((how, mut rest)) = data.split_first() else { return };
    let mut world = World::new(*how);
    world.send();
    if how & 2 == 0 {
        world.settle();
    }
    while let Some(([step, high, low], after)) = rest.split_first_chunk() {
        rest = after;
        let n = usize::from(u16::from_be_bytes([*high, *low]));
        if *step == 255 {
            // Bytes of nobody's.
            let (raw, after) = rest.split_at(n.min(rest.len()));
            world.on_its_way.extend(raw);
            world.tampered |= !raw.is_empty();
            rest = after;
            continue;
        }
        world.step(*step, n);
    }
    // Many pieces would take many turns.
    world.wire.0.borrow_mut().piece = usize::MAX;
    if world.refreshed < 20 {
        world.settle();
    }
    if !world.tampered && world.client.is_some() {
        assert!(world.heard == world.said && world.taken == world.written);
        if let Near::Shaken((near, _)) = &world.near {
            assert_eq!(near.owned(), 0);
        }
    }
});
