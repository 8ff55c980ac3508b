//! Asks Postgres to stop what a connection does just now, as libpq does: the connection that asks stays open until the server closes it.
//! The driver's own request ends it at once, at which pgbouncer 1.18 breaks down, for everybody.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::config::Host;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

const PORT: u16 = 5432;

/// Asks wherever the connection may lead: a server that does not know it does nothing. None says whether it did anything.
pub async fn cancel(config: &Config, tls: Option<&MakeRustlsConnect>, client: &Client) -> io::Result<()> {
    let (hosts, numbers, ports) = (config.get_hosts(), config.get_hostaddrs(), config.get_ports());
    for at in 0..hosts.len().max(numbers.len()) {
        let port = *ports.get(at).or(ports.first()).unwrap_or(&PORT);
        let name = match hosts.get(at) {
            Some(Host::Tcp(name)) => name.clone(),
            _ => numbers.get(at).map(ToString::to_string).unwrap_or_default(),
        };
        match (numbers.get(at), hosts.get(at)) {
            (Some(number), _) => ask(TcpStream::connect((*number, port)).await?, tls, &name, client).await?,
            (None, Some(Host::Unix(folder))) => {
                ask(UnixStream::connect(folder.join(format!(".s.PGSQL.{port}"))).await?, tls, &name, client).await?;
            }
            _ => ask(TcpStream::connect((&*name, port)).await?, tls, &name, client).await?,
        }
    }
    Ok(())
}

async fn ask<S>(stream: S, tls: Option<&MakeRustlsConnect>, name: &str, client: &Client) -> io::Result<()>
where
    S: Again + AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut stays, asks) = stream.twice()?;
    let (token, asks) = (client.cancel_token(), StaysOpen(asks));
    match tls {
        Some(tls) => {
            let mut tls = tls.clone();
            let tls = MakeTlsConnect::<StaysOpen<S>>::make_tls_connect(&mut tls, name).map_err(io::Error::other)?;
            token.cancel_query_raw(asks, tls).await.map_err(io::Error::other)?;
        }
        None => token.cancel_query_raw(asks, NoTls).await.map_err(io::Error::other)?,
    }
    // The server has done what it can when it closes.
    while matches!(stays.read(&mut [0; 64]).await, Ok(1..)) {}
    Ok(())
}

/// A socket that can be had twice.
trait Again: Sized {
    fn twice(self) -> io::Result<(Self, Self)>;
}

impl Again for TcpStream {
    fn twice(self) -> io::Result<(Self, Self)> {
        let first = self.into_std()?;
        let second = first.try_clone()?;
        Ok((TcpStream::from_std(first)?, TcpStream::from_std(second)?))
    }
}

impl Again for UnixStream {
    fn twice(self) -> io::Result<(Self, Self)> {
        let first = self.into_std()?;
        let second = first.try_clone()?;
        Ok((UnixStream::from_std(first)?, UnixStream::from_std(second)?))
    }
}

/// A socket that is not told that nothing more comes.
struct StaysOpen<S>(S);

impl<S: AsyncRead + Unpin> AsyncRead for StaysOpen<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for StaysOpen<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}
