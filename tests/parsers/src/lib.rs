//! What must hold of every parser of bytes that others write, whatever they are. `fuzz/` searches for bytes of which it does not
//! (`scripts/fuzz`); `corpus/` keeps those that it learned from, and a test asks them again.

mod bucket_answer;
mod checkpoint_file;
mod manifest;
mod market_query;
mod run_file;
mod training_log;

/// One parser's check: panics when it does not hold.
pub type Check = fn(&[u8]);

/// All of them, by the name of their fuzz target.
pub const CHECKS: [(&str, Check); 6] = [
    ("bucket_answer", bucket_answer::check),
    ("checkpoint_file", checkpoint_file::check),
    ("manifest", manifest::check),
    ("market_query", market_query::check),
    ("run_file", run_file::check),
    ("training_log", training_log::check),
];

/// Checks one input by the name of its check.
///
/// # Panics
/// When the parser does what it must not, and when there is no such check.
pub fn check(name: &str, input: &[u8]) {
    let found = CHECKS.iter().find(|(known, _)| *known == name);
    found.expect("a check of this name").1(input);
}
