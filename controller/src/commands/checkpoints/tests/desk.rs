//! A laptop without a box, whose only way anywhere is a bucket in memory.

use std::{fs, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use serde_json::Value;
use spotter_bucket::{Bucket, Ending, Manifest, Target, memory::MemoryBucket};

use crate::{
    agent_client::AgentEvent,
    cli::{Cli, GlobalFlags},
    clock::Clock,
    commands::{Deps, execute},
    config::{Config, Environment},
    error::CommandError,
    run::site::{LeftLog, Place, Progress, Site, SiteError, Sites},
    spec::{BucketServer, RunSpec},
    ui::{Ui, UiOptions, paper::Paper},
};

pub(super) const NOW_US: i64 = 1_900_000_000_000_000;
pub(super) const TO: &str = "s3://bucket/team";

/// A laptop whose only way anywhere is one bucket.
struct Only(Arc<MemoryBucket>);

#[async_trait]
impl Sites for Only {
    async fn public_key(&self) -> Result<String, SiteError> {
        Err(SiteError::Local("no box here".into()))
    }

    fn onstart(&self, _: &RunSpec, _: &str) -> Result<String, SiteError> {
        Err(SiteError::Local("no box here".into()))
    }

    async fn prove_bucket(&self, _: &RunSpec) -> Result<usize, SiteError> {
        Ok(0)
    }

    async fn left_log(&self, _: &RunSpec, _: u32, _: &str) -> Result<LeftLog, SiteError> {
        Ok(LeftLog::default())
    }

    async fn left_events(&self, _: &RunSpec, _: u32) -> Result<Vec<AgentEvent>, SiteError> {
        Ok(Vec::new())
    }

    async fn left_ending(&self, _: &RunSpec, _: u32) -> Result<Option<Ending>, SiteError> {
        Ok(None)
    }

    async fn open(
        &self,
        _: &Place,
        _: &RunSpec,
        _: Progress<'_>,
    ) -> Result<Arc<dyn Site>, SiteError> {
        Err(SiteError::Local("no box here".into()))
    }

    async fn look(&self, _: &Place, _: &RunSpec) -> Result<Arc<dyn Site>, SiteError> {
        Err(SiteError::Local("no box here".into()))
    }

    async fn bucket(
        &self,
        to: &str,
        _: &BucketServer,
    ) -> Result<(Arc<dyn Bucket>, Target), SiteError> {
        let target = Target::parse(to, None, None).unwrap();
        Ok((self.0.clone(), target))
    }

    fn forget(&self, _: &Place) {}
}

pub(super) struct Desk {
    pub(super) dir: tempfile::TempDir,
    pub(super) bucket: Arc<MemoryBucket>,
    pub(super) now_us: i64,
}

impl Desk {
    pub(super) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            bucket: Arc::new(MemoryBucket::new()),
            now_us: NOW_US,
        }
    }

    /// `spotter checkpoints ... --bucket`; answers exit code, stdout, stderr.
    pub(super) fn say(&self, words: &[&str]) -> (u8, String, String) {
        let mut line = vec!["spotter", "checkpoints"];
        line.extend(words);
        line.extend(["--bucket", TO]);
        let cli = <Cli as clap::Parser>::try_parse_from(line).unwrap();
        let (out, err) = (Paper::default(), Paper::default());
        let options = UiOptions {
            json: cli.global.json,
            ..UiOptions::default()
        };
        let mut ui = Ui::to(Box::new(out.clone()), Box::new(err.clone()), options);
        let home = self.dir.path().to_str().unwrap();
        let config = Config::new(
            GlobalFlags::default(),
            Environment::of(&[("SPOTTER_HOME", home)]),
        );
        let (bucket, now_us) = (self.bucket.clone(), self.now_us);
        let deps = Deps::new(
            config.unwrap(),
            Clock::new(move || now_us),
            Box::new(|_| Err(CommandError::bug("no market is asked here"))),
            Box::new(move |_| Ok(Arc::new(Only(bucket.clone())))),
        );
        let code = execute(&cli.verb, &mut ui, &deps);
        (code, out.text(), err.text())
    }

    pub(super) fn json(&self, words: &[&str]) -> Value {
        let (code, out, err) = self.say(&[words, &["--json"]].concat());
        assert_eq!(code, 0, "{words:?}: {err}");
        serde_json::from_str(&out).unwrap()
    }

    /// A directory of one small file, one of 9 MiB and one that is the same in all.
    pub(super) fn checkpoint(&mut self, step: u64) -> PathBuf {
        let dir = self.dir.path().join(format!("checkpoint-{step}"));
        fs::create_dir_all(dir.join("deep")).unwrap();
        fs::write(dir.join("deep/state.json"), format!("{{\"step\": {step}}}")).unwrap();
        fs::write(dir.join("model.dat"), noise(step, 9 << 20)).unwrap();
        fs::write(dir.join("tokenizer.dat"), noise(0, 1000)).unwrap();
        dir
    }

    /// Pushes that checkpoint, a minute later than the one before; its id.
    pub(super) fn push(&mut self, step: u64) -> String {
        self.now_us += 60_000_000;
        let dir = self.checkpoint(step);
        let pushed = self.json(&["push", "run", dir.to_str().unwrap()]);
        fs::remove_dir_all(dir).unwrap();
        pushed["id"].as_str().unwrap().to_owned()
    }

    pub(super) fn manifest(&self, id: &str) -> Manifest {
        let key = format!("team/run/commits/{id}.json");
        Manifest::open(&self.bucket.object(&key).unwrap()).unwrap()
    }

    pub(super) fn key(&self, id: &str, path: &str) -> String {
        let manifest = self.manifest(id);
        let file = manifest.files.iter().find(|file| file.path == path);
        file.unwrap().key.clone()
    }

    pub(super) fn to(&self) -> String {
        self.dir.path().join("out").display().to_string()
    }
}

pub(super) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}
