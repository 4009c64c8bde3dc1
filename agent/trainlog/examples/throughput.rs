//! How fast logs are read, in time of one core: `cargo run --release -p spotter-trainlog --example throughput [FILE...]`.
//!
//! Without files: lines that say nothing about a training, lines that all do, bars, one endless line, and a mix; it ends with 1 when
//! one is read slower than promised.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "an example may hope, and prints"
)]

use std::{env, fs, process::ExitCode, time::Duration};

use nix::sys::{
    resource::{UsageWho, getrusage},
    time::{TimeVal, TimeValLike as _},
};
use spotter_trainlog::Reader;

const MIB: usize = 1 << 20;
/// Promised, MB/s of one core.
const WITHOUT_A_MATCH: f64 = 300.0;
const OVERALL: f64 = 100.0;
/// Less than this is not told well by clocks that tick a hundred times a second.
const MEASURED: Duration = Duration::from_millis(300);
/// A log is read at most so often: a clock that has not moved by then never will.
const MOST_TIMES: u32 = 1000;

/// At least 64 MiB of `line`, called with the number of each.
fn log(line: impl Fn(usize) -> String) -> Vec<u8> {
    let mut log = Vec::with_capacity(65 * MIB);
    let mut number = 0;
    while log.len() < 64 * MIB {
        log.extend_from_slice(line(number).as_bytes());
        number += 1;
    }
    log
}

/// CPU time of this thread so far.
fn worked() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).unwrap();
    let micros = |time: TimeVal| time.num_microseconds().unsigned_abs();
    Duration::from_micros(micros(usage.user_time()) + micros(usage.system_time()))
}

/// Reads a log once, as the agent does: in pieces of 64 KiB. Returns how many records and bars were seen.
fn read(log: &[u8]) -> u64 {
    let mut reader = Reader::default();
    let mut seen = 0;
    for piece in log.chunks(64 << 10) {
        reader.feed(piece, &mut |_| seen += 1);
    }
    reader.end(&mut |_| seen += 1);
    seen
}

/// Reads a log until the clock has told enough; seconds for one time.
fn once_s(log: &[u8]) -> f64 {
    let before = worked();
    for times in 1..=MOST_TIMES {
        read(log);
        let took = worked() - before;
        if took >= MEASURED {
            return took.as_secs_f64() / f64::from(times);
        }
    }
    panic!("the clock of this thread hardly moves: nothing can be measured here");
}

fn measure(name: &str, log: &[u8]) -> f64 {
    // The best of three, since others share the machine.
    let best_s = (0..3).map(|_| once_s(log)).fold(f64::INFINITY, f64::min);
    let rate = log.len() as f64 / 1e6 / best_s;
    println!(
        "{name:<28} {rate:>8.0} MB/s  {:>9} records and bars",
        read(log)
    );
    rate
}

fn main() -> ExitCode {
    let files: Vec<String> = env::args().skip(1).collect();
    for file in &files {
        let text = fs::read(file).unwrap();
        let times = (64 * MIB).div_ceil(text.len().max(1));
        measure(file, &text.repeat(times));
    }
    if !files.is_empty() {
        return ExitCode::SUCCESS;
    }
    let nothing = log(|n| {
        format!(
            "2025-01-01 10:00:00,{:03} INFO worker {n}: downloaded shard-{n:05} from the mirror into the cache\n",
            n % 1000
        )
    });
    let prose = log(|n| {
        format!("the quick brown fox jumps over the lazy dog and runs back to its den number {n}\n")
    });
    let records = log(|n| {
        format!(
            "step {n}/9000000 | loss: 2.7{:05} | lr: 3.0e-04 | dt: 501.{:02}ms | tok/sec: 1,048,331 | mfu: 50.1\n",
            n % 100_000,
            n % 100
        )
    });
    let dictionaries = log(|n| {
        format!(
            "{{'loss': 2.{:04}, 'grad_norm': 0.8123, 'learning_rate': 1.5e-05, 'epoch': {}.{:02}}}\n",
            n % 10_000,
            n / 100,
            n % 100
        )
    });
    let bars = log(|n| {
        format!("\r 34%|###4      | {n}/90000000 [31:57<1:32:27,  5.94it/s, loss=0.13217]")
    });
    let errors = log(|n| {
        format!(
            "Epoch: [0]  [{n}/90000000]  eta: 0:42:01  class_error: 90.00  loss: 5.9923 (7.1036)  time: 0.8021\n"
        )
    });
    let mix = log(|n| match n % 20 {
        0 => format!("step {n}: loss 2.5, lr 1e-3, 12,000 tok/s\n"),
        1 => format!("\r  5%|#         | {n}/90000000 [00:10<03:10,  1.90it/s]"),
        2 => "UserWarning: this argument is deprecated; use the other one\n".to_owned(),
        _ => format!("2025-01-01 10:00:00 INFO cache: read block {n} of the data set in 12 ms\n"),
    });
    let endless = vec![b'x'; 64 * MIB];
    let mut missed = false;
    // Logs are mostly lines without a match, and a mix is what trainings print; nobody prints records alone.
    for (name, log, least) in [
        ("lines without a match", &nothing, WITHOUT_A_MATCH),
        ("prose", &prose, WITHOUT_A_MATCH),
        ("an endless line", &endless, WITHOUT_A_MATCH),
        ("a mix", &mix, OVERALL),
        ("step lines only", &records, 0.0),
        ("dictionaries only", &dictionaries, 0.0),
        ("bars only", &bars, 0.0),
        ("wide step lines only", &errors, 0.0),
    ] {
        let rate = measure(name, log);
        if rate < least {
            println!("MISSED: {name} at {rate:.0} MB/s, {least:.0} are promised");
            missed = true;
        }
    }
    ExitCode::from(u8::from(missed))
}
