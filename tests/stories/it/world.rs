//! `World`: the controller's real lifecycle and store over a market in memory and scripted boxes, under one paused clock.
//!
//! A scripted box trains one step a second, commits a checkpoint every ten steps, and ends as its script says.

mod boxes;
mod over_http;
mod seeded;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use spotter::{
    agent_client::TrainingInfo,
    cli::{Cli, GlobalFlags, Verb},
    clock::Clock,
    commands::Deps,
    config::{Config, Environment},
    ledger,
    logbook::Logbook,
    provider::memory::MemoryMarket,
    run::{
        State,
        lease::Lease,
        lifecycle::{Goal, Lifecycle, Report},
        waiting::Looks,
    },
    spec::{
        Checkpoints, KeyRules, Limits, OnDone, OnStale, Recover, RecoverPolicy, Resources, Results,
        RunSpec,
    },
    store::{AttemptRecord, RunRecord, Store},
    ui::{Ui, UiOptions},
};
use tokio::time::Instant;

pub use self::{
    boxes::{Fleet, ScriptedBoxes, commit_id},
    over_http::HttpMarket,
    seeded::SeededMarket,
};

/// Steps between two checkpoints of a scripted box.
pub const CHECKPOINT_EVERY: u64 = 10;
/// 2026-01-01, where every story begins.
const EPOCH_US: i64 = 1_767_225_600_000_000;

/// Everything outside the controller.
pub struct World<Market = MemoryMarket> {
    /// The market.
    pub market: Market,
    /// The boxes.
    pub boxes: ScriptedBoxes,
    /// The record.
    pub store: Arc<Store>,
    /// What people were told.
    pub told: Arc<Told>,
    clock: Clock,
    /// How far the date ran ahead of the timers, microseconds.
    jumped_us: Arc<AtomicI64>,
    home: tempfile::TempDir,
}

/// Remembers what was said.
#[derive(Debug, Default)]
pub struct Told(pub Mutex<Vec<String>>);

impl Report for Told {
    fn status(&self, run: &str, text: &str) {
        self.0.lock().unwrap().push(format!("{run}: {text}"));
    }

    fn transfer(&self, _run: &str, _what: &str, _done_bytes: u64, _total_bytes: u64) {}

    fn training(&self, _run: &str, _training: &TrainingInfo) {}
}

/// What a verb has written, data and words.
#[derive(Debug, Clone, Default)]
pub struct Paper(Arc<Mutex<Vec<u8>>>);

impl Paper {
    /// All of it.
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl std::io::Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl World {
    /// A market of `machines`, boxes that train `total_steps`.
    pub fn new(machines: u64, total_steps: u64) -> World {
        World::over(MemoryMarket::new(machines), total_steps)
    }

    /// The market takes a box back, and its training ends with it.
    pub fn outbid(&self, instance: Option<u64>) {
        let instance = instance.expect("a box that trains has a number");
        self.market.outbid(instance);
        self.boxes.end_container(instance);
    }

    /// The same by a bid: whoever bids more gets the box.
    pub fn outbid_by(&self, instance: Option<u64>, usd_per_hour: f64) {
        self.outbid(instance);
        let instance = instance.expect("a box that trains has a number");
        self.market.set_rival(instance, usd_per_hour);
    }
}

impl<Market: Fleet + Clone + 'static> World<Market> {
    /// A world over a market.
    pub fn over(market: Market, total_steps: u64) -> Self {
        // In memory where that is possible: a record is written thousands of times in a story of weeks.
        let home = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let home = home.unwrap();
        let start = Instant::now();
        let jumped_us = Arc::new(AtomicI64::new(0));
        let jumped = Arc::clone(&jumped_us);
        let clock = Clock::new(move || {
            EPOCH_US + start.elapsed().as_micros() as i64 + jumped.load(Ordering::Relaxed)
        });
        let store = Arc::new(Store::open(&home.path().join("spotter.db"), clock.clone()).unwrap());
        let boxes = ScriptedBoxes::new(market.clone(), total_steps);
        Self {
            market,
            boxes,
            store,
            told: Arc::default(),
            clock,
            jumped_us,
            home,
        }
    }

