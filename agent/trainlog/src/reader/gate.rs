//! Which lines are looked at.

use std::sync::LazyLock;

use aho_corasick::{Anchored, MatchKind, automaton::Automaton as _, dfa::DFA};

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
    "minibatches ",
    super::words::LOSS,
    "ing rate",
    // `[200, 9.9875e-05]`: a step and its learning rate.
    "e-05]",
    ", 0.000",
];

/// Records and failures in one pass; [`failure::STEMS`] are the other half.
static GATE: LazyLock<DFA> = LazyLock::new(|| {
    let all = ANCHORS.iter().chain(failure::STEMS);
    DFA::builder()
        .ascii_case_insensitive(true)
        .match_kind(MatchKind::Standard)
        .build(all)
        .expect("the anchors are few and short")
});

/// Where the first anchor of `bytes` starts. By the automaton's own steps: its search is one function for every caller, and where the
/// compiler happens to place the loop over each byte of a log decides whether it takes twice as long.
pub(super) fn first(bytes: &[u8]) -> Option<usize> {
    let gate = &*GATE;
    let mut state = gate.start_state(Anchored::No).expect(failure::ANYWHERE);
    for (at, byte) in bytes.iter().enumerate() {
        state = gate.next_state(Anchored::No, state, *byte);
        if gate.is_match(state) {
            let pattern = gate.match_pattern(state, 0);
            return Some(at + 1 - gate.pattern_len(pattern));
        }
    }
    None
}
