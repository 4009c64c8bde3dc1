//! What bounds a run and what watches over it, as it is written: `smoke`, `validate`, `recover` and `limits`.

use serde::Deserialize;

use super::{Scalar, at, choice, option, or};
use crate::spec::{
    DEFAULT_ATTEMPTS, DEFAULT_BRING_UP, DEFAULT_SMOKE_TIMEOUT, DEFAULT_STORAGE_DAYS, DEFAULT_WAIT,
    DEFAULT_WINDOW, EARLY_WINDOWS, Limits, Recover, RecoverPolicy, Smoke, Validate, YamlError,
    values,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of keys")]
pub(in crate::spec) struct SmokeKeys {
    run: Scalar,
    steps: Option<Scalar>,
    timeout: Option<Scalar>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of keys")]
pub(in crate::spec) struct RecoverKeys {
    policy: Option<Scalar>,
    attempts: Option<Scalar>,
    wait: Option<Scalar>,
    deadline: Option<Scalar>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of keys")]
pub(in crate::spec) struct LimitsKeys {
    bring_up: Option<Scalar>,
    budget: Option<Scalar>,
    storage_days: Option<Scalar>,
    max_runtime: Option<Scalar>,
    no_progress: Option<Scalar>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of keys")]
pub(in crate::spec) struct ValidateKeys {
    window: Option<Scalar>,
    on_contradiction: Option<Scalar>,
    unanswered: Option<Scalar>,
    early_checkpoint: Option<Scalar>,
}

/// Reads and checks `smoke`.
pub(super) fn smoke(keys: &SmokeKeys) -> Result<Smoke, YamlError> {
    let nothing = keys.run.value.trim().is_empty();
    let run = match nothing {
        true => Err("there is nothing to run".to_owned()),
        false => Ok(keys.run.value.clone()),
    };
    Ok(Smoke {
        run: at(&keys.run, run)?,
        steps: option(keys.steps.as_ref(), |text| {
            values::count(text, 1..=1_000_000_000).map(u64::from)
        })?,
        timeout: or(keys.timeout.as_ref(), DEFAULT_SMOKE_TIMEOUT, bring_up)?,
    })
}

/// Reads and checks `validate`.
pub(super) fn validate(keys: &ValidateKeys) -> Result<Validate, YamlError> {
    let window = or(keys.window.as_ref(), DEFAULT_WINDOW, every)?;
    Ok(Validate {
        window,
        on_contradiction: or(
            keys.on_contradiction.as_ref(),
            Validate::default().on_contradiction,
            values::on_contradiction,
        )?,
        go_on_unanswered: or(keys.unanswered.as_ref(), false, |text| {
            choice(text, &[("stop", false), ("continue", true)])
        })?,
        early_checkpoint: or(
            keys.early_checkpoint.as_ref(),
            window * EARLY_WINDOWS,
            values::duration,
        )?,
    })
}

/// Reads and checks `recover`.
pub(super) fn recover(recover: Option<&RecoverKeys>) -> Result<Recover, YamlError> {
    Ok(Recover {
        policy: or(
            recover.and_then(|keys| keys.policy.as_ref()),
            RecoverPolicy::Elsewhere,
            |text| {
                let words = [
                    ("elsewhere", RecoverPolicy::Elsewhere),
                    ("here", RecoverPolicy::Here),
                    ("price", RecoverPolicy::Price),
                    ("ask", RecoverPolicy::Ask),
                    ("never", RecoverPolicy::Never),
                ];
                choice(text, &words)
            },
        )?,
        attempts: or(
            recover.and_then(|keys| keys.attempts.as_ref()),
            DEFAULT_ATTEMPTS,
            |text| values::count(text, 1..=1000),
        )?,
        wait: or(
            recover.and_then(|keys| keys.wait.as_ref()),
            DEFAULT_WAIT,
            bring_up,
        )?,
        deadline: option(recover.and_then(|keys| keys.deadline.as_ref()), bring_up)?,
    })
}

/// Reads and checks `limits`.
pub(super) fn limits(limits: Option<&LimitsKeys>) -> Result<Limits, YamlError> {
    Ok(Limits {
        bring_up: or(
            limits.and_then(|keys| keys.bring_up.as_ref()),
            DEFAULT_BRING_UP,
            bring_up,
        )?,
        budget_usd: option(limits.and_then(|keys| keys.budget.as_ref()), values::usd)?,
        storage_days: or(
            limits.and_then(|keys| keys.storage_days.as_ref()),
            DEFAULT_STORAGE_DAYS,
            storage_days,
        )?,
        max_runtime: option(limits.and_then(|keys| keys.max_runtime.as_ref()), bring_up)?,
        no_progress: option(limits.and_then(|keys| keys.no_progress.as_ref()), bring_up)?,
    })
}

/// A year at most: no budget waits longer for somebody.
fn storage_days(text: &str) -> Result<f64, String> {
    let days: Option<f64> = text.parse().ok();
    days.filter(|days| (0.0..=365.0).contains(days))
        .ok_or_else(|| "days are from 0 to 365, such as 7".to_owned())
}

/// Ten seconds: every round lists the bucket.
pub(super) fn every(text: &str) -> Result<std::time::Duration, String> {
    let every = values::duration(text)?;
    if every.as_secs() >= 10 {
        Ok(every)
    } else {
        Err("the interval is at least 10s".to_owned())
    }
}

/// Ten seconds: no host starts a container sooner, and no trainer ends sooner.
fn bring_up(text: &str) -> Result<std::time::Duration, String> {
    let bring_up = values::duration(text)?;
    if bring_up.as_secs() >= 10 {
        Ok(bring_up)
    } else {
        Err("the limit is at least 10s".to_owned())
    }
}
