//! The invariants of the README that a program can check: who depends on whom, and which file may do what.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use stories::workspace;

/// Files that may do something that no other file may. Paths are relative to the repository.
struct Allowed {
    /// What it is about, for the message.
    what: &'static str,
    /// Texts that give it away; comments and tests do not count.
    signs: &'static [&'static str],
    /// Where it is looked for.
    under: &'static [&'static str],
    /// Files (or folders, with a slash at the end) in which it may stand, each the door to one outside thing.
    files: &'static [&'static str],
}

/// What is shipped, and the simulator, which is a program of its own.
const PROGRAMS: &[&str] = &[
    "agent/bucket/src",
    "agent/nvml-probe/src",
    "agent/src",
    "agent/trainlog/src",
    "controller/src",
    "proto/src",
    "tests/sim/src",
];

const TABLE: &[Allowed] = &[
    Allowed {
        what: "starts a process",
        signs: &[
            "Command::new(",
            "process::Command",
            "fork(",
            "execv",
            "posix_spawn",
        ],
        under: PROGRAMS,
        files: &[
            "agent/src/bridge.rs",
            // The user's own command that says whether a checkpoint is complete.
            "agent/src/checkpoints/command.rs",
            "agent/src/sessions/shim.rs",
            "agent/src/sessions/shim/",
            "agent/src/sessions/tmux.rs",
            "agent/src/telemetry/probe.rs",
            "agent/src/telemetry/probe/",
            // The user's own program that gives bucket keys, as his AWS profile names it.
            "controller/src/credentials/process.rs",
            // The user's own command that is told what happens.
            "controller/src/notify/command.rs",
            "controller/src/sync.rs",
            "controller/src/sync/",
            "controller/src/tunnel.rs",
            "controller/src/tunnel/",
            "tests/sim/src/boxes/isolated.rs",
            "tests/sim/src/boxes/link.rs",
            "tests/sim/src/boxes/processes.rs",
            "tests/sim/src/boxes/tools.rs",
            "tests/sim/src/boxes/wrapped.rs",
        ],
    },
    Allowed {
        what: "reads the environment",
        signs: &["env::var", "env::vars", "env = \""],
        under: PROGRAMS,
        files: &[
            "agent/nvml-probe/src/library.rs",
            "agent/nvml-probe/src/main.rs",
            "agent/src/config.rs",
            // Crash points, which release builds do not have.
            "agent/src/fault.rs",
            "controller/src/config.rs",
            "controller/src/config/",
            "controller/src/credentials.rs",
            "controller/src/credentials/",
            "controller/src/fault.rs",
            // Where the tools of the boxes are.
            "tests/sim/src/boxes/tools.rs",
            "tests/sim/src/main.rs",
        ],
    },
    Allowed {
        what: "prints",
        signs: &[
            "println!(",
            "print!(",
            "io::stdout",
            "io::stderr",
            " stdout()",
            " stderr()",
        ],
        under: PROGRAMS,
        files: &[
            // Frames of readings, to the agent that started it.
            "agent/nvml-probe/src/main.rs",
            // What the controller's ssh carries.
            "agent/src/bridge.rs",
            "agent/src/main.rs",
            // The session's terminal.
            "agent/src/sessions/shim.rs",
            "agent/src/sessions/window.rs",
            "controller/src/main.rs",
            "controller/src/ui.rs",
            "controller/src/ui/",
            "tests/sim/src/main.rs",
        ],
    },
    Allowed {
        what: "holds unsafe code",
        signs: &["unsafe {", "unsafe fn", "unsafe extern", "unsafe impl"],
        under: &["agent", "controller/src", "proto/src", "tests"],
        files: &[
            "agent/nvml-probe/src/",
            // File leases: four commands of `fcntl` that no crate wraps.
            "agent/src/checkpoints/lease.rs",
            // Priorities of threads: likewise.
            "agent/src/checkpoints/humble.rs",
            "agent/src/sessions/shim.rs",
            "agent/src/sessions/shim/",
            "agent/src/telemetry/probe.rs",
            "agent/src/telemetry/probe/",
            // An allocator is unsafe by its very contract.
            "agent/src/wiping.rs",
            "tests/fake-nvml/src/",
            "tests/stories/it/tidy.rs",
        ],
    },
    Allowed {
        what: "names contract types",
        signs: &["spotter_proto::", "use spotter_proto"],
        under: &["agent/src", "controller/src"],
        files: &[
            "agent/src/convert.rs",
            "agent/src/convert/",
            "agent/src/daemon.rs",
            "agent/src/daemon/",
            "agent/src/handlers.rs",
            "agent/src/handlers/",
            "controller/src/agent_client.rs",
            "controller/src/agent_client/",
            // All runs, for other tools.
            "controller/src/serve/grpc.rs",
            "controller/src/serve/grpc/",
        ],
    },
    Allowed {
        what: "speaks Vast.ai's words",
        signs: &["dph_total", "\"min_bid\"", "actual_status", "/api/v0/"],
        under: &["agent/src", "controller/src"],
        files: &[
            "controller/src/provider/vast.rs",
            "controller/src/provider/vast/",
            // The box ends its own instance: one request, by its own key.
            "agent/src/self_stop.rs",
            "controller/src/bootstrap/onstart.rs",
            // The query language is the market's, verbatim.
            "controller/src/spec/query.rs",
            "controller/src/spec/query/",
            // And people type its words where ours are wanted: the error names ours.
            "controller/src/spec.rs",
        ],
    },
];

