//! What would be lost with a box, by name and size: checkpoints that are in no bucket, results that are not here, log that was not
//! copied. The box is asked; of one that cannot be, the record says what it knows.

use std::{
    cmp::Reverse,
    fs::File,
    io::{self, Read},
    path::Path,
    time::Duration,
};

use serde::Serialize;
use spotter_bucket::{layout::check_path, names::step_of};

use super::steps;
use crate::{
    agent_client::{AgentStatus, BackupInfo, FileHash, FileList, SessionInfo},
    checkpoints::results,
    commands::{
        Deps,
        checkpoints::{Place, open},
        watching::ConsoleReport,
    },
    error::CommandError,
    run::{
        alarms,
        bringing_up::{SETUP, SMOKE, TRAIN},
        has_bucket,
        lease::Lease,
        site::Site,
    },
    store::{AttemptRecord, Outcome, RunRecord, Store},
    ui::{Table, Ui, text},
};

/// Longest time for sizes of files on the box: they are read whole for their hashes.
const LIST_LIMIT: Duration = Duration::from_secs(120);

/// One thing that would be lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Loss {
    /// What it is.
    pub what: What,
    /// Its name.
    pub name: String,
    /// Bytes; `null` where nobody can say.
    pub size_bytes: Option<u64>,
    /// How many things it stands for; `None`: several, and nobody can say how many.
    #[serde(skip)]
    count: Option<u64>,
}

/// What kinds of things a box holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum What {
    /// A checkpoint that is in no bucket.
    Checkpoint,
    /// A result that is not here.
    Result,
    /// The end of a log.
    Log,
    /// Training that no checkpoint holds.
    Steps,
}

impl What {
    fn name(self) -> &'static str {
        match self {
            Self::Checkpoint => "checkpoint",
            Self::Result => "result",
            Self::Log => "log",
            Self::Steps => "steps",
        }
    }
}

impl Loss {
    pub(super) fn new(what: What, name: impl Into<String>, size_bytes: Option<u64>) -> Self {
        Self {
            what,
            name: name.into(),
            size_bytes,
            count: Some(1),
        }
    }

    /// Checkpoints that have no name of their own here.
    fn nameless(name: impl Into<String>, size_bytes: Option<u64>, count: Option<u64>) -> Self {
        Self {
            count,
            ..Self::new(What::Checkpoint, name, size_bytes)
        }
    }

    /// The step in the name of a checkpoint, before the reason that may follow it.
    fn step(&self) -> Option<u64> {
        let path = self
            .name
            .split_once(": ")
            .map_or(&*self.name, |(path, _)| path);
        step_of(path)
    }
}

/// Losses as people read them.
pub(super) fn table(losses: &[Loss]) -> Table {
    let mut table = Table::new(&["WOULD BE LOST", "SIZE>", "NAME"]);
    for loss in losses {
        table.row([
            loss.what.name().to_owned(),
            text::or_dash(loss.size_bytes.map(text::bytes)),
            loss.name.clone(),
        ]);
    }
    table
}

