//! Finds the signs of [`table`] in a line, and says what they prove there.

mod table;

use std::sync::LazyLock;

use aho_corasick::{Input, MatchKind, automaton::Automaton, dfa::DFA, nfa::contiguous::NFA};
use memchr::memmem;

use super::{Class, Proof};
use table::RULES;

pub use table::STEMS;

/// Texts that are no evidence themselves.
const TRACEBACK: &str = "traceback (most recent call last)";
const CHAINED: &str = "another exception occurred";
const SIBLING: &str = "multiprocessing/";
/// A level of loggers.
const WARNING: &str = "warning";
const DONE: [&str; 3] = [
    "'train_runtime'",
    "\"train_runtime\"",
    "training completed successfully",
];
const EXCEPTIONS: [&str; 6] = [
    "error",
    "exception",
    "interrupt",
    "exit",
    "failure",
    "timeout",
];

/// What [`signs`] looks for, in the order of the rules.
const SIGNS: &[&str] = &{
    // Rules first, so that an anchor's number is its rule's.
    let mut all = [""; RULES.len() + 4 + DONE.len() + EXCEPTIONS.len()];
    let mut at = 0;
    while at < RULES.len() {
        all[at] = RULES[at].0;
        at += 1;
    }
    all[at] = TRACEBACK;
    all[at + 1] = CHAINED;
    all[at + 2] = SIBLING;
    all[at + 3] = WARNING;
    at += 4;
    let mut index = 0;
    while index < DONE.len() {
        all[at] = DONE[index];
        at += 1;
        index += 1;
    }
    index = 0;
    while index < EXCEPTIONS.len() {
        all[at] = EXCEPTIONS[index];
        at += 1;
        index += 1;
    }
    all
};

// The automata by their own names: the crate's choice among all of them brings each into the program.
static FINDER: LazyLock<NFA> = LazyLock::new(|| {
    NFA::builder()
        .ascii_case_insensitive(true)
        .match_kind(MatchKind::Standard)
        .build(SIGNS)
        .expect("the signs are few and short")
});

/// Whether a line has a stem at all: few states, hence quick.
static GATE: LazyLock<DFA> = LazyLock::new(|| {
    DFA::builder()
        .ascii_case_insensitive(true)
        .build(STEMS)
        .expect("the stems are few and short")
});

/// Why no search fails.
pub(crate) const ANYWHERE: &str = "the automata were built for matches anywhere";

/// What was found in a line.
#[derive(Debug, Default)]
pub struct Signs {
    /// A bit for each rule whose text is there.
    rules: [u64; RULES.len().div_ceil(64)],
    any: bool,
    /// The head of a traceback.
    pub traceback: bool,
    /// The exception before goes on in the next.
    pub chained: bool,
    /// A frame of the multiprocessing module.
    pub sibling: bool,
    /// A logger warns, or speaks of a warning.
    pub warning: bool,
    /// The training ended well.
    pub done: bool,
    /// It may be an exception.
    pub exception: bool,
}

impl Signs {
    /// Whether a rule may fit.
    pub fn has_rules(&self) -> bool {
        self.rules.iter().any(|bits| *bits != 0)
    }

    /// Whether the line is of no interest.
    pub fn is_empty(&self) -> bool {
        !self.any
    }
}

/// Finds all signs of a line in one pass.
pub fn signs(line: &[u8]) -> Signs {
    let mut signs = Signs::default();
    // Most lines have none, and to know that is quicker than to find all.
    let gate = GATE.try_find(&Input::new(line).earliest(true));
    if gate.expect(ANYWHERE).is_none() {
        return signs;
    }
    let all = FINDER.try_find_overlapping_iter(Input::new(line));
    for found in all.expect(ANYWHERE) {
        let index = found.pattern().as_usize();
        signs.any = true;
        match index.checked_sub(RULES.len()) {
            None => signs.rules[index / 64] |= 1 << (index % 64),
            Some(0) => signs.traceback = true,
            Some(1) => signs.chained = true,
            Some(2) => signs.sibling = true,
            Some(3) => signs.warning = true,
            Some(other) if other < 4 + DONE.len() => signs.done = true,
            Some(_) => signs.exception = true,
        }
    }
    signs
}

