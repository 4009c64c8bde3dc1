//! The bare form: a run from flags and a command, without a file (pure but for the look at the working directory).

use std::{collections::BTreeMap, path::PathBuf};

use super::{
    BucketServer, Checkpoints, DEFAULT_ATTEMPTS, DEFAULT_BRING_UP, DEFAULT_CHECKPOINT_DIR,
    DEFAULT_DISK_GB, DEFAULT_EVERY, DEFAULT_HEADROOM, DEFAULT_IMAGE, DEFAULT_KEEP_GRACE,
    DEFAULT_KEEP_LAST, DEFAULT_STORAGE_DAYS, DEFAULT_WAIT, KeyRules, Limits, OnDone, OnStale,
    Recover, RecoverPolicy, Resources, Results, RunSpec, SpecError, accelerators, check_rules,
    file, query, values,
};
use crate::provider::Rental;

/// What was typed. Empty and absent mean the default.
#[derive(Debug, Clone, Default)]
pub struct BareRun {
    /// `--name`; without it, one is made of the directory's name and a random end.
    pub name: Option<String>,
    /// Directory that is copied; also where relative paths start. Absolute.
    pub workdir: PathBuf,
    /// `--gpus`, such as `RTX 4090:1`.
    pub gpus: String,
    /// `--interruptible`.
    pub interruptible: bool,
    /// `--disk`.
    pub disk: Option<String>,
    /// `--max-price`.
    pub max_price: Option<String>,
    /// `--bid-max`.
    pub bid_max: Option<String>,
    /// `--bid-headroom`.
    pub bid_headroom: Option<String>,
    /// `--offers`, in the market's query language.
    pub offers: Option<String>,
    /// `--image`.
    pub image: Option<String>,
    /// `--setup`.
    pub setup: Option<String>,
    /// `--env NAME=VALUE` or `--env NAME`, which is taken from the shell.
    pub envs: Vec<String>,
    /// `--checkpoints-dir`.
    pub checkpoints_dir: Option<String>,
    /// `--bucket`.
    pub bucket: Option<String>,
    /// `--budget`.
    pub budget: Option<String>,
    /// `--max-runtime`.
    pub max_runtime: Option<String>,
    /// `--fetch`, several.
    pub fetch: Vec<String>,
    /// Words of the command after `--`.
    pub command: Vec<String>,
}

impl RunSpec {
    /// Makes a run of flags, with the same checks as a file.
    pub fn from_flags(bare: &BareRun) -> Result<Self, SpecError> {
        let gpus = flag("--gpus", accelerators::parse(&bare.gpus))?;
        let name = match &bare.name {
            Some(name) => {
                flag("--name", values::run_name(name))?;
                name.clone()
            }
            None => made_up_name(&bare.workdir),
        };
        let mut envs = BTreeMap::new();
        for text in &bare.envs {
            let (name, value) = match text.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (text.as_str(), None),
            };
            flag("--env", file::variable(name, value))?;
            envs.insert(name.to_owned(), value.map(str::to_owned));
        }
        let (checkpoints, results) = (checkpoints(bare)?, results(bare, &name)?);
        let on_done = OnDone::of(checkpoints.as_ref(), results.as_ref());
        let spec = Self {
            workdir: Some(bare.workdir.clone()),
            resources: Resources {
                gpu_name: Some(gpus.gpu_name),
                num_gpus: gpus.num_gpus,
                disk_gb: or("--disk", bare.disk.as_deref(), values::size_gb)?
                    .unwrap_or(DEFAULT_DISK_GB),
                rental: if bare.interruptible {
                    Rental::Interruptible
                } else {
                    Rental::OnDemand
                },
                filters: or("--offers", bare.offers.as_deref(), |text| {
                    query::parse(text).map_err(|err| err.to_string())
                })?
                .unwrap_or_default(),
                max_price_usd_per_hour: or("--max-price", bare.max_price.as_deref(), values::usd)?,
                bid_headroom: or(
                    "--bid-headroom",
                    bare.bid_headroom.as_deref(),
                    values::percent,
                )?
                .unwrap_or(DEFAULT_HEADROOM),
                bid_max_usd_per_hour: or("--bid-max", bare.bid_max.as_deref(), values::usd)?,
                prepay_usd: None,
                hosts: Vec::new(),
            },
            needs: Vec::new(),
            model: None,
            image: or("--image", bare.image.as_deref(), file::image)?
                .unwrap_or_else(|| DEFAULT_IMAGE.to_owned()),
            image_gb: None,
            container: super::container::ContainerSpec::default(),
            onstart: None,
            envs,
            setup: bare.setup.clone(),
            smoke: None,
            run: command_text(&bare.command),
            resume: None,
            progress: None,
            checkpoints,
            validate: super::Validate::default(),
            recover: Recover {
                policy: RecoverPolicy::Elsewhere,
                attempts: DEFAULT_ATTEMPTS,
                wait: DEFAULT_WAIT,
                deadline: None,
            },
            limits: Limits {
                bring_up: DEFAULT_BRING_UP,
                budget_usd: or("--budget", bare.budget.as_deref(), values::usd)?,
                storage_days: DEFAULT_STORAGE_DAYS,
                max_runtime: or(
                    "--max-runtime",
                    bare.max_runtime.as_deref(),
                    values::duration,
                )?,
                no_progress: None,
            },
            results,
            name,
            on_done,
            notify: None,
        };
        check_rules(&spec).map_err(|(key, message)| SpecError::Flag {
            flag: flag_of(key).to_owned(),
            message: in_flags(&message),
        })?;
        Ok(spec)
    }
}

