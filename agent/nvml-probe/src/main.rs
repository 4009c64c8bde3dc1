//! The one program that loads NVML: greets, then streams one sample per interval to stdout until its parent is gone.
//!
//! It is a process of its own because a static musl agent cannot open a glibc library, and because a driver that hangs or
//! crashes must not take the agent along. Synchronous, and one thread asks: NVML calls take the driver's global lock, so
//! asking from several would only disturb the training; a second one only waits for Xid errors. `library` finds NVML,
//! `gpu` reads one GPU, `xid` waits, `raw` holds what nvml-wrapper does not wrap.

mod gpu;
mod library;
mod raw;
mod xid;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{env, process, thread};

use gpu::Reader;
use library::Refusal;
use nvml_probe::{Body, Failure, Frame, Hello, Sample, State};
use nvml_wrapper::Nvml;
use prost::Message;

/// Faster would be felt by the training: every call takes the driver's lock.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    let Some(options) = Options::parse(env::args().skip(1)) else {
        // The agent is the only caller; a person who starts this by hand sees a usage line in the frame's text.
        let _ = send(Body::State(State {
            code: 2,
            text: "usage: nvml-probe [--interval-ms N] [--slow-ms N] [--parent PID]".into(),
        }));
        return ExitCode::from(2);
    };
    if !raw::die_with_parent(options.parent) {
        return ExitCode::SUCCESS;
    }
    match run(&options) {
        // Nobody reads any more: the agent is gone or has had enough.
        Ok(()) => ExitCode::SUCCESS,
        Err(Refusal { failure, text }) => {
            let code = failure.code();
            let _ = send(Body::State(State {
                code: code as u32,
                text,
            }));
            ExitCode::from(code as u8)
        }
    }
}

/// What the agent asked for.
struct Options {
    interval: Duration,
    /// Between two readings of the slow tier of one GPU.
    slow: Duration,
    parent: Option<u32>,
    /// Whether the hardware's own counters are used. They are one set per GPU: a host that watches them itself is disturbed.
    monitor: bool,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Option<Self> {
        let mut options = Self {
            interval: Duration::from_secs(1),
            slow: Duration::from_secs(10),
            parent: None,
            monitor: env::var_os("SPOTTER_NO_GPM")
                .is_none_or(|text| text.is_empty() || text == "0"),
        };
        while let Some(name) = args.next() {
            let value = args.next()?;
            match name.as_str() {
                "--interval-ms" => {
                    options.interval =
                        Duration::from_millis(value.parse().ok()?).max(SHORTEST_INTERVAL);
                }
                "--slow-ms" => options.slow = Duration::from_millis(value.parse().ok()?),
                "--parent" => options.parent = Some(value.parse().ok()?),
                _ => return None,
            }
        }
        Some(options)
    }
}

/// Opens NVML and streams until nobody reads any more.
fn run(options: &Options) -> Result<(), Refusal> {
    let (nvml, library) = library::open()?;
    let mut gpus = readers(&nvml, options.monitor)?;
    let hello = Hello {
        driver: nvml.sys_driver_version().unwrap_or_default(),
        library,
        gpus: gpus.iter().map(Reader::info).collect(),
        // Last: it loads libcuda, which may not be there.
        cuda: nvml
            .sys_cuda_driver_version()
            .map_or(0, |version| u32::try_from(version).unwrap_or(0)),
    };
    if send(Body::Hello(hello)).is_err() {
        return Ok(());
    }
    thread::scope(|scope| {
        // Without its errors the GPUs are still worth reading.
        if let Some(watch) = xid::watch(&nvml, &gpus) {
            let thread = thread::Builder::new().stack_size(128 << 10);
            let _ = thread.spawn_scoped(scope, move || watch.report());
        }
        stream(&mut gpus, options);
        // The other thread waits in the driver, and has nothing to put away.
        process::exit(0)
    })
}

/// One reader per GPU, also for those that cannot be reached: they are reported with their error.
fn readers(nvml: &Nvml, monitor: bool) -> Result<Vec<Reader<'_>>, Refusal> {
    let refuse = |failure, text: String| Err(Refusal { failure, text });
    match nvml.device_count() {
        Ok(0) => refuse(Failure::NoGpu, "NVML sees no GPU".to_owned()),
        Ok(count) => Ok((0..count)
            .map(|index| Reader::new(nvml, index, monitor))
            .collect()),
        Err(err) => refuse(
            library::failure_of(&err),
            format!("GPUs cannot be counted: {err}"),
        ),
    }
}

/// Sends a sample per interval; ends when the pipe is closed.
fn stream(gpus: &mut [Reader<'_>], options: &Options) {
    let interval = options.interval;
    let slow_ticks = slow_ticks(options.slow, interval);
    let mut due = Instant::now();
    for tick in 0_u64.. {
        let start = Instant::now();
        let read = gpus.iter_mut().enumerate().map(|(place, gpu)| {
            // Everything at first; later each GPU at a tick of its own, so that no tick is a long one.
            let slow_due = tick == 0 || tick % slow_ticks == place as u64 % slow_ticks;
            gpu.read(slow_due)
        });
        let gpus = read.collect();
        let took_us = u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX);
        if send(Body::Sample(Sample { gpus, took_us })).is_err() {
            return;
        }
        due += interval;
        match due.checked_duration_since(Instant::now()) {
            Some(wait) => thread::sleep(wait),
            // A slow driver: skip what was missed instead of catching up in a burst.
            None => due = Instant::now(),
        }
    }
}

/// Ticks between two readings of the slow tier, at least one.
fn slow_ticks(slow: Duration, interval: Duration) -> u64 {
    let ticks = slow.as_millis() / interval.as_millis().max(1);
    u64::try_from(ticks).unwrap_or(u64::MAX).max(1)
}

/// Writes one frame. Rust programs ignore SIGPIPE, so a closed pipe is an error here.
fn send(body: Body) -> io::Result<()> {
    let bytes = Frame { body: Some(body) }.encode_length_delimited_to_vec();
    let mut stdout = io::stdout().lock();
    stdout.write_all(&bytes)?;
    stdout.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_nonsense_is_refused() {
        let parse = |line: &str| {
            Options::parse(line.split_whitespace().map(str::to_owned))
                .map(|options| (options.interval.as_millis(), options.parent))
        };
        assert_eq!(parse(""), Some((1000, None)));
        assert_eq!(parse("--interval-ms 250 --parent 7"), Some((250, Some(7))));
        assert_eq!(
            parse("--interval-ms 1"),
            Some((100, None)),
            "never faster than the driver's lock can bear"
        );
        assert_eq!(parse("--interval-ms"), None);
        assert_eq!(parse("--verbose yes"), None);
    }

    #[test]
    fn the_slow_tier_is_a_number_of_ticks_and_never_none() {
        let ticks = |slow_ms, interval_ms| {
            slow_ticks(
                Duration::from_millis(slow_ms),
                Duration::from_millis(interval_ms),
            )
        };
        assert_eq!(
            [
                ticks(10_000, 1000),
                ticks(10_000, 100),
                ticks(100, 1000),
                ticks(0, 0)
            ],
            [10, 100, 1, 1]
        );
    }
}
