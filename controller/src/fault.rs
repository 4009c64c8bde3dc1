//! Crash points for tests: the program kills itself where `SPOTTER_DIE_AT` says. Empty unless built with the feature
//! `faults`, which release builds never are.

/// Marks a place before or after a store write or an outgoing request.
///
/// With the feature `faults`: appends `name` to the file named by `SPOTTER_TRACE_POINTS`, so that tests enumerate the points
/// instead of picking them, and sends SIGKILL to this process when `SPOTTER_DIE_AT` equals `name` (or `name#n` at the n-th pass).
#[cfg(feature = "faults")]
pub fn point(name: &str) {
    use std::{
        collections::HashMap,
        io::Write,
        sync::{LazyLock, Mutex},
    };

    static PASSES: LazyLock<Mutex<HashMap<String, u32>>> = LazyLock::new(Mutex::default);
    let nth = {
        let mut passes = PASSES.lock().expect("nothing panics while counting");
        let nth = passes.entry(name.to_owned()).or_insert(0);
        *nth += 1;
        *nth
    };
    let full = format!("{name}#{nth}");
    if let Some(path) = std::env::var_os("SPOTTER_TRACE_POINTS") {
        let line = format!("{full}\n");
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path);
        file.and_then(|mut file| file.write_all(line.as_bytes()))
            .expect("the trace file of a test can be written");
    }
    if std::env::var("SPOTTER_DIE_AT").is_ok_and(|at| at == full || at == name) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL);
    }
}

/// Nothing: this build has no crash points.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn point(_name: &str) {}
