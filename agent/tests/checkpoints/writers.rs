//! Every known trainer's checkpoints, written again call by call as the real library did, with a long pause before each call: what
//! reaches the bucket is what the library called finished, and it does so within its settle time and a second.

use std::collections::HashSet;
use std::fs;
use std::time::{Duration, SystemTime};

use spotter_agent::checkpoints::{Death, backup_loop};
use spotter_bucket::ManifestFile;
use tokio::time;
use tokio_util::sync::CancellationToken;

use crate::recording::{self, Call, Content, Replay};
use crate::world::World;

/// How a writer is to be treated.
struct Writer {
    name: &'static str,
    /// Wait with no change after which its checkpoints are taken, seconds.
    settle_s: u64,
    /// The same for the first of its kind, which there is nothing to compare with: only for writers that put nothing last.
    first_settle_s: u64,
    /// It puts something last, or keeps its file open until it is whole.
    has_an_end: bool,
    /// Longest pause in the first checkpoint of one that does not, seconds: a settle time begins with the last change of a file.
    first_pause_s: u64,
    /// The user's rule for it, with the longest pause that it allows, seconds.
    rule: Option<(&'static str, u64)>,
}

impl Writer {
    const fn new(name: &'static str, settle_s: u64) -> Writer {
        Writer {
            name,
            settle_s,
            first_settle_s: settle_s,
            has_an_end: true,
            first_pause_s: 25,
            rule: None,
        }
    }

    /// Something follows that was said to be last: calls on other files lie between it and the files before.
    const fn with_an_afterthought(name: &'static str, settle_s: u64) -> Writer {
        Writer {
            first_pause_s: 5,
            ..Writer::without_an_end(name, settle_s)
        }
    }

    const fn with_rule(
        name: &'static str,
        rule: &'static str,
        settle_s: u64,
        pause_s: u64,
    ) -> Writer {
        Writer {
            rule: Some((rule, pause_s)),
            ..Writer::new(name, settle_s)
        }
    }

    const fn without_an_end(name: &'static str, settle_s: u64) -> Writer {
        Writer {
            first_settle_s: 30,
            has_an_end: false,
            ..Writer::new(name, settle_s)
        }
    }

    /// Longer than any settle time, unless nothing but the settle time can tell that more will come.
    fn pause(&self, taken: usize) -> Duration {
        if let Some((_, pause_s)) = self.rule {
            return Duration::from_secs(pause_s);
        }
        Duration::from_secs(if self.has_an_end || taken > 0 {
            32
        } else {
            self.first_pause_s
        })
    }

