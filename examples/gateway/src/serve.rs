//! Sockets: accepting, TLS, and ending in good order.

use crate::counts::{network, Counted, Counts};
use crate::lent::{Lent, Socket};
use crate::pace::Paced;
use crate::settings::Settings;
use crate::{routes, watch, Gateway};
use axum::Router;
use hyper::body::Incoming;
use hyper::service::{service_fn, Service};
use hyper::Request;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch as told, OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;

/// A client's handshake, and the head of each of its requests, may take so long.
const PATIENCE: Duration = Duration::from_secs(15);
/// A client that confirms nothing of what it was sent is gone after so long.
const UNHEARD: Duration = Duration::from_secs(120);
/// Of a client's socket, in bytes; Linux takes twice as much.
const SEND_BUFFER: usize = 128 << 10;
/// Connections to `--metrics-listen`.
const OPERATORS: usize = 64;

/// A gateway whose sockets are open.
pub struct Bound {
    gateway: Arc<Gateway>,
    listener: TcpListener,
    operators: Option<TcpListener>,
    tls: Option<TlsAcceptor>,
}

impl Bound {
    /// Opens the sockets. Postgres need not be there yet.
    pub async fn open(settings: Settings) -> Result<Bound, String> {
        settings.check()?;
        let tls = match (&settings.tls_cert, &settings.tls_key) {
            (Some(certificates), Some(key)) => Some(tls(certificates, key)?),
            _ => None,
        };
        let listener = listen(settings.listen).await?;
        let operators = match settings.metrics_listen {
            Some(address) => Some(listen(address).await?),
            None => None,
        };
        let gateway = Arc::new(Gateway::new(settings)?);
        Ok(Bound { gateway, listener, operators, tls })
    }

    /// Where it listens.
    pub fn address(&self) -> Result<SocketAddr, String> {
        self.listener.local_addr().map_err(|e| e.to_string())
    }

    /// Serves until `end`, and then what is under way.
    pub async fn serve(self, end: impl Future<Output = ()>) {
        let gateway = self.gateway;
        let watching = [tokio::spawn(watch::run(gateway.clone())), tokio::spawn(watch::look_up(gateway.clone()))];
        let (tell, ending) = told::channel(false);
        // Each connection holds one end for as long as it lives.
        let (lives, mut all) = mpsc::channel::<()>(1);
        let room = Arc::new(Semaphore::new(connections(&gateway.settings)));
        let few = Arc::new(Semaphore::new(OPERATORS));
        let [addresses, anybody] = [gateway.settings.max_per_address(), u32::MAX].map(|each| Arc::new(Counts::new(each)));
        let devices = routes::devices(gateway.clone(), self.operators.is_none());
        let operators = routes::operators(gateway.clone());
        tokio::pin!(end);
        loop {
            let (stream, router, tls, permit) = tokio::select! {
                () = &mut end => break,
                (stream, permit) = accept(Some(&self.listener), &room, &addresses) => (stream, devices.clone(), self.tls.clone(), permit),
                (stream, permit) = accept(self.operators.as_ref(), &few, &anybody) => (stream, operators.clone(), None, permit),
            };
            let (gateway, ending, lives) = (gateway.clone(), ending.clone(), lives.clone());
            tokio::spawn(async move {
                settle(&stream);
                gateway.metrics.connections.fetch_add(1, Ordering::Relaxed);
                let patience = gateway.settings.timeout();
                // A stream outlives HTTP on its connection, so what ends with the connection is kept beside the socket.
                let stream = Paced::new(stream, patience, (Lives(gateway), permit, lives));
                let socket: Box<dyn Socket> = match tls {
                    None => Box::new(stream),
                    Some(tls) => match tokio::time::timeout(PATIENCE, tls.accept(stream)).await {
                        Ok(Ok(stream)) => Box::new(stream),
                        _ => return,
                    },
                };
                talk(Lent::new(socket), router, ending).await;
            });
        }
        drop((self.listener, self.operators, lives));
        watching.iter().for_each(|task| task.abort());
        gateway.hub.end_all();
        let _all_gone = tell.send(true);
        let drain = Duration::from_secs(gateway.settings.drain.into());
        if tokio::time::timeout(drain, all.recv()).await.is_err() {
            eprintln!("sync-gateway: some requests were still under way after {drain:?} and are cut off");
        }
    }
}

/// How many clients there may be: fewer than the process may open files, or Postgres could not be reached when all have come.
fn connections(settings: &Settings) -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let files =
        limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next()?.parse::<usize>().ok());
    // Each call may need another connection to be cancelled on.
    let own = settings.pool as usize * 2 + OPERATORS + 32;
    let most = files.map_or(usize::MAX, |files| files.saturating_sub(own).max(1));
    if most < settings.max_connections {
        eprintln!(
            "sync-gateway: only {most} connections of clients fit into \"ulimit -n\": raise it, or lower --max-connections"
        );
    }
    settings.max_connections.min(most)
}

struct Lives(Arc<Gateway>);

impl Drop for Lives {
    fn drop(&mut self) {
        self.0.metrics.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|e| format!("{address} cannot be listened on: {e}"))
}

/// What a client takes: one of all connections, and one of its address's.
type Seat = (OwnedSemaphorePermit, Counted<u128>);

/// A client, once there is room for it.
async fn accept(listener: Option<&TcpListener>, room: &Arc<Semaphore>, addresses: &Arc<Counts<u128>>) -> (TcpStream, Seat) {
    let (Some(listener), Ok(permit)) = (listener, room.clone().acquire_owned().await) else {
        return std::future::pending().await;
    };
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                // Of whom there are too many the connection is closed.
                if let Some(counted) = addresses.take(network(address.ip())) {
                    return (stream, (permit, counted));
                }
            }
            // Out of files, most likely: some will be closed.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// What the kernel does with a client's socket. What it refuses to do is no harm.
fn settle(stream: &TcpStream) {
    let _quick = stream.set_nodelay(true);
    let socket = socket2::SockRef::from(stream);
    // A small buffer lets go of answers early, and tells soon whether the client reads.
    let _small = socket.set_send_buffer_size(SEND_BUFFER);
    #[cfg(target_os = "linux")]
    let _noticed = socket.set_tcp_user_timeout(Some(UNHEARD));
}

/// Serves one connection; when the gateway ends, no further than what is under way on it.
async fn talk(socket: Lent, router: Router, mut ending: told::Receiver<bool>) {
    let (router, lent) = (TowerToHyperService::new(router), socket.clone());
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(lent.clone());
        router.call(request)
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(32 << 10)
        .serve_connection(TokioIo::new(socket), service)
        .with_upgrades();
    tokio::pin!(connection);
    // A client that breaks off tells nobody anything.
    tokio::select! {
        _ended = connection.as_mut() => return,
        _told = ending.wait_for(|ending| *ending) => connection.as_mut().graceful_shutdown(),
    }
    let _ended = connection.await;
}

fn tls(certificates: &Path, key: &Path) -> Result<TlsAcceptor, String> {
    let refuse = |file: &Path, e: &dyn std::fmt::Display| format!("{}: {e}", file.display());
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(certificates).map_err(|e| refuse(certificates, &e))?.collect();
    let chain = chain.map_err(|e| refuse(certificates, &e))?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|e| refuse(key, &e))?;
    let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, secret);
    let mut config = config.map_err(|e| refuse(certificates, &e))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
