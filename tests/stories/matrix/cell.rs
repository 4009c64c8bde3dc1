//! One cell of the matrix: an agent that is lost at a point while a switch is on, what the bucket holds then, and how it goes on.

use std::{
    collections::BTreeSet,
    fmt, fs,
    hash::{DefaultHasher, Hash, Hasher},
};

use nix::sys::{signal::Signal, wait::WaitStatus};

use crate::{
    sidecar::save,
    stage::{Process, Seen, Stage},
    switch::Switch,
    trainer::{self, CRITICAL},
};

/// Points that a checkpoint passes at least.
const LEAST_POINTS: usize = 40;

/// How an agent is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// SIGKILL; its box, its files and its notes stay.
    Agent,
    /// The box is gone: the server sees a connection on which nothing comes any more. Another box takes over.
    Box,
    /// The same, but the lost box comes back when the other one has saved its first checkpoint.
    Back,
}

impl End {
    pub const EACH: [End; 3] = [End::Agent, End::Box, End::Back];
}

/// Where, while what is wrong, and how.
#[derive(Debug, Clone)]
pub struct Cell {
    pub end: End,
    pub point: String,
    pub switch: Switch,
}

/// What there is to say of a cell in which everything held.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// The point was passed, so that somebody died there.
    pub reached: bool,
    /// The checkpoint in question existed at that moment.
    pub was_committed: bool,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{}/{}", self.end, self.switch.name, self.point)
    }
}

/// The points that the agent passes while it saves the critical checkpoint and this switch is on.
pub fn trace(switch: &Switch) -> Result<Vec<String>, String> {
    let stage = Stage::set(switch)?;
    switch.put_on(&stage.board, 0);
    let trace = stage.dir.path().join("trace");
    let mut child = stage.agent(&[("SPOTTER_TRACE_POINTS", trace.to_str().unwrap())]);
    match child.until_it_changes() {
        WaitStatus::Exited(_, 0) => {}
        other => return Err(format!("{other:?}: {}", stage.said())),
    }
    let text = fs::read_to_string(&trace).map_err(|err| err.to_string())?;
    let points: BTreeSet<String> = text.lines().map(str::to_owned).collect();
    if points.len() < LEAST_POINTS {
        return Err(format!("only {} points: {points:?}", points.len()));
    }
    Ok(points.into_iter().collect())
}

impl Cell {
    /// Runs it to its end; the error says what did not hold.
    pub fn run(&self) -> Result<Ended, String> {
        let stage = Stage::set(&self.switch)?;
        let mut random = DefaultHasher::new();
        self.to_string().hash(&mut random);
        let draw = random.finish() as u32;
        self.switch.put_on(&stage.board, 0);
        let at = match self.end {
            End::Agent => "SPOTTER_DIE_AT",
            End::Box | End::Back => "SPOTTER_FREEZE_AT",
        };
        let mut child = stage.agent(&[(at, &self.point)]);
        let reached = match child.until_it_changes() {
            WaitStatus::Signaled(_, Signal::SIGKILL, _) | WaitStatus::Stopped(..) => true,
            WaitStatus::Exited(_, 0) => false,
            other => return Err(format!("{other:?}: {}", stage.said())),
        };
        stage.board.heal();
        let then = stage.look(self.switch.tears)?;
        then.has(2)?;
        if !then.steps.contains(&CRITICAL) {
            then.has(1)?;
        }
        self.switch.put_on(&stage.board, draw);
        match self.end {
            End::Agent => self.goes_on(&stage)?,
            End::Box => self.moves(&stage, &then, None)?,
            End::Back => self.moves(&stage, &then, Some(&mut child))?,
        }
        Ok(Ended {
            reached,
            was_committed: then.steps.contains(&CRITICAL),
        })
    }

    /// The agent starts again on its box, saves what it was saving, and the next checkpoint too.
    fn goes_on(&self, stage: &Stage) -> Result<(), String> {
        let backup = stage.place.start();
        stage.handle.block_on(save(&backup, CRITICAL))?;
        stage.board.heal();
        let now = stage.look(false)?;
        now.has(2)?;
        stage.restores("check", CRITICAL)?;
        trainer::write(&stage.place.checkpoints(), 4);
        stage.handle.block_on(save(&backup, 4))?;
        let now = stage.look(false)?;
        // Keys that were refused once do not try to delete again for an hour.
        let refuses = ["denied", "expired_token"].contains(&self.switch.name.as_str());
        let kept = BTreeSet::from([CRITICAL, 4]);
        if !(now.steps == kept || (refuses && now.steps.is_superset(&kept))) {
            return Err(format!(
                "steps {:?} are in the bucket at the end",
                now.steps
            ));
        }
        // Two of step 3, in case its commit was never seen by the agent that made it, would be one too many.
        if now.commits != now.steps.len() {
            return Err(format!(
                "{} commits of {} checkpoints",
                now.commits,
                now.steps.len()
            ));
        }
        stage.has_no_litter(&now)?;
        stage.has_no_notes()?;
        stage.is_swept(&self.switch)
    }

    /// Another box takes over: it gets the newest commit, trains, and saves the next checkpoint.
    fn moves(&self, stage: &Stage, then: &Seen, back: Option<&mut Process>) -> Result<(), String> {
        let newest = then.steps.last().copied().unwrap_or(0);
        let place = stage.restores("other", newest)?;
        trainer::write(&place.checkpoints(), 4);
        let backup = place.start();
        stage.handle.block_on(save(&backup, 4))?;
        stage.board.heal();
        if let Some(child) = back {
            match child.finishes() {
                WaitStatus::Exited(_, 0) => {}
                other => return Err(format!("came back: {other:?}: {}", stage.said())),
            }
        }
        let now = stage.look(self.switch.tears)?;
        now.has(4)?;
        // Two are kept: what a box that came back saved may take the place of what the other one began with.
        if now.steps.range(newest + 1..).count() < 2 {
            now.has(newest)?;
        }
        stage.restores("check", 4)?;
        // While a commit is torn nothing is swept: it may refer to anything.
        if self.switch.tears {
            return Ok(());
        }
        stage.is_swept(&self.switch)
    }
}
