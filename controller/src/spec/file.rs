//! The run file as it is written: its keys, and how they become a [`RunSpec`].

mod container;
mod model;
mod needs;
mod notify;
mod upload;

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{Location, Spanned};
use spotter_bucket::{Best, Target};

pub(super) use self::model::ModelKeys;
pub use self::notify::webhook_in;
use self::upload::{ServerKeys, UploadKeys};
use self::{needs::NeedsKeys, notify::NotifyKeys};
use super::{
    BucketServer, Checkpoints, DEFAULT_ATTEMPTS, DEFAULT_BRING_UP, DEFAULT_CHECKPOINT_DIR,
    DEFAULT_DISK_GB, DEFAULT_EVERY, DEFAULT_HEADROOM, DEFAULT_HEADROOM_BY_PRICE, DEFAULT_IMAGE,
    DEFAULT_KEEP_GRACE, DEFAULT_KEEP_LAST, DEFAULT_SMOKE_TIMEOUT, DEFAULT_WAIT, DEFAULT_WINDOW,
    EARLY_WINDOWS, KeyMode, KeyRules, Limits, OnDone, OnStale, Recover, RecoverPolicy, Resources,
    Results, RunSpec, Smoke, Validate, YamlError, accelerators, check_rules, from_yaml, query,
    values,
};
use crate::{error::CommandError, provider::Rental};

/// Why a run file, or the flags in its place, make no run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// A key or a value is wrong: `run.yaml:3:5: ...`.
    #[error("{file}:{problem}")]
    File {
        /// The file as it was named.
        file: String,
        /// The place and what is wrong there.
        problem: YamlError,
    },
    /// The file cannot be read.
    #[error("the run file `{file}` cannot be read: {reason}")]
    Unreadable {
        /// The file as it was named.
        file: String,
        /// Why.
        reason: String,
    },
    /// A flag is wrong.
    #[error("{flag}: {message}")]
    Flag {
        /// The flag.
        flag: String,
        /// What is wrong.
        message: String,
    },
}

impl From<SpecError> for CommandError {
    fn from(err: SpecError) -> Self {
        let made = Self::usage(err.to_string());
        match err {
            SpecError::Unreadable { .. } => made.hint("write one with `spotter init`"),
            SpecError::File { file, .. } => made.hint(format!(
                "mend that line; `spotter plan {file}` checks it again and spends nothing"
            )),
            SpecError::Flag { .. } => made,
        }
    }
}

/// Longest run file that is read.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Reads and checks a run file. Relative paths in it start at its directory.
pub fn read(path: &Path) -> Result<RunSpec, SpecError> {
    let file = path.display().to_string();
    let unreadable = |reason: String| SpecError::Unreadable {
        file: file.clone(),
        reason,
    };
    let reason = |err: io::Error| match err.kind() {
        io::ErrorKind::NotFound => "there is none".to_owned(),
        _ => err.to_string(),
    };
    let mut text = String::new();
    // What is no plain file does not say how long it is.
    let read = fs::File::open(path)
        .and_then(|source| source.take(MAX_FILE_BYTES + 1).read_to_string(&mut text));
    if read.map_err(|err| unreadable(reason(err)))? as u64 > MAX_FILE_BYTES {
        return Err(unreadable(format!(
            "it has more than {MAX_FILE_BYTES} bytes"
        )));
    }
    let absolute = std::path::absolute(path).map_err(|err| unreadable(err.to_string()))?;
    let dir = absolute.parent().unwrap_or(Path::new("/"));
    parse(&text, &file, dir)
}

/// Checks the text of a run file; `file` is its name for messages, `dir` where its relative paths start.
pub fn parse(text: &str, file: &str, dir: &Path) -> Result<RunSpec, SpecError> {
    let path = dir.join(Path::new(file).file_name().unwrap_or_default());
    from_yaml::<FileKeys>(text)
        .and_then(|keys| keys.check(dir, &path))
        .map_err(|problem| SpecError::File {
            file: file.to_owned(),
            problem,
        })
}

