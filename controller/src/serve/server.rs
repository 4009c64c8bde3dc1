//! Takes connections: HTTP/1.1 and HTTP/2, with TLS or without, and hands each request that may be answered to who answers it.

use std::{io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Semaphore,
    task::JoinSet,
    time,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::{debug, warn};

use super::{
    grpc,
    guard::{Guard, Refusal},
    hub::Hub,
    page, prometheus,
};
use crate::error::CommandError;

/// Connections at the same time: tools hold a few each, and no more may fill the memory.
const MOST_CONNECTIONS: usize = 256;
/// Calls at the same time on one connection.
const MOST_CALLS: u32 = 64;
/// How long a client may take for its handshake and for its headers.
const PATIENCE: Duration = Duration::from_secs(10);
/// Whether a client of HTTP/2 is still there is asked so often.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// How long answers that are under way are waited for at the end.
const GOODBYE: Duration = Duration::from_secs(1);
/// After an accept that failed, for want of descriptors mostly.
const BREATH: Duration = Duration::from_millis(100);

/// Reads a certificate and its key.
///
/// # Errors
/// When they cannot be read, or do not belong together.
pub fn tls(cert: &Path, key: &Path) -> Result<TlsAcceptor, CommandError> {
    let failed = |what: &str, path: &Path| {
        CommandError::usage(format!("the {what} in `{}` cannot be used", path.display()))
    };
    let certificates = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|err| failed("certificate", cert).cause(err))?;
    if certificates.is_empty() {
        return Err(failed("certificate", cert).because("there is none: it must be PEM"));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|err| failed("key", key).cause(err))?;
    let mut config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(certificates, private)
        .map_err(|err| failed("certificate", cert).cause(err))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Binds the port that is listened on.
///
/// # Errors
/// When it is taken, or not ours to take.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, CommandError> {
    TcpListener::bind(address).await.map_err(|err| {
        let failed = CommandError::new(format!("nothing can listen on {address}"));
        match err.kind() {
            io::ErrorKind::AddrInUse => failed
                .cause(err)
                .hint("let the system choose a free port with `--listen 127.0.0.1:0`"),
            _ => failed.cause(err),
        }
    })
}

/// Everything that answers.
pub async fn router(hub: Arc<Hub>, guard: Guard, stop: CancellationToken) -> Router {
    let grpc = grpc::routes(Arc::clone(&hub), stop).await;
    Router::new()
        .route("/", get(page::page))
        .route("/metrics", get(metrics))
        .route("/api/runs", get(page::runs))
        .route("/api/runs/{run}", get(page::run))
        .with_state(hub)
        .fallback(move |request: Request| other(grpc.clone(), request))
        .layer(middleware::from_fn_with_state(guard, admit))
}

/// Answers everybody who connects, until `stop`.
pub async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: Router,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let place = tokio::select! {
            () = stop.cancelled() => break,
            Some(_ended) = connections.join_next() => continue,
            place = Arc::clone(&places).acquire_owned() => place.expect("the places are never closed"),
        };
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(err) => {
                warn!(error = %err, "a connection could not be taken");
                time::sleep(BREATH).await;
                continue;
            }
        };
        let (tls, router, stop) = (tls.clone(), router.clone(), stop.clone());
        connections.spawn(async move {
            let _until_it_ends = place;
            // Small answers of many calls: none waits for the next one.
            let _only_slower = stream.set_nodelay(true);
            match tls {
                None => answer(stream, router, stop).await,
                Some(tls) => match time::timeout(PATIENCE, tls.accept(stream)).await {
                    Ok(Ok(stream)) => answer(stream, router, stop).await,
                    Ok(Err(err)) => debug!(error = %err, "a handshake failed"),
                    Err(_) => debug!("a handshake took too long"),
                },
            }
        });
    }
    drop(listener);
    let ends = async { while connections.join_next().await.is_some() {} };
    let _took_longer = time::timeout(GOODBYE * 2, ends).await;
}

/// Answers one connection.
async fn answer(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    stop: CancellationToken,
) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE)
        .max_concurrent_streams(MOST_CALLS);
    let connection =
        builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match time::timeout(GOODBYE, connection).await {
                Ok(ended) => ended,
                Err(_) => Ok(()),
            }
        }
    };
    if let Err(err) = ended {
        debug!(error = %err, "a connection broke");
    }
}

/// Nothing is answered but to who may ask, and nothing without these headers.
async fn admit(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let is_open = request.uri().path() == "/" && request.method() == Method::GET;
    let judged = guard.judge(request.uri(), request.headers(), is_open);
    let mut response = match judged {
        Ok(()) => next.run(request).await,
        Err(refusal) => refuse(refusal),
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static("default-src 'none'"));
    response
}

fn refuse(refusal: Refusal) -> Response {
    let status = match refusal {
        Refusal::Host | Refusal::Origin => StatusCode::FORBIDDEN,
        Refusal::Token => StatusCode::UNAUTHORIZED,
    };
    let mut response = (status, refusal.text()).into_response();
    if refusal == Refusal::Token {
        let scheme = HeaderValue::from_static("Bearer");
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, scheme);
    }
    response
}

/// gRPC, or nothing that is known here.
async fn other(grpc: Router, request: Request) -> Response {
    let kind = request.headers().get(header::CONTENT_TYPE);
    let is_grpc = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if !is_grpc {
        return (
            StatusCode::NOT_FOUND,
            "there is /, /metrics, and gRPC with reflection\n",
        )
            .into_response();
    }
    match grpc.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

async fn metrics(State(hub): State<Arc<Hub>>) -> Response {
    let taken = hub.look(|board, problem, now_us| {
        prometheus::Exposition::take(&board.runs, problem.is_none(), now_us)
    });
    let pieces = taken.pieces().map(Ok::<_, std::convert::Infallible>);
    let body = Body::from_stream(futures::stream::iter(pieces));
    ([(header::CONTENT_TYPE, prometheus::CONTENT_TYPE)], body).into_response()
}
