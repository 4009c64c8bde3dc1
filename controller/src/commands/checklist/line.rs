//! The lines of the checklist: which there are, in which order, and what each may say (pure).

use serde::Serialize;

use super::{after, before, deployment, execution, facts::Facts, monitoring, selection};

/// How a line stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Standing {
    /// A fact shows that it is done.
    Done,
    /// It is still to come.
    NotYet,
    /// This run has no use for it.
    DoesNotApply,
    /// It went wrong, or is missing where it has to be.
    Wrong,
    /// spotter cannot know it.
    Unknown,
}

impl Standing {
    /// For people; what is wrong stands out.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::NotYet => "not yet",
            Self::DoesNotApply => "does not apply",
            Self::Wrong => "WRONG",
            Self::Unknown => "unknown",
        }
    }
}

/// What is to be said of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    /// How it stands.
    pub(super) state: Standing,
    /// The number or the file that shows it.
    pub(super) evidence: String,
    /// When that was seen, microseconds since the epoch.
    pub(super) at_us: Option<i64>,
    /// What to type or write next.
    pub(super) next: Option<String>,
}

impl Told {
    fn new(state: Standing, evidence: impl Into<String>) -> Self {
        Self {
            state,
            evidence: evidence.into(),
            at_us: None,
            next: None,
        }
    }

    pub(super) fn done(evidence: impl Into<String>) -> Self {
        Self::new(Standing::Done, evidence)
    }

    pub(super) fn not_yet(evidence: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(Standing::NotYet, evidence).then(next)
    }

    pub(super) fn wrong(evidence: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(Standing::Wrong, evidence).then(next)
    }

    pub(super) fn does_not_apply(why: impl Into<String>) -> Self {
        Self::new(Standing::DoesNotApply, why)
    }

    pub(super) fn unknown(why: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(Standing::Unknown, why).then(next)
    }

    fn then(self, next: impl Into<String>) -> Self {
        Self {
            next: Some(next.into()),
            ..self
        }
    }

    /// When it was seen; 0 and nothing are not known.
    pub(super) fn at(self, at_us: impl Into<Option<i64>>) -> Self {
        Self {
            at_us: at_us.into().filter(|us| *us > 0),
            ..self
        }
    }
}

/// A line, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Line {
    /// The part of the checklist.
    pub(super) section: &'static str,
    /// Its name, for programs; it stays.
    pub(super) id: &'static str,
    /// Its name, for people.
    pub(super) what: &'static str,
    pub(super) state: Standing,
    pub(super) evidence: String,
    pub(super) at_us: Option<i64>,
    pub(super) next: Option<String>,
}

/// Section, name for programs, name for people, and what judges it.
type Row = (&'static str, &'static str, &'static str, fn(&Facts) -> Told);

const BEFORE: &str = "pre-deployment";
const SELECTION: &str = "instance selection";
const DEPLOYMENT: &str = "deployment";
const EXECUTION: &str = "execution";
const MONITORING: &str = "monitoring";
const AFTER: &str = "post-job";
const COST: &str = "cost";

/// The checklist. A line is done by a fact alone: no row says so by itself.
const ROWS: &[Row] = &[
    (BEFORE, "code_tested", "code tried out", before::code_tested),
    (
        BEFORE,
        "dependencies",
        "dependencies listed",
        before::dependencies,
    ),
    (
        BEFORE,
        "checkpointing",
        "checkpoints are written",
        before::checkpointing,
    ),
    (BEFORE, "logging", "progress is logged", before::logging),
    (BEFORE, "data_validated", "data checked", before::data),
    (SELECTION, "search", "offers filtered", selection::search),
    (SELECTION, "gpu_model", "GPU model verified", selection::gpu),
    (SELECTION, "rental", "kind of rental", selection::rental),
    (SELECTION, "instance", "box rented", selection::instance),
    (DEPLOYMENT, "code", "code on the box", deployment::code),
    (DEPLOYMENT, "setup", "environment set up", deployment::setup),
    (
        DEPLOYMENT,
        "cuda",
        "GPUs used by the training",
        deployment::cuda,
    ),
    (
        DEPLOYMENT,
        "flash_attention",
        "FlashAttention",
        deployment::flash,
    ),
    (DEPLOYMENT, "data", "data on the box", deployment::data),
    (EXECUTION, "session", "tmux session", execution::session),
    (
        EXECUTION,
        "gpu_monitoring",
        "GPUs measured",
        execution::measured,
    ),
    (
        EXECUTION,
        "tensorboard",
        "TensorBoard (optional)",
        execution::tensorboard,
    ),
    (
        EXECUTION,
        "training",
        "training started",
        execution::training,
    ),
    (
        EXECUTION,
        "detached",
        "goes on without you",
        execution::detached,
    ),
    (
        EXECUTION,
        "backup",
        "checkpoints go to the bucket",
        execution::backup,
    ),
    (
        MONITORING,
        "gpu_utilisation",
        "GPUs are busy",
        monitoring::gpus,
    ),
    (MONITORING, "logs", "log is read", monitoring::logs),
    (
        MONITORING,
        "curves",
        "curves to look at",
        monitoring::curves,
    ),
    (MONITORING, "disk", "disk has room", monitoring::disk),
    (
        MONITORING,
        "saved_lately",
        "saved lately",
        monitoring::saved_lately,
    ),
    (AFTER, "final_model", "final model is safe", after::model),
    (AFTER, "logs_home", "logs are here", after::logs),
    (AFTER, "results_home", "results are here", after::results),
    (AFTER, "verified", "downloads verified", after::verified),
    (AFTER, "destroyed", "box destroyed", after::destroyed),
    (COST, "planned", "planned before renting", after::planned),
    (COST, "budget", "within its budget", after::budget),
    (COST, "bill", "bill matches the record", after::bill),
];

/// Every line of the checklist.
pub(super) fn lines(facts: &Facts) -> Vec<Line> {
    let line = |(section, id, what, judge): &Row| {
        let told = judge(facts);
        Line {
            section,
            id,
            what,
            state: told.state,
            evidence: told.evidence,
            at_us: told.at_us,
            next: told.next,
        }
    };
    ROWS.iter().map(line).collect()
}