/// A scalar with its place. Numbers come as they were written: `9.00`, `500`.
type Scalar = Spanned<String>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of keys")]
pub(super) struct FileKeys {
    name: Scalar,
    workdir: Option<Scalar>,
    resources: Spanned<ResourcesKeys>,
    #[serde(default)]
    needs: NeedsKeys,
    model: Option<ModelKeys>,
    image: Option<Scalar>,
    image_size: Option<Scalar>,
    image_login: Option<container::LoginKeys>,
    #[serde(default)]
    ports: Vec<Scalar>,
    docker_options: Option<Scalar>,
    template: Option<Scalar>,
    onstart: Option<String>,
    #[serde(default)]
    envs: Envs,
    setup: Option<String>,
    smoke: Option<SmokeKeys>,
    run: Scalar,
    resume: Option<String>,
    progress: Option<ProgressKeys>,
    checkpoints: Option<CheckpointsKeys>,
    validate: Option<ValidateKeys>,
    recover: Option<RecoverKeys>,
    limits: Option<LimitsKeys>,
    results: Option<ResultsKeys>,
    on_done: Option<Scalar>,
    notify: Option<NotifyKeys>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of keys")]
pub(super) struct SmokeKeys {
    run: Scalar,
    steps: Option<Scalar>,
    timeout: Option<Scalar>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of keys")]
pub(super) struct ProgressKeys {
    regex: Scalar,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of keys")]
pub(super) struct ResourcesKeys {
    accelerators: Spanned<AcceleratorsKey>,
    disk: Option<Scalar>,
    rental: Option<Scalar>,
    offers: Option<Scalar>,
    max_price: Option<Scalar>,
    bid: Option<BidKeys>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of keys")]
pub(super) struct BidKeys {
    headroom: Option<Scalar>,
    max: Option<Scalar>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of keys")]
pub(super) struct CheckpointsKeys {
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
pub(super) struct KeepKeys {
    last: Option<Scalar>,
    every_steps: Option<Scalar>,
    best: Option<BestKeys>,
    grace: Option<Scalar>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of keys")]
pub(super) struct BestKeys {
    metric: Scalar,
    count: Option<Scalar>,
    mode: Option<Scalar>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of keys")]
pub(super) struct RecoverKeys {
    policy: Option<Scalar>,
    attempts: Option<Scalar>,
    wait: Option<Scalar>,
    deadline: Option<Scalar>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of keys")]
pub(super) struct LimitsKeys {
    bring_up: Option<Scalar>,
    budget: Option<Scalar>,
    max_runtime: Option<Scalar>,
    no_progress: Option<Scalar>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of keys")]
pub(super) struct ValidateKeys {
    window: Option<Scalar>,
    on_contradiction: Option<Scalar>,
    unanswered: Option<Scalar>,
    early_checkpoint: Option<Scalar>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of keys")]
pub(super) struct ResultsKeys {
    fetch: Spanned<Paths>,
    to: Option<Scalar>,
}

/// `"RTX 4090:1"`, or `{RTX 4090: 1}`.
#[derive(Debug)]
enum AcceleratorsKey {
    Text(String),
    Map(String, String),
}

impl<'de> Deserialize<'de> for AcceleratorsKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;

        impl<'de> Visitor<'de> for Keys {
            type Value = AcceleratorsKey;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a GPU as in \"RTX 4090:1\" or {RTX 4090: 1}")
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(AcceleratorsKey::Text(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let one = "one GPU is expected, as in {RTX 4090: 1}";
                let first: Option<(String, String)> = map.next_entry()?;
                let Some((name, count)) = first else {
                    return Err(serde::de::Error::custom(one));
                };
                if map.next_key::<String>()?.is_some() {
                    return Err(serde::de::Error::custom(one));
                }
                Ok(AcceleratorsKey::Map(name, count))
            }
        }

        deserializer.deserialize_any(Keys)
    }
}

/// Paths with their places.
#[derive(Debug)]
struct Paths(Vec<Scalar>);

impl<'de> Deserialize<'de> for Paths {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items;

        impl<'de> Visitor<'de> for Items {
            type Value = Paths;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of paths, as in [out/final.pt, logs]")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
                let mut paths = Vec::new();
                while let Some(path) = items.next_element()? {
                    paths.push(path);
                }
                Ok(Paths(paths))
            }
        }

        deserializer.deserialize_any(Items)
    }
}

/// Variables in the order of the file, with the places of their names.
#[derive(Debug, Default)]
struct Envs(Vec<(Scalar, Option<String>)>);

impl<'de> Deserialize<'de> for Envs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;

        impl<'de> Visitor<'de> for Keys {
            type Value = Envs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of variables")
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Envs::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut envs = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    envs.push(entry);
                }
                Ok(Envs(envs))
            }
        }

