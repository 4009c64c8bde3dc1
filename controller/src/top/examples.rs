//! Runs as the tests of the screen show them: made up, at a fixed time.

use serde_json::{Value, json};

use crate::{
    agent_client::{
        AgentEvent, AgentStatus, BackupInfo, GpuInfo, HostInfo, SampleInfo, TrainingInfo,
    },
    estimate::playbook::Scenarios,
    lookout::{
        copies::copies,
        facts::{Facts, Log, News, Reach, Recorded},
    },
    run::to_come::ToCome,
    store::{EventRecord, Origin},
};

/// 2027-01-15 08:00:00Z.
pub const NOW_US: i64 = 1_800_000_000_000_000;
const SECOND_US: i64 = 1_000_000;

fn at(ago_s: i64) -> i64 {
    NOW_US - ago_s * SECOND_US
}

fn at_box(ago_s: i64) -> u64 {
    u64::try_from(at(ago_s)).unwrap()
}

fn event(id: i64, ago_s: i64, kind: &str, detail: Value) -> EventRecord {
    EventRecord {
        id,
        attempt: 2,
        origin: Origin::Agent,
        seq: u64::try_from(id).unwrap(),
        time_us: at(ago_s),
        kind: kind.to_owned(),
        detail,
    }
}

fn window(ago_s: i64, contradictions: Value) -> Value {
    json!({
        "from_us": at(ago_s + 600), "to_us": at(ago_s), "started_us": at(7200),
        "gpu_utilisation_percent": 41.2, "memory_percent": 80.0, "memory_peak_gib": 20.04, "memory_total_gib": 24.0,
        "actual_tokens_per_s": 1180.0, "of_predicted": 0.55, "eta_s": 7200.0, "eta_shift_s": 600.0,
        "bottleneck": {"class": "input", "evidence": "GPUs wait while one CPU core is busy"},
        "contradictions": contradictions,
    })
}

/// What the store says of a run that trains.
pub fn recorded() -> Recorded {
    Recorded {
        name: "llama-7b".to_owned(),
        created_us: at(9000),
        state: "running".to_owned(),
        trains: true,
        box_runs: true,
        attempt: 2,
        last_event: 4,
        started_us: at(7200),
        gpus: "2 x RTX 4090".to_owned(),
        watched: true,
        step: Some(1230),
        saved: Some((Some(1200), at(200))),
        committed: 12,
        kept: 3,
        save_every_s: Some(600),
        usd_per_hour: 0.696,
        cost_usd: 1.53,
        budget_usd: Some(20.0),
        to_come: Some(ToCome {
            hours: Scenarios {
                optimistic: 1.8,
                base: 2.0,
                pessimistic: 2.2,
            },
            usd: Scenarios {
                optimistic: 1.25,
                base: 1.39,
                pessimistic: 1.53,
            },
            measured: true,
        }),
        window: Some(window(300, json!([]))),
        alerts: Vec::new(),
        attempts: vec![
            "attempt 1 interrupted, RTX 4090:2, steps 0 to 437, 4 checkpoints, $0.41 ($0.41 billed): it was taken back".to_owned(),
            "attempt 2 running, RTX 4090:2, steps 400 to 1230, 37 redone, 8 checkpoints, $1.12".to_owned(),
        ],
        newest_us: at(200),
        ..Recorded::default()
    }
}

fn log() -> Log {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = copies(dir.path(), "llama-7b", 2, None);
    log.begin(2, "train");
    for step in 1..=1230_u32 {
        let loss = 2.0 + 8.0 * (-f64::from(step) / 300.0).exp();
        let speed = 18_000 + (step % 7) * 100 - if step % 200 < 10 { 6000 } else { 0 };
        let line = format!(
            "step {step}/9680 | loss {loss:.4} | lr 3.00e-04 | 450.0 ms/step | {speed} tok/s\n"
        );
        log.feed(line.as_bytes());
    }
    log.newest_us = NOW_US;
    log
}

/// A GPU that is used like this.
pub fn gpu(index: u32, utilisation: u32) -> GpuInfo {
    GpuInfo {
        index,
        name: "NVIDIA GeForce RTX 4090".to_owned(),
        utilisation_percent: Some(utilisation),
        memory_used_bytes: Some(18 << 30),
        memory_total_bytes: Some(24 << 30),
        power_mw: Some(312_400),
        temperature_c: Some(71),
        ..GpuInfo::default()
    }
}

