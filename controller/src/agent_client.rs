//! The agent's calls in our own types; reconnects by itself. Contract types stop here.
//!
//! A broken link is never a verdict: calls are repeated within their deadline, streams go on where they stood, for ever, until
//! dropped. What the agent decided is returned at once. [`types`] are the words, [`follow`] the streams, [`link`] tells a
//! break from an answer, `sessions` and `bucket` the calls about either, [`dial`] is how a byte stream to the agent is had.

mod bucket;
mod convert;
mod dial;
mod follow;
mod link;
mod sessions;
mod types;

use std::{future::Future, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use spotter_proto::v1::{self, agent_client::AgentClient as Contract};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tonic::{
    Response, Status,
    transport::{Channel, Endpoint},
};

pub use convert::left_samples;
pub use dial::{BridgeDial, Dial, DialError, Io};
pub use follow::Followed;
pub use link::{AgentError, Link, Verdict};
use link::{Backoff, Shared, refused};
pub use types::*;

/// Longest time for a call that only asks or notes something, reconnecting included.
pub const CALL_LIMIT: Duration = Duration::from_secs(60);
/// What a call may take on top of the time that the agent was given for its work.
const MARGIN: Duration = Duration::from_secs(30);
/// A silent link is noticed after this and [`KEEPALIVE_TIMEOUT`]: half the time that ssh itself would take.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Name of the call that says who is there.
const STATUS: &str = "status";
/// Between two looks at whether anything moves in a call that reports nothing.
const MOVED_LOOK: Duration = Duration::from_secs(10);
/// A restore that reports nothing for this long has failed: the agent reports at least every few seconds.
const RESTORE_SILENCE_LIMIT: Duration = Duration::from_secs(300);

/// A client of one agent; cheap to clone.
#[derive(Debug, Clone)]
pub struct AgentClient {
    contract: Contract<Channel>,
    shared: Arc<Shared>,
    unattended: bool,
    only_looks: bool,
}

impl AgentClient {
    /// A client that dials when it first needs to, and again after every break.
    pub fn new(dial: Arc<dyn Dial>) -> AgentClient {
        let shared = Arc::new(Shared::new());
        let endpoint = Endpoint::from_static("http://agent.invalid")
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            // 2 MB is what an ssh channel has in flight; larger windows would only fill buffers.
            .initial_stream_window_size(2 << 20)
            .initial_connection_window_size(4 << 20);
        let channel = endpoint.connect_with_connector_lazy(dial::connector(dial, shared.clone()));
        AgentClient {
            contract: Contract::new(channel),
            shared,
            unattended: false,
            only_looks: false,
        }
    }

    /// The same for a program that acts with no person at it who could answer; the agent hears it with each status.
    #[must_use]
    pub fn unattended(mut self) -> AgentClient {
        self.unattended = true;
        self
    }

    /// The same for whoever only looks: each status says that nobody is there by this connection.
    #[must_use]
    pub fn in_passing(mut self) -> AgentClient {
        self.only_looks = true;
        self.shared.passing.set();
        self
    }

    /// Says by a new connection of a client that only looks that nobody is there, before anything else is asked by it.
    fn say_passing(&self, limit: Duration) -> BoxFuture<'_, Result<(), AgentError>> {
        Box::pin(async move {
            match self.shared.passing.must_say() {
                true => self.status(limit).await.map(drop),
                false => Ok(()),
            }
        })
    }

    /// How the link is, now and as it changes.
    pub fn link(&self) -> watch::Receiver<Link> {
        self.shared.link.subscribe()
    }

    /// Makes one call, again and again while only the link is at fault.
    async fn call<T, F>(
        &self,
        call: &'static str,
        limit: Duration,
        ask: impl Fn(Contract<Channel>) -> F,
    ) -> Result<T, AgentError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let began = Instant::now();
        let mut backoff = Backoff::new();
        let mut why = None;
        loop {
            let left = limit.saturating_sub(began.elapsed());
            if call != STATUS {
                self.say_passing(left).await?;
            }
            let left = limit.saturating_sub(began.elapsed());
            let Ok(answer) = timeout(left, ask(self.contract.clone())).await else {
                return Err(AgentError::Deadline { call, limit, why });
            };
            let status = match answer {
                Ok(answer) => {
                    self.shared.connected();
                    return Ok(answer.into_inner());
                }
                Err(status) => status,
            };
            let Some(failure) = self.shared.link_failure(&status) else {
                return Err(refused(call, &status));
            };
            if failure.permanent {
                return Err(AgentError::Unreachable { why: failure.why });
            }
            why = Some(failure.why);
            let pause = backoff.next();
            if began.elapsed() + pause >= limit {
                return Err(AgentError::Deadline { call, limit, why });
            }
            sleep(pause).await;
        }
    }

    /// What the agent is and how its box is. `limit` bounds the wait: a heartbeat wants a short one.
    ///
    /// # Errors
    /// [`AgentError::Deadline`] when nothing came through in time.
    pub async fn status(&self, limit: Duration) -> Result<AgentStatus, AgentError> {
        self.ask_status(limit, 0).await
    }

    /// The same, and on the way tells the agent how long the run's money lasts from now on.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn status_telling(
        &self,
        limit: Duration,
        money_lasts: Duration,
    ) -> Result<AgentStatus, AgentError> {
        // 0 would say nothing.
        self.ask_status(limit, whole_seconds(money_lasts).max(1))
            .await
    }

    async fn ask_status(
        &self,
        limit: Duration,
        budget_left_s: u32,
    ) -> Result<AgentStatus, AgentError> {
        let request = v1::StatusRequest {
            budget_left_s,
            only_looks: self.only_looks,
            unattended: self.unattended,
        };
        let saying = self.shared.passing.saying();
        let answer = self.call(
            STATUS,
            limit,
            |mut to| async move { to.status(request).await },
        );
        let answer = answer.await?;
        drop(saying);
        if request.only_looks {
            self.shared.passing.has_said();
        }
        Ok(AgentStatus::from(answer))
    }

    /// Tells the agent what it works for; repeating it is harmless. Returns the absolute working directory.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub async fn configure(&self, config: &BoxConfig) -> Result<String, AgentError> {
        let request = v1::ConfigureRequest::from(config);
        let answer = self.call("configure", CALL_LIMIT, |mut to| {
            let request = request.clone();
            async move { to.configure(request).await }
        });
        Ok(answer.await?.workdir)
    }

    /// Says that events up to `up_to` are stored here.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub async fn acknowledge_events(&self, up_to: u64) -> Result<(), AgentError> {
        let request = v1::AcknowledgeEventsRequest { up_to };
        let answer = self.call("acknowledge_events", CALL_LIMIT, |mut to| async move {
            to.acknowledge_events(request).await
        });
        answer.await.map(|_| ())
    }

    /// Checks the box. `gpus` and `disk_bytes` are what was promised; 0: not checked.
    ///
    /// # Errors
    /// Only when there was no answer: a check that fails is in the report.
    pub async fn preflight(
        &self,
        gpus: u32,
        disk_bytes: u64,
    ) -> Result<PreflightReport, AgentError> {
        let request = v1::PreflightRequest { gpus, disk_bytes };
        let answer = self
            .call("preflight", 2 * CALL_LIMIT, |mut to| async move {
                to.preflight(request).await
            })
            .await?;
        Ok(PreflightReport {
            checks: answer.checks.into_iter().map(CheckResult::from).collect(),
            can_self_stop: answer.can_self_stop,
        })
    }

    /// Stops the daemon; sessions go on. `wipe` also removes what the agent keeps on disk, before a box is destroyed: when it
    /// answers, the bucket keys are overwritten.
    ///
    /// # Errors
    /// When the agent refused. With `wipe` also when its answer did not come; without, a link that breaks here is what was asked for.
    pub async fn shutdown(&self, wipe: bool) -> Result<(), AgentError> {
        let call = "shutdown";
        let mut to = self.contract.clone();
        let answer = timeout(MARGIN, to.shutdown(v1::ShutdownRequest { wipe })).await;
        let broken = match answer {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(status)) => match self.shared.link_failure(&status) {
                None => return Err(refused(call, &status)),
                Some(failure) => {
                    let why = failure.why;
                    AgentError::Ambiguous { call, why }
                }
            },
            Err(_) => AgentError::Deadline {
                call,
                limit: MARGIN,
                why: None,
            },
        };
        if wipe { Err(broken) } else { Ok(()) }
    }
}

fn required<T>(call: &'static str, field: Option<T>) -> Result<T, AgentError> {
    let message = "its answer lacks what was asked for".to_owned();
    field.ok_or(AgentError::Refused {
        call,
        verdict: Verdict::Failed,
        message,
    })
}

/// Rounded up, so that a short time never becomes none.
fn whole_seconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis().div_ceil(1000)).unwrap_or(u32::MAX)
}