#[cfg(any(test, feature = "fakes"))]
impl RunSpec {
    /// A small interruptible run with a bucket, for tests.
    pub fn from_flags_for_tests() -> Self {
        let bare = BareRun {
            name: Some("test".to_owned()),
            workdir: PathBuf::from("/nowhere"),
            gpus: "RTX 4090:1".to_owned(),
            interruptible: true,
            bucket: Some("s3://bucket/runs".to_owned()),
            command: vec!["python train.py".to_owned()],
            ..BareRun::default()
        };
        let spec = Self::from_flags(&bare).expect("the flags above are valid");
        Self {
            workdir: None,
            ..spec
        }
    }
}

fn checkpoints(bare: &BareRun) -> Result<Option<Checkpoints>, SpecError> {
    if bare.bucket.is_none() && bare.checkpoints_dir.is_none() {
        return Ok(None);
    }
    let dir = or(
        "--checkpoints-dir",
        bare.checkpoints_dir.as_deref(),
        values::inner_path,
    )?;
    Ok(Some(Checkpoints {
        dir: dir.unwrap_or_else(|| DEFAULT_CHECKPOINT_DIR.to_owned()),
        to: or("--bucket", bare.bucket.as_deref(), file::bucket)?,
        every: DEFAULT_EVERY,
        keep_last: DEFAULT_KEEP_LAST,
        keep_every_steps: 0,
        keep_best: None,
        keep_grace: DEFAULT_KEEP_GRACE,
        settle: None,
        complete_when: None,
        tripwire: true,
        max_bytes_per_s: None,
        keys: KeyRules::default(),
        on_stale: OnStale::Alert,
        windows: Vec::new(),
        server: BucketServer::default(),
    }))
}

fn results(bare: &BareRun, name: &str) -> Result<Option<Results>, SpecError> {
    if bare.fetch.is_empty() {
        return Ok(None);
    }
    let fetch = bare
        .fetch
        .iter()
        .map(|path| flag("--fetch", values::inner_path(path)));
    Ok(Some(Results {
        fetch: fetch.collect::<Result<_, _>>()?,
        // Runs without a file are often many in one directory.
        to: bare.workdir.join("results").join(name),
    }))
}

/// One word is shell text already, as in `-- 'python a.py && python b.py'`; several are quoted as they were.
fn command_text(words: &[String]) -> String {
    match words {
        [text] => text.clone(),
        words => shell_words::join(words),
    }
}

/// The directory's name, made fit, and four random letters.
fn made_up_name(dir: &std::path::Path) -> String {
    let dir = dir
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let fit: String = dir
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') {
                c
            } else {
                '-'
            }
        })
        .take(40)
        .collect();
    let fit = fit.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    let base = if fit.is_empty() { "run" } else { fit };
    let nonce = ulid::Ulid::generate().to_string().to_lowercase();
    format!("{base}-{}", &nonce[nonce.len() - 4..])
}

fn flag<T>(flag: &str, result: Result<T, String>) -> Result<T, SpecError> {
    result.map_err(|message| SpecError::Flag {
        flag: flag.to_owned(),
        message,
    })
}

fn or<T>(
    name: &str,
    text: Option<&str>,
    read: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, SpecError> {
    text.map(|text| flag(name, read(text))).transpose()
}

fn flag_of(key: &str) -> &'static str {
    match key {
        "resources.rental" => "--interruptible",
        "resources.offers" => "--offers",
        "resources.bid.max" => "--bid-max",
        _ => "the command after `--`",
    }
}

