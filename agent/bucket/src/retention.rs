//! Which commits may go, and which data after them (pure).
//!
//! A commit goes first, and leaves a tombstone; its data goes after a grace, when no commit and no other tombstone refers to it. So
//! whoever reads a checkpoint when it is deleted still finds its data, and no commit ever refers to what is gone.

use std::collections::{BTreeSet, HashSet};

use serde::{Deserialize, Serialize};

use crate::sorted::sort_by;
use crate::{layout::CommitId, manifest::Manifest, whole::row::Row};

/// Fewest commits that are ever kept: a restore of the newest must have one to fall back to.
pub const MIN_KEEP: usize = 2;

/// A commit in the bucket, as far as it could be read.
#[derive(Debug, Clone, PartialEq)]
pub struct Commit {
    /// Its name.
    pub id: String,
    /// What it says; `None` when it is damaged.
    pub manifest: Option<Manifest>,
}

/// What is kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Keep {
    /// How many newest commits of each row, see [`Row`]; 0: all, 1 counts as 2.
    pub last: u32,
    /// The first checkpoint of each so many steps is kept for good; 0: none.
    pub every_steps: u64,
    /// Those that are kept because nothing better came.
    pub best: Option<Best>,
}

/// Which checkpoints are the best, and how many of them are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Best {
    /// Name of the value that their commits hold.
    pub metric: String,
    /// How many of each row, see [`Row`].
    pub count: u32,
    /// More is better; otherwise less is.
    pub highest: bool,
}

impl Keep {
    /// How many newest commits are kept; `None`: all.
    pub fn newest(&self) -> Option<usize> {
        (self.last > 0).then(|| (self.last as usize).max(MIN_KEEP))
    }

    /// Whether nothing is kept for what it is, and everything for its age.
    pub fn is_by_age(&self) -> bool {
        self.every_steps == 0 && self.best.is_none()
    }
}

/// Commits that may go, oldest first, from all commits, newest first. Pinned ones stay.
///
/// Each row is counted for itself: `best.pt` is not old because steps came after it, only newer commits of it make it so.
/// Damaged commits neither count among those kept nor go: they restore nothing, and people may want to look at them. Of those that are
/// damaged because a mark says so [`overtaken`] lets some go.
pub fn doomed<'a>(
    newest_first: &'a [Commit],
    keep: &Keep,
    pinned: &HashSet<String>,
) -> Vec<&'a Manifest> {
    let Some(newest) = keep.newest() else {
        return Vec::new();
    };
    let whole: Vec<&Manifest> = newest_first
        .iter()
        .filter_map(|commit| commit.manifest.as_ref())
        .collect();
    let rows: Vec<Row> = whole.iter().map(|manifest| Row::of(manifest)).collect();
    let milestones = milestones(&whole, &rows, keep.every_steps);
    let best: HashSet<&str> = keep
        .best
        .iter()
        .flat_map(|keep| best(&whole, &rows, keep))
        .collect();
    let newer = |at: usize| {
        let before = rows[..at].iter();
        before.filter(|row| row.is_same(&rows[at])).count()
    };
    (0..whole.len())
        .rev()
        .filter(|at| {
            let id = whole[*at].id.as_str();
            !pinned.contains(id)
                && !milestones.contains(id)
                && !best.contains(id)
                && newer(*at) >= newest
        })
        .map(|at| whole[at])
        .collect()
}

/// Commits that a mark calls damaged (`marked`) and that may go, because as many newer ones of their row are there as are kept; `commits` are all
/// others, and of these `going` go.
///
/// A mark is one reader's word, and what it is about may be the only copy there is. Where checkpoints are kept for what they are rather than for
/// their age, a marked one goes only when its very files are in a commit that stays.
pub fn overtaken<'a>(
    marked: &'a [Manifest],
    commits: &[Commit],
    keep: &Keep,
    going: &[&Manifest],
) -> Vec<&'a Manifest> {
    let Some(newest) = keep.newest() else {
        return Vec::new();
    };
    let written_ms = |manifest: &Manifest| {
        let id = manifest.id.parse::<CommitId>().ok();
        id.map(|id| id.made_ms())
    };
    let whole = || commits.iter().filter_map(|commit| commit.manifest.as_ref());
    let may_go = |one: &&Manifest| {
        let row = Row::of(one);
        let newer = whole()
            .filter(|other| written_ms(other) > written_ms(one) && Row::of(other).is_same(&row));
        let mut staying = whole().filter(|other| !going.iter().any(|gone| gone.id == other.id));
        newer.count() >= newest && (keep.is_by_age() || staying.any(|other| is_copy(other, one)))
    };
    marked.iter().filter(may_go).collect()
}

