//! Observations from made-up records.

use serde_json::json;

use super::*;
use crate::{
    agent_client::{GpuInfo, HostInfo},
    ledger::CostKind,
    run::{State, summary::attempt_for_tests},
    store::Origin,
};

const SECOND: i64 = 1_000_000;

fn spec(more: &str) -> RunSpec {
    let text = format!(
        "name: a\nworkdir: .\nresources: {{accelerators: \"RTX 4090:2\"}}\nrun: python train.py\n{more}"
    );
    crate::spec::parse(&text, "run.yaml", Path::new("/")).unwrap()
}

const MODEL: &str = "model: {params: 124M, batch_tokens: 1000}\n";

fn attempt(state: State) -> AttemptRecord {
    AttemptRecord {
        state,
        gpu: "RTX 4090:2".to_owned(),
        machine_id: Some(41),
        started_us: 700 * SECOND,
        state_us: 4_300 * SECOND,
        ..attempt_for_tests(1)
    }
}

fn event(kind: &str, time_s: i64, detail: Value) -> EventRecord {
    EventRecord {
        id: time_s,
        attempt: 1,
        origin: Origin::Agent,
        seq: 1,
        time_us: time_s * SECOND,
        kind: kind.to_owned(),
        detail,
    }
}

fn known(events: Vec<EventRecord>) -> Known {
    Known {
        events,
        intervals: vec![Interval {
            attempt: 1,
            kind: CostKind::Disk,
            from_us: 100 * SECOND,
            to_us: None,
            usd_per_hour: 0.01,
        }],
        measured: Measured::default(),
    }
}

fn nothing(_: &str) -> Vec<u8> {
    Vec::new()
}

#[test]
fn windows_tell_the_steady_part_of_a_training() {
    let window = |time_s, tokens: f64, step_time_s: f64, used: f64, peak: f64| {
        let detail = json!({
            "tokens_per_s": 1.0, "actual_tokens_per_s": tokens, "step_time_s": step_time_s,
            "gpu_utilisation_percent": used, "memory_peak_gib": peak, "predicted_tokens_per_s": 9_000.0,
        });
        event("window", time_s, detail)
    };
    let mut record = known(vec![
        event(RUNNING, 700, json!({})),
        // Loading and compiling.
        window(1300, 2_000.0, 5.0, 30.0, 21.0),
        window(1900, 8_000.0, 0.5, 90.0, 20.0),
        window(2500, 8_200.0, 0.4, 94.0, 20.5),
        window(3100, 7_000.0, 0.6, 80.0, 20.5),
        EventRecord {
            attempt: 2,
            ..window(3200, 1.0, 1.0, 1.0, 99.0)
        },
    ]);
    record.measured.vram_gib = Some(20.75);
    record.measured.ram_gb = Some(30.0);
    record.measured.advertised_down_mbps = Some(800.0);
    let seen = observation(
        &spec(MODEL),
        &attempt(State::Collected),
        &record,
        &|_| panic!("the windows say enough"),
        5,
    )
    .unwrap();
    assert_eq!(seen.source, Source::Trained);
    assert_eq!((seen.gpu.as_str(), seen.num_gpus), ("RTX 4090", Some(2)));
    assert_eq!((seen.attempt, seen.machine_id), (Some(1), Some(41)));
    assert_eq!(seen.tokens_per_s, Some(8_000.0));
    assert_eq!(seen.steps_per_s, Some(2.0));
    assert_eq!(seen.predicted_tokens_per_s, Some(9_000.0));
    assert_eq!(seen.gpu_utilisation_percent, Some(88.0));
    assert_eq!(seen.peak_vram_gib, Some(21.0));
    let class = json!({"session": "train", "class": "cuda_oom"});
    record.events.push(event("session.diagnosed", 3300, class));
    let full = observation(
        &spec(MODEL),
        &attempt(State::Collected),
        &record,
        &nothing,
        5,
    );
    assert_eq!(
        full.unwrap().peak_vram_gib,
        None,
        "it would have taken more"
    );
    assert_eq!(
        (seen.peak_ram_gb, seen.advertised_down_mbps),
        (Some(30.0), Some(800.0))
    );
    assert_eq!(seen.setup_s, Some(600.0));
    assert_eq!((seen.trained_s, seen.debug_s), (Some(3_600.0), Some(0.0)));
    assert_eq!(seen.model.unwrap().params, 124e6);
    assert_eq!(seen.observed_us, 5);
}

#[test]
fn what_led_to_a_crash_is_debugging_unless_the_training_got_past_it() {
    const DAY_S: f64 = 86_400.0;
    let saved = "checkpoint.committed";
    for (kinds, trained_s, expected_s) in [
        (&[RUNNING][..], DAY_S, 0.0),
        (&[RUNNING, "crashed"], 300.0, 300.0),
        // An afternoon that was never saved is lost; that is no reason to expect another one of debugging.
        (&[RUNNING, "crashed"], DAY_S, 3600.0),
        (&[RUNNING, saved, "crashed"], DAY_S, 0.0),
        (&[RUNNING, "crashed", saved], DAY_S, 0.0),
        (&[RUNNING, "crashed", RUNNING], DAY_S, 0.0),
        (&[RUNNING, "crashed", RUNNING, "crashed"], 900.0, 900.0),
    ] {
        assert_eq!(debugging_s(kinds, trained_s), expected_s, "{kinds:?}");
    }
}