    fn settle(&self, taken: usize) -> Duration {
        Duration::from_secs(if taken == 0 {
            self.first_settle_s
        } else {
            self.settle_s
        })
    }
}

/// Does a recording with a pause before each call, or without any, and checks what is taken, and when.
async fn check(writer: Writer, paused: bool) {
    let calls = recording::load(writer.name);
    let whole = finished(&calls);
    let world = World::with_memory(|options| {
        options.complete_when = writer.rule.map(|(rule, _)| rule.parse().unwrap());
    });
    let mut replay = Replay::new(&world.path(""));
    let stop = CancellationToken::new();
    let looping = tokio::spawn(backup_loop(
        world.backup.clone(),
        Duration::from_millis(500),
        stop.clone(),
    ));
    let mut taken: HashSet<Content> = HashSet::new();
    for (number, call) in calls.iter().enumerate() {
        if let Call::Whole(path) = call {
            let expected = replay.content(path);
            time::sleep(writer.settle(families(&taken, path)) + Duration::from_secs(1)).await;
            take(&world, &whole, &mut taken, number).await;
            assert!(
                taken.contains(&expected),
                "{}: {path} is whole and not taken; refused: {:?}",
                writer.name,
                world.backup.state().unsaved
            );
            continue;
        }
        if paused {
            time::sleep(writer.pause(taken.len())).await;
            take(&world, &whole, &mut taken, number).await;
        }
        // File times advance in steps of the kernel's clock.
        std::thread::sleep(Duration::from_millis(12));
        replay.carry_out(call);
    }
    time::sleep(Duration::from_secs(100)).await;
    take(&world, &whole, &mut taken, calls.len()).await;
    assert_eq!(
        taken.len(),
        whole.len(),
        "{}: each was taken once",
        writer.name
    );
    if writer.rule.is_some() {
        // Their markers, too, are no checkpoints that wait.
        assert_eq!(world.backup.state().unsaved, Vec::<String>::new());
    }
    stop.cancel();
    looping.await.unwrap();
}

/// Does a recording and lets its writer die after each call, with all files closed and all that it wrote a moment old: of what lies there,
/// the last look of an agent that knows nothing takes only what was finished, or what a deletion left of it.
async fn check_deaths(writer: Writer) {
    let calls = recording::load(writer.name);
    let dir = tempfile::tempdir().unwrap();
    let mut replay = Replay::new(dir.path());
    let whole = finished(&calls);
    let mut before: Vec<Content> = Vec::new();
    let mut taken_whole = 0;
    for (number, call) in calls.iter().enumerate() {
        std::thread::sleep(Duration::from_millis(12));
        replay.carry_out(call);
        if let Call::Whole(path) = call {
            before.push(replay.content(path));
            continue;
        }
        let world = World::with_memory(|options| {
            options.complete_when = writer.rule.map(|(rule, _)| rule.parse().unwrap());
            options.dir = dir.path().to_owned();
        });
        replay.set_open(false);
        let now_us = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_micros();
        let now_us = u64::try_from(now_us).unwrap();
        world.backup.died(&Death {
            began_us: 1,
            ended_us: now_us,
            until_us: now_us,
            how: "signal 9".to_owned(),
        });
        let saved = world.backup.backup_now(Duration::from_secs(100), true);
        let state = saved.await.unwrap();
        replay.set_open(true);
        assert_eq!(state.pending, 0, "{}: {}", writer.name, state.problem);
        for manifest in world.manifests().await {
            let files = manifest.files.iter();
            // What a marker says is nobody's business.
            let is_marker = |path: &str| path.ends_with(".ok") || path.ends_with("_success.txt");
            let is_of = |file: &ManifestFile, content: &Content| {
                is_marker(&file.path) || content.1.get(&file.path) == Some(&file.blake3)
            };
            let all_of = |content: &Content| {
                content.0 == manifest.path && files.clone().all(|file| is_of(file, content))
            };
            let is_whole = |content: &&Content| content.1.len() == files.len();
            let was_finished =
                before.iter().any(all_of) || whole.iter().filter(is_whole).any(all_of);
            assert!(
                was_finished,
                "{}: after call {number} half a checkpoint was taken: {} by {}: {:?}",
                writer.name,
                manifest.path,
                manifest.rule,
                files.map(|file| &file.path).collect::<Vec<_>>()
            );
            taken_whole += 1;
        }
    }
    // Where a format or a framework proves it, a death takes nothing away.
    let is_quiet = writer
        .rule
        .is_some_and(|(rule, _)| rule.starts_with("quiet"));
    let silent = !writer.has_an_end || is_quiet;
    assert!(
        silent || taken_whole > 0,
        "{}: nothing was ever taken",
        writer.name
    );
}

/// How many of the same kind were taken before: names that differ only in their numbers.
fn families(taken: &HashSet<Content>, path: &str) -> usize {
    let letters = |name: &str| -> String {
        let name = name.trim_start_matches("step-").trim_start_matches('-');
        name.chars()
            .filter(|letter| !letter.is_ascii_digit())
            .collect()
    };
    taken
        .iter()
        .filter(|(name, _)| letters(name) == letters(path))
        .count()
}

/// Every content that a library called finished, by doing the recording without a backup.
fn finished(calls: &[Call]) -> HashSet<Content> {
    let dir = tempfile::tempdir().unwrap();
    let mut replay = Replay::new(dir.path());
    let mut whole = HashSet::new();
    for call in calls {
        replay.carry_out(call);
        if let Call::Whole(path) = call {
            whole.insert(replay.content(path));
        }
    }
    whole
}

/// Notes what is in the bucket now. Whatever is there must be something that was finished.
async fn take(world: &World, whole: &HashSet<Content>, taken: &mut HashSet<Content>, at: usize) {
    for manifest in world.manifests().await {
        let files = manifest
            .files
            .iter()
            .map(|file| (file.path.clone(), file.blake3.clone()));
        let content = (manifest.path.clone(), files.collect());
        assert!(
            whole.contains(&content),
            "before call {at}: half a checkpoint was taken: {} by {}: {:?}",
            manifest.path,
            manifest.rule,
            content.1.keys().collect::<Vec<_>>()
        );
        taken.insert(content);
    }
}

macro_rules! writers {
    ($($test:ident: $writer:expr;)*) => {
        $(mod $test {
            use super::*;

            #[tokio::test(start_paused = true)]
            async fn is_taken_whole_with_a_pause_before_every_call() {
                check($writer, true).await;
            }

            #[tokio::test(start_paused = true)]
            async fn is_taken_within_its_settle_time_and_a_second() {
                check($writer, false).await;
            }

            #[tokio::test(start_paused = true)]
            async fn is_never_taken_half_when_its_writer_dies() {
                check_deaths($writer).await;
            }
        })*

        /// A recording that no test knows would prove nothing.
        const TESTED: &[&str] = &[$($writer.name),*];
    };
}

writers! {
    nanogpt: Writer::new("torch-zip", 2);
    torch_legacy: Writer::new("torch-legacy", 2);
    safetensors: Writer::new("safetensors", 2);
    safetensors_sharded: Writer::new("safetensors-sharded", 5);
    hf_trainer: Writer::new("hf-trainer", 2);
    hf_two_ranks: Writer::without_an_end("hf-two-ranks", 5);
    lightning: Writer::new("lightning", 2);
    lightning_across_disks: Writer::new("lightning-across-disks", 2);
    dcp: Writer::new("dcp", 2);
    torchtitan: Writer::new("torchtitan", 2);
    deepspeed: Writer::new("deepspeed", 5);
    deepspeed_zero3: Writer::new("deepspeed-zero3", 5);
    megatron: Writer::with_an_afterthought("megatron", 5);
    megatron_dist: Writer::with_an_afterthought("megatron-dist", 5);
    orbax: Writer::new("orbax", 2);
    orbax_commit_file: Writer::new("orbax-commit-file", 2);
    orbax_rename_only: Writer::new("orbax-rename-only", 2);
    nanochat: Writer::without_an_end("nanochat", 5);
    accelerate: Writer::without_an_end("accelerate", 5);
    numpy_files: Writer::new("numpy", 2);
    generic: Writer::without_an_end("generic", 30);
    marker_beside: Writer::with_rule("user-marker", "marker {name}.ok", 2, 32);
    marker_inside: Writer::with_rule("user-done", "marker DONE", 2, 32);
    quiet: Writer::with_rule("generic", "quiet 20000ms", 20, 9);
    command: Writer::with_rule("user-done", "command test -e \"$SPOTTER_CHECKPOINT/DONE\"", 2, 6);
}

#[test]
fn every_recording_is_tested() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/checkpoints/recordings");
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        found.extend(name.strip_suffix(".jsonl").map(str::to_owned));
    }
    found.sort();
    let mut tested = TESTED.to_vec();
    tested.sort_unstable();
    tested.dedup();
    assert_eq!(found, tested);
}
