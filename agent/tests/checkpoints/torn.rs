//! A trainer that overwrites, truncates, replaces, moves and deletes its checkpoints while they are uploaded, at random moments, in
//! real time: whatever is committed must be what it wrote between two such moments, never a mixture.
//!
//! `scripts/whole torn` does 10,000 of them, more than the few of every day: `SPOTTER_TRIALS` says how many of each kind.

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use spotter_agent::checkpoints::CompleteWhen;
use spotter_bucket::memory::MemoryBucket;

use crate::world::{MIB, World, npz};

/// Trials of each kind when nobody asks for more.
const EVERY_DAY: u32 = 60;
/// Longer than the step of any kernel's file times, short enough to have many trials.
const SETTLE: Duration = Duration::from_millis(25);
/// Longest wait for a commit that may never come, because the trainer was faster.
const PATIENCE: Duration = Duration::from_millis(400);
/// Trials after which a new box begins: a bucket in memory keeps everything.
const TRIALS_OF_A_BOX: u32 = 50;

fn trials() -> u32 {
    std::env::var("SPOTTER_TRIALS").map_or(EVERY_DAY, |text| text.parse().unwrap())
}

/// One file, or a directory of two with a marker.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    File,
    Directory,
}

/// A trainer with one checkpoint, of which it writes one generation after the other.
struct Trainer {
    kind: Kind,
    root: PathBuf,
    generation: u64,
    size: usize,
    /// Hashes of the files of every generation that was written to its end.
    whole: HashSet<Vec<String>>,
    random: StdRng,
}

impl Trainer {
    fn paths(&self) -> Vec<PathBuf> {
        match self.kind {
            Kind::File => vec![self.root.join("ckpt.npz")],
            Kind::Directory => vec![
                self.root.join("save-5/a.npz"),
                self.root.join("save-5/b.npz"),
            ],
        }
    }

    fn marker(&self) -> PathBuf {
        self.root.join("save-5/DONE")
    }

    /// The next generation: how each file will be.
    fn next(&mut self) -> Vec<Vec<u8>> {
        self.generation += 1;
        let files: Vec<Vec<u8>> = (0..self.paths().len() as u64)
            .map(|file| npz(self.generation * 2 + file, self.size))
            .collect();
        let hashes = files
            .iter()
            .map(|bytes| blake3::hash(bytes).to_hex().to_string());
        // Known before the first byte is written: a commit may come as soon as the last one is.
        self.whole.insert(hashes.collect());
        files
    }

    /// Writes a generation in one of the ways that trainers have.
    fn write(&mut self) {
        if self.kind == Kind::Directory {
            let _not_there = fs::remove_file(self.marker());
            fs::create_dir_all(self.marker().parent().unwrap()).unwrap();
        }
        for (path, bytes) in self.paths().into_iter().zip(self.next()) {
            self.write_file(&path, &bytes);
        }
        if self.kind == Kind::Directory {
            fs::write(self.marker(), b"").unwrap();
        }
    }

    fn write_file(&mut self, path: &Path, bytes: &[u8]) {
        let pieces = self.random.random_range(1..6);
        let in_pieces = |file: fs::File, random: &mut StdRng| {
            for piece in bytes.chunks(bytes.len().div_ceil(pieces)).enumerate() {
                let offset = piece.0 * bytes.len().div_ceil(pieces);
                file.write_all_at(piece.1, offset as u64).unwrap();
                std::thread::sleep(Duration::from_micros(random.random_range(0..1500)));
            }
        };
        let mut options = OpenOptions::new();
        options.write(true).create(true);
        let same_length = fs::metadata(path).is_ok_and(|old| old.len() == bytes.len() as u64);
        match self.random.random_range(0..5) {
            // Over the old bytes, and nothing of them remains.
            0 if same_length => in_pieces(
                options.truncate(false).open(path).unwrap(),
                &mut self.random,
            ),
            1 => in_pieces(options.truncate(true).open(path).unwrap(), &mut self.random),
            2 => {
                let aside = path.with_extension("npz.tmp");
                fs::write(&aside, bytes).unwrap();
                fs::rename(&aside, path).unwrap();
            }
            3 => {
                let _not_there = fs::remove_file(path);
                in_pieces(
                    options.truncate(false).open(path).unwrap(),
                    &mut self.random,
                );
            }
            _ => {
                let file = options.truncate(false).open(path).unwrap();
                file.set_len(self.random.random_range(0..bytes.len() as u64))
                    .unwrap();
                in_pieces(file, &mut self.random);
            }
        }
    }

