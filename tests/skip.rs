//! What a test does when this machine cannot run it; each crate's tests take this file in by its path.
#![allow(
    dead_code,
    clippy::print_stderr,
    clippy::expect_used,
    reason = "not every crate needs both, and a test may tell"
)]

/// This test checks nothing here. A failure where `SPOTTER_REQUIRE_ALL=1` says that nothing may be left out; otherwise it is told.
#[track_caller]
pub fn skip(why: &str) {
    let required = std::env::var_os("SPOTTER_REQUIRE_ALL").is_some_and(|all| all == "1");
    assert!(!required, "nothing may be left out, but {why}");
    tell(why);
}

/// The same for what no package and no right of this machine's user would change: it is told, and never a failure.
pub fn excuse(why: &str) {
    tell(why);
}

/// One line on stderr, and in the file that `SPOTTER_SKIPS` names: a runner shows no output of what passed.
fn tell(why: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let line = format!("SKIPPED {test}: {}\n", why.trim().replace('\n', " "));
    eprint!("{line}");
    if let Some(path) = std::env::var_os("SPOTTER_SKIPS") {
        use std::io::Write;
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path);
        file.and_then(|mut file| file.write_all(line.as_bytes()))
            .expect("the file that SPOTTER_SKIPS names can be written");
    }
}
