//! Which lines are looked at.

use std::sync::LazyLock;

use aho_corasick::{MatchKind, dfa::DFA};

use crate::failure;

/// Every line that may say something about a training has one of these, in any case.
const ANCHORS: &[&str] = &[
    "loss",
    "step",
    "iter",
    "epoch",
    "%|",
    "it/s",
    "s/it",
    "━",
    "% ─",
    " [=",
    " [>",
    "it [",
    "% ",
    "tokens",
    "tok/s",
    "samplespersec",
    "samples/s",
    "learning_rate",
    "grad_norm",
    "reward",
    "episode",
    "\ttrain",
    "\tvalid",
    "\teval",
    "eval begin",
    "eval samples",
    "eval end",
    "eval done",
    "fps",
    "batch=",
    "eta:",
    "epch",
    " [.",
    "lr-",
    "words/s",
    "\tlearn",
    " rate:",
    "sps:",
    "_lr:",
    "kimg ",
    "_lr_",
    " rate, ",
    "lr: ",
    ">lr:",
    "timer:",
    "objf",
    "envinteracts",
    super::words::LOSS,
    "ing rate",
    // `[200, 9.9875e-05]`: a step and its learning rate.
    "e-05]",
    ", 0.000",
];

/// Records and failures in one pass; [`failure::STEMS`] are the other half.
pub(super) static GATE: LazyLock<DFA> = LazyLock::new(|| {
    let all = ANCHORS.iter().chain(failure::STEMS);
    DFA::builder()
        .ascii_case_insensitive(true)
        .match_kind(MatchKind::Standard)
        .build(all)
        .expect("the anchors are few and short")
});
