//! The program itself, as a process of its own: for what is true of a process alone, such as signals, log and memory.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};

use super::backend::Backend;
use super::server::get;
use super::soon;

/// The program, and the lines of its log so far.
pub struct Program {
    pub lines: Vec<String>,
    /// Of its one listener, `plain`.
    pub address: SocketAddr,
    admin: SocketAddr,
    child: Child,
    log: Option<BufReader<ChildStderr>>,
}

impl Program {
    /// Starts it before this backend. `more` begins in the `[log]` section.
    pub async fn start(folder: &Path, backend: &Backend, more: &str) -> Self {
        let route = "[[route]]\nbackend = \"blue\"\n";
        Self::start_with(folder, &format!("{}{route}[log]\n{more}\n", backend.section("blue")), |command| command).await
    }

    /// Starts it with these backends and routes (and more), by a command that may be changed beforehand.
    pub async fn start_with(folder: &Path, config: &str, with: impl Fn(&mut Command) -> &mut Command) -> Self {
        let config = format!(
            "[[listener]]\nname = \"plain\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\n\
             [admin]\naddress = \"127.0.0.1:0\"\n[timeouts]\nrefusal_grid = \"10ms\"\n{config}"
        );
        std::fs::write(folder.join("mailmux.toml"), config).expect("written");
        let mut command = mailmux();
        command.args(["serve", "--config"]).arg(folder.join("mailmux.toml"));
        let mut child = with(&mut command).spawn().expect("started");
        let log = child.stderr.take().map(BufReader::new);
        let nowhere = ([127, 0, 0, 1], 0).into();
        let mut program = Self { lines: Vec::new(), address: nowhere, admin: nowhere, child, log };
        program.address = address_in(&program.line_with("listening").await);
        program.admin = address_in(&program.line_with("admin port listening").await);
        program
    }

    /// The next line of the log that holds these words.
    pub async fn line_with(&mut self, words: &str) -> String {
        loop {
            let mut line = String::new();
            let log = self.log.as_mut().expect("its log");
            let n = soon(words, log.read_line(&mut line)).await.expect("UTF-8");
            assert!(n > 0, "the log ends without {words:?}: {:#?}", self.lines);
            self.lines.push(line.clone());
            if line.contains(words) {
                return line;
            }
        }
    }

    /// What the kernel says of it: `Uid`, `CapEff` ... of `proc_pid_status(5)`, with single blanks.
    pub fn status(&self, key: &str) -> String {
        let id = self.child.id().expect("it runs");
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.expect("a line").split_whitespace().collect::<Vec<_>>().join(" ")
    }

    pub fn signal(&self, signal: &str) {
        let id = self.child.id().expect("it runs").to_string();
        assert!(std::process::Command::new("kill").args([signal, &id]).status().expect("kill").success());
    }

    /// The value of one series, written as `/metrics` writes it.
    pub async fn metric(&self, series: &str) -> f64 {
        let (_, text) = get(self.admin, "/metrics", "").await;
        let found = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        found.unwrap_or_else(|| panic!("no {series}")).parse().expect("a number")
    }

    /// Waits until a series has this value.
    pub async fn until_metric(&self, series: &str, expected: f64) {
        soon(&format!("{series} to be {expected}"), async {
            while (self.metric(series).await - expected).abs() > f64::EPSILON {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// Waits for its end, and gives the rest of the log.
    pub async fn ended(&mut self) -> String {
        let mut rest = String::new();
        let log = self.log.as_mut().expect("its log");
        soon("the end of its log", log.read_to_string(&mut rest)).await.expect("UTF-8");
        assert!(soon("its end", self.child.wait()).await.expect("a status").success());
        rest
    }

    /// Closes the pipe that its log goes to.
    pub fn close_log(&mut self) {
        self.log = None;
    }
}

fn address_in(line: &str) -> SocketAddr {
    let after = line.split("127.0.0.1:").nth(1).expect("an address");
    let port: String = after.chars().take_while(char::is_ascii_digit).collect();
    ([127, 0, 0, 1], port.parse().expect("a port")).into()
}

pub fn mailmux() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mailmux"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// A port that was free a moment ago, for a program that cannot say which one it got.
pub fn free_port() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port")
}

/// Runs it to its end; exit code, standard output and standard error.
pub async fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    run_by(mailmux().args(arguments)).await
}

/// The same by another command.
pub async fn run_by(command: &mut Command) -> (Option<i32>, String, String) {
    let output = soon("its end", command.output()).await.expect("started");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}