        deserializer.deserialize_map(Keys)
    }
}

/// Says what is wrong with a value at its place.
fn at<T>(scalar: &Scalar, result: Result<T, String>) -> Result<T, YamlError> {
    result.map_err(|message| YamlError::at(scalar.referenced, message))
}

/// The value of a key that may be absent.
fn or<T>(
    scalar: Option<&Scalar>,
    default: T,
    read: impl FnOnce(&str) -> Result<T, String>,
) -> Result<T, YamlError> {
    scalar.map_or(Ok(default), |scalar| at(scalar, read(&scalar.value)))
}

/// The value of a key that may be absent and then means nothing.
fn option<T>(
    scalar: Option<&Scalar>,
    read: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, YamlError> {
    scalar
        .map(|scalar| at(scalar, read(&scalar.value)))
        .transpose()
}

/// One of several words.
fn choice<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    words
        .iter()
        .find(|(word, _)| *word == text)
        .map(|(_, value)| *value)
        .ok_or_else(|| {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            format!("expected {}", known.join(" or "))
        })
}

impl FileKeys {
    fn check(self, dir: &Path, path: &Path) -> Result<RunSpec, YamlError> {
        at(&self.name, values::run_name(&self.name.value))?;
        let resources = resources(&self.resources.value)?;
        let checkpoints = self.checkpoints.as_ref();
        let checkpoints = checkpoints
            .map(|keys| self::checkpoints(keys, dir))
            .transpose()?;
        let recover = self.recover.as_ref();
        let limits = self.limits.as_ref();
        let results = self
            .results
            .as_ref()
            .map(|keys| results(keys, dir))
            .transpose()?;
        let on_done = OnDone::of(checkpoints.as_ref(), results.as_ref());
        let mut spec = RunSpec {
            name: self.name.value.clone(),
            workdir: option(self.workdir.as_ref(), |text| existing_dir(dir, text))?,
            resources,
            needs: needs::needs(&self.needs)?,
            model: self.model.as_ref().map(model::model).transpose()?,
            image: match (&self.image, &self.template) {
                (None, Some(_)) => String::new(),
                (named, _) => or(named.as_ref(), DEFAULT_IMAGE.to_owned(), image)?,
            },
            image_gb: option(self.image_size.as_ref(), values::size_gb)?,
            container: container::container(
                self.image_login.as_ref(),
                &self.ports,
                self.docker_options.as_ref(),
                self.template.as_ref(),
            )?,
            onstart: self.onstart.clone(),
            envs: envs(&self.envs)?,
            setup: self.setup.clone(),
            smoke: self.smoke.as_ref().map(smoke).transpose()?,
            run: self.run.value.clone(),
            resume: self.resume.clone(),
            progress: option(
                self.progress.as_ref().map(|keys| &keys.regex),
                values::progress,
            )?,
            checkpoints,
            validate: self
                .validate
                .as_ref()
                .map(validate)
                .transpose()?
                .unwrap_or_default(),
            recover: Recover {
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
            },
            limits: Limits {
                bring_up: or(
                    limits.and_then(|keys| keys.bring_up.as_ref()),
                    DEFAULT_BRING_UP,
                    bring_up,
                )?,
                budget_usd: option(limits.and_then(|keys| keys.budget.as_ref()), values::usd)?,
                max_runtime: option(limits.and_then(|keys| keys.max_runtime.as_ref()), bring_up)?,
                no_progress: option(limits.and_then(|keys| keys.no_progress.as_ref()), bring_up)?,
            },
            results,
            on_done: or(self.on_done.as_ref(), on_done, |text| {
                let words = [
                    ("destroy", OnDone::Destroy),
                    ("stop", OnDone::Stop),
                    ("keep", OnDone::Keep),
                ];
                choice(text, &words)
            })?,
            notify: self
                .notify
                .as_ref()
                .map(|keys| notify::notify(keys, path))
                .transpose()?,
        };
        let bid = self.resources.value.bid.as_ref();
        if spec.recover.policy == RecoverPolicy::Price
            && bid.is_none_or(|bid| bid.headroom.is_none())
        {
            spec.resources.bid_headroom = DEFAULT_HEADROOM_BY_PRICE;
        }
        container::need_ports(&mut spec);
        check_rules(&spec).map_err(|(key, why)| YamlError::at(self.place_of(key), why))?;
        Ok(spec)
    }

