//! A client's socket is lent to HTTP, and a stream of events takes it back: what HTTP keeps for a connection (two buffers of 8 KiB, and
//! where it is with the request) serves nobody who only waits.

use std::io::{ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// With TLS or without.
pub trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Socket for T {}

/// What HTTP has of a socket. Once it is taken back, the connection looks as if the client were gone, and HTTP on it ends.
#[derive(Clone)]
pub struct Lent(Arc<Mutex<Lending>>);

struct Lending {
    socket: Option<Box<dyn Socket>>,
    /// An earlier answer waits to be written.
    unwritten: bool,
}

impl Lent {
    /// Lends it.
    pub fn new(socket: Box<dyn Socket>) -> Lent {
        Lent(Arc::new(Mutex::new(Lending { socket: Some(socket), unwritten: false })))
    }

    /// Takes it back; None while HTTP has something to write that the client does not take.
    ///
    /// Only for who has waited for something within a request: HTTP has tried to write all that is before it by then.
    pub fn take_back(&self) -> Option<Box<dyn Socket>> {
        let mut lending = self.lending();
        if lending.unwritten {
            return None;
        }
        lending.socket.take()
    }

    fn lending(&self) -> MutexGuard<'_, Lending> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, write: impl FnOnce(Pin<&mut Box<dyn Socket>>) -> Poll<Result<usize>>) -> Poll<Result<usize>> {
        let mut lending = self.lending();
        let Some(socket) = &mut lending.socket else { return Poll::Ready(Err(ErrorKind::NotConnected.into())) };
        let written = write(Pin::new(socket));
        lending.unwritten = written.is_pending();
        written
    }
}

impl AsyncRead for Lent {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        match &mut self.lending().socket {
            Some(socket) => Pin::new(socket).poll_read(cx, buf),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Lent {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        self.write(|socket| socket.poll_write(cx, buf))
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<Result<usize>> {
        self.write(|socket| socket.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.lending().socket.as_ref().is_some_and(|socket| socket.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        match &mut self.lending().socket {
            Some(socket) => Pin::new(socket).poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        match &mut self.lending().socket {
            Some(socket) => Pin::new(socket).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Lent;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn it_is_taken_back_once_and_not_before_all_is_written() {
        let (socket, mut client) = tokio::io::duplex(8);
        let lent = Lent::new(Box::new(socket));
        let mut of_http = lent.clone();
        let written = tokio::spawn(async move {
            of_http.write_all(b"an answer").await.expect("it is written");
            of_http
        });
        tokio::task::yield_now().await;
        assert!(lent.take_back().is_none(), "a byte is missing");
        let mut answer = [0; 9];
        client.read_exact(&mut answer).await.expect("all of it");
        let mut of_http = written.await.expect("it ends");
        let mut socket = lent.take_back().expect("it is there");
        assert!(lent.take_back().is_none(), "it was taken");
        // HTTP sees a client that is gone.
        assert_eq!(of_http.read(&mut [0; 8]).await.expect("an end"), 0);
        of_http.write_all(b"another").await.expect_err("nobody is there");
        socket.write_all(b"an event").await.expect("it goes to the client");
        let mut event = [0; 8];
        client.read_exact(&mut event).await.expect("all of it");
        assert_eq!(&event, b"an event");
    }
}
