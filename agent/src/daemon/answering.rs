//! Answers calls on the daemon's socket: the contract, with health and reflection beside it, over HTTP/2.
//!
//! A connection is a task, and a call is handed to its service by the first part of its path. tonic's own server would bring HTTP/1,
//! a router and the client's half of HTTP/2 to every box, for the same.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use spotter_proto::v1::agent_server::AgentServer;
use tokio::{net::UnixListener, time};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{
    Status,
    body::Body,
    codegen::{BoxFuture, Service, http},
    server::NamedService,
};
use tonic_health::{pb::health_server::HealthServer, server::HealthService};
use tonic_reflection::pb::v1::server_reflection_server::ServerReflectionServer;
use tracing::warn;

use super::{core::Core, presence::Visitor};
use crate::handlers::{Handlers, reflection::Reflection};
use crate::tasks;

/// A message of the contract is at most this large.
pub const MESSAGE_LIMIT_BYTES: usize = 4 << 20;
/// Streams and calls that one controller may have open: a terminal, a `wait`, a `logs -f` share one connection.
const CALLS_PER_CONNECTION: u32 = 64;
const KEEPALIVE: Duration = Duration::from_secs(20);
/// What keeps a connection from being let in, such as too many open files, is not over at once.
const PAUSE_AFTER_REFUSAL: Duration = Duration::from_millis(100);

/// Answers who connects until `closing`, then waits for the calls that are open.
pub async fn answer(core: Arc<Core>, listener: UnixListener, closing: CancellationToken) {
    let presence = core.presence.clone();
    let services = Services::new(core).await;
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = closing.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let visitor = presence.admit(stream);
                let attended = attend(visitor, services.clone(), closing.clone());
                tasks::spawn(&connections, attended);
            }
            Err(err) => {
                warn!(error = %err, "a connection was not let in");
                time::sleep(PAUSE_AFTER_REFUSAL).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// How a connection ends is its visitor's own affair.
async fn attend(visitor: Visitor, services: Services, closing: CancellationToken) {
    let seat = visitor.seat();
    let service = service_fn(move |request: http::Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(seat.clone());
        services.clone().call(request)
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(CALLS_PER_CONNECTION)
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .serve_connection(TokioIo::new(visitor), service);
    let mut connection = pin!(connection);
    tokio::select! {
        _ended = &mut connection => return,
        () = closing.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    let _ended = connection.await;
}

#[derive(Clone)]
struct Services {
    agent: AgentServer<Handlers>,
    health: HealthServer<HealthService>,
    reflection: ServerReflectionServer<Reflection>,
}

impl Services {
    async fn new(core: Arc<Core>) -> Self {
        let agent = AgentServer::new(Handlers::new(core))
            .max_decoding_message_size(MESSAGE_LIMIT_BYTES)
            .max_encoding_message_size(MESSAGE_LIMIT_BYTES);
        let reporter = tonic_health::server::HealthReporter::new();
        reporter.set_serving::<AgentServer<Handlers>>().await;
        Self {
            agent,
            health: HealthServer::new(HealthService::from_health_reporter(reporter)),
            reflection: ServerReflectionServer::new(Reflection),
        }
    }

    fn call(
        mut self,
        mut request: http::Request<Body>,
    ) -> BoxFuture<http::Response<Body>, Infallible> {
        let service = request.uri().path().split('/').nth(1).unwrap_or_default();
        if service == AgentServer::<Handlers>::NAME {
            self.agent.call(request)
        } else if service == HealthServer::<HealthService>::NAME {
            self.health.call(request)
        } else if service == ServerReflectionServer::<Reflection>::NAME {
            self.reflection.call(request)
        } else if service == "grpc.reflection.v1alpha.ServerReflection" {
            // Most tools still ask for the older version of reflection, which differs in nothing but its name.
            *request.uri_mut() =
                http::Uri::from_static("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo");
            self.reflection.call(request)
        } else {
            let status = Status::unimplemented("the agent has no such service");
            Box::pin(async move { Ok(status.into_http()) })
        }
    }
}
