//! From one process to the next: the old one starts the new binary and gives it its listening sockets over a Unix socket,
//! which is the new one's standard input; the new one says when it serves, and the old one tells it, for as long as it lives,
//! how many sessions it still has. A new process that fails costs nothing but a line in the log. Not here: when to do that,
//! and what to do then.
//!
//! On the line: of each socket, its label's length (two bytes), the socket itself as `SCM_RIGHTS` (`unix(7)`), the label; a
//! length of nothing ends them. Then lines of text: `ready` and later `over` from the new to the old, numbers from the old to
//! the new.

use std::ffi::OsString;
use std::io::{self, IoSlice, IoSliceMut, Read, Write as _};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use std::{env, fs};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// Tells a new process that it is one.
const VARIABLE: &str = "MAILMUX_HANDOVER";
const READY: &str = "ready";
const OVER: &str = "over";
/// What systemd has told the old process is not for the new one.
const NOT_FOR_IT: [&str; 4] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_PID"];
/// How long a new process may take until it serves: it reads a million users and thousands of certificates.
const START: Duration = Duration::from_mins(1);
/// How long the old one may take to say anything.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a socket is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Clients come in here; the address as the configuration has it.
    Listener(SocketAddr),
    /// The admin port at this address.
    AdminAddress(SocketAddr),
    /// The admin port in the file system.
    AdminPath(PathBuf),
    /// The line to a process that is older still and has sessions.
    Elder,
}

impl Role {
    fn label(&self) -> Vec<u8> {
        match self {
            Self::Listener(address) => format!("listener {address}").into_bytes(),
            Self::AdminAddress(address) => format!("admin {address}").into_bytes(),
            Self::AdminPath(path) => [b"path ", path.as_os_str().as_bytes()].concat(),
            Self::Elder => b"elder ".to_vec(),
        }
    }

    fn of(label: &[u8]) -> Option<Self> {
        let blank = label.iter().position(|byte| *byte == b' ')?;
        let (kind, rest) = (&label[..blank], &label[blank + 1..]);
        let address = || str::from_utf8(rest).ok()?.parse().ok();
        match kind {
            b"listener" => address().map(Self::Listener),
            b"admin" => address().map(Self::AdminAddress),
            b"path" => Some(Self::AdminPath(OsString::from_vec(rest.to_vec()).into())),
            b"elder" => Some(Self::Elder),
            _ => None,
        }
    }
}

/// What this process was started as, and what its successor is started as.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    /// As it was typed, made absolute: a symbolic link on the way may lead to another version by then.
    ///
    /// # Errors
    /// It cannot be told.
    pub fn of_this_process() -> io::Result<Self> {
        let mut arguments = env::args_os();
        let path = match arguments.next().map(PathBuf::from) {
            Some(path) if path.components().count() > 1 => std::path::absolute(path)?,
            _ => env::current_exe()?,
        };
        Ok(Self { path, arguments: arguments.collect() })
    }
}

/// Why there is no new process.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// It could not be started, or not be given the sockets.
    #[error("{path}: {error}")]
    Start {
        /// The binary.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// It has ended before it served; why is in its own words above.
    #[error("the new process has ended ({0}) before it served")]
    Ended(ExitStatus),
    /// It did not serve in time, and was ended.
    #[error("the new process did not serve within {} s, and was ended", START.as_secs())]
    Late,
}

/// The new process, as the old one sees it. Dropping it before it serves ends it.
#[derive(Debug)]
pub struct Successor {
    child: OnProbation,
    line: BufReader<net::UnixStream>,
}

/// Ended when this is dropped, unless it was let go.
#[derive(Debug)]
struct OnProbation(Option<Child>);

impl Drop for OnProbation {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // It may have gone by itself.
            let _ = child.start_kill();
        }
    }
}

impl Successor {
    /// Starts it and gives it these sockets.
    ///
    /// # Errors
    /// [`UpgradeError::Start`].
    pub fn start(program: &Program, sockets: &[(Role, OwnedFd)]) -> Result<Self, UpgradeError> {
        let start = || {
            let (ours, its) = UnixStream::pair()?;
            let mut command = Command::new(&program.path);
            command.args(&program.arguments).stdin(Stdio::from(OwnedFd::from(its)));
            command.env(VARIABLE, "1");
            for variable in NOT_FOR_IT {
                command.env_remove(variable);
            }
            let child = OnProbation(Some(command.spawn()?));
            for (role, socket) in sockets {
                send(&ours, &role.label(), Some(socket.as_fd()))?;
            }
            send(&ours, b"", None)?;
            ours.set_nonblocking(true)?;
            Ok(Self { child, line: BufReader::new(net::UnixStream::from_std(ours)?) })
        };
        start().map_err(|error| UpgradeError::Start { path: program.path.display().to_string(), error })
    }