/// What the agent says.
pub fn status() -> AgentStatus {
    AgentStatus {
        version: "0.1.0".to_owned(),
        build: String::new(),
        now_us: at_box(0),
        started_us: at_box(7300),
        boot: String::new(),
        run: Some("llama-7b".to_owned()),
        attempt: 2,
        last_event: 5,
        oldest_unacknowledged_event: 0,
        sessions: Vec::new(),
        sample: None,
        training: Some(TrainingInfo {
            time_us: at_box(1),
            step: Some(1234),
            total_steps: Some(9680),
            epoch: None,
            loss: Some(2.13),
            eval_loss: Some(2.2),
            learning_rate: None,
            tokens_per_s: Some(18_300.0),
            samples_per_s: None,
            step_time_s: Some(0.9),
            grad_norm: None,
        }),
        backup: Some(BackupInfo {
            committed: 3,
            pending: 1,
            last_step: Some(1200),
            last_commit_us: Some(at_box(200)),
            ..BackupInfo::default()
        }),
        gpu_problem: None,
        gpu_driver: None,
    }
}

/// A reading of these GPUs.
pub fn sample(ago_s: i64, gpus: Vec<GpuInfo>) -> SampleInfo {
    SampleInfo {
        time_us: at_box(ago_s),
        gpus,
        host: Some(HostInfo {
            cpu_percent: Some(340.0),
            cpu_limit_cores: Some(8.0),
            memory_used_bytes: Some(12 << 30),
            memory_limit_bytes: Some(64 << 30),
            disk_free_bytes: Some(31 << 30),
            network_rx_bytes_per_s: Some(20_000),
            network_tx_bytes_per_s: Some(41 << 20),
            ..HostInfo::default()
        }),
        span_s: 0,
        processes: Vec::new(),
    }
}

/// A run that trains on so many GPUs, seen live.
pub fn live(gpus: u32) -> Facts {
    let mut facts = Facts {
        recorded: recorded(),
        events: vec![
            event(1, 7200, "session.started", json!({"session": "train"})),
            event(2, 900, "window", window(900, json!([]))),
            event(
                3,
                300,
                "window",
                window(
                    300,
                    json!([{"trigger": "throughput", "evidence": "1180 tokens/s are 55 % of the predicted 2145", "grave": true}]),
                ),
            ),
            event(
                4,
                200,
                "checkpoint.committed",
                json!({"step": 1200, "bytes": 1_500_000_000_u64, "seconds": 14.2, "files": ["a"]}),
            ),
        ],
        log: log(),
        ..Facts::default()
    };
    facts.learn(News::Reach(Reach::Live), NOW_US);
    facts.learn(News::Status(Box::new(status())), NOW_US);
    for ago_s in (0..300).rev() {
        let used = |index: u32| {
            let wave = (ago_s / 20 + i64::from(index)) % 5;
            gpu(index, u32::try_from(100 - wave * 12).unwrap())
        };
        let sample = sample(ago_s, (0..gpus).map(used).collect());
        facts.learn(News::Sample(Box::new(sample)), NOW_US);
    }
    facts.learn(
        News::Event(AgentEvent {
            seq: 5,
            time_us: at_box(3),
            kind: "checkpoint.seen".to_owned(),
            run: "llama-7b".to_owned(),
            attempt: 2,
            detail: json!({"path": "step-1230.pt", "step": 1230}),
        }),
        NOW_US,
    );
    facts
}

/// A run that is over, its box gone.
pub fn over() -> Facts {
    let mut facts = live(1);
    facts.forget_box();
    facts.recorded = Recorded {
        name: "small".to_owned(),
        state: "crashed".to_owned(),
        is_over: true,
        trains: false,
        box_runs: false,
        watched: false,
        saved: Some((Some(1200), at(3 * 86_400))),
        usd_per_hour: 0.0,
        to_come: None,
        alerts: vec!["cuda_oom: the GPU's memory was used up; halve micro_batch, or turn on gradient checkpointing".to_owned()],
        newest_us: at(3 * 86_400),
        ..facts.recorded
    };
    facts.log.newest_us = at(3 * 86_400);
    facts
}
