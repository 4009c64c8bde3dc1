//! Calls about sessions: start, list, end, type into.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use spotter_proto::v1;
use tokio::time::timeout;

use super::{
    AgentClient, AgentError, CALL_LIMIT, MARGIN, SessionInfo, SessionRequest, Verdict, refused,
    required, whole_seconds,
};

impl AgentClient {
    /// Starts a session. A repetition after a lost answer finds the session that the first try started.
    ///
    /// # Errors
    /// [`Verdict::AlreadyExists`] when a live session has the name.
    pub async fn start_session(&self, request: &SessionRequest) -> Result<SessionInfo, AgentError> {
        let message = v1::StartSessionRequest::from(request);
        let tries = AtomicU32::new(0);
        let answer = self.call("start_session", CALL_LIMIT, |mut to| {
            tries.fetch_add(1, Ordering::Relaxed);
            let message = message.clone();
            async move { to.start_session(message).await }
        });
        match answer.await {
            Ok(answer) => required("start_session", answer.session).map(SessionInfo::from),
            Err(err)
                if err.verdict() == Some(Verdict::AlreadyExists)
                    && tries.load(Ordering::Relaxed) > 1 =>
            {
                let sessions = self.sessions().await?;
                sessions
                    .into_iter()
                    .find(|session| session.name == request.name)
                    .ok_or(err)
            }
            Err(err) => Err(err),
        }
    }

    /// All sessions, newest first.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub async fn sessions(&self) -> Result<Vec<SessionInfo>, AgentError> {
        let answer = self.call("list_sessions", CALL_LIMIT, |mut to| async move {
            to.list_sessions(v1::ListSessionsRequest {}).await
        });
        Ok(answer
            .await?
            .sessions
            .into_iter()
            .map(SessionInfo::from)
            .collect())
    }

    /// Ends a session: SIGTERM, SIGKILL after `grace`. Answers when it has ended.
    ///
    /// # Errors
    /// [`Verdict::NotFound`] when there is no such session.
    pub async fn end_session(
        &self,
        name: &str,
        grace: Duration,
    ) -> Result<SessionInfo, AgentError> {
        let request = v1::EndSessionRequest {
            name: name.to_owned(),
            grace_s: whole_seconds(grace),
        };
        let answer = self.call("end_session", grace + MARGIN, |mut to| {
            let request = request.clone();
            async move { to.end_session(request).await }
        });
        required("end_session", answer.await?.session).map(SessionInfo::from)
    }

    /// Types one line into a session. Never repeated: typed twice is not typed once.
    ///
    /// # Errors
    /// [`AgentError::Ambiguous`] when the link broke while it was on its way.
    pub async fn send_line(&self, session: &str, line: &str) -> Result<(), AgentError> {
        const CALL: &str = "send_line";
        // A dead link is found, and replaced, by a call that may be repeated.
        self.status(CALL_LIMIT).await?;
        let request = v1::SendLineRequest {
            session: session.to_owned(),
            line: line.to_owned(),
        };
        let mut to = self.contract.clone();
        match timeout(CALL_LIMIT, to.send_line(request)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) => Err(match self.shared.link_failure(&status) {
                Some(failure) => AgentError::Ambiguous {
                    call: CALL,
                    why: failure.why,
                },
                None => refused(CALL, &status),
            }),
            Err(_) => Err(AgentError::Ambiguous {
                call: CALL,
                why: format!("no answer in {} s", CALL_LIMIT.as_secs()),
            }),
        }
    }
}