/// All of them in one clause.
pub(super) fn in_words(losses: &[Loss]) -> String {
    let of = |what: What, one: &str, many: &str| {
        let of: Vec<&Loss> = losses.iter().filter(|loss| loss.what == what).collect();
        let bytes: u64 = of.iter().filter_map(|loss| loss.size_bytes).sum();
        let size = match bytes {
            0 => String::new(),
            bytes => format!(" ({})", text::bytes(bytes)),
        };
        let count: u64 = of.iter().filter_map(|loss| loss.count).sum();
        let is_all = of.iter().all(|loss| loss.count.is_some());
        match (count, is_all) {
            (0, true) => None,
            (0, false) => Some(format!("{many}{size}")),
            (1, true) => Some(format!("1 {one}{size}")),
            (1, false) => Some(format!("more than 1 {one}{size}")),
            (count, true) => Some(format!("{count} {many}{size}")),
            (count, false) => Some(format!("more than {count} {many}{size}")),
        }
    };
    let steps = losses.iter().find(|loss| loss.what == What::Steps);
    let parts = [
        of(
            What::Checkpoint,
            "checkpoint that is in no bucket",
            "checkpoints that are in no bucket",
        ),
        of(
            What::Result,
            "result that was not fetched",
            "results that were not fetched",
        ),
        of(
            What::Log,
            "end of a log that was not copied",
            "ends of logs that were not copied",
        ),
        steps.map(|steps| steps.name.clone()),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Asks the box, after what it printed was brought home.
pub(super) async fn on_box(
    ui: &mut Ui,
    deps: &Deps,
    run: &RunRecord,
    attempt: &AttemptRecord,
    site: &dyn Site,
    status: &AgentStatus,
) -> Result<Vec<Loss>, CommandError> {
    let mut losses = Vec::new();
    match &status.backup {
        Some(backup) => losses.extend(of_backup(backup)),
        // With no bucket, whatever lies in the directory is lost with it.
        None => {
            if let Some(checkpoints) = &run.spec.checkpoints {
                let dir = [checkpoints.dir.clone()];
                let list = listed(site, &dir).await;
                losses.extend(newest_first(named(What::Checkpoint, list, &dir)));
            }
        }
    }
    if status.session(TRAIN).is_some_and(SessionInfo::is_running) {
        losses.extend(steps::on_box(ui, deps, run, attempt, site, status).await?);
    }
    losses.extend(of_results(deps, run, site).await?);
    losses.extend(of_logs(ui, deps, run, attempt, site, status).await?);
    Ok(losses)
}

/// Of a box that cannot be asked: what the record knows.
pub(super) fn on_record(
    store: &Store,
    run: &RunRecord,
    attempt: &AttemptRecord,
) -> Result<Vec<Loss>, CommandError> {
    let unsaved = alarms::unsaved(store, &run.name, attempt.number)?;
    let unsaved = unsaved.into_iter();
    let unsaved = unsaved.map(|name| Loss::new(What::Checkpoint, name, None));
    let mut losses = newest_first(unsaved.collect());
    losses.extend(steps::on_record(store, run, attempt)?);
    // Those of a run that ended well were fetched before its box was stopped.
    if let Some(results) = &run.spec.results
        && run.outcome != Some(Outcome::Done)
    {
        let names = results.fetch.iter();
        losses.extend(names.map(|name| Loss::new(What::Result, name.as_str(), None)));
    }
    Ok(losses)
}

/// Checkpoints with the newest step first, then those whose name has none (pure).
fn newest_first(mut checkpoints: Vec<Loss>) -> Vec<Loss> {
    checkpoints.sort_by_key(|checkpoint| Reverse(checkpoint.step()));
    checkpoints
}

/// By the agent's word (pure).
fn of_backup(backup: &BackupInfo) -> Vec<Loss> {
    let named: u64 = backup.at_stake.iter().map(|(_, bytes)| bytes).sum();
    let at_stake = backup.at_stake.iter().map(|(path, bytes)| {
        let name = match backup.why_unsaved(path) {
            Some(why) => format!("{path}: {why}"),
            None => path.clone(),
        };
        Loss::new(What::Checkpoint, name, Some(*bytes))
    });
    let mut losses = newest_first(at_stake.collect());
    let rest = backup.unsaved_bytes.saturating_sub(named);
    if rest > 0 {
        let (name, count) = match losses.is_empty() {
            // Those that cannot be saved wait for nothing.
            true => (
                "all of them together",
                (backup.pending > 0 && backup.unsaved.is_empty()).then_some(backup.pending),
            ),
            false => ("others", None),
        };
        losses.push(Loss::nameless(name, Some(rest), count));
    } else if losses.is_empty() && backup.pending > 0 {
        let name = format!("{} that wait for their upload", backup.pending);
        losses.push(Loss::nameless(name, None, Some(backup.pending)));
    }
    losses
}

/// Results on the box that are neither here nor in the bucket, byte for byte.
async fn of_results(
    deps: &Deps,
    run: &RunRecord,
    site: &dyn Site,
) -> Result<Vec<Loss>, CommandError> {
    let Some(wanted) = &run.spec.results else {
        return Ok(Vec::new());
    };
    let FileList {
        files, leading_out, ..
    } = match listed(site, &wanted.fetch).await {
        Some(list) => list,
        None => return Ok(named(What::Result, None, &wanted.fetch)),
    };
    let to = wanted.to.clone();
    let look = move || -> Vec<FileHash> {
        files
            .into_iter()
            .filter(|file| !is_here(file, &to).unwrap_or(false))
            .collect()
    };
    let mut files = tokio::task::spawn_blocking(look)
        .await
        .expect("reading files does not panic");
    if !files.is_empty() && has_bucket(run) {
        let kept = in_bucket(deps, run).await.unwrap_or_default();
        files.retain(|file| !kept.contains(file));
    }
    let list = FileList {
        files,
        leading_out,
        ..FileList::default()
    };
    Ok(named(What::Result, Some(list), &wanted.fetch))
}

/// What the bucket holds of the run's results; nothing where it does not tell.
async fn in_bucket(deps: &Deps, run: &RunRecord) -> Option<Vec<FileHash>> {
    let opened = open(deps, None, Some(&run.name), &Place::of_the_run()).await;
    let (shelf, _) = opened.ok()?;
    let manifest = results::newest(&shelf).await.ok()??.ok()?;
    let files = manifest.files.into_iter().map(|file| FileHash {
        path: file.path,
        size_bytes: file.size_bytes,
        blake3: file.blake3,
    });
    Some(files.collect())
}

/// Files under paths on the box with their hashes; `None`: it did not say in time.
async fn listed(site: &dyn Site, paths: &[String]) -> Option<FileList> {
    let listed = tokio::time::timeout(LIST_LIMIT, site.hash_files(paths)).await;
    listed.ok()?.ok()
}

/// Files and links that are not followed, or the names that stand for them where nobody knows the files.
fn named(what: What, list: Option<FileList>, names: &[String]) -> Vec<Loss> {
    match list {
        Some(list) => {
            let files = list.files.into_iter();
            let files = files.map(|file| Loss::new(what, file.path, Some(file.size_bytes)));
            let links = list.leading_out.into_iter().map(|link| {
                let name = format!("{link}: a link that leads to what is not fetched with it");
                Loss::new(what, name, None)
            });
            files.chain(links).collect()
        }
        None => names
            .iter()
            .map(|name| Loss::new(what, name.as_str(), None))
            .collect(),
    }
}

/// Whether the very same bytes lie here.
fn is_here(file: &FileHash, dir: &Path) -> io::Result<bool> {
    // The box says the name, and is not to choose which of our files are read.
    if check_path(&file.path).is_err() {
        return Ok(false);
    }
    let mut here = File::open(dir.join(&file.path))?;
    if here.metadata()?.len() != file.size_bytes {
        return Ok(false);
    }
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match here.read(&mut buffer)? {
            0 => break,
            read => {
                hasher.update(&buffer[..read]);
            }
        }
    }
    Ok(hasher.finalize().to_hex().as_str() == file.blake3)
}

/// What sessions printed is brought home; what could not be is a loss.
async fn of_logs(
    ui: &mut Ui,
    deps: &Deps,
    run: &RunRecord,
    attempt: &AttemptRecord,
    site: &dyn Site,
    status: &AgentStatus,
) -> Result<Vec<Loss>, CommandError> {
    let lifecycle = deps.lifecycle(ConsoleReport::new(ui))?;
    // Whoever holds the lease copies by itself, and two must not write one copy.
    let lease = Lease::take(&lifecycle.store, &run.name)?;
    let mut losses = Vec::new();
    for name in [SETUP, SMOKE, TRAIN] {
        let Some(session) = status.session(name) else {
            continue;
        };
        if lease.is_some()
            && let Err(err) = lifecycle.copy_log(run, attempt.number, site, name).await
        {
            tracing::debug!(%err, session = name, "its log was not copied");
        }
        let copied = lifecycle
            .logbook
            .open(&run.name, attempt.number, name)
            .map_or(0, |copy| copy.position().offset);
        let left = session.log_bytes.saturating_sub(copied);
        if left > 0 {
            losses.push(Loss::new(What::Log, name, Some(left)));
        }
    }
    Ok(losses)
}

#[cfg(test)]
mod tests;