    /// Where a key is written, or what is nearest to it.
    fn place_of(&self, key: &str) -> Location {
        let resources = &self.resources.value;
        let scalar = match key {
            "resources.rental" => resources.rental.as_ref(),
            "resources.bid.max" => resources.bid.as_ref().and_then(|bid| bid.max.as_ref()),
            "resources.offers" => resources.offers.as_ref(),
            "run" => Some(&self.run),
            _ => None,
        };
        scalar.map_or(self.resources.referenced, |scalar| scalar.referenced)
    }
}

fn resources(keys: &ResourcesKeys) -> Result<Resources, YamlError> {
    let gpus = match &keys.accelerators.value {
        AcceleratorsKey::Text(text) => accelerators::parse(text),
        AcceleratorsKey::Map(name, count) => accelerators::of(name, count),
    };
    let gpus = gpus.map_err(|message| YamlError::at(keys.accelerators.referenced, message))?;
    let bid = keys.bid.as_ref();
    Ok(Resources {
        gpu_name: Some(gpus.gpu_name),
        num_gpus: gpus.num_gpus,
        disk_gb: or(keys.disk.as_ref(), DEFAULT_DISK_GB, values::size_gb)?,
        rental: or(keys.rental.as_ref(), Rental::OnDemand, |text| {
            choice(
                text,
                &[
                    ("on-demand", Rental::OnDemand),
                    ("interruptible", Rental::Interruptible),
                ],
            )
        })?,
        filters: or(keys.offers.as_ref(), Vec::new(), |text| {
            query::parse(text).map_err(|err| err.to_string())
        })?,
        max_price_usd_per_hour: option(keys.max_price.as_ref(), values::usd)?,
        bid_headroom: or(
            bid.and_then(|keys| keys.headroom.as_ref()),
            DEFAULT_HEADROOM,
            values::percent,
        )?,
        bid_max_usd_per_hour: option(bid.and_then(|keys| keys.max.as_ref()), values::usd)?,
        hosts: Vec::new(),
    })
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

fn checkpoints(keys: &CheckpointsKeys, dir: &Path) -> Result<Checkpoints, YamlError> {
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

fn envs(envs: &Envs) -> Result<BTreeMap<String, Option<String>>, YamlError> {
    let mut checked = BTreeMap::new();
    for (name, value) in &envs.0 {
        at(name, variable(&name.value, value.as_deref()))?;
        checked.insert(name.value.clone(), value.clone());
    }
    Ok(checked)
}

fn smoke(keys: &SmokeKeys) -> Result<Smoke, YamlError> {
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

fn validate(keys: &ValidateKeys) -> Result<Validate, YamlError> {
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

fn results(keys: &ResultsKeys, dir: &Path) -> Result<Results, YamlError> {
    let paths = &keys.fetch.value.0;
    if paths.is_empty() {
        let message = "the list is empty: name what to fetch, or leave `results` out";
        return Err(YamlError::at(keys.fetch.referenced, message));
    }
    let fetch = paths
        .iter()
        .map(|path| at(path, values::inner_path(&path.value)));
    Ok(Results {
        fetch: fetch.collect::<Result<_, _>>()?,
        to: or(keys.to.as_ref(), dir.join("results"), |text| {
            let path = local_path(dir, text)?;
            match path.parent() {
                Some(_) => Ok(path),
                None => Err("files are not fetched to the root of this machine".to_owned()),
            }
        })?,
    })
}

/// A variable whose value, if it is a secret, is left to the user's shell.
pub(super) fn variable(name: &str, value: Option<&str>) -> Result<(), String> {
    values::variable_name(name)?;
    if values::is_secret_name(name) && value.is_some_and(|value| !value.is_empty()) {
        return Err(format!(
            "`{name}` looks like a secret: leave its value out, and it is taken from your shell and never stored"
        ));
    }
    Ok(())
}

pub(super) fn bucket(text: &str) -> Result<String, String> {
    Target::parse(text, None, None).map_err(|err| crate::error::chain(&err))?;
    Ok(text.trim_end_matches('/').to_owned())
}

pub(super) fn image(text: &str) -> Result<String, String> {
    let valid = !text.is_empty()
        && text.len() <= 255
        && text.chars().all(|c| c.is_ascii_graphic())
        && !text.starts_with('-');
    if valid {
        Ok(text.to_owned())
    } else {
        Err("an image looks like vastai/pytorch:2.9.0".to_owned())
    }
}

/// Ten seconds: every round lists the bucket.
fn every(text: &str) -> Result<std::time::Duration, String> {
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

fn keep_last(text: &str) -> Result<u32, String> {
    values::count(text, 2..=100_000).map_err(|why| {
        format!("{why}: the one before the last is needed when the last turns out to be damaged")
    })
}

fn existing_dir(dir: &Path, text: &str) -> Result<PathBuf, String> {
    let path = local_path(dir, text)?;
    if path.is_dir() {
        Ok(path)
    } else {
        Err(format!("`{}` is no directory", path.display()))
    }
}

/// A path on this machine, absolute, without `.` and `..` where that is certain.
pub(super) fn local_path(dir: &Path, text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("the path is empty".to_owned());
    }
    if text.starts_with('~') {
        return Err(
            "`~` is not expanded: write the whole path, or one relative to this file".to_owned(),
        );
    }
    let joined = dir.join(text);
    // A link may lead elsewhere than its name's parent, so `..` stays in the path and only `.` goes.
    Ok(joined.components().collect())
}

#[cfg(test)]
mod tests;