/// Whether two commits hold the very same files.
pub fn is_copy(one: &Manifest, other: &Manifest) -> bool {
    let mut pairs = one.files.iter().zip(&other.files);
    one.path == other.path
        && one.step == other.step
        && one.files.len() == other.files.len()
        && pairs.all(|(one, other)| one.path == other.path && one.blake3 == other.blake3)
}

/// The best ones of each row, best first, from all of them, newest first. Of one step that was trained twice the better one
/// counts, of equals the newer. Those whose log said nothing are none.
fn best<'a>(newest_first: &[&'a Manifest], rows: &[Row], keep: &Best) -> Vec<&'a str> {
    let value = |manifest: &Manifest| {
        let metric = manifest.metric.as_ref()?;
        (metric.name == keep.metric).then(|| metric.value())
    };
    let mut ranked: Vec<(f64, &Manifest, &Row)> = newest_first
        .iter()
        .zip(rows)
        .filter_map(|(manifest, row)| Some((value(manifest)?, *manifest, row)))
        .collect();
    // The sort is stable: of equals the newer one stays first.
    sort_by(&mut ranked, |(one, ..), (other, ..)| match keep.highest {
        true => other.total_cmp(one),
        false => one.total_cmp(other),
    });
    let mut found: Vec<(&Manifest, &Row)> = Vec::new();
    for (_, manifest, row) in ranked {
        let better = || found.iter().filter(|(_, other)| other.is_same(row));
        let is_again =
            manifest.step.is_some() && better().any(|(other, _)| other.step == manifest.step);
        if !is_again && better().count() < keep.count as usize {
            found.push((manifest, row));
        }
    }
    let ids = found.into_iter().map(|(manifest, _)| manifest.id.as_str());
    ids.collect()
}

/// The first checkpoint of each so many steps in each row. Once it is the first it stays so, since it is never deleted.
fn milestones<'a>(whole: &[&'a Manifest], rows: &[Row], every_steps: u64) -> HashSet<&'a str> {
    if every_steps == 0 {
        return HashSet::new();
    }
    let mut by_step: Vec<(u64, &str, &Row)> = whole
        .iter()
        .zip(rows)
        .filter_map(|(manifest, row)| Some((manifest.step?, manifest.id.as_str(), row)))
        .collect();
    sort_by(&mut by_step, |one, other| {
        (one.0, one.1).cmp(&(other.0, other.1))
    });
    let is_first = |at: &usize| {
        let (step, _, row) = by_step[*at];
        let same = |(before, _, other): &&(u64, &str, &Row)| {
            before / every_steps == step / every_steps && row.is_same(other)
        };
        !by_step[..*at].iter().rev().any(|one| same(&one))
    };
    let firsts = (0..by_step.len()).filter(is_first);
    firsts.map(|at| by_step[at].1).collect()
}

/// Keys of a deleted checkpoint that nothing refers to any more, sorted. Only data under `data_prefix` is ever named, and none that
/// lies with a commit that exists: what a damaged one refers to cannot be read.
pub fn purgeable<'a>(
    deleted: &'a Manifest,
    commits: &[Commit],
    other_tombstones: &[&Manifest],
    data_prefix: &str,
) -> Vec<&'a str> {
    let mut spoken_for = keys(other_tombstones.iter().copied());
    spoken_for.extend(keys(
        commits.iter().filter_map(|commit| commit.manifest.as_ref()),
    ));
    let alive: HashSet<&str> = commits.iter().map(|commit| commit.id.as_str()).collect();
    let lies_with = |key: &str| {
        let (id, _) = key.strip_prefix(data_prefix)?.split_once('/')?;
        id.parse::<CommitId>().ok()?;
        Some(alive.contains(id))
    };
    keys([deleted])
        .into_iter()
        .filter(|key| !spoken_for.contains(key) && lies_with(key) == Some(false))
        .collect()
}

/// Every key that manifests refer to.
pub fn keys<'a>(manifests: impl IntoIterator<Item = &'a Manifest>) -> BTreeSet<&'a str> {
    manifests
        .into_iter()
        .flat_map(|manifest| manifest.files.iter().map(|file| file.key.as_str()))
        .collect()
}

#[cfg(test)]
mod tests;
