//! The bucket: an S3 server on this machine that checks what real ones check and fails as they fail, on request.
//!
//! The `s3s` library parses and authenticates; the store keeps objects as files; `service` is what each operation does, `receive`
//! takes bodies in, `listing` and `pages` make pages; `keys` says who may do what, `token` gives keys that end, `host` finds the
//! bucket; [`faults`] holds the switches, `likeness` what other people's servers do not take, and `wire` obeys them.

use std::{net::SocketAddr, os::fd::AsFd as _, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use s3s::{
    config::{S3Config as LibraryConfig, StaticConfigProvider},
    service::{S3Service, S3ServiceBuilder},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

mod convert;
pub mod faults;
mod host;
pub mod keys;
mod likeness;
mod listing;
mod pages;
mod receive;
mod service;
mod store;
mod token;
mod wire;

pub use faults::{Fault, Order, Switchboard};
use keys::Gate;
pub use keys::{AccessKey, Rights};
pub use likeness::Like;
use service::Operations;
use store::Store;
use token::TokenService;
use wire::Connection;

/// A client that says nothing for this long is cut off.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause after a failed accept, so that a lack of descriptors does not make a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the server starts with.
#[derive(Debug, Clone, Default)]
pub struct S3Config {
    /// Buckets that are there.
    pub buckets: Vec<String>,
    /// Keys that open them.
    pub keys: Vec<AccessKey>,
}

/// A running server; it ends when this is dropped.
pub struct S3Handle {
    addr: SocketAddr,
    server: Server,
}

/// What every listener and connection shares.
#[derive(Clone)]
struct Server {
    service: S3Service,
    board: Arc<Switchboard>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Serves what lies below `dir` on `listener`; call it within a runtime.
///
/// # Errors
/// When the directory cannot be used, or holds what this server did not write.
pub fn serve(dir: PathBuf, listener: TcpListener, config: S3Config) -> anyhow::Result<S3Handle> {
    let addr = listener
        .local_addr()
        .context("the listener has no address")?;
    let store = Store::open(&dir, &config.buckets)
        .with_context(|| format!("the bucket in {} cannot be opened", dir.display()))?;
    let store = Arc::new(store);
    let board = Arc::new(Switchboard::new(store.clone(), config.keys));
    let mut builder = S3ServiceBuilder::new(Operations {
        store,
        board: board.clone(),
    });
    builder.set_auth(Gate(board.clone()));
    builder.set_access(Gate(board.clone()));
    builder.set_host(host::Hosts);
    builder.set_route(TokenService(board.clone()));
    // The library compares with the machine's clock; `wire` does it with the server's, which can be moved.
    let mut library = LibraryConfig::default();
    library.presigned_url_max_skew_time_secs = u32::MAX;
    builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(library))));
    let server = Server {
        service: builder.build(),
        board,
        stop: CancellationToken::new(),
        tasks: TaskTracker::new(),
    };
    server.listen(listener);
    Ok(S3Handle { addr, server })
}

impl S3Handle {
    /// Where it listens first.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Endpoint URL of the address it listens on first.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The switches and counters.
    pub fn faults(&self) -> Arc<Switchboard> {
        self.server.board.clone()
    }

    /// Listens on one more address, such as the one that boxes see.
    pub fn also_on(&self, listener: TcpListener) {
        self.server.listen(listener);
    }

    /// Ends every connection and waits until all are gone.
    pub async fn stop(self) {
        self.server.stop.cancel();
        self.server.tasks.close();
        self.server.tasks.wait().await;
    }
}

impl Drop for S3Handle {
    fn drop(&mut self) {
        self.server.stop.cancel();
    }
}

impl Server {
    fn listen(&self, listener: TcpListener) {
        let server = self.clone();
        self.tasks.spawn(async move {
            let stop = server.stop.clone();
            stop.run_until_cancelled(server.accept(listener)).await;
        });
    }

    async fn accept(&self, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let server = self.clone();
                    self.tasks.spawn(async move {
                        let stop = server.stop.clone();
                        stop.run_until_cancelled(server.serve(stream)).await;
                    });
                }
                Err(err) => {
                    warn!(error = %err, "the bucket could not accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn serve(&self, stream: TcpStream) {
        let socket = match stream.as_fd().try_clone_to_owned() {
            Ok(socket) => socket,
            Err(err) => return warn!(error = %err, "the bucket dropped a connection"),
        };
        let (service, board) = (self.service.clone(), self.board.clone());
        let connection = Arc::new(Connection {
            service,
            board,
            socket,
        });
        let handle = service_fn(move |request| {
            let connection = connection.clone();
            async move { connection.handle(request).await }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), handle)
            .await;
        if let Err(err) = served {
            // Clients that went away and connections that were reset on purpose.
            debug!(error = %err, "a connection of the bucket ended");
        }
    }
}
