//! What went wrong: evidence is gathered line by line ([`rules`]), weighed at the end, explained in [`explain`].
//!
//! False alarms are worse than silence. A warning counts only when the program ended badly and right after it; an exception
//! that says itself what was wrong needs no warning; what the training went on after does not count at all; the first cause
//! counts more than what it did to other ranks; what a launcher does to its children proves nothing about them.

mod class;
mod conclude;
mod explain;
mod place;
mod rules;

use std::ops::Range;

use memchr::memmem;
use serde::Serialize;

pub use class::Class;
pub use conclude::{End, XidEvent, conclude};
pub use explain::{Explanation, Facts, explain};
pub use place::refused_path;
pub(crate) use rules::ANYWHERE;
pub use rules::STEMS;

/// Longest evidence that is kept, in bytes.
const EVIDENCE_BYTES: usize = 400;
/// Longest part of a line that is searched for evidence, in bytes.
const SEARCHED_BYTES: usize = 4 << 10;
/// A training that moved on this many steps after a failure was not ended by it.
const OVERTAKEN: u64 = 3;
/// Lines before a traceback in which a message may be what raised it.
const NEAR_LINES: u64 = 20;
/// Exceptions that mistakes of the program raise: they explain themselves, whatever was printed before.
const SELF_EXPLAINING: [&str; 15] = [
    "KeyError",
    "TypeError",
    "ValueError",
    "AttributeError",
    "NameError",
    "IndexError",
    "FileNotFoundError",
    "NotADirectoryError",
    "IsADirectoryError",
    "SyntaxError",
    "IndentationError",
    "ZeroDivisionError",
    "UnboundLocalError",
    "NotImplementedError",
    "RecursionError",
];
/// Lines after an exception that may still be its message.
const MESSAGE_LINES: u64 = 5;
/// Lines after the head of a traceback in which its exception is expected, other ranks' lines between.
const TRACEBACK_LINES: u64 = 2000;

/// What went wrong, and the line that shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// The class.
    pub class: Class,
    /// The line, at most 400 bytes, without terminal codes.
    pub evidence: String,
    /// Its number, counted from 1; 0 when no single line shows it.
    pub line: u64,
}

/// How much a line proves, the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Proof {
    /// A warning: counts when the program ended badly and nothing else explains it.
    Hint,
    /// A launcher tells how its child ended.
    Launcher,
    /// A message that programs print when they end by it.
    Said,
    /// The exception or message that ended the program.
    Fatal,
}

#[derive(Debug, Clone)]
struct Evidence {
    class: Class,
    proof: Proof,
    line: u64,
    text: String,
    /// How far the training was.
    progress: u64,
    /// Where its traceback begins; its own line when it has none.
    head: u64,
}

impl Evidence {
    /// How far a training must have gone on for this not to have ended it.
    fn overtaken(&self) -> u64 {
        // Other ranks go on for a while after one of them failed, and a program after a signal; a tool that was missing, or
        // memory that was given up, ended nothing where a single step followed.
        let of_the_start = matches!(
            self.class,
            Class::MissingModule
                | Class::CudaOom
                | Class::NanLoss
                | Class::CorruptCheckpoint
                | Class::DiskFull
                | Class::DriverMismatch
                | Class::UnsupportedGpu
                | Class::DataloaderShm
        );
        match self.proof {
            Proof::Hint | Proof::Said if of_the_start => 1,
            _ => OVERTAKEN,
        }
    }

    fn is_alive(&self, progress: u64) -> bool {
        progress < self.progress + self.overtaken()
    }

    /// Whether it is an exception without a class whose name says that the program itself was wrong.
    fn explains_itself(&self) -> bool {
        explains_itself(&self.text)
    }

    /// Whether it may be what raised `crash`, an exception that has no class itself.
    fn may_have_raised(&self, crash: &Self) -> bool {
        if matches!(self.proof, Proof::Launcher | Proof::Fatal) || self.line >= crash.head {
            return true;
        }
        let near = crash.head - self.line <= NEAR_LINES && crash.progress == self.progress;
        if crash.explains_itself() {
            return near && self.proof == Proof::Said && self.class.ends_programs();
        }
        match self.proof {
            Proof::Hint => near || speaks_of_gpus(&crash.text),
            _ => near || self.class != Class::MissingModule,
        }
    }
}

/// Whether a line is an exception that mistakes of the program raise.
fn explains_itself(text: &str) -> bool {
    let name = exception(text.as_bytes()).map_or("", |name| &text[name]);
    let name = name.rsplit('.').next().unwrap_or(name);
    SELF_EXPLAINING.contains(&name)
}

