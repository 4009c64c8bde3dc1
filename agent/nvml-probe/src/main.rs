//! The one program that loads NVML: greets, then streams one sample per interval to stdout until its parent is gone.
//!
//! It is a process of its own because a static musl agent cannot open a glibc library, and because a driver that hangs or
//! crashes must not take the agent along. Synchronous and single-threaded: NVML calls take the driver's global lock, so
//! asking from several threads would only disturb the training. `library` finds NVML, `gpu` reads one GPU, `raw` holds
//! what nvml-wrapper does not wrap.

mod gpu;
mod library;
mod raw;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{env, thread};

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
            text: "usage: nvml-probe [--interval-ms N] [--parent PID]".into(),
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
    parent: Option<u32>,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Option<Self> {
        let mut options = Self {
            interval: Duration::from_secs(1),
            parent: None,
        };
        while let Some(name) = args.next() {
            let value = args.next()?;
            match name.as_str() {
                "--interval-ms" => {
                    options.interval =
                        Duration::from_millis(value.parse().ok()?).max(SHORTEST_INTERVAL);
                }
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
    let mut gpus = readers(&nvml)?;
    let driver = nvml.sys_driver_version().unwrap_or_default();
    let hello = Hello {
        driver,
        library,
        gpus: gpus.iter().map(Reader::info).collect(),
    };
    if send(Body::Hello(hello)).is_ok() {
        stream(&mut gpus, options.interval);
    }
    Ok(())
}

/// One reader per GPU, also for those that cannot be reached: they are reported with their error.
fn readers(nvml: &Nvml) -> Result<Vec<Reader<'_>>, Refusal> {
    let refuse = |failure, text: String| Err(Refusal { failure, text });
    match nvml.device_count() {
        Ok(0) => refuse(Failure::NoGpu, "NVML sees no GPU".to_owned()),
        Ok(count) => Ok((0..count).map(|index| Reader::new(nvml, index)).collect()),
        Err(err) => refuse(
            library::failure_of(&err),
            format!("GPUs cannot be counted: {err}"),
        ),
    }
}

/// Sends a sample per interval; ends when the pipe is closed.
fn stream(gpus: &mut [Reader<'_>], interval: Duration) {
    let mut due = Instant::now();
    loop {
        let start = Instant::now();
        let gpus = gpus.iter_mut().map(Reader::read).collect();
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
}