/// The first rule that fits a line, which is in lower case.
pub(super) fn judge(line: &[u8], signs: &Signs) -> Option<(Class, Proof)> {
    let has = |text: &&str| memmem::find(line, text.as_bytes()).is_some();
    for (index, (text, class, proof, with, without)) in RULES.iter().enumerate() {
        if signs.rules[index / 64] & (1 << (index % 64)) == 0 {
            continue;
        }
        let fits = match *text {
            "killed" => is_shell_report(line, b"killed"),
            "terminated" => is_shell_report(line, b"terminated"),
            _ => (with.is_empty() || with.iter().any(has)) && !without.iter().any(has),
        };
        if fits {
            return Some((*class, *proof));
        }
    }
    None
}

/// What a shell or its like says of a child: `Killed` alone, or `run.sh: line 25: 1200261 Killed   python train.py`.
fn is_shell_report(line: &[u8], word: &[u8]) -> bool {
    let line = line.trim_ascii();
    if line == word {
        return true;
    }
    let Some(at) = memmem::find(line, word) else {
        return false;
    };
    let before = line[..at].trim_ascii_end();
    // `[1]+  Killed   python train.py`, `zsh: killed   python train.py`, `make: *** [Makefile:3: train] Killed`.
    let is_job = matches!(before, [b'[', .., b']'] | [b'[', .., b']', b'+' | b'-'])
        && before[1..]
            .iter()
            .filter(|byte| byte.is_ascii_alphabetic())
            .count()
            == 0;
    if is_job || before == b"zsh:" || before.starts_with(b"make: *** [") {
        return true;
    }
    let pid = before
        .iter()
        .rev()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    pid > 0 && memmem::find(before, b": line ").is_some()
}

/// What is said in passing: a retry, a warning, advice.
pub(super) fn weaken(line: &[u8], proof: Proof) -> Proof {
    const MILD: [&str; 39] = [
        "retry",
        "retries left",
        "trying",
        "skip",
        "recover",
        "warning",
        "warn:",
        "will be reduced",
        "reducing",
        "halving",
        "not a failure",
        "if you",
        "to avoid",
        "may cause",
        "might",
        "could be",
        "in case",
        "ignor",
        "fallback",
        "falling back",
        "attempt ",
        "tip:",
        "hint:",
        "usage:",
        "continuing",
        "from scratch",
        "can be fixed",
        "may run",
        "failed call to cuinit",
        "could not load dynamic lib",
        "could not load bitsandbytes",
        ". using ",
        ", using ",
        "; using ",
        "using cached",
        "disabl",
        "instead",
        "optional",
        "will checkpoint",
    ];
    let has = |text: &&str| memmem::find(line, text.as_bytes()).is_some();
    let mild = MILD.iter().any(has);
    // An allocator or a tuner says so, and goes on with less.
    let gets_over = ["not a failure", "falling back", "fallback", "retrying"]
        .iter()
        .any(has);
    let allocates = ["tried to allocate", "trying to allocate"].iter().any(has);
    // The kernel's own report is no advice; a whole exception text may hold some.
    let certain = (allocates && !gets_over)
        || [
            "killed",
            "nvrm",
            "core dumped",
            "bus error",
            "uncorrectable ecc",
        ]
        .iter()
        .any(has);
    if mild && !certain { Proof::Hint } else { proof }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sign_has_a_stem() {
        for sign in SIGNS {
            assert!(STEMS.iter().any(|stem| sign.contains(stem)), "{sign}");
        }
    }

    #[test]
    fn every_rule_can_decide() {
        for (later, (text, class, proof, with, without)) in RULES.iter().enumerate() {
            for (earlier, rule) in RULES[..later].iter().enumerate() {
                let always = rule.3.is_empty() && rule.4.is_empty();
                // A shell's report is more than its word.
                let is_word = matches!(rule.0, "killed" | "terminated");
                assert!(
                    is_word || !always || !text.contains(rule.0),
                    "{text} comes after {}",
                    rule.0
                );
                let same = (rule.1, rule.2, rule.3, rule.4) == (*class, *proof, *with, *without);
                let between = RULES[earlier + 1..later]
                    .iter()
                    .any(|other| other.1 != *class);
                assert!(
                    !same || between || !rule.0.contains(text),
                    "{} says no more than {text}",
                    rule.0
                );
            }
        }
    }
}
