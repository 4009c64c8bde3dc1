//! The key `checkpoints` as it is written.

use std::path::Path;

use serde::Deserialize;
use spotter_bucket::Best;

use super::{
    Scalar, at, bucket, choice,
    limits::every,
    option, or,
    upload::{self, ServerKeys, UploadKeys},
};
use crate::spec::{
    BucketServer, Checkpoints, DEFAULT_CHECKPOINT_DIR, DEFAULT_EVERY, DEFAULT_KEEP_GRACE,
    DEFAULT_KEEP_LAST, KeyMode, KeyRules, OnStale, YamlError, values,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of keys")]
pub(in crate::spec) struct CheckpointsKeys {
    dir: Option<Scalar>,
    to: Option<Scalar>,
    every: Option<Scalar>,
    keep: Option<KeepKeys>,
    settle: Option<Scalar>,
    complete_when: Option<Scalar>,
    tripwire: Option<Scalar>,
    upload: Option<UploadKeys>,
    server: Option<ServerKeys>,
    credentials: Option<Scalar>,
    role: Option<Scalar>,
    persist: Option<Scalar>,
    on_stale: Option<Scalar>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of keys")]
pub(in crate::spec) struct KeepKeys {
    last: Option<Scalar>,
    every_steps: Option<Scalar>,
    best: Option<BestKeys>,
    grace: Option<Scalar>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of keys")]
pub(in crate::spec) struct BestKeys {
    metric: Scalar,
    count: Option<Scalar>,
    mode: Option<Scalar>,
}

/// What cannot be had together with `credentials: presigned`.
fn check_presigned(keys: &CheckpointsKeys) -> Result<(), YamlError> {
    let Some(credentials) = keys.credentials.as_ref() else {
        return Ok(());
    };
    if credentials.value != "presigned" {
        return Ok(());
    }
    let refuse = |scalar: &Scalar, why: &str| at(scalar, Err(why.to_owned()));
    if keys.to.is_none() {
        refuse(
            credentials,
            "nothing can be signed without a bucket: set `to`",
        )?;
    }
    if let Some(role) = &keys.role {
        refuse(
            role,
            "no keys go to the box with `credentials: presigned`: leave `role` out",
        )?;
    }
    match &keys.persist {
        Some(persist) if persist.value == "true" => refuse(
            persist,
            "what is signed for the box stays in its memory with `credentials: presigned`: leave `persist` out",
        ),
        _ => Ok(()),
    }
}

/// Reads and checks it. Relative paths start at `dir`.
pub(super) fn checkpoints(keys: &CheckpointsKeys, dir: &Path) -> Result<Checkpoints, YamlError> {
    check_presigned(keys)?;
    let (sending, server) = (keys.upload.as_ref(), keys.server.as_ref());
    let keep = keys.keep.as_ref();
    Ok(Checkpoints {
        dir: or(
            keys.dir.as_ref(),
            DEFAULT_CHECKPOINT_DIR.to_owned(),
            values::inner_path,
        )?,
        to: option(keys.to.as_ref(), bucket)?,
        every: or(keys.every.as_ref(), DEFAULT_EVERY, every)?,
        keep_last: or(
            keep.and_then(|keep| keep.last.as_ref()),
            DEFAULT_KEEP_LAST,
            keep_last,
        )?,
        keep_every_steps: or(keep.and_then(|keep| keep.every_steps.as_ref()), 0, |text| {
            values::count(text, 1..=u32::MAX)
        })?,
        keep_best: keep
            .and_then(|keep| keep.best.as_ref())
            .map(best)
            .transpose()?,
        keep_grace: or(
            keep.and_then(|keep| keep.grace.as_ref()),
            DEFAULT_KEEP_GRACE,
            values::duration,
        )?,
        settle: option(keys.settle.as_ref(), values::duration)?,
        complete_when: option(keys.complete_when.as_ref(), values::complete_when)?,
        tripwire: or(keys.tripwire.as_ref(), true, |text| {
            choice(text, &[("true", true), ("false", false)])
        })?,
        max_bytes_per_s: option(
            sending.and_then(|upload| upload.max.as_ref()),
            values::bytes_per_s,
        )?,
        keys: KeyRules {
            mode: or(keys.credentials.as_ref(), KeyMode::Auto, |text| {
                let words = [
                    ("auto", KeyMode::Auto),
                    ("session", KeyMode::Session),
                    ("keys", KeyMode::Keys),
                    ("presigned", KeyMode::Presigned),
                ];
                choice(text, &words)
            })?,
            role: option(keys.role.as_ref(), role)?,
            persist: or(keys.persist.as_ref(), false, |text| {
                choice(text, &[("true", true), ("false", false)])
            })?,
        },
        on_stale: or(keys.on_stale.as_ref(), OnStale::Alert, |text| {
            choice(text, &[("alert", OnStale::Alert), ("stop", OnStale::Stop)])
        })?,
        windows: sending.map_or(Ok(Vec::new()), upload::windows)?,
        server: server.map_or_else(
            || Ok(BucketServer::default()),
            |keys| upload::server(keys, dir),
        )?,
    })
}

fn best(keys: &BestKeys) -> Result<Best, YamlError> {
    let metric = at(&keys.metric, values::metric(&keys.metric.value))?;
    let highest = match &keys.mode {
        Some(mode) => at(mode, choice(&mode.value, &[("min", false), ("max", true)]))?,
        None => at(&keys.metric, values::is_better_when_high(&metric))?,
    };
    Ok(Best {
        metric,
        count: or(keys.count.as_ref(), 1, |text| values::count(text, 1..=1000))?,
        highest,
    })
}

/// A role, as its provider writes it.
fn role(text: &str) -> Result<String, String> {
    let valid = text.starts_with("arn:")
        && text.len() <= 2048
        && text.chars().all(|c| c.is_ascii_graphic());
    if valid {
        Ok(text.to_owned())
    } else {
        Err("a role looks like arn:aws:iam::123456789012:role/train".to_owned())
    }
}

fn keep_last(text: &str) -> Result<u32, String> {
    values::count(text, 2..=100_000).map_err(|why| {
        format!("{why}: the one before the last is needed when the last turns out to be damaged")
    })
}
