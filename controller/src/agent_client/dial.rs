//! How a byte stream to the agent is had, and had again.

use std::{io, sync::Arc};

use async_trait::async_trait;
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tower::Service;

use super::Shared;
use crate::tunnel::{FailureKind, Tunnel, TunnelError};

/// A byte stream in both directions.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Makes byte streams to one agent's socket: over ssh, or in memory for tests.
#[async_trait]
pub trait Dial: Send + Sync {
    /// One new stream. Called again after every break.
    async fn dial(&self) -> Result<Box<dyn Io>, DialError>;
}

/// Why there is no stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DialError {
    /// For people.
    pub why: String,
    /// Trying again will not help: somebody has to do something first.
    pub permanent: bool,
}

/// Dials through a tunnel: `<agent> bridge <socket>` on the box.
#[derive(Debug, Clone)]
pub struct BridgeDial {
    /// The way to the box.
    pub tunnel: Tunnel,
    /// Absolute path of the agent's binary on the box.
    pub agent: String,
    /// Absolute path of its socket.
    pub socket: String,
}

#[async_trait]
impl Dial for BridgeDial {
    async fn dial(&self) -> Result<Box<dyn Io>, DialError> {
        match self.tunnel.bridge(&self.agent, &self.socket).await {
            Ok(bridge) => Ok(Box::new(bridge)),
            Err(err) => {
                let permanent = match &err {
                    // 126 and 127: the shell came to our command and there was no such program.
                    TunnelError::Silent { code, .. } => matches!(code, Some(126 | 127)),
                    TunnelError::Unreachable { .. } => {
                        matches!(err.kind(), FailureKind::HostKey | FailureKind::Auth)
                    }
                    _ => false,
                };
                Err(DialError {
                    why: err.to_string(),
                    permanent,
                })
            }
        }
    }
}

/// What tonic calls whenever it needs a connection.
pub(super) fn connector(
    dial: Arc<dyn Dial>,
    shared: Arc<Shared>,
) -> impl Service<Uri, Response = TokioIo<Box<dyn Io>>, Error = io::Error, Future: Send> + Send + 'static
{
    tower::service_fn(move |_: Uri| {
        let (dial, shared) = (dial.clone(), shared.clone());
        async move {
            let outcome = match shared.passing.may_dial() {
                true => dial.dial().await,
                false => Err(DialError {
                    why: "the link broke".to_owned(),
                    permanent: false,
                }),
            };
            let mut last = shared
                .dial
                .lock()
                .expect("nothing panics while it holds this lock");
            match outcome {
                Ok(stream) => {
                    *last = None;
                    Ok(TokioIo::new(stream))
                }
                Err(err) => {
                    let text = io::Error::other(err.why.clone());
                    *last = Some(err);
                    Err(text)
                }
            }
        }
    })
}
