//! The run file as it is written: its keys, and how they become a [`RunSpec`].

mod checkpoints;
mod container;
mod limits;
mod model;
mod needs;
mod notify;
mod resources;
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
use spotter_bucket::Target;

pub(super) use self::model::ModelKeys;
pub use self::notify::webhook_in;
use self::{
    checkpoints::CheckpointsKeys,
    limits::{LimitsKeys, RecoverKeys, SmokeKeys, ValidateKeys},
    needs::NeedsKeys,
    notify::NotifyKeys,
    resources::ResourcesKeys,
};
use super::{
    DEFAULT_HEADROOM_BY_PRICE, DEFAULT_IMAGE, OnDone, RecoverPolicy, Results, RunSpec, YamlError,
    check_rules, from_yaml, values,
};
use crate::error::CommandError;

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
    volume: Option<container::VolumeKeys>,
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
pub(super) struct ProgressKeys {
    regex: Scalar,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of keys")]
pub(super) struct ResultsKeys {
    fetch: Spanned<Paths>,
    to: Option<Scalar>,
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
        let resources = resources::resources(&self.resources.value)?;
        let checkpoints = self.checkpoints.as_ref();
        let checkpoints = checkpoints
            .map(|keys| checkpoints::checkpoints(keys, dir))
            .transpose()?;
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
                self.volume.as_ref(),
            )?,
            onstart: self.onstart.clone(),
            envs: envs(&self.envs)?,
            setup: self.setup.clone(),
            smoke: self.smoke.as_ref().map(limits::smoke).transpose()?,
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
                .map(limits::validate)
                .transpose()?
                .unwrap_or_default(),
            recover: limits::recover(self.recover.as_ref())?,
            limits: limits::limits(self.limits.as_ref())?,
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
            "resources.prepay" => resources.prepay.as_ref(),
            "resources.offers" => resources.offers.as_ref(),
            "run" => Some(&self.run),
            _ => None,
        };
        scalar.map_or(self.resources.referenced, |scalar| scalar.referenced)
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
