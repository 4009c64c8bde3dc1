//! How long a writer waits when the agent holds a read lease on its file: what `scripts/bench.sh slowdown` measures. As in the agent,
//! threads of the lowest priority take and give back the leases.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context, anyhow};
use spotter_agent::checkpoints::{humble, lease};

const TRIALS: usize = 3_000;

fn main() -> anyhow::Result<()> {
    let path = std::env::temp_dir().join(format!("spotter-lease-{}", std::process::id()));
    let measured = measure(&path);
    fs::remove_file(&path).context("the file cannot be removed")?;
    let mut waits_us = measured?;
    waits_us.sort_unstable();
    let at = |share: f64| waits_us[((waits_us.len() - 1) as f64 * share) as usize];
    writeln!(
        io::stdout(),
        "a writer waits for the lease, us, of {TRIALS}: median {} p99 {} p99.9 {} max {}",
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0)
    )?;
    Ok(())
}

fn measure(path: &std::path::Path) -> anyhow::Result<Vec<u128>> {
    fs::write(path, b"weights")?;
    let runtime = humble::runtime().context("no threads can be had")?;
    let mut waits_us = Vec::with_capacity(TRIALS);
    for _ in 0..TRIALS {
        let file = Arc::new(File::open(path)?);
        let taken = runtime.block_on(runtime.spawn_blocking(move || lease::take(&file)))?;
        let lease = taken.map_err(|err| anyhow!("no lease: {err:?}"))?;
        let began = Instant::now();
        OpenOptions::new().write(true).open(path)?;
        waits_us.push(began.elapsed().as_micros());
        runtime.block_on(runtime.spawn_blocking(move || drop(lease)))?;
    }
    Ok(waits_us)
}