/// Gathers evidence while a log is read.
#[derive(Debug, Default)]
pub struct Watch {
    /// At most one of each class and proof.
    found: Vec<Evidence>,
    /// Line of the last head of a traceback that has had no exception so far.
    traceback: Option<u64>,
    /// The last exception that belongs to a chain which may go on.
    chained: bool,
    last_exception: Option<u64>,
    /// The traceback went through multiprocessing: its pipes break when a sibling dies.
    sibling: bool,
    /// Python ignores the next exception: it says so before it shows it.
    ignored: bool,
    /// Where a logger warned of what the program gets over.
    warned: Option<u64>,
}

impl Watch {
    /// Looks at one line without terminal codes.
    pub fn line(&mut self, line: &[u8], number: u64, progress: u64) {
        let line = &line[..line.len().min(SEARCHED_BYTES)];
        let signs = rules::signs(line);
        if signs.is_empty() {
            return;
        }
        // Newer trainers tell their `train_runtime` with each record.
        if signs.done && memmem::find(line, b"'loss'").is_none() {
            self.found.clear();
            return;
        }
        if signs.warning && memmem::find(line, b"WARNING").is_some() {
            // Every warning says `warning`: what the program gets over must be said beside it.
            let lower = line.to_ascii_lowercase();
            let beside: Vec<&[u8]> = lower.split(|byte| *byte == b' ').collect();
            if ["skip", "retry", "ignor", "continu"]
                .iter()
                .any(|word| beside.iter().any(|part| part.starts_with(word.as_bytes())))
            {
                self.warned = Some(number);
            }
        }
        if memmem::find(line, b"Exception ignored in").is_some() {
            self.ignored = true;
            return;
        }
        if signs.traceback {
            // A logger shows the exception that it warns of right below; nobody raises it.
            self.ignored |= self.warned.is_some_and(|warned| number == warned + 1);
            self.traceback = Some(number).filter(|_| !self.ignored);
            self.sibling = false;
        }
        self.sibling |= signs.sibling;
        self.chained |= signs.chained;
        let exception = signs
            .exception
            .then(|| exception(line))
            .flatten()
            .map(|name| &line[name]);
        if self.ignored {
            self.ignored = exception.is_none();
            return;
        }
        if exception == Some(&b"SystemExit"[..]) && ends_well(line) {
            self.forget_traceback();
            return;
        }
        // `class_error: 90.0` of a trainer: no rule, and no exception either.
        if exception.is_none() && !signs.has_rules() && !signs.traceback {
            return;
        }
        let lower = line.to_ascii_lowercase();
        let in_traceback = self
            .traceback
            .is_some_and(|head| number.saturating_sub(head) < TRACEBACK_LINES);
        let raised = exception.is_some() && in_traceback;
        let mut found = rules::judge(&lower, &signs);
        if self.sibling
            && found.is_some_and(|(class, _)| {
                matches!(class, Class::Network | Class::CorruptCheckpoint)
            })
        {
            found = Some((Class::TracebackOther, Proof::Launcher));
        }
        let in_message = self.found.iter().any(|old| {
            old.proof == Proof::Fatal
                && old.class != Class::TracebackOther
                && number - old.line < MESSAGE_LINES
        });
        let (class, proof) = match found {
            // `NCCL error`, then `Last error: ...`: the exception has told its class.
            Some((_, Proof::Said)) if !raised && in_message => return,
            Some((class, Proof::Launcher)) => (class, Proof::Launcher),
            Some((class, _)) if raised => (class, Proof::Fatal),
            // Its head may have been lost; the internet is mostly tried again.
            Some((class, Proof::Hint)) if exception.is_some() && class != Class::Network => {
                (class, rules::weaken(&lower, Proof::Said))
            }
            Some((class, proof)) => (class, rules::weaken(&lower, proof)),
            None if raised => (Class::TracebackOther, Proof::Fatal),
            None if exception.is_some() => (Class::TracebackOther, Proof::Hint),
            None if signs.traceback => (Class::TracebackOther, Proof::Launcher),
            None => return,
        };
        if raised {
            self.unchain(class);
            self.last_exception = Some(number);
        }
        self.add(class, proof, number, line, progress);
    }

    /// `KeyError`, then `During handling of the above exception, another occurred`: the later one says more.
    fn unchain(&mut self, class: Class) {
        if std::mem::take(&mut self.chained) && class != Class::TracebackOther {
            let last = self.last_exception;
            self.found
                .retain(|old| old.class != Class::TracebackOther || Some(old.line) != last);
        }
    }

    /// The traceback that is open was that of a good end.
    fn forget_traceback(&mut self) {
        let head = self.traceback.take();
        self.found
            .retain(|old| old.proof != Proof::Launcher || Some(old.line) != head);
    }