    /// A lifecycle as one `spotter` process would have it.
    pub fn lifecycle(&self) -> Lifecycle {
        Lifecycle {
            store: Arc::clone(&self.store),
            provider: Arc::new(self.market.clone()),
            sites: Arc::new(self.boxes.clone()),
            clock: self.clock.clone(),
            logbook: Logbook::new(self.home.path()),
            report: Arc::clone(&self.told) as Arc<dyn Report>,
            shell: Arc::new(|_| None),
            looks: Looks::default(),
        }
    }

    /// A lifecycle as another `spotter` process has it, with its own view of who holds which lease.
    pub fn another_process(&self) -> Lifecycle {
        let store = Store::open(&self.home.path().join("spotter.db"), self.clock.clone()).unwrap();
        Lifecycle {
            store: Arc::new(store),
            ..self.lifecycle()
        }
    }

    /// What a verb is given that somebody types in this world, and the paper on which it writes its data.
    pub fn typed(&self, words: &[&str]) -> (Ui, Deps, Verb, Paper) {
        let home = self.home.path().to_str().unwrap();
        let config = Config::new(
            GlobalFlags::default(),
            Environment::of(&[("SPOTTER_HOME", home)]),
        );
        let (market, boxes) = (self.market.clone(), self.boxes.clone());
        let deps = Deps::new(
            config.unwrap(),
            self.clock(),
            Box::new(move |_| Ok(Arc::new(market.clone()))),
            Box::new(move |_| Ok(Arc::new(boxes.clone()))),
        );
        let cli = <Cli as clap::Parser>::try_parse_from(words).unwrap();
        let paper = Paper::default();
        let options = UiOptions {
            json: cli.global.json,
            ..UiOptions::default()
        };
        let ui = Ui::to(Box::new(paper.clone()), Box::new(paper.clone()), options);
        (ui, deps, cli.verb, paper)
    }

    /// Writes a run down.
    pub fn plan(&self, spec: &RunSpec) {
        self.store
            .create_run(&RunRecord {
                name: spec.name.clone(),
                spec: spec.clone(),
                created_us: self.clock.now_us(),
                stop_requested: false,
                outcome: None,
                reason: None,
            })
            .unwrap();
    }

    /// Carries a run to its end, holding its lease.
    pub async fn drive(&self, name: &str) -> RunRecord {
        let _lease = Lease::take(&self.store, name)
            .unwrap()
            .expect("nobody else watches");
        self.lifecycle().drive(name, Goal::End).await.unwrap()
    }

    /// Carries a run on for some time, as a controller that is killed then.
    pub async fn drive_for(&self, name: &str, time: Duration) {
        let _lease = Lease::take(&self.store, name)
            .unwrap()
            .expect("nobody else watches");
        let lifecycle = self.lifecycle();
        let _ = tokio::time::timeout(time, lifecycle.drive(name, Goal::End)).await;
    }

    /// Whether people were told something that holds these words.
    pub fn was_told(&self, words: &str) -> bool {
        self.told
            .0
            .lock()
            .unwrap()
            .iter()
            .any(|line| line.contains(words))
    }

    /// What a session printed, as it was copied to the laptop.
    pub fn copied(&self, name: &str, attempt: u32, session: &str) -> String {
        let path = Logbook::new(self.home.path()).path(name, attempt, session);
        std::fs::read_to_string(path).unwrap_or_default()
    }

    /// Kinds of the events on record, in the order of their arrival.
    pub fn kinds(&self, name: &str) -> Vec<String> {
        let events = self.store.events(name, 0).unwrap();
        events.into_iter().map(|event| event.kind).collect()
    }

