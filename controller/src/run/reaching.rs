//! The way to a box: its ssh is waited for, our key is let in, and its agent put on it and started.

use std::sync::Arc;

use crate::{
    provider::hosts::is_host,
    run::{
        deadline,
        halt::{Halt, refused},
        lifecycle::{LOOK_AGAIN, Lifecycle},
        market_eye::{self, Eye, UNKNOWN, UNKNOWN_FOR},
        site::{Site, SiteError},
        status::Action,
    },
    store::{AttemptRecord, RunRecord},
};

impl Lifecycle {
    /// The open way to the box, opened where it is not.
    pub(crate) async fn site_of(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        site: &mut Option<Arc<dyn Site>>,
    ) -> Result<Arc<dyn Site>, Halt> {
        match site {
            Some(site) => Ok(site.clone()),
            none => Ok(none.insert(self.open(run, attempt).await?).clone()),
        }
    }

    /// Connects and puts the agent on the box, for as long as it may take to come up.
    pub(crate) async fn open(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
    ) -> Result<Arc<dyn Site>, Halt> {
        let id = attempt
            .instance
            .ok_or_else(|| Halt::BadBox("no instance was recorded".to_owned()))?;
        let before_training = attempt.awaits_training();
        self.let_us_in(run, id, before_training).await?;
        let mut place = self.place(attempt, id);
        let progress = |done, total| self.report.transfer(&run.name, "agent", done, total);
        let mut told = String::new();
        let mut eye = Eye::default();
        let mut silent: Option<tokio::time::Instant> = None;
        let mut rebooted = false;
        let mut unknown: Option<tokio::time::Instant> = None;
        let mut deaf: Option<tokio::time::Instant> = None;
        loop {
            self.still_ours(run, attempt)?;
            let asked = tokio::time::Instant::now();
            match self.sites.open(&place, &run.spec, &progress).await {
                Ok(site) => return Ok(site),
                Err(err @ (SiteError::Unreachable(_) | SiteError::NoAnswer(_))) => {
                    // Whatever refuses or hangs up is there, and lets us in soon; where nothing ever answers the network is broken.
                    match err {
                        SiteError::NoAnswer(_) => _ = deaf.get_or_insert(asked),
                        _ => deaf = None,
                    }
                    let why = err.to_string();
                    if before_training && self.bring_up_left(run, attempt).is_zero() {
                        return Err(Halt::BadBox(format!(
                            "no agent answered {}: {why}",
                            self.bring_up_text(run)
                        )));
                    }
                    if why != told {
                        self.say(run, &format!("Not connected yet: {why}."));
                        told = why.clone();
                    }
                    // Ports may change when a container restarts; and it may have been taken back.
                    match self.provider.instance(id).await {
                        Ok(Some(instance)) => {
                            unknown = None;
                            // The provider answers, so it is not this laptop's network.
                            let since = *silent.get_or_insert_with(tokio::time::Instant::now);
                            if before_training
                                && deaf.is_some_and(|since| since.elapsed() >= deadline::ANSWER)
                            {
                                let seconds = deadline::ANSWER.as_secs();
                                return Err(Halt::BadBox(format!(
                                    "its network is broken: nothing answered ssh for {seconds} s, not even to refuse it: {why}"
                                )));
                            }
                            if before_training && since.elapsed() >= deadline::SSH {
                                let seconds = deadline::SSH.as_secs();
                                return Err(Halt::BadBox(format!(
                                    "ssh did not let us in within {seconds} s: {why}"
                                )));
                            }
                            // What starts sshd runs again at every start of the container, and nothing is lost by one now.
                            if before_training
                                && !rebooted
                                && since.elapsed() >= deadline::REBOOT
                                && !is_host(id)
                            {
                                rebooted = true;
                                self.reboot_silent(run, attempt, id, &why).await?;
                            }
                            let (row, overdue) = eye.look(attempt.state, attempt.rental, &instance);
                            match row.action {
                                Action::Recover => {
                                    return Err(Halt::interrupted(row.text));
                                }
                                Action::Respect => {
                                    return Err(Halt::StoppedByHand(row.text.to_owned()));
                                }
                                Action::WaitThenRecover | Action::WaitThenGiveUp if overdue => {
                                    return Err(market_eye::ended(attempt, &row));
                                }
                                // The host is silent, and so is the agent: that is what this loop is about.
                                Action::AskHeartbeat if overdue => {
                                    return Err(Halt::Lost(row.text.to_owned()));
                                }
                                _ => {}
                            }
                            if !instance.ssh.is_empty() {
                                place.addresses = instance.ssh;
                            }
                        }
                        Ok(None) => {
                            let since = *unknown.get_or_insert_with(tokio::time::Instant::now);
                            if since.elapsed() >= UNKNOWN_FOR {
                                return Err(Halt::Lost(UNKNOWN.to_owned()));
                            }
                        }
                        Err(err) => {
                            unknown = None;
                            silent = None;
                            deaf = None;
                            tracing::debug!(%err, "the provider does not answer, asking again");
                        }
                    }
                }
                Err(other) => return Err(refused("it could not be reached", other)),
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// The first remedy for a container that runs and lets nobody in.
    async fn reboot_silent(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        id: u64,
        why: &str,
    ) -> Result<(), Halt> {
        let minutes = deadline::REBOOT.as_secs() / 60;
        match self.provider.reboot(id).await {
            Ok(()) => {
                self.say(
                    run,
                    &format!("ssh has let nobody in for {minutes} min: restarting the container."),
                );
                let detail = serde_json::json!({"instance": id, "reason": why});
                self.note(run, attempt.number, "rebooted", detail)?;
            }
            Err(err) => tracing::debug!(%err, instance = id, "it could not be restarted"),
        }
        Ok(())
    }

    /// Makes the box know our key. One that was replaced since the box was rented is told, and let in as well.
    pub(crate) async fn let_us_in(
        &self,
        run: &RunRecord,
        id: u64,
        is_new: bool,
    ) -> Result<(), Halt> {
        let key = self
            .sites
            .public_key()
            .await
            .map_err(|err| refused("no ssh key", err))?;
        let (name, stamp) = (key_name(id), key_stamp(&key));
        let known = self.store.meta(&name)?;
        let replaced = known.as_ref().is_some_and(|known| *known != stamp);
        if replaced {
            self.say(
                run,
                "The ssh key of this home was replaced since the box was rented: letting the new one in.",
            );
        }
        // An account key reaches only boxes made after it; attaching is repeatable.
        if is_new || replaced {
            crate::fault::point("provider.attach_key.before");
            match self.provider.attach_key(id, &key).await {
                Ok(()) => {
                    crate::fault::point("provider.attach_key.after");
                    self.store.set_meta(&name, &stamp)?;
                    // Whoever has the old one is not let in any more, here and on boxes to come.
                    if let Some(old) = known.filter(|_| replaced) {
                        let is_old = move |text: &str| key_stamp(text) == old;
                        match self.provider.forget_keys(id, &is_old).await {
                            Ok(gone) => tracing::debug!(gone, "old keys were taken away"),
                            Err(err) => {
                                tracing::warn!(%err, instance = id, "the old key still opens the box");
                            }
                        }
                    }
                }
                Err(err) => {
                    tracing::debug!(%err, instance = id, "the key could not be attached; the account's key may do");
                }
            }
        }
        Ok(())
    }
}

/// Under which name the store keeps what key an instance knows.
pub(crate) fn key_name(instance: u64) -> String {
    format!("ssh_key/{instance}")
}

/// What tells one public key from another.
pub(crate) fn key_stamp(key: &str) -> String {
    blake3::hash(key.trim().as_bytes()).to_hex()[..16].to_owned()
}
