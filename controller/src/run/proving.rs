//! Whether a box that answers is one to work on: its checks, its assignment, its bucket.

use spotter_bucket::Style;

use crate::{
    agent_client::{BackupConfig, BoxConfig},
    error::CommandError,
    notify,
    provider::hosts::is_host,
    run::{
        boxes::{has_bucket, is_presigned},
        halt::{Halt, refused},
        lifecycle::Lifecycle,
        readiness,
        site::Site,
    },
    spec::{OnDone, OnStale},
    store::{AttemptRecord, RunRecord},
};

/// Check by which an agent tells that itself is at fault.
const OWN_CHECK: &str = "agent";

impl Lifecycle {
    pub(super) async fn check_box(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        site: &dyn Site,
    ) -> Result<(), Halt> {
        let disk_bytes = (run.spec.resources.disk_gb * 1e9) as u64;
        let report = site
            .preflight(attempt.num_gpus(&run.spec), disk_bytes)
            .await
            .map_err(|err| refused("its checks did not run", err))?;
        crate::fault::point("agent.preflight.after");
        for check in report.checks.iter().filter(|check| !check.ok) {
            let verdict = if check.required { "failed" } else { "warning" };
            self.say(
                run,
                &format!("Check `{}`: {verdict}: {}.", check.name, check.detail),
            );
        }
        if let Some(failed) = report
            .checks
            .iter()
            .find(|check| !check.ok && check.required)
        {
            // The agent's word on itself: the next box would get the same one.
            if failed.name == OWN_CHECK {
                let text = format!(
                    "run `{}` did not start: this spotter's agent cannot do its work on any box",
                    run.name
                );
                let err = CommandError::new(text).because(failed.detail.as_str());
                return Err(Halt::Fatal(err.hint(
                    "no other box was tried; name a whole agent in SPOTTER_AGENT, or build one: `scripts/build-agent.sh`",
                )));
            }
            return Err(Halt::BadBox(format!(
                "check `{}`: {}",
                failed.name, failed.detail
            )));
        }
        self.hold_against_order(run, attempt, site).await?;
        if !report.can_self_stop {
            self.say(
                run,
                "The box can neither stop nor destroy itself: limits do not hold while this laptop is off.",
            );
        }
        Ok(())
    }

    /// Shows what the box is, beside what was rented, and refuses it where it is not that or cannot train the run.
    async fn hold_against_order(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        site: &dyn Site,
    ) -> Result<(), Halt> {
        let status = site
            .status()
            .await
            .map_err(|err| refused("its agent did not answer", err))?;
        let promised = readiness::promised(&self.store, &attempt.label)?;
        let lines = readiness::hold(&promised, &run.spec, &status);
        if lines.is_empty() {
            return Ok(());
        }
        let shown = lines.iter().map(|line| format!("\n  {}", line.text()));
        let shown: String = shown.collect();
        self.say(run, &format!("What its box is:{shown}"));
        match lines.into_iter().find_map(readiness::Line::refusal) {
            Some(why) => Err(Halt::BadBox(why)),
            None => Ok(()),
        }
    }

    /// Tells the agent its run and, where there is a bucket, gives it keys and lets it prove them.
    pub(super) async fn assign(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        site: &dyn Site,
    ) -> Result<String, Halt> {
        let assignment = self.assignment(run, attempt);
        let workdir = site
            .configure(&assignment)
            .await
            .map_err(|err| refused("its agent took no assignment", err))?;
        crate::fault::point("agent.configure.after");
        notify::hand_over(self, run, site).await;
        if assignment.backup.is_some() {
            self.hand_over_first(run, site).await?;
            crate::fault::point("agent.prove.after");
        }
        Ok(workdir)
    }

    /// What the agent is told about its run; telling it again is harmless.
    pub(crate) fn assignment(&self, run: &RunRecord, attempt: &AttemptRecord) -> BoxConfig {
        let backup = run.spec.checkpoints.as_ref().and_then(|checkpoints| {
            Some(BackupConfig {
                dir: checkpoints.dir.clone(),
                target: checkpoints.to.clone()?,
                endpoint: None,
                region: None,
                every: checkpoints.every,
                keep_last: checkpoints.keep_last,
                keep_every_steps: checkpoints.keep_every_steps,
                keep_grace: checkpoints.keep_grace,
                keep_best: checkpoints.keep_best.clone(),
                stop_when_behind: checkpoints.on_stale == OnStale::Stop,
                settle: checkpoints.settle,
                complete_when: checkpoints.complete_when.clone(),
                tripwire: checkpoints.tripwire,
                max_bytes_per_s: checkpoints.max_bytes_per_s,
                style: Style::Auto,
                windows: checkpoints.windows.clone(),
                authorities: String::new(),
                presigned: is_presigned(run),
                // A box without keys has nothing signed for results.
                results: match &run.spec.results {
                    Some(results) if !is_presigned(run) => results.fetch.clone(),
                    _ => Vec::new(),
                },
            })
        });
        BoxConfig {
            run: run.name.clone(),
            attempt: attempt.number,
            workdir: run.name.clone(),
            backup,
            bring_up: run.spec.bring_up(),
            idle_stop: (run.spec.on_done != OnDone::Keep).then_some(run.spec.limits.bring_up),
            // A host may itself be a box that its user rented: not ours to stop.
            provider_url: match attempt.instance.is_some_and(is_host) {
                true => String::new(),
                false => self.provider.base_url(),
            },
            progress: run.spec.progress.clone(),
            micro_batch: run.spec.model.as_ref().and_then(|model| model.micro_batch),
            validation: self.validation(run, attempt),
            max_runtime: self.runtime_left(run, attempt.number),
            no_progress: run.spec.limits.no_progress,
            // What cannot be read now is told by whoever watches.
            allowance: self.allowance(run, attempt).ok().flatten(),
            destroy_when_saved: run.spec.on_done == OnDone::Destroy
                && has_bucket(run)
                && !attempt.is_kept_for_a_look(),
        }
    }
}