#[test]
fn a_short_training_is_read_from_its_log_and_a_crash_is_debugging() {
    let log = |session: &str| -> Vec<u8> {
        assert_eq!(session, TRAIN);
        let mut text = String::from("step 1/100 loss 4.0 step_time 9.0s\n");
        for step in 2..=20 {
            text += &format!("step {step}/100 loss 3.0 step_time 0.25s\n");
        }
        text.into_bytes()
    };
    let record = known(vec![
        event(RUNNING, 700, json!({})),
        event("crashed", 4_300, json!({})),
    ]);
    let seen = observation(&spec(MODEL), &attempt(State::Failed), &record, &log, 0).unwrap();
    assert_eq!(seen.steps_per_s, Some(4.0));
    // 1,000 tokens a step, as the run file says.
    assert_eq!(seen.tokens_per_s, Some(4_000.0));
    assert_eq!(
        (seen.trained_s, seen.debug_s),
        (Some(3_600.0), Some(3_600.0))
    );
    let without = observation(&spec(""), &attempt(State::Failed), &record, &log, 0).unwrap();
    assert_eq!((without.tokens_per_s, without.model), (None, None));
    assert_eq!(without.steps_per_s, Some(4.0));
}

#[test]
fn a_smoke_says_what_the_training_did_not() {
    let spec = spec("smoke: {run: python train.py --steps 20}\n");
    let log = |session: &str| -> Vec<u8> {
        match session {
            SMOKE => (1..=20)
                .map(|step| format!("step {step}/20 loss 3.0 step_time 0.25s\n"))
                .collect::<String>()
                .into_bytes(),
            _ => Vec::new(),
        }
    };
    let record = known(vec![event("smoke_begun", 300, json!({}))]);
    let failed = AttemptRecord {
        started_us: 0,
        state_us: 400 * SECOND,
        ..attempt(State::Failed)
    };
    let seen = observation(&spec, &failed, &record, &log, 0).unwrap();
    assert_eq!((seen.source, seen.steps_per_s), (Source::Smoked, Some(4.0)));
    assert_eq!(
        (seen.setup_s, seen.trained_s, seen.debug_s),
        (Some(300.0), None, None)
    );
    // Nothing of it ever ran.
    assert_eq!(
        observation(&spec, &failed, &known(Vec::new()), &nothing, 0),
        None
    );
}

#[test]
fn tokens_of_one_gpu_are_told_from_those_of_all() {
    for (line, gpus, expected) in [
        ("step 7 | loss: 2.5 | tok/sec: 1000", 8, 1_000.0),
        ("step 7 | loss: 2.5 | tok/sec: 1000", 1, 1_000.0),
        ("step: 7, loss: 2.5, Tokens/s/device: 1000.0", 8, 8_000.0),
        ("step: 7  loss: 2.5  tps: 1,000", 4, 4_000.0),
        (
            "Step 7 | loss:2.5 tokens_per_second_per_gpu:1000.0",
            2,
            2_000.0,
        ),
    ] {
        // The first is left out: caches fill.
        let log = format!("{line}\n{}\n", line.replace('7', "8"));
        let got = speeds(log.as_bytes(), &spec(""), Some(gpus));
        assert_eq!(got.tokens_per_s, Some(expected), "{line}");
    }
}

#[test]
fn code_is_told_by_its_directory_or_by_its_command() {
    let here = spec("");
    let renamed = RunSpec {
        name: "b".into(),
        run: "python train.py --lr 1".into(),
        ..here.clone()
    };
    assert_eq!(code(&here), code(&renamed));
    assert_eq!(code(&here).len(), 16);
    let bare = |run: &str| RunSpec {
        workdir: None,
        run: run.into(),
        ..here.clone()
    };
    assert_ne!(code(&here), code(&bare("x")));
    assert_ne!(code(&bare("x")), code(&bare("y")));
    assert_eq!(code(&bare("x")), code(&bare("x")));
}

#[test]
fn a_meter_keeps_the_most_and_counts_only_what_came_between_two_looks() {
    let sample = |time_s: u64, vram: u64, ram: u64, received: u64| SampleInfo {
        time_us: time_s * 1_000_000,
        gpus: vec![
            GpuInfo {
                memory_used_bytes: Some(vram << 30),
                ..GpuInfo::default()
            },
            GpuInfo::default(),
        ],
        host: Some(HostInfo {
            memory_used_bytes: Some(ram * 1_000_000_000),
            network_rx_bytes: Some(received * 1_000_000),
            network_tx_bytes: Some(0),
            ..HostInfo::default()
        }),
        span_s: 0,
        processes: Vec::new(),
    };
    let mut meter = Meter::default();
    meter.add(&sample(0, 10, 4, 1_000));
    let first = meter.news().unwrap();
    assert_eq!((first.vram_gib, first.ram_gb), (Some(10.0), Some(4.0)));
    assert_eq!(first.down_mbps, None, "one look is no speed");
    meter.add(&sample(2, 10, 4, 1_250));
    meter.add(&sample(2, 10, 4, 1_250));
    // Nobody looked for an hour.
    meter.add(&sample(3_602, 9, 3, 90_000));
    // The container was started again.
    meter.add(&sample(3_604, 9, 3, 5));
    meter.add(&sample(3_606, 9, 3, 10));
    let seen = meter.news().unwrap();
    assert_eq!(seen.down_mbps, Some(1_000.0));
    assert!((seen.received_gb.unwrap() - 0.255).abs() < 1e-9, "{seen:?}");
    assert_eq!((seen.vram_gib, seen.ram_gb), (Some(10.0), Some(4.0)));
    assert_eq!(meter.news(), None, "it was told");
    meter.add(&sample(3_608, 10, 4, 10));
    assert_eq!(meter.news(), None, "as before");
}
