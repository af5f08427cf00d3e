//! A backend that knows no IMAP: it says and hears just the bytes it is told to, and fails at the first that differs.

use std::net::SocketAddr;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::client::{Client, GREETING};
use super::{hear, hear_end, hear_line, reset, soon};

/// A listening socket on loopback.
pub struct Backend {
    socket: TcpListener,
    pub address: SocketAddr,
}

/// One connection to it.
pub struct Call {
    pub tcp: TcpStream,
    pub tag: String,
}

impl Backend {
    pub async fn listen() -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = socket.local_addr().expect("bound");
        Self { socket, address }
    }

    /// A `[[backend]]` section for it. It is not probed: whoever calls is a client's login.
    pub fn section(&self, name: &str) -> String {
        let address = self.address;
        format!(
            "[[backend]]\nname = \"{name}\"\naddress = \"{address}\"\ntls = \"none\"\nforward_id = false\nhealth = \"off\"\n"
        )
    }

    pub async fn accept(&self) -> Call {
        let (tcp, _) = soon("mailmux to call the backend", self.socket.accept()).await.expect("accepted");
        tcp.set_nodelay(true).expect("an option");
        Call { tcp, tag: String::new() }
    }

    /// Takes a call and lets the user in whatever its password; gives the line of the login, without its tag.
    pub async fn let_in(&self) -> (Call, String) {
        let mut call = self.accept().await;
        call.say(b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] friendly\r\n").await;
        let command = call.hear_command().await;
        call.say(format!("{} OK [CAPABILITY IMAP4rev1 IDLE] in\r\n", call.tag).as_bytes()).await;
        (call, command)
    }

    /// Lets a user in at mailmux, who says a word that arrives here, and goes.
    pub async fn session(&self, address: SocketAddr) {
        let mut client = Client::connect(address).await;
        client.hear(GREETING).await;
        client.say("b LOGIN ann pass\r\n").await;
        let (mut call, _) = self.let_in().await;
        client.hear("b OK [CAPABILITY IMAP4rev1 IDLE] in\r\n").await;
        client.say("c NOOP\r\n").await;
        call.hear(b"c NOOP\r\n").await;
        // In this order: it is the client that ends the session.
        drop(client);
        call.hear_end().await;
    }

    /// Nobody has called, and nobody is about to.
    pub fn has_not_been_called(self) -> bool {
        let std = self.socket.into_std().expect("a socket");
        std.accept().is_err()
    }

    /// Lets everybody in who calls, for as long as the test lasts, and then says everything back.
    pub fn echo_for_ever(self) {
        self.each_call(|mut call| async move {
            call.say(b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] friendly\r\n").await;
            call.hear_command().await;
            call.say(format!("{} OK [CAPABILITY IMAP4rev1 IDLE] in\r\n", call.tag).as_bytes()).await;
            let (mut read, mut write) = call.tcp.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
        });
    }

    /// Deals with each call in a task of its own, for as long as the test lasts.
    pub fn each_call<F: Future<Output = ()> + Send + 'static>(self, deal: impl Fn(Call) -> F + Send + 'static) {
        tokio::spawn(async move {
            while let Ok((tcp, _)) = self.socket.accept().await {
                tokio::spawn(deal(Call { tcp, tag: String::new() }));
            }
        });
    }
}

impl Call {
    pub async fn say(&mut self, bytes: &[u8]) {
        // A peer that is gone shows in what the test expects next.
        let _ = self.tcp.write_all(bytes).await;
    }

    /// Hears a command and remembers its tag.
    pub async fn hear_command(&mut self) -> String {
        let line = hear_line(&mut self.tcp, "the backend").await;
        let (tag, command) = line.trim_end().split_once(' ').expect("a tag");
        tag.clone_into(&mut self.tag);
        command.to_owned()
    }

    /// Says OK to every command, for as long as the test lasts.
    pub fn answer_everything_with_ok(mut self) {
        tokio::spawn(async move {
            loop {
                self.hear_command().await;
                self.say(format!("{} OK\r\n", self.tag).as_bytes()).await;
            }
        });
    }

    pub async fn hear_line(&mut self) -> String {
        hear_line(&mut self.tcp, "the backend").await
    }

    pub async fn hear(&mut self, expected: &[u8]) {
        hear(&mut self.tcp, "the backend", expected).await;
    }

    pub async fn hear_end(&mut self) -> Vec<u8> {
        hear_end(&mut self.tcp, "the backend").await
    }

    /// Hangs up as a machine does that has lost its memory.
    pub fn reset(self) {
        reset(self.tcp);
    }
}
