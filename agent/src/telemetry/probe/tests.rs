//! What the probe is given, where it is started, and what its end says.

use std::{fs, os::unix::fs::PermissionsExt};

use super::*;
use crate::events::RecordedEvents;

/// A supervision that has started nothing.
fn supervision(dir: &Path) -> Supervision {
    let (stop, _) = io::pipe().unwrap();
    Supervision {
        config: ProbeConfig::new(dir),
        interval: Duration::from_secs(1),
        board: Arc::new(GpuBoard::new(
            Arc::new(RecordedEvents::default()),
            Duration::from_secs(1),
        )),
        stop,
    }
}

#[test]
fn a_place_that_refuses_the_probe_is_passed_over_for_the_next() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    let file = |name: &str, text: &str, mode: u32| {
        let path = dir.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    let works = file("works", "#!/bin/sh\nexit 7\n", 0o500);
    // As of a file system that is mounted noexec: the kernel's answer is the same, even to root.
    let noexec = file("noexec", "#!/bin/sh\nexit 8\n", 0o400);
    let strange = file("strange", "#!/no/such/loader\n", 0o500);
    let loader = file("loader", "", 0o400);
    let missing = dir.join("no-loader");
    type Made = Result<PathBuf, io::ErrorKind>;
    let start = |places: Vec<(&str, Made)>, loader: &Path| {
        let mut asked = Vec::new();
        let images = places.into_iter().map(|(name, made)| {
            asked.push(name.to_owned());
            (
                name.to_owned(),
                made.map(Image::File).map_err(io::Error::from),
            )
        });
        let child = supervision(dir).start_first(images, loader);
        let code = child.map(|mut child| child.wait().unwrap().code());
        (code, asked.join(" "))
    };
    let good = || ("tmp", Ok(works.clone()));
    let own = |made| ("own", made);
    let memory = |made| ("memory", made);
    use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    for (name, places, asked) in [
        (
            "the first will do",
            vec![good(), own(Ok(noexec.clone()))],
            "tmp",
        ),
        ("noexec", vec![own(Ok(noexec.clone())), good()], "own tmp"),
        (
            "read-only",
            vec![own(Err(ReadOnlyFilesystem)), good()],
            "own tmp",
        ),
        (
            "read-only, and no memory is given",
            vec![
                own(Err(ReadOnlyFilesystem)),
                memory(Err(PermissionDenied)),
                good(),
            ],
            "own memory tmp",
        ),
        (
            "what is there cannot be started",
            vec![own(Ok(strange.clone())), good()],
            "own tmp",
        ),
    ] {
        let got = start(places, &loader);
        assert_eq!(got, (Ok(Some(7)), asked.to_owned()), "{name}");
    }
    // Without the loader no other place would do better.
    let (musl, asked) = start(vec![own(Ok(strange)), good()], &missing);
    let why = musl.unwrap_err();
    assert!(
        why.starts_with("this box has no glibc loader (") && why.contains("no-loader"),
        "{why}"
    );
    assert_eq!(asked, "own");
    let (none, _) = start(
        vec![own(Err(ReadOnlyFilesystem)), memory(Ok(noexec))],
        &loader,
    );
    let why = none.unwrap_err();
    assert!(
        why.contains("own: read-only") && why.contains("memory: Permission denied"),
        "{why}"
    );
    let (nowhere, _) = start(Vec::new(), &loader);
    assert!(nowhere.unwrap_err().contains("built without one"));
}

#[test]
fn only_what_the_probe_needs_of_the_environment_is_passed_on() {
    let bytes = b"PATH=/bin\0NVML_LIB=/a=b\0AWS_SECRET_ACCESS_KEY=x\0FAKE_NVML_SCENARIO=/s\0LD_LIBRARY_PATH=\0broken\0";
    let got: Vec<String> = environment::parse(bytes)
        .into_iter()
        .map(|(name, value)| format!("{}={}", name.display(), value.display()))
        .collect();
    assert_eq!(
        got,
        ["NVML_LIB=/a=b", "FAKE_NVML_SCENARIO=/s", "LD_LIBRARY_PATH="]
    );
    assert!(environment::parse(b"").is_empty());
}

#[test]
fn an_end_says_what_the_process_said() {
    let words = |raw| format!("{:?}", end_of(ExitStatus::from_raw(raw)));
    assert_eq!(words(20 << 8), "Refused(NoLibrary, \"\")");
    assert_eq!(words(3 << 8), "Died(\"ended with exit code 3\")");
    assert_eq!(words(6), "Died(\"was ended by signal 6\")");
}

#[test]
fn waits_are_rounded_up() {
    assert_eq!(timeout(Duration::ZERO), PollTimeout::ZERO);
    assert_eq!(timeout(Duration::from_nanos(1_000)).as_millis(), Some(1));
    assert_eq!(timeout(Duration::from_micros(1_001)).as_millis(), Some(2));
}
