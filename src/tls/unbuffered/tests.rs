//! A connection against rustls with buffers of its own, over a wire that the tests hold in their hands.

mod ending;
mod forger;
mod reading;
mod shaking;
mod splits;
mod writing;

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::sync::{Arc, OnceLock};
use std::task::Waker;

use rustls::client::UnbufferedClientConnection;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::UnbufferedServerConnection;
use rustls::{
    ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection, SupportedProtocolVersion, version,
};

use super::super::testing::{Authority, Gullible, Issued};
use super::machine::RECORD_MAX;
use super::*;

const V12: &SupportedProtocolVersion = &version::TLS12;
const V13: &SupportedProtocolVersion = &version::TLS13;

type Server = UnbufferedServerConnection;
type Client = UnbufferedClientConnection;

/// A socket: gives what a test has put into it, one piece a read, and takes what there is room for.
struct Wire {
    coming: VecDeque<Vec<u8>>,
    ended: bool,
    reads: usize,
    gone: Vec<u8>,
    room: usize,
    writes: usize,
    broken: bool,
    shut: bool,
}

impl Wire {
    fn new() -> Self {
        let room = usize::MAX;
        Self {
            coming: VecDeque::new(),
            ended: false,
            reads: 0,
            gone: Vec::new(),
            room,
            writes: 0,
            broken: false,
            shut: false,
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        assert!(buf.remaining() > 0, "a read into nothing looks like the end");
        let Some(mut piece) = self.coming.pop_front() else {
            return if self.ended { Poll::Ready(Ok(())) } else { Poll::Pending };
        };
        self.reads += 1;
        let later = piece.split_off(piece.len().min(buf.remaining()));
        buf.put_slice(&piece);
        if !later.is_empty() {
            self.coming.push_front(later);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.broken {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if self.room == 0 {
            return Poll::Pending;
        }
        let taken = &buf[..buf.len().min(self.room)];
        self.gone.extend_from_slice(taken);
        self.room -= taken.len();
        self.writes += 1;
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shut = true;
        Poll::Ready(Ok(()))
    }
}

/// Ours, and the other side.
struct Pair<S> {
    near: TlsStream<Wire, S>,
    far: Connection,
}

/// An end that a test can make.
trait End: Side + Sized {
    fn near(settings: &Settings) -> TlsStream<Wire, Self>;
    fn far(settings: &Settings) -> Connection;
}

/// Of both sides.
struct Settings {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Settings {
    fn of(version: &'static SupportedProtocolVersion) -> Self {
        Self::with(version, aws_lc_rs::default_provider())
    }

    fn with(version: &'static SupportedProtocolVersion, provider: CryptoProvider) -> Self {
        static ISSUED: OnceLock<Issued> = OnceLock::new();
        let issued = ISSUED.get_or_init(|| Authority::new().server(&["mail.example.org"]));
        let provider = Arc::new(provider);
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(&[version]);
        let builder = builder.expect("a version").with_no_client_auth();
        let mut server = builder.with_single_cert(vec![issued.der()], issued.key_der()).expect("a pair");
        server.ticketer = aws_lc_rs::Ticketer::new().expect("random bytes");
        server.enable_secret_extraction = true;
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]);
        let builder = builder.expect("a version").dangerous().with_custom_certificate_verifier(Gullible::all());
        let mut client = builder.with_no_client_auth();
        client.enable_secret_extraction = true;
        Self { server: Arc::new(server), client: Arc::new(client) }
    }
}

impl End for Server {
    fn near(settings: &Settings) -> TlsStream<Wire, Self> {
        TlsStream::new(Wire::new(), Self::new(Arc::clone(&settings.server)).expect("settings"))
    }

    fn far(settings: &Settings) -> Connection {
        let name = "mail.example.org".try_into().expect("a name");
        ClientConnection::new(Arc::clone(&settings.client), name).expect("settings").into()
    }
}

impl End for Client {
    fn near(settings: &Settings) -> TlsStream<Wire, Self> {
        let name = "mail.example.org".try_into().expect("a name");
        TlsStream::new(Wire::new(), Self::new(Arc::clone(&settings.client), name).expect("settings"))
    }

    fn far(settings: &Settings) -> Connection {
        ServerConnection::new(Arc::clone(&settings.server)).expect("settings").into()
    }
}

impl<S: End> Pair<S> {
    /// Before the handshake.
    fn strangers(settings: &Settings) -> Self {
        Self { near: S::near(settings), far: S::far(settings) }
    }

    /// After it; each has heard all of the other.
    fn shaken(settings: &Settings) -> Self {
        let mut pair = Self::strangers(settings);
        pair.finish();
        assert!(matches!(pair.flush(), Poll::Ready(Ok(()))));
        pair.carry().expect("nothing wrong");
        assert!(pair.read(100).is_pending() && !pair.far.is_handshaking());
        assert_eq!(pair.near.owned(), 0);
        (pair.near.io.reads, pair.near.io.writes) = (0, 0);
        pair
    }

    /// Does what is left of the handshake.
    fn finish(&mut self) {
        for _ in 0..4 {
            let _ = self.shake();
            self.carry().expect("nothing wrong");
            let said = self.said();
            self.near.io.coming.extend((!said.is_empty()).then_some(said));
        }
        assert!(matches!(self.shake(), Poll::Ready(Ok(()))));
    }

    fn shake(&mut self) -> Poll<io::Result<()>> {
        self.near.poll_shake(&mut Context::from_waker(Waker::noop()))
    }

    /// Brings what ours has sent to the other side; gives what that makes of it.
    fn carry(&mut self) -> Result<Vec<u8>, rustls::Error> {
        let gone = std::mem::take(&mut self.near.io.gone);
        let mut heard = Vec::new();
        let mut rest = &gone[..];
        while !rest.is_empty() {
            self.far.read_tls(&mut rest).expect("room");
            self.far.process_new_packets()?;
            // Blocks, or has ended.
            let _ = self.far.reader().read_to_end(&mut heard);
        }
        Ok(heard)
    }

    /// What the other side has to send.
    fn said(&mut self) -> Vec<u8> {
        let mut said = Vec::new();
        while self.far.wants_write() {
            self.far.write_tls(&mut said).expect("memory");
        }
        said
    }

    /// The other side's words, encrypted.
    fn say(&mut self, words: &[u8]) -> Vec<u8> {
        let mut said = Vec::new();
        for words in words.chunks(16 * 1024) {
            self.far.writer().write_all(words).expect("room");
            said.append(&mut self.said());
        }
        said
    }

    /// Reads into a buffer of this size.
    fn read(&mut self, size: usize) -> Poll<io::Result<Vec<u8>>> {
        let mut bytes = vec![0; size];
        let mut buf = ReadBuf::new(&mut bytes);
        let read = Pin::new(&mut self.near).poll_read(&mut Context::from_waker(Waker::noop()), &mut buf);
        read.map_ok(|()| buf.filled().to_vec())
    }

    /// What one read gives, which must give something.
    fn hear(&mut self, size: usize) -> Vec<u8> {
        match self.read(size) {
            Poll::Ready(Ok(heard)) if !heard.is_empty() => heard,
            other => panic!("{other:?}"),
        }
    }

    fn write(&mut self, words: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.near).poll_write(&mut Context::from_waker(Waker::noop()), words)
    }

    fn flush(&mut self) -> Poll<io::Result<()>> {
        Pin::new(&mut self.near).poll_flush(&mut Context::from_waker(Waker::noop()))
    }

    fn shutdown(&mut self) -> Poll<io::Result<()>> {
        Pin::new(&mut self.near).poll_shutdown(&mut Context::from_waker(Waker::noop()))
    }
}

/// The kind of an error that must be one.
fn kind<T: fmt::Debug>(poll: Poll<io::Result<T>>) -> io::ErrorKind {
    match poll {
        Poll::Ready(Err(error)) => error.kind(),
        other => panic!("{other:?}"),
    }
}

/// What rustls said, in an error that must be one of its.
fn fault<T: fmt::Debug>(poll: Poll<io::Result<T>>) -> rustls::Error {
    let Poll::Ready(Err(error)) = poll else { panic!("{poll:?}") };
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).expect("rustls' words").clone()
}

/// Bytes that do not look like each other.
fn noise(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 251).to_le_bytes()[0]).collect()
}
