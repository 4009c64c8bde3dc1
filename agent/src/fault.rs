//! Crash points for tests: the program ends, or stands still, where a test says. Empty unless built with the feature `faults`, which
//! release builds never are.
//!
//! The places are those at which what is on the disk or in the bucket changes: before, between and after.

use std::time::Duration;

/// Marks a moment of something that changes what a later start finds.
///
/// With the feature `faults`: appends `WHAT.MOMENT#N`, N counting from 1, to the file named by `SPOTTER_TRACE_POINTS`, so that tests
/// enumerate the points instead of picking them. Where `SPOTTER_DIE_AT` says the same, this process gets SIGKILL; where
/// `SPOTTER_FREEZE_AT` does, SIGSTOP: to everybody else a box that is gone, with its connections left open.
#[cfg(feature = "faults")]
pub fn point(what: &str, moment: &str) {
    use std::{
        collections::HashMap,
        io::Write,
        sync::{LazyLock, Mutex},
    };

    use nix::sys::signal::{Signal, kill};

    static PASSES: LazyLock<Mutex<HashMap<String, u32>>> = LazyLock::new(Mutex::default);
    // Held to the end: whoever is told to stand still here must not be overtaken by another thread's next change.
    let mut passes = PASSES.lock().expect("nothing panics while counting");
    let name = format!("{what}.{moment}");
    let nth = passes.entry(name.clone()).or_insert(0);
    *nth += 1;
    let full = format!("{name}#{nth}");
    if let Some(path) = std::env::var_os("SPOTTER_TRACE_POINTS") {
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path);
        file.and_then(|mut file| file.write_all(format!("{full}\n").as_bytes()))
            .expect("the trace file of a test can be written");
    }
    let is_here = |variable| std::env::var(variable).is_ok_and(|at| at == full);
    let signal = match (is_here("SPOTTER_DIE_AT"), is_here("SPOTTER_FREEZE_AT")) {
        (true, _) => Signal::SIGKILL,
        (_, true) => Signal::SIGSTOP,
        _ => return,
    };
    let _ends_or_stands_still = kill(nix::unistd::Pid::this(), signal);
    // The signal is the process's: until it has reached this thread too, nothing more may happen here.
    std::thread::sleep(Duration::from_millis(50));
}

/// Nothing: this build has no crash points.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn point(_what: &str, _moment: &str) {}

#[cfg(feature = "faults")]
static WAITS_DIVIDED_BY: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);

/// From now on waits between two tries are so much shorter in this process: thousands of outages are lived through in a minute.
#[cfg(feature = "faults")]
pub fn divide_waits_by(by: u32) {
    WAITS_DIVIDED_BY.store(by.max(1), std::sync::atomic::Ordering::Relaxed);
}

/// A wait between two tries, as long as it is. `SPOTTER_WAITS_DIVIDED_BY` shortens those of a process of its own.
#[cfg(feature = "faults")]
pub fn wait(wait: Duration) -> Duration {
    let of_the_process = std::env::var("SPOTTER_WAITS_DIVIDED_BY").ok();
    let of_the_process = of_the_process.and_then(|by| by.parse().ok()).unwrap_or(1);
    wait / WAITS_DIVIDED_BY.load(std::sync::atomic::Ordering::Relaxed) / of_the_process
}

/// A wait between two tries, as long as it is.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn wait(wait: Duration) -> Duration {
    wait
}