    /// What happens to a checkpoint besides being written.
    fn disturb(&mut self) {
        let path = self.paths()[0].clone();
        match self.random.random_range(0..8) {
            0 => {
                let _not_there = fs::remove_file(&path);
            }
            1 => {
                let _not_there = fs::rename(&path, self.root.join(".away"));
            }
            _ => self.write(),
        }
    }
}

#[derive(Default)]
struct Tally {
    trials: u32,
    commits: usize,
    torn: usize,
    disturbed: u32,
}

async fn run(kind: Kind, tripwire: bool) {
    let seed: u64 = rand::random();
    let count = trials();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut tally = Tally::default();
    while tally.trials < count {
        let box_trials = TRIALS_OF_A_BOX.min(count - tally.trials);
        one_box(kind, tripwire, box_trials, &mut random, &mut tally).await;
    }
    println!(
        "{kind:?} {}: {} trials, {} uploads disturbed, {} commits, {} torn commits",
        if tripwire {
            "with leases"
        } else {
            "without leases"
        },
        tally.trials,
        tally.disturbed,
        tally.commits,
        tally.torn
    );
    assert_eq!(tally.torn, 0);
    assert!(
        tally.commits as u32 > count / 4,
        "too little was committed to prove anything"
    );
    assert!(
        tally.disturbed > count / 20,
        "too little was disturbed to prove anything"
    );
}

async fn one_box(kind: Kind, tripwire: bool, count: u32, random: &mut StdRng, tally: &mut Tally) {
    let memory = Arc::new(MemoryBucket::new());
    memory.set_latency(Duration::from_millis(2));
    let world = World::with(memory.clone(), memory, |options| {
        options.settle = Some(SETTLE);
        options.tripwire = tripwire;
        options.complete_when =
            (kind == Kind::Directory).then(|| CompleteWhen::Marker("DONE".to_owned()));
    });
    let root = world.path("");
    fs::create_dir_all(&root).unwrap();
    let mut trainer = Trainer {
        kind,
        root,
        generation: 0,
        size: 100_000,
        whole: HashSet::new(),
        random: StdRng::from_rng(random),
    };
    for _ in 0..count {
        tally.trials += 1;
        // Now and then one that goes in parts.
        trainer.size = if random.random_ratio(1, 25) {
            9 * MIB
        } else {
            100_000
        };
        let before = world.backup.state().committed;
        let wait = Duration::from_micros(random.random_range(0..12_000));
        let uploading = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&uploading);
        let disturbing = tokio::task::spawn_blocking(move || {
            trainer.write();
            let until = Instant::now() + PATIENCE;
            while !seen.load(Ordering::SeqCst) && Instant::now() < until {
                std::thread::sleep(Duration::from_micros(200));
            }
            std::thread::sleep(wait);
            trainer.disturb();
            trainer
        });
        let until = Instant::now() + PATIENCE * 2;
        let mut disturbed = false;
        while Instant::now() < until && world.backup.state().committed == before {
            let round = world.backup.round();
            tokio::pin!(round);
            loop {
                tokio::select! {
                    done = &mut round => { done.unwrap(); break; }
                    () = tokio::time::sleep(Duration::from_micros(300)) => {
                        if world.backup.state().uploading_total_bytes > 0 {
                            uploading.store(true, Ordering::SeqCst);
                            disturbed = true;
                        }
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tally.disturbed += u32::from(disturbed);
        trainer = disturbing.await.unwrap();
    }
    for manifest in world.manifests().await {
        tally.commits += 1;
        let files = manifest.files.iter().filter(|file| file.path != "DONE");
        let hashes: Vec<String> = files.map(|file| file.blake3.clone()).collect();
        if !trainer.whole.contains(&hashes) {
            tally.torn += 1;
            println!("torn: {manifest:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_never_torn_where_the_kernel_tells_of_writers() {
    run(Kind::File, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_never_torn_where_only_its_times_tell() {
    run(Kind::File, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_is_never_torn_where_the_kernel_tells_of_writers() {
    run(Kind::Directory, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_is_never_torn_where_only_its_times_tell() {
    run(Kind::Directory, false).await;
}
