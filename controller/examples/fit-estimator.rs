//! Fits the factors of the method `calibrated` to `data/published-runs.tsv` and prints them as `data/factors.json`.
//!
//! ```sh
//! cargo run -p spotter --example fit-estimator > controller/data/factors.json
//! ```
//!
//! The result depends on nothing but the two tables and the code; a test fails when they no longer agree with the file.

use std::io::{self, Write};

use spotter::estimate::{
    calibrated::{Calibration, MEMORY, Range, SPEED, Shipped},
    published::Published,
    study::Study,
};

fn main() -> anyhow::Result<()> {
    let runs = Published::shipped();
    let study = Study::of(runs);
    let shipped = Shipped {
        format: 1,
        made_by: "cargo run -p spotter --example fit-estimator".to_owned(),
        rows: runs
            .iter()
            .filter(|run| run.observed.speed().is_some())
            .count(),
        sources: study.sources(),
        speed_names: SPEED.iter().map(|prior| prior.name.to_owned()).collect(),
        memory_names: MEMORY.iter().map(|prior| prior.name.to_owned()).collect(),
        calibration: rounded(study.whole()),
    };
    let mut text = serde_json::to_string_pretty(&shipped)?;
    text.push('\n');
    io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

/// Seven digits: more would differ from machine to machine by the order of additions.
fn rounded(calibration: &Calibration) -> Calibration {
    let round = |value: f64| (value * 1e7).round() / 1e7;
    let range = |range: Range| Range {
        low: round(range.low),
        high: round(range.high),
    };
    Calibration {
        speed: calibration.speed.iter().copied().map(round).collect(),
        speed_range: range(calibration.speed_range),
        speed_range_adapters: range(calibration.speed_range_adapters),
        memory: calibration.memory.iter().copied().map(round).collect(),
        memory_range: range(calibration.memory_range),
        memory_range_quantized: range(calibration.memory_range_quantized),
        memory_limit: round(calibration.memory_limit),
        memory_limit_quantized: round(calibration.memory_limit_quantized),
        transfer_range: range(calibration.transfer_range),
    }
}