    /// The date.
    pub fn clock(&self) -> Clock {
        self.clock.clone()
    }

    /// The laptop sleeps for so long: its timers stand still, and the date does not.
    pub fn sleep_through(&self, time: Duration) {
        let time_us = time.as_micros() as i64;
        self.jumped_us.fetch_add(time_us, Ordering::Relaxed);
    }

    /// The date is set back.
    pub fn set_back(&self, time: Duration) {
        let time_us = time.as_micros() as i64;
        self.jumped_us.fetch_sub(time_us, Ordering::Relaxed);
    }

    /// A folder that goes with the world.
    pub fn folder(&self) -> &std::path::Path {
        self.home.path()
    }

    /// Waits until the newest attempt is in a state.
    pub async fn until(&self, name: &str, number: u32, state: State) -> AttemptRecord {
        for _ in 0..100_000 {
            if let Some(attempt) = self.store.latest_attempt(name).unwrap()
                && attempt.number == number
                && attempt.state == state
            {
                return attempt;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        panic!("attempt {number} of {name} never was {state}");
    }

    /// Attempts of a run.
    pub fn attempts(&self, name: &str) -> Vec<AttemptRecord> {
        self.store.attempts(name).unwrap()
    }

    /// Dollars of a run by our own intervals, without anything that the market told, and by the market's own account.
    pub async fn money(&self, name: &str) -> (f64, f64) {
        let intervals = self.store.intervals(name).unwrap();
        let ours = ledger::run_cost(&intervals, &[], self.clock.now_us()).total_usd();
        let instances: Vec<u64> = self
            .attempts(name)
            .iter()
            .filter_map(|attempt| attempt.instance)
            .collect();
        let charges = self.market.charges(0.0, &instances).await.unwrap();
        (
            ours,
            charges
                .iter()
                .map(spotter::provider::Charge::total_usd)
                .sum(),
        )
    }
}

/// An interruptible run with a bucket.
pub fn spec(name: &str) -> RunSpec {
    RunSpec {
        name: name.to_owned(),
        workdir: None,
        resources: Resources {
            gpu_name: Some("RTX 4090".to_owned()),
            num_gpus: 1,
            disk_gb: 40.0,
            rental: spotter::provider::Rental::Interruptible,
            filters: Vec::new(),
            max_price_usd_per_hour: None,
            bid_headroom: 0.15,
            bid_max_usd_per_hour: None,
            prepay_usd: None,
            hosts: Vec::new(),
        },
        needs: Vec::new(),
        model: None,
        image: "image".to_owned(),
        image_gb: None,
        container: Default::default(),
        onstart: None,
        envs: std::collections::BTreeMap::new(),
        setup: None,
        smoke: None,
        run: "train".to_owned(),
        resume: None,
        progress: None,
        checkpoints: Some(Checkpoints {
            dir: "checkpoints".to_owned(),
            to: Some("s3://bucket/runs".to_owned()),
            every: Duration::from_secs(600),
            keep_last: 2,
            keep_every_steps: 0,
            keep_best: None,
            keep_grace: Duration::from_secs(3600),
            settle: None,
            complete_when: None,
            tripwire: true,
            max_bytes_per_s: None,
            keys: KeyRules::default(),
            on_stale: OnStale::Alert,
            windows: Vec::new(),
            server: spotter::spec::BucketServer::default(),
        }),
        validate: spotter::spec::Validate::default(),
        recover: Recover {
            policy: RecoverPolicy::Elsewhere,
            attempts: 5,
            wait: Duration::from_secs(86_400),
            deadline: None,
        },
        limits: Limits {
            bring_up: Duration::from_secs(45 * 60),
            budget_usd: None,
            storage_days: 7.0,
            max_runtime: None,
            no_progress: None,
        },
        results: None::<Results>,
        on_done: OnDone::Destroy,
        notify: None,
    }
}
