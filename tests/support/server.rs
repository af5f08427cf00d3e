//! A mailmux in this process, from the text of its configuration.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;

use mailmux::config::Config;
use mailmux::process::Phase;
use mailmux::server::Server;
use mailmux::steer::Steering;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::soon;

/// A server that runs until it is dropped.
pub struct Running {
    pub addresses: HashMap<String, SocketAddr>,
    pub admin: SocketAddr,
    pub phase: watch::Sender<Phase>,
    pub steering: Steering,
    task: JoinHandle<()>,
}

/// What every test wants: an admin port of its own, refusals without much ado, and no limit unless it asks for one.
const COMMON: &str = r#"
[admin]
address = "127.0.0.1:0"
"#;

pub const QUICK: &str = r#"
[timeouts]
refusal_grid = "10ms"
"#;

impl Running {
    /// Starts one. Relative paths are taken from `folder`; sections `[admin]` and `[timeouts]` are added unless they
    /// are there.
    pub fn start(folder: &Path, config: &str) -> Self {
        let text = Self::complete(config);
        let config = Config::parse(&text, &folder.join("mailmux.toml")).unwrap_or_else(|findings| panic!("{findings}"));
        let server = Server::build(config).unwrap_or_else(|findings| panic!("{findings:?}"));
        let addresses = server.addresses().into_iter().collect();
        let admin = server.admin_address().expect("an admin port");
        let steering = server.steering();
        let (phase, watching) = watch::channel(Phase::Running);
        let task = tokio::spawn(server.run(watching));
        Self { addresses, admin, phase, steering, task }
    }

    /// With what every test wants, unless it says otherwise.
    pub fn complete(config: &str) -> String {
        let common = if config.contains("[admin]") { "" } else { COMMON };
        let quick = if config.contains("[timeouts]") { "" } else { QUICK };
        format!("{config}\n{common}\n{quick}")
    }

    /// The address of a listener.
    pub fn at(&self, listener: &str) -> SocketAddr {
        self.addresses[listener]
    }

    /// Asks the admin port; status and body.
    pub async fn get(&self, path: &str, headers: &str) -> (u16, String) {
        get(self.admin, path, headers).await
    }

    /// The value of one series, written as `/metrics` writes it; 0 when it is not there.
    pub async fn metric(&self, series: &str) -> f64 {
        let (_, body) = self.get("/metrics", "").await;
        let found = body.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        found.map_or(0.0, |value| value.parse().expect("a number"))
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

    /// Waits until the server has ended by itself.
    pub async fn ended(&mut self) {
        soon("the server to end", &mut self.task).await.expect("no panic");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.phase.send_replace(Phase::Stopped);
        self.task.abort();
    }
}

/// Asks an admin port; status and body.
pub async fn get(admin: SocketAddr, path: &str, headers: &str) -> (u16, String) {
    let mut tcp = TcpStream::connect(admin).await.expect("the admin port");
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Connection: close\r\n\r\n");
    tcp.write_all(request.as_bytes()).await.expect("written");
    let mut answer = String::new();
    soon("the admin port's answer", tcp.read_to_string(&mut answer)).await.expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, body.to_owned())
}

/// Asks an admin port over its socket in the file system for what is below `/api/v1`; status and what is said.
pub async fn ask(socket: &Path, method: &str, path: &str) -> (u16, serde_json::Value) {
    let mut stream = UnixStream::connect(socket).await.expect("the admin socket");
    let request = format!("{method} /api/v1{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut answer = String::new();
    soon("the admin socket's answer", stream.read_to_string(&mut answer)).await.expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, serde_json::from_str(body).unwrap_or_else(|error| panic!("{error} in {body:?}")))
}