/// A rule's words with flags in place of keys.
fn in_flags(message: &str) -> String {
    let mut text = message.to_owned();
    for (key, flag) in [
        ("`checkpoints.to`", "`--bucket`"),
        ("`max_price`", "`--max-price`"),
        ("`resources.accelerators`", "`--gpus`"),
        ("`resources.disk`", "`--disk`"),
        ("`resources.max_price`", "`--max-price`"),
    ] {
        text = text.replace(key, flag);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bare() -> BareRun {
        BareRun {
            workdir: "/home/ada/my code".into(),
            gpus: "RTX_4090:2".into(),
            command: ["python", "train.py", "--note", "a b"]
                .map(str::to_owned)
                .into(),
            ..BareRun::default()
        }
    }

    #[track_caller]
    fn check_error(bare: &BareRun, expected: &str) {
        assert_eq!(RunSpec::from_flags(bare).unwrap_err().to_string(), expected);
    }

    #[test]
    fn flags_make_a_run_with_every_default() {
        let spec = RunSpec::from_flags(&bare()).unwrap();
        assert_eq!(spec.resources.gpu_name.as_deref(), Some("RTX 4090"));
        assert_eq!(spec.resources.num_gpus, 2);
        assert_eq!(spec.run, "python train.py --note 'a b'");
        assert_eq!(spec.image, DEFAULT_IMAGE);
        assert!(spec.name.starts_with("my-code-"), "{}", spec.name);
        assert!(values::run_name(&spec.name).is_ok());
        assert_eq!(spec.checkpoints, None);
    }

    #[test]
    fn flags_say_the_same_as_keys() {
        let spec = RunSpec::from_flags(&BareRun {
            name: Some("a".into()),
            interruptible: true,
            disk: Some("1TB".into()),
            max_price: Some("$0.5".into()),
            offers: Some("reliability>0.9".into()),
            envs: vec!["EPOCHS=3".into(), "HF_TOKEN".into()],
            bucket: Some("s3://bucket/runs/".into()),
            bid_max: Some("0.4".into()),
            bid_headroom: Some("30%".into()),
            fetch: vec!["./out".into()],
            ..bare()
        })
        .unwrap();
        assert_eq!(spec.resources.disk_gb, 1000.0);
        assert_eq!(spec.resources.bid_max_usd_per_hour, Some(0.4));
        assert_eq!(spec.resources.bid_headroom, 0.3);
        assert_eq!(spec.envs["HF_TOKEN"], None);
        assert_eq!(spec.envs["EPOCHS"].as_deref(), Some("3"));
        let checkpoints = spec.checkpoints.unwrap();
        assert_eq!(checkpoints.to.as_deref(), Some("s3://bucket/runs"));
        assert_eq!(checkpoints.dir, "checkpoints");
        let results = spec.results.unwrap();
        assert_eq!(results.fetch, ["out"]);
        assert!(results.to.ends_with("results/a"), "{results:?}");
    }

    #[test]
    fn one_word_is_shell_text() {
        let one = BareRun {
            command: vec!["a && b".into()],
            ..bare()
        };
        assert_eq!(RunSpec::from_flags(&one).unwrap().run, "a && b");
    }

    #[test]
    fn errors_name_the_flag() {
        check_error(
            &BareRun {
                interruptible: true,
                ..bare()
            },
            "--interruptible: an interruptible box is taken back without warning: name a bucket with \
             `--bucket`, so that checkpoints outlive it, or rent on-demand",
        );
        check_error(
            &BareRun {
                disk: Some("big".into()),
                ..bare()
            },
            "--disk: a size looks like 500GB or 1TB",
        );
        check_error(
            &BareRun {
                envs: vec!["HF_TOKEN=hf_x".into()],
                ..bare()
            },
            "--env: `HF_TOKEN` looks like a secret: leave its value out, and it is taken from your shell and never \
             stored",
        );
        check_error(
            &BareRun {
                command: vec![],
                ..bare()
            },
            "the command after `--`: there is nothing to run",
        );
        check_error(
            &BareRun {
                offers: Some("gpu_name=A40".into()),
                ..bare()
            },
            "--offers: `gpu_name` is said by `--gpus`",
        );
        check_error(
            &BareRun {
                bid_max: Some("0.4".into()),
                ..bare()
            },
            "--bid-max: only an interruptible box has a bid",
        );
    }
}
