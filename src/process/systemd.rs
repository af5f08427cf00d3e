//! What systemd is told (`sd_notify(3)`), and the sockets it hands over (`sd_listen_fds(3)`). Started by anybody else, nobody is
//! told anything. The environment is only read here, since changing it is not safe once there are threads.

use std::env;
use std::io;
use std::net::TcpListener;
use std::time::Duration;

use listenfd::ListenFd;
use sd_notify::NotifyState;
use tracing::warn;

/// The way to whoever started us and wants to hear.
#[derive(Debug)]
pub struct Notifier {
    is_heard: bool,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// As `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` say.
    pub fn from_environment() -> Self {
        let is_heard = env::var_os("NOTIFY_SOCKET").is_some_and(|path| !path.is_empty());
        let watchdog = sd_notify::watchdog_enabled().filter(|patience| is_heard && !patience.is_zero());
        Self { is_heard, watchdog }
    }

    /// It serves: after the start, and after a reload.
    pub fn ready(&self, status: &str) {
        self.tell(&[NotifyState::Ready, NotifyState::Status(&one_line(status))]);
    }

    /// A reload begins; it ends with [`Self::ready`].
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell(&[NotifyState::Reloading, now]),
            Err(error) => warn!(%error, "the clock cannot be read"),
        }
    }

    /// It ends.
    pub fn stopping(&self) {
        self.tell(&[NotifyState::Stopping]);
    }

    /// A word for `systemctl status`.
    pub fn status(&self, text: &str) {
        self.tell(&[NotifyState::Status(&one_line(text))]);
    }

    /// The process that is the service from now on.
    pub fn main_pid(&self, pid: u32) {
        self.tell(&[NotifyState::MainPid(pid)]);
    }

    /// How often [`Self::watchdog`] is to be called, if at all: twice in the time after which systemd would end us.
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog.map(|patience| patience / 2)
    }

    /// It is alive.
    pub fn watchdog(&self) {
        self.tell(&[NotifyState::Watchdog]);
    }

    fn tell(&self, states: &[NotifyState<'_>]) {
        if self.is_heard
            && let Err(error) = sd_notify::notify(states)
        {
            warn!(%error, "systemd could not be told of our state (NOTIFY_SOCKET)");
        }
    }
}

/// A line break would begin another message.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// The listening sockets that whoever started us has opened: `LISTEN_FDS`, meant for this process if there is a
/// `LISTEN_PID` and it is ours, or if there is none. They are not handed on to children by themselves.
///
/// To be called once, and before there is any other thread: it takes these variables out of the environment.
///
/// # Errors
/// One of them is no TCP socket.
pub fn inherited_sockets() -> io::Result<Vec<TcpListener>> {
    let mut inherited = ListenFd::from_env();
    let mut sockets = Vec::with_capacity(inherited.len());
    for at in 0..inherited.len() {
        if let Some(socket) = inherited.take_tcp_listener(at)? {
            socket.set_nonblocking(true)?;
            sockets.push(socket);
        }
    }
    Ok(sockets)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::os::fd::OwnedFd;
    use std::process::{Command, Stdio};

    use super::*;

    /// Says in a process of its own which test is the one that is started by another.
    const CHILD: &str = "MAILMUX_TEST_CHILD";

    /// Started by the next test with a socket as its descriptor 3.
    #[test]
    fn child_that_takes_sockets() {
        if env::var_os(CHILD).is_none() {
            return;
        }
        let sockets = inherited_sockets().expect("sockets");
        let addresses: Vec<_> = sockets.iter().map(|socket| socket.local_addr().expect("bound")).collect();
        println!("taken: {addresses:?} {:?}", env::var_os("LISTEN_FDS"));
        assert_eq!(inherited_sockets().expect("none").len(), 0, "they are taken once");
    }

    #[test]
    fn sockets_that_were_handed_over_are_taken() {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = socket.local_addr().expect("bound");
        let waiting = TcpStream::connect(address).expect("it listens already");
        let run = |variables: &str| {
            let script = format!("exec 3<&0 0</dev/null; {variables} exec \"$0\" --exact --nocapture \"$1\"");
            let output = Command::new("sh")
                .args(["-c", &script])
                .arg(env::current_exe().expect("our path"))
                .arg("process::systemd::tests::child_that_takes_sockets")
                .env(CHILD, "1")
                .stdin(Stdio::from(OwnedFd::from(socket.try_clone().expect("another"))))
                .output()
                .expect("started");
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let taken = format!("taken: [{address}] None");
        let shown = run("LISTEN_FDS=1");
        assert!(shown.contains(&taken), "{shown}");
        let shown = run("LISTEN_PID=$$ LISTEN_FDS=1");
        assert!(shown.contains(&taken), "{shown}");
        let shown = run("LISTEN_PID=1 LISTEN_FDS=1");
        assert!(shown.contains("taken: []"), "meant for another: {shown}");
        drop(waiting);
    }

    #[test]
    fn a_status_is_one_line() {
        assert_eq!(one_line("a\nREADY=1\r\n"), "a READY=1  ");
    }
}