    /// Waits until it serves, and gives its process id. From then on it lives by itself. When it does not serve it has ended.
    ///
    /// # Errors
    /// It does not.
    pub async fn serves(&mut self) -> Result<u32, UpgradeError> {
        let Some(child) = &mut self.child.0 else { return Err(UpgradeError::Late) };
        let mut said = String::new();
        let heard = timeout(START, self.line.read_line(&mut said)).await;
        if matches!(heard, Ok(Ok(_))) && said.trim_end() == READY {
            return Ok(child.id().unwrap_or_default());
        }
        // Who hangs up is about to end.
        if heard.is_ok()
            && let Ok(Ok(status)) = timeout(PATIENCE, child.wait()).await
        {
            return Err(UpgradeError::Ended(status));
        }
        // It may have gone by itself.
        let _ = child.kill().await;
        Err(UpgradeError::Late)
    }

    /// Passes on that it is to read its configuration anew: it may have read an older one.
    pub fn reload(&self) {
        let pid = self.child.0.as_ref().and_then(Child::id).and_then(|pid| i32::try_from(pid).ok());
        if let Some(pid) = pid.and_then(Pid::from_raw) {
            // It may have gone by itself.
            let _ = kill_process(pid, Signal::HUP);
        }
    }

    /// Takes it off probation, once it serves; and the line to it.
    pub fn let_go(mut self) -> (Heir, net::UnixStream) {
        (Heir(self.child.0.take()), self.line.into_inner())
    }
}

/// A new process that serves. It lives on when this is dropped.
#[derive(Debug)]
pub struct Heir(Option<Child>);

impl Heir {
    /// Waits until it dies, and says of what. One that ends as it was told to has not died.
    pub async fn died(&mut self) -> ExitStatus {
        if let Some(child) = &mut self.0
            && let Ok(status) = child.wait().await
            && !status.success()
        {
            return status;
        }
        self.0 = None;
        std::future::pending().await
    }
}

/// The old process, as the new one sees it.
#[derive(Debug)]
pub struct Predecessor {
    /// What it has handed over.
    pub sockets: Vec<(Role, OwnedFd)>,
    /// The line to it.
    pub line: UnixStream,
}

impl Predecessor {
    /// The one that has started this process, if one has. To be called once, before anybody reads standard input, which leads
    /// nowhere afterwards.
    ///
    /// # Errors
    /// Something else is there.
    pub fn find() -> io::Result<Option<Self>> {
        if env::var_os(VARIABLE).is_none() {
            return Ok(None);
        }
        let line = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        rustix::stdio::dup2_stdin(fs::File::open("/dev/null")?)?;
        line.set_read_timeout(Some(PATIENCE))?;
        let mut sockets = Vec::new();
        while let Some((label, socket)) = receive(&line)? {
            let role = Role::of(&label).ok_or_else(|| strange("a socket that is for nobody knows what"))?;
            sockets.push((role, socket));
        }
        line.set_read_timeout(None)?;
        Ok(Some(Self { sockets, line }))
    }
}

/// Tells the old process that this one serves.
///
/// # Errors
/// It has gone.
pub async fn say_ready(line: &mut net::UnixStream) -> io::Result<()> {
    line.write_all(format!("{READY}\n").as_bytes()).await
}

/// Tells an older process that this one's sockets are others than it was given, or will be: it is not to keep them.
pub fn go_own_way(line: &OwnedFd) {
    // Who has gone need not know, and a line that is full leads to nobody who reads.
    let _ = rustix::io::write(line, format!("{OVER}\n").as_bytes());
}

/// Waits until the new process says so.
pub async fn goes_its_way(line: &net::UnixStream) {
    let mut said = [0; 16];
    loop {
        if line.readable().await.is_err() {
            break;
        }
        match line.try_read(&mut said) {
            Ok(n) if n > 0 => return,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            _ => break,
        }
    }
    // It has ended, or is about to: not on purpose, as it has not said so.
    std::future::pending::<()>().await;
}

/// Tells the new process how many sessions are left here. A line that is full is not waited for.
pub fn tell(line: &net::UnixStream, sessions: usize) {
    let _ = line.try_write(format!("{sessions}\n").as_bytes());
}

/// Hears how many sessions an older process has, until it ends.
pub async fn hear(line: net::UnixStream, told: impl Fn(usize)) {
    let mut lines = BufReader::new(line).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Ok(sessions) = line.parse() {
            told(sessions);
        }
    }
}

fn send(line: &UnixStream, label: &[u8], socket: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let length = u16::try_from(label.len()).map_err(|_| strange("a path too long to be told"))?.to_be_bytes();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let sockets: Vec<_> = socket.into_iter().collect();
    if !sockets.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&sockets)) {
        return Err(strange("no room for a socket"));
    }
    if sendmsg(line, &[IoSlice::new(&length)], &mut control, SendFlags::NOSIGNAL)? != length.len() {
        return Err(strange("half a message could be sent"));
    }
    (&*line).write_all(label)
}

