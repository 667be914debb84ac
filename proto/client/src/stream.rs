//! A stream of which the beginning was read already.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Gives back what was read first, then goes on with the stream.
pub(crate) struct Begun<S> {
    first: Vec<u8>,
    given: usize,
    rest: S,
}

impl<S> Begun<S> {
    pub(crate) fn new(first: Vec<u8>, rest: S) -> Self {
        Self { first, given: 0, rest }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Begun<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = &self.first[self.given..];
        if left.is_empty() {
            return Pin::new(&mut self.rest).poll_read(cx, buffer);
        }
        let length = left.len().min(buffer.remaining());
        buffer.put_slice(&left[..length]);
        self.given += length;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Begun<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.rest).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.rest).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.rest).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn nothing_is_lost_or_doubled() {
        for first in ["", "a", "abc"] {
            let mut stream = Begun::new(first.into(), b"defg".as_slice());
            let mut all = Vec::new();
            // Two bytes at a time, so that a read ends within the first part too.
            loop {
                let mut two = [0; 2];
                match stream.read(&mut two).await.unwrap() {
                    0 => break,
                    length => all.extend_from_slice(&two[..length]),
                }
            }
            assert_eq!(all, format!("{first}defg").into_bytes());
        }
    }
}
