//! A client that does not read what it is sent is cut off: what waits for it is memory of everybody's.

use std::future::Future;
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::task::{ready, Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{sleep_until, Instant, Sleep};

/// Bytes that buy a second more.
const SECOND: f64 = 4_096.0;

/// A client's socket. It may keep the gateway waiting for so long in all; what it takes makes up for it.
pub struct Paced<G> {
    socket: TcpStream,
    patience: Duration,
    left: Duration,
    /// Since when something waits to be written, and when that is over.
    waits: Option<(Instant, Pin<Box<Sleep>>)>,
    /// What lives as long as the socket, which may outlive HTTP on it.
    _lives: G,
}

impl<G> Paced<G> {
    /// A socket that is written to at once or not for longer than `patience`.
    pub fn new(socket: TcpStream, patience: Duration, lives: G) -> Paced<G> {
        Paced { socket, patience, left: patience, waits: None, _lives: lives }
    }
}

impl<G: Unpin> Paced<G> {
    fn look(&mut self, written: Poll<Result<usize>>, cx: &mut Context<'_>) -> Poll<Result<usize>> {
        if written.is_pending() {
            let now = Instant::now();
            let left = self.left;
            let (_, end) = self.waits.get_or_insert_with(|| (now, Box::pin(sleep_until(now + left))));
            ready!(end.as_mut().poll(cx));
            return Poll::Ready(Err(Error::new(ErrorKind::TimedOut, "the client does not read")));
        }
        if let Some((since, _)) = self.waits.take() {
            self.left = self.left.saturating_sub(since.elapsed());
        }
        if let Poll::Ready(Ok(bytes)) = &written {
            self.left = (self.left + Duration::from_secs_f64(*bytes as f64 / SECOND)).min(self.patience);
        }
        written
    }
}

impl<G: Unpin> AsyncRead for Paced<G> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl<G: Unpin> AsyncWrite for Paced<G> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.look(written, cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        self.look(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
