//! Results: an agent that is lost at every point of their collection. A manifest of them is whole or not there, and whoever collects
//! next, on this box or another one, has all of it.

use std::fmt;

use nix::sys::{signal::Signal, wait::WaitStatus};

use crate::{
    cell::Ended,
    sidecar::{Part, Place, collect},
    stage::Stage,
    switch::Switch,
    trainer,
};

/// Who collects after the agent was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The agent of the same box, which has its notes.
    Collector,
    /// Another box, which trained the same.
    Other,
}

impl Next {
    pub const EACH: [Next; 2] = [Next::Collector, Next::Other];
}

/// Where it is killed, while what is wrong, and who comes next.
#[derive(Debug, Clone)]
pub struct Collecting {
    pub next: Next,
    pub point: String,
    pub switch: Switch,
}

impl fmt::Display for Collecting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{}/{}", self.next, self.switch.name, self.point)
    }
}

/// The points that are passed while results are collected and this switch is on.
pub fn trace(switch: &Switch) -> Result<Vec<String>, String> {
    let stage = stage(switch)?;
    switch.put_on(&stage.board, 0);
    let trace = stage.dir.path().join("trace");
    let more = [("SPOTTER_TRACE_POINTS", trace.to_str().unwrap())];
    let mut child = stage.starts(Part::Collect, &stage.place, &more);
    match child.until_it_changes() {
        WaitStatus::Exited(_, 0) => {}
        other => return Err(format!("{other:?}: {}", stage.said())),
    }
    let text = std::fs::read_to_string(&trace).map_err(|err| err.to_string())?;
    let mut points: Vec<String> = text.lines().map(str::to_owned).collect();
    points.sort();
    points.dedup();
    Ok(points)
}

impl Collecting {
    /// Runs it to its end; the error says what did not hold.
    pub fn run(&self) -> Result<Ended, String> {
        let stage = stage(&self.switch)?;
        self.switch.put_on(&stage.board, 0);
        let more = [("SPOTTER_DIE_AT", self.point.as_str())];
        let mut child = stage.starts(Part::Collect, &stage.place, &more);
        let reached = match child.until_it_changes() {
            WaitStatus::Signaled(_, Signal::SIGKILL, _) => true,
            WaitStatus::Exited(_, 0) => false,
            other => return Err(format!("{other:?}: {}", stage.said())),
        };
        stage.board.heal();
        let before = stage.look(self.switch.tears)?.collections;
        self.switch.put_on(&stage.board, 0);
        let place = match self.next {
            Next::Collector => stage.place.clone(),
            Next::Other => Place {
                home: stage.dir.path().join("other"),
                attempt: 2,
                ..stage.place.clone()
            },
        };
        trainer::write_results_once(&place.home);
        stage.handle.block_on(async {
            let backup = place.start();
            collect(&backup, &place).await
        })?;
        stage.board.heal();
        let after = stage.look(self.switch.tears)?.collections;
        if after == 0 || after < before {
            return Err(format!("{before} collections were there, now {after}"));
        }
        // While a manifest is torn nothing is swept: it may refer to anything.
        if !self.switch.tears {
            stage.is_swept(&self.switch)?;
        }
        Ok(Ended {
            reached,
            was_committed: before > 0,
        })
    }
}

fn stage(switch: &Switch) -> Result<Stage, String> {
    let stage = Stage::set(switch)?;
    trainer::write_results_once(&stage.place.home);
    Ok(stage)
}