fn receive(line: &UnixStream) -> io::Result<Option<(Vec<u8>, OwnedFd)>> {
    let mut length = [0; 2];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let read = recvmsg(line, &mut [IoSliceMut::new(&mut length)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    if read.bytes != length.len() {
        return Err(strange("the process before this one has gone"));
    }
    let mut sockets = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
        _ => None,
    });
    let socket = sockets.next();
    let mut label = vec![0; usize::from(u16::from_be_bytes(length))];
    (&*line).read_exact(&mut label)?;
    match socket {
        None if label.is_empty() => Ok(None),
        Some(socket) => Ok(Some((label, socket))),
        None => Err(strange("a label without a socket")),
    }
}

fn strange(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn sockets_arrive_with_their_labels_and_listen() {
        let (old, new) = UnixStream::pair().expect("a pair");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let roles = [
            Role::Listener("[::]:993".parse().expect("an address")),
            Role::AdminAddress(address),
            Role::AdminPath(OsString::from_vec(b"/run/with blank\n\xff.sock".to_vec()).into()),
            Role::Elder,
        ];
        for role in &roles {
            send(&old, &role.label(), Some(listener.as_fd())).expect("sent");
        }
        send(&old, b"", None).expect("sent");
        (&old).write_all(b"5\n").expect("what comes behind them");
        drop(listener);
        for role in &roles {
            let (label, socket) = receive(&new).expect("received").expect("one more");
            assert_eq!(Role::of(&label).as_ref(), Some(role));
            let socket = TcpListener::from(socket);
            let _far = TcpStream::connect(address).expect("it listens although the other process has closed its own");
            socket.accept().expect("and accepts");
        }
        assert!(receive(&new).expect("received").is_none());
        let mut behind = [0; 2];
        (&new).read_exact(&mut behind).expect("still there");
        assert_eq!(&behind, b"5\n");
        drop(old);
        assert!(receive(&new).is_err(), "nobody is there any more");
    }

    #[test]
    fn labels_of_nothing_are_nothing() {
        for label in [&b""[..], b"listener", b"listener nowhere", b"door 127.0.0.1:1", b"admin \xff"] {
            assert_eq!(Role::of(label), None, "{}", label.escape_ascii());
        }
    }

    fn program(path: &str, arguments: &[&str]) -> Program {
        Program { path: path.into(), arguments: arguments.iter().map(Into::into).collect() }
    }

    #[tokio::test]
    async fn a_new_process_says_when_it_serves() {
        // What the old one has sent is a shell's own affair; it says its word on the same line.
        let program = program("/bin/sh", &["-c", "echo ready >&0; head -c 0; sleep 60"]);
        let mut successor = Successor::start(&program, &[]).expect("started");
        assert_eq!(
            successor.serves().await.expect("it does"),
            successor.child.0.as_ref().expect("there").id().expect("alive")
        );
        // Dropped before it is let go, it is ended.
        drop(successor);
    }

    #[tokio::test]
    async fn an_heir_that_dies_is_missed_and_one_that_ends_is_not() {
        let start = async |then: &str| {
            let program = program("/bin/sh", &["-c", &format!("echo ready >&0; {then}")]);
            let mut successor = Successor::start(&program, &[]).expect("started");
            successor.serves().await.expect("it does");
            successor.let_go().0
        };
        assert_eq!(start("exit 3").await.died().await.code(), Some(3));
        let mut heir = start("exit 0").await;
        let waited = timeout(Duration::from_millis(300), heir.died()).await;
        assert!(waited.is_err() && heir.0.is_none(), "it has ended, and nobody misses it");
    }

    #[tokio::test]
    async fn one_that_ends_or_is_not_there_is_told_apart() {
        let mut successor = Successor::start(&program("/bin/sh", &["-c", "exit 7"]), &[]).expect("started");
        let why = successor.serves().await.expect_err("it has ended");
        assert!(matches!(why, UpgradeError::Ended(status) if status.code() == Some(7)), "{why}");
        let why = Successor::start(&program("/nonexistent/mailmux", &[]), &[]).expect_err("nothing there");
        assert!(why.to_string().starts_with("/nonexistent/mailmux: "), "{why}");
    }

    #[tokio::test]
    async fn a_new_process_goes_its_way_only_when_it_says_so() {
        let (old, new) = net::UnixStream::pair().expect("a pair");
        let waited = timeout(Duration::from_millis(100), goes_its_way(&old)).await;
        assert!(waited.is_err(), "it has said nothing");
        let new = OwnedFd::from(new.into_std().expect("a socket"));
        go_own_way(&new);
        drop(new);
        timeout(PATIENCE, goes_its_way(&old)).await.expect("heard, although it has ended since");
        assert!(timeout(Duration::from_millis(100), goes_its_way(&old)).await.is_err(), "an end alone is no word");
    }

    #[tokio::test]
    async fn what_an_older_process_still_has_is_heard_until_it_ends() {
        let (old, new) = net::UnixStream::pair().expect("a pair");
        tell(&old, 12);
        tell(&old, 3);
        drop(old);
        let heard = std::cell::RefCell::new(Vec::new());
        hear(new, |sessions| heard.borrow_mut().push(sessions)).await;
        assert_eq!(*heard.borrow(), [12, 3]);
    }
}
