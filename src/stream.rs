//! A stream together with bytes that were already read from it. Whoever takes over a connection takes both, so nothing
//! that was pipelined is lost, reordered or seen twice.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Serves `head` first, then the stream. Writes go straight through.
#[derive(Debug)]
pub struct Buffered<S> {
    stream: S,
    /// There while something is left of it: an idle session owns no buffer, and no room for one.
    head: Option<Box<Head>>,
}

#[derive(Debug)]
struct Head {
    bytes: Vec<u8>,
    served: usize,
}

impl<S> Buffered<S> {
    /// Puts bytes that were already read back in front of their stream.
    pub fn new(stream: S, head: Vec<u8>) -> Self {
        let head = (!head.is_empty()).then(|| Box::new(Head { bytes: head, served: 0 }));
        Self { stream, head }
    }

    /// The bytes not served yet.
    pub fn head(&self) -> &[u8] {
        self.head.as_ref().map_or(&[], |head| head.rest())
    }

    /// Both parts again: the stream, and what of the head was not served.
    pub fn into_parts(self) -> (S, Vec<u8>) {
        let head = self.head.map_or_else(Vec::new, |mut head| head.bytes.split_off(head.served));
        (self.stream, head)
    }

    /// The stream below.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Buffered<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(head) = &mut self.head else { return Pin::new(&mut self.stream).poll_read(cx, buf) };
        let n = head.rest().len().min(buf.remaining());
        buf.put_slice(&head.rest()[..n]);
        head.served += n;
        if head.rest().is_empty() {
            self.head = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl Head {
    fn rest(&self) -> &[u8] {
        &self.bytes[self.served..]
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Buffered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn the_head_comes_first_and_whole() {
        let (mut far, near) = tokio::io::duplex(64);
        far.write_all(b" world").await.expect("room");
        drop(far);
        let mut all = Vec::new();
        Buffered::new(near, b"hello".to_vec()).read_to_end(&mut all).await.expect("reads");
        assert_eq!(all, b"hello world");
    }

    #[tokio::test]
    async fn what_was_not_served_can_be_taken_out() {
        let (_far, near) = tokio::io::duplex(64);
        let mut buffered = Buffered::new(near, b"hello".to_vec());
        let mut two = [0; 2];
        buffered.read_exact(&mut two).await.expect("served from the head");
        assert_eq!(buffered.into_parts().1, b"llo");
    }
}
