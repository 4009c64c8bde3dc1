//! A recording of what a real checkpoint writer did, to be done again: see `recordings/record.py`.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use spotter_agent::checkpoints::names;

/// Files of a checkpoint with the hash of each, and its path in the manifest.
pub type Content = (String, BTreeMap<String, String>);

/// One call, or a note of what it means.
#[derive(Debug, Clone)]
pub enum Call {
    Open {
        path: String,
        handle: u64,
        truncate: bool,
    },
    Write {
        handle: u64,
        offset: u64,
        data: Vec<u8>,
    },
    Truncate {
        handle: u64,
        size: u64,
    },
    Close {
        handle: u64,
    },
    Rename {
        path: String,
        to: String,
    },
    Unlink(String),
    Rmdir(String),
    Mkdir(String),
    /// The checkpoint at this path is finished: the call that saves it has returned.
    Whole(String),
}

/// Reads a recording.
pub fn load(name: &str) -> Vec<Call> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(format!("tests/checkpoints/recordings/{name}.jsonl"));
    let text = fs::read_to_string(path).unwrap();
    text.lines().skip(1).filter_map(call).collect()
}

fn call(line: &str) -> Option<Call> {
    let line: Value = serde_json::from_str(line).unwrap();
    let text = |key: &str| line[key].as_str().unwrap().to_owned();
    let number = |key: &str| line[key].as_u64().unwrap();
    if let Some(path) = line["whole"].as_str() {
        return Some(Call::Whole(path.to_owned()));
    }
    Some(match line["call"].as_str()? {
        "open" => Call::Open {
            path: text("path"),
            handle: number("handle"),
            truncate: line["truncate"].as_bool().unwrap(),
        },
        "write" => Call::Write {
            handle: number("handle"),
            offset: number("offset"),
            data: miniz_oxide::inflate::decompress_to_vec(&hex::decode(text("data")).unwrap())
                .unwrap(),
        },
        "truncate" => Call::Truncate {
            handle: number("handle"),
            size: number("size"),
        },
        "close" => Call::Close {
            handle: number("handle"),
        },
        "rename" => Call::Rename {
            path: text("path"),
            to: text("to"),
        },
        "unlink" => Call::Unlink(text("path")),
        "rmdir" => Call::Rmdir(text("path")),
        "mkdir" => Call::Mkdir(text("path")),
        other => panic!("a call that nobody knows: {other}"),
    })
}

/// Does a recording again in a directory.
pub struct Replay {
    dir: PathBuf,
    open: HashMap<u64, File>,
}

impl Replay {
    pub fn new(dir: &Path) -> Replay {
        fs::create_dir_all(dir).unwrap();
        Replay {
            dir: dir.to_owned(),
            open: HashMap::new(),
        }
    }

    /// Closes every file that is open for writing, as a death does, or opens it again wherever it is by now.
    pub fn set_open(&mut self, open: bool) {
        for file in self.open.values_mut() {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            *file = OpenOptions::new()
                .read(true)
                .write(open)
                .open(path)
                .unwrap();
        }
    }

    pub fn carry_out(&mut self, call: &Call) {
        let full = |path: &str| self.dir.join(path);
        match call {
            Call::Open {
                path,
                handle,
                truncate,
            } => {
                let mut options = OpenOptions::new();
                options
                    .read(true)
                    .write(true)
                    .create(true)
                    .truncate(*truncate);
                fs::create_dir_all(full(path).parent().unwrap()).unwrap();
                self.open.insert(*handle, options.open(full(path)).unwrap());
            }
            Call::Write {
                handle,
                offset,
                data,
            } => self.open[handle].write_all_at(data, *offset).unwrap(),
            Call::Truncate { handle, size } => self.open[handle].set_len(*size).unwrap(),
            Call::Close { handle } => drop(self.open.remove(handle)),
            Call::Rename { path, to } => fs::rename(full(path), full(to)).unwrap(),
            Call::Unlink(path) => fs::remove_file(full(path)).unwrap(),
            Call::Rmdir(path) => fs::remove_dir(full(path)).unwrap(),
            Call::Mkdir(path) => fs::create_dir_all(full(path)).unwrap(),
            Call::Whole(_) => {}
        }
    }

    /// What a manifest of the checkpoint must hold, as the directory is now.
    pub fn content(&self, path: &str) -> Content {
        let mut files = BTreeMap::new();
        if let Some(step) = path.strip_prefix('-') {
            for entry in fs::read_dir(&self.dir).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                if names::step_of(&name) == step.parse().ok() && names::is_candidate_file(&name) {
                    files.insert(name.clone(), hash(&self.dir.join(name)));
                }
            }
            return (format!("step-{step}"), files);
        }
        let full = self.dir.join(path);
        if full.is_file() {
            files.insert(String::new(), hash(&full));
        } else {
            hash_below(&full, "", &mut files);
        }
        (path.to_owned(), files)
    }
}

fn hash(path: &Path) -> String {
    blake3::hash(&fs::read(path).unwrap()).to_hex().to_string()
}

fn hash_below(dir: &Path, prefix: &str, files: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().into_string().unwrap());
        if entry.file_type().unwrap().is_dir() {
            hash_below(&entry.path(), &format!("{name}/"), files);
        } else {
            files.insert(name, hash(&entry.path()));
        }
    }
}
