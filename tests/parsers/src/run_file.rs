//! A run file is read, or refused with words; there is no third way.

use std::{fs, path::PathBuf, process, sync::LazyLock};

use spotter::spec::RunSpec;

/// One per process, so that fuzzers do not read each other's; in memory where the machine has that.
static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = PathBuf::from("/dev/shm");
    let dir = if memory.is_dir() {
        memory
    } else {
        std::env::temp_dir()
    };
    dir.join(format!("sp-fuzz-{}.yaml", process::id()))
});

pub(crate) fn check(text: &[u8]) {
    fs::write(&*FILE, text).expect("a file can be written");
    let read = RunSpec::load(&FILE);
    fs::remove_file(&*FILE).expect("a file can be removed");
    match read {
        Ok(spec) => assert!(!spec.name.is_empty()),
        Err(err) => assert!(!err.to_string().is_empty()),
    }
}
