//! A client that knows no IMAP either, in clear or under TLS.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream, rustls};

use super::{hear, hear_end, hear_line, reset, soon};

/// One connection to mailmux.
pub struct Client<S> {
    pub stream: S,
}

/// What was negotiated does not matter to most tests; the greeting does.
pub const GREETING: &str = "* OK [CAPABILITY IMAP4rev1 SASL-IR LITERAL- ID ENABLE AUTH=PLAIN AUTH=LOGIN AUTH=XOAUTH2 AUTH=OAUTHBEARER] mailmux ready\r\n";
pub const GREETING_BEFORE_TLS: &str =
    "* OK [CAPABILITY IMAP4rev1 SASL-IR LITERAL- ID ENABLE STARTTLS LOGINDISABLED] mailmux ready\r\n";

impl Client<TcpStream> {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = soon("a connection", TcpStream::connect(address)).await.expect("connected");
        stream.set_nodelay(true).expect("an option");
        Self { stream }
    }

    /// Hangs up as a machine does that has lost its memory.
    pub fn reset(self) {
        reset(self.stream);
    }

    /// Shakes hands.
    pub async fn secure(
        self,
        config: Arc<rustls::ClientConfig>,
        name: &str,
    ) -> std::io::Result<Client<TlsStream<TcpStream>>> {
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let stream = soon("a handshake", TlsConnector::from(config).connect(name, self.stream)).await?;
        Ok(Client { stream })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub async fn say(&mut self, bytes: impl AsRef<[u8]>) {
        // A peer that is gone shows in what the test expects next.
        let _ = self.stream.write_all(bytes.as_ref()).await;
        let _ = self.stream.flush().await;
    }

    pub async fn hear(&mut self, expected: impl AsRef<[u8]>) {
        hear(&mut self.stream, "the client", expected.as_ref()).await;
    }

    pub async fn hear_line(&mut self) -> String {
        hear_line(&mut self.stream, "the client").await
    }

    pub async fn hear_end(&mut self) -> Vec<u8> {
        hear_end(&mut self.stream, "the client").await
    }
}