#[test]
fn only_the_file_of_each_outside_thing_touches_it() {
    let mut wrong = Vec::new();
    for rule in TABLE {
        for file in rule
            .under
            .iter()
            .flat_map(|folder| rust_files(&workspace().join(folder)))
        {
            let relative = relative(&file);
            let allowed = rule.files.iter().any(|door| {
                relative == *door || (door.ends_with('/') && relative.starts_with(door))
            });
            if allowed || is_test_file(&relative) {
                continue;
            }
            let text = fs::read_to_string(&file).unwrap();
            for (number, line) in production_lines(&text) {
                if rule.signs.iter().any(|sign| line.contains(sign)) {
                    wrong.push(format!(
                        "{relative}:{number} {}: {}",
                        rule.what,
                        line.trim()
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn every_door_in_the_table_exists_or_belongs_to_one_that_does() {
    for rule in TABLE {
        for door in rule.files {
            // `x.rs` and `x/` are one place; either may be missing, not both.
            let file = workspace().join(door.trim_end_matches('/'));
            let twin = match door.strip_suffix('/') {
                Some(folder) => workspace().join(format!("{folder}.rs")),
                None => workspace().join(door.trim_end_matches(".rs")),
            };
            assert!(
                file.exists() || twin.exists(),
                "{door} in the table of what {} is gone",
                rule.what
            );
        }
    }
}

#[test]
fn controller_and_agent_never_depend_on_each_other() {
    let depends = dependencies();
    let check = |from: &str, to: &str| {
        let found = depends.get(from).is_some_and(|set| set.contains(to));
        assert!(!found, "{from} depends on {to}");
    };
    for (from, to) in [
        ("spotter", "spotter-agent"),
        ("spotter-agent", "spotter"),
        ("spotter-bucket", "spotter"),
        ("spotter-bucket", "spotter-agent"),
        ("spotter-proto", "spotter"),
        ("spotter-proto", "spotter-agent"),
        ("spotter-proto", "spotter-bucket"),
        ("spotter-proto", "spotter-trainlog"),
        ("spotter-trainlog", "spotter"),
        ("spotter-trainlog", "spotter-agent"),
        ("spotter-trainlog", "spotter-bucket"),
        ("spotter-trainlog", "spotter-proto"),
        ("nvml-probe", "spotter-agent"),
    ] {
        check(from, to);
    }
    for product in [
        "spotter",
        "spotter-agent",
        "spotter-bucket",
        "spotter-trainlog",
        "spotter-proto",
        "nvml-probe",
    ] {
        for test in ["spotter-sim", "fake-nvml", "stories"] {
            check(product, test);
        }
    }
    assert!(
        depends["spotter"].contains("spotter-proto"),
        "the table of dependencies is empty"
    );
}

#[test]
fn one_crypto_library_is_enough() {
    let text = cargo(&[
        "tree",
        "--workspace",
        "--edges",
        "normal,build",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ]);
    assert!(text.contains("ring v"), "cargo tree said nothing");
    for unwanted in ["aws-lc-sys", "aws-lc-rs", "openssl-sys", "native-tls"] {
        let found = text
            .lines()
            .find(|line| line.starts_with(&format!("{unwanted} ")));
        assert_eq!(found, None);
    }
}

#[test]
fn use_lines_agree_with_the_manifests() {
    for (folder, foreign) in [
        (
            "controller/src",
            ["use spotter_agent", "spotter_agent::", "spotter_sim::"],
        ),
        ("agent/src", ["use spotter::", "spotter_sim::", "fake_nvml"]),
        (
            "agent/bucket/src",
            ["use spotter::", "use spotter_agent", "spotter_agent::"],
        ),
    ] {
        for file in rust_files(&workspace().join(folder)) {
            let text = fs::read_to_string(&file).unwrap();
            for (number, line) in production_lines(&text) {
                let found = foreign.iter().any(|name| line.contains(name));
                assert!(!found, "{}:{number}: {line}", relative(&file));
            }
        }
    }
}

#[test]
fn every_file_says_what_it_is_for() {
    for folder in ["agent", "controller", "proto/src", "tests"] {
        for file in rust_files(&workspace().join(folder)) {
            let text = fs::read_to_string(&file).unwrap();
            let opens = text
                .lines()
                .next()
                .is_some_and(|line| line.starts_with("//!"));
            assert!(opens, "{} does not open with `//!`", relative(&file));
        }
    }
}

#[test]
fn the_top_level_is_what_the_readme_says() {
    let listed = Command::new("git")
        .current_dir(workspace())
        .args(["ls-files"])
        .output()
        .unwrap();
    assert!(
        listed.status.success(),
        "git lists the files of the repository"
    );
    let top: BTreeSet<String> = String::from_utf8(listed.stdout)
        .unwrap()
        .lines()
        .filter_map(|path| path.split('/').next())
        .filter(|name| !name.starts_with('.'))
        .map(str::to_owned)
        .collect();
    let expected = [
        "CHANGELOG.md",
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE-APACHE",
        "LICENSE-MIT",
        "README.md",
        "agent",
        "controller",
        "proto",
        "scripts",
        "tests",
    ];
    let expected: BTreeSet<String> = expected.into_iter().map(str::to_owned).collect();
    assert_eq!(top, expected);
}

/// Direct and indirect dependencies inside the workspace, by `cargo metadata`; tests' own (dev) left out.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let text = cargo(&["metadata", "--format-version", "1", "--no-deps"]);
    let metadata: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut direct: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap().to_owned();
        let needs = package["dependencies"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|dependency| dependency["kind"] != "dev")
            .map(|dependency| dependency["name"].as_str().unwrap().to_owned());
        direct.insert(name, needs.collect());
    }
    let mut all = direct.clone();
    loop {
        let mut grown = false;
        for (name, needs) in all.clone() {
            for need in needs {
                for further in direct.get(&need).into_iter().flatten() {
                    grown |= all.get_mut(&name).unwrap().insert(further.clone());
                }
            }
        }
        if !grown {
            return all;
        }
    }
}

fn cargo(args: &[&str]) -> String {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .current_dir(workspace())
        .args(args)
        .arg("--offline")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "cargo {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else {
        return files;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn relative(file: &Path) -> String {
    file.strip_prefix(workspace())
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned()
}

/// Test programs and test modules in files of their own.
fn is_test_file(relative: &str) -> bool {
    let in_tests = relative.contains("/tests/") || relative.starts_with("tests/");
    // Those of a module that were split by subject.
    let of_module = relative
        .split_once("/src/")
        .is_some_and(|(_, inside)| inside.contains("/tests/"));
    of_module || relative.ends_with("tests.rs") || (in_tests && !relative.contains("/src/"))
}

/// Lines with their numbers, without comments and without what follows the first `#[cfg(test)]` module that is written out.
fn production_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mark = "#[cfg(test)]\nmod ";
    let end = text
        .match_indices(mark)
        .map(|(at, _)| at)
        // One in a file of its own ends nothing here.
        .find(|at| {
            let name = text[at + mark.len()..].lines().next().unwrap_or_default();
            name.ends_with('{')
        })
        .unwrap_or(text.len());
    text[..end]
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}