    fn add(&mut self, class: Class, proof: Proof, line: u64, text: &[u8], progress: u64) {
        let text = String::from_utf8_lossy(&text[..text.len().min(EVIDENCE_BYTES)]);
        let new = Evidence {
            class,
            proof,
            line,
            text: text.trim().to_owned(),
            progress,
            head: match proof {
                Proof::Fatal => self.traceback.unwrap_or(line),
                _ => line,
            },
        };
        let same = self
            .found
            .iter_mut()
            .find(|old| old.class == class && old.proof == proof);
        match same {
            // The first is the cause, unless the training went on after it.
            Some(old) if !old.is_alive(progress) => *old = new,
            Some(_) => {}
            None => self.found.push(new),
        }
    }

    /// Weighs the evidence. `progress`: how far the training is; `broken`: its loss is not a number and stays so.
    pub fn verdict(&self, progress: u64, broken: bool) -> Option<Diagnosis> {
        let alive = || self.found.iter().filter(|found| found.is_alive(progress));
        // The first exception that no rule knows: what was printed before it may be why, or only have been printed.
        let crash = alive()
            .filter(|found| found.proof == Proof::Fatal && found.class == Class::TracebackOther)
            .min_by_key(|found| found.line);
        let counts = |found: &Evidence| crash.is_none_or(|crash| found.may_have_raised(crash));
        let first = |chosen: &dyn Fn(&Evidence) -> bool| {
            alive()
                .filter(|found| counts(found) && chosen(found))
                .min_by_key(|found| found.line)
                .map(|found| Diagnosis {
                    class: found.class,
                    evidence: found.text.clone(),
                    line: found.line,
                })
        };
        let ended_badly =
            alive().any(|found| matches!(found.proof, Proof::Fatal | Proof::Launcher));
        let nan = broken.then(|| Diagnosis {
            class: Class::NanLoss,
            evidence: "the loss is not a number any more".to_owned(),
            line: 0,
        });
        first(&|found| found.proof >= Proof::Said && !found.class.may_follow())
            .or(nan)
            // Optional modules are missing in many a good run, but nothing else ends by it.
            .or_else(|| {
                first(&|found| found.proof >= Proof::Said && found.class == Class::MissingModule)
            })
            .or_else(|| {
                first(&|found| {
                    ended_badly && found.proof == Proof::Hint && !found.class.may_follow()
                })
            })
            .or_else(|| first(&|found| found.proof >= Proof::Said))
            .or_else(|| {
                first(&|found| {
                    found.proof == Proof::Launcher && found.class != Class::TracebackOther
                })
            })
            .or_else(|| first(&|found| found.proof == Proof::Launcher))
    }
}

/// Whether an exception that has no class speaks of GPUs: warnings of them may explain it.
fn speaks_of_gpus(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    ["cuda", "gpu", "nccl", "nvidia", "driver", "device"]
        .iter()
        .any(|word| lower.contains(word))
}

/// `SystemExit: 0`, `SystemExit`.
fn ends_well(line: &[u8]) -> bool {
    let line = line.trim_ascii_end();
    line.ends_with(b"SystemExit") || line.ends_with(b"SystemExit: 0") || line.ends_with(b": None")
}

/// The name of the exception that a line is: `torch.OutOfMemoryError: CUDA out of memory`, `AssertionError`.
fn exception(line: &[u8]) -> Option<Range<usize>> {
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.');
    let mut from = 0;
    for _ in 0..8 {
        let at = [
            &b"Error"[..],
            b"Exception",
            b"Interrupt",
            b"Exit",
            b"Failure",
            b"Timeout",
        ]
        .iter()
        .filter_map(|word| memmem::find(&line[from..], word))
        .min()?
            + from;
        let start = line[..at]
            .iter()
            .rposition(|byte| !is_name(byte))
            .map_or(0, |before| before + 1);
        let end = at + line[at..].iter().take_while(|byte| is_name(byte)).count();
        let before = line[..start].trim_ascii_end();
        // `raise ValueError(` and `except KeyError:` are code; a message stands behind a prefix or nothing.
        let leads = before.is_empty()
            || matches!(before.last(), Some(b':' | b']' | b'|' | b'-' | b')' | b'>'));
        let ends =
            matches!(line.get(end), None | Some(b':')) || line[end..].trim_ascii().is_empty();
        let is_identifier = end - start > 5 || before.is_empty();
        if leads && ends && is_identifier && line[start].is_ascii_alphabetic() {
            // `Error: ...` and `ERROR` of a logger are no exceptions of Python.
            // `Failures:` heads the list of a launcher.
            let name = &line[start..end];
            let named = name.iter().any(u8::is_ascii_lowercase) && name.len() > 5;
            if named && name != b"Failures" {
                return Some(start..end);
            }
        }
        from = end;
    }
    None
}

#[cfg(test)]
mod tests;
