//! What a checkpoint is made of, compared with the one before it: a set that is smaller is half written, or half deleted (pure).
//!
//! Steps, ranks and hashes in names become `#`, so that files of the same kind are counted. A trainer may save less on purpose;
//! then the next one shows that it has gone on (see [`Doubt::superseded`]).

use std::collections::BTreeMap;

use super::super::candidate::Candidate;

/// Kinds of files with how many there are of each, and one of them as an example.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Key of the candidate.
    pub key: String,
    /// What its siblings have in common.
    family: String,
    /// Path, for people.
    path: String,
    /// When it was last written, nanoseconds since the epoch.
    written_ns: i64,
    kinds: BTreeMap<String, (usize, String)>,
}

/// Why a checkpoint may be a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubt {
    /// What it lacks.
    pub reason: String,
    /// Whether a newer sibling is there: its writer has gone on.
    pub superseded: bool,
}

/// What the siblings say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Comparison {
    /// There is none to compare with.
    First,
    /// It is as large as the newest finished one.
    Same,
    /// It is smaller.
    Smaller(Doubt),
}

impl Shape {
    /// The shape of a candidate; `None` for files without a step, which have no siblings.
    pub fn of(candidate: &Candidate) -> Option<Shape> {
        let is_flat = candidate.key.starts_with("step:");
        let family = if is_flat {
            "step:".to_owned()
        } else if candidate.directory && !candidate.is_flat() {
            format!("dir:{}", kind(&candidate.path))
        } else {
            return None;
        };
        let mut kinds: BTreeMap<String, (usize, String)> = BTreeMap::new();
        for file in &candidate.files {
            // A single file's path is that of the candidate.
            let path = if file.path.is_empty() {
                &candidate.path
            } else {
                &file.path
            };
            let entry = kinds.entry(kind(path)).or_insert_with(|| (0, path.clone()));
            entry.0 += 1;
        }
        let path = match candidate.step {
            Some(step) if is_flat => format!("step {step}"),
            _ => candidate.path.clone(),
        };
        Some(Shape {
            key: candidate.key.clone(),
            family,
            path,
            written_ns: candidate.written_ns(),
            kinds,
        })
    }

    /// Whether one of these names is in it, in whatever directory.
    pub fn holds(&self, names: &[&str]) -> bool {
        let mut examples = self.kinds.values().map(|(_, example)| example);
        examples.any(|path| names.contains(&super::split(path).1))
    }

    /// Files of several programs may lie side by side: those that share no kind are no siblings.
    fn is_sibling_of(&self, other: &Shape) -> bool {
        self.family == other.family
            && self.key != other.key
            && self.kinds.keys().any(|kind| other.kinds.contains_key(kind))
    }

    /// Whether it is a later one of the same kind as another, of which it lacks nothing.
    pub fn replaces(&self, other: &Shape) -> bool {
        self.is_sibling_of(other) && self.lacks(other).is_none()
    }

    /// Whether it is a sibling that was written after another.
    pub fn is_successor_of(&self, other: &Shape) -> bool {
        other.is_sibling_of(self) && self.written_ns > other.written_ns
    }

    fn lacks(&self, whole: &Shape) -> Option<String> {
        whole.kinds.iter().find_map(|(kind, (wanted, example))| {
            let found = self.kinds.get(kind).map_or(0, |(count, _)| *count);
            if found >= *wanted {
                return None;
            }
            let of = &whole.path;
            Some(if found == 0 {
                format!("it has nothing like {example}, which {of} has")
            } else {
                format!("it has {found} files like {example}, {of} has {wanted}")
            })
        })
    }
}

/// Compares a candidate with the newest of the finished ones; `there` is everything that lies in the directory.
pub fn compare(candidate: &Candidate, finished: &[Shape], there: &[Shape]) -> Comparison {
    let Some(own) = Shape::of(candidate) else {
        return Comparison::Same;
    };
    let siblings = finished.iter().filter(|other| own.is_sibling_of(other));
    let Some(newest) = siblings.max_by_key(|other| other.written_ns) else {
        return Comparison::First;
    };
    match own.lacks(newest) {
        None => Comparison::Same,
        Some(reason) => {
            let superseded = there.iter().any(|other| other.is_successor_of(&own));
            Comparison::Smaller(Doubt { reason, superseded })
        }
    }
}

/// A name with `#` for every number and every long hash: `__1_0.distcp` is `__#_#.distcp`.
pub(in super::super) fn kind(name: &str) -> String {
    let mut kind = String::with_capacity(name.len());
    let bytes = name.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let word = bytes[at..]
            .iter()
            .take_while(|byte| byte.is_ascii_alphanumeric())
            .count();
        if word == 0 {
            let letter = name[at..].chars().next().expect("inside of the name");
            kind.push(letter);
            at += letter.len_utf8();
            continue;
        }
        let text = &name[at..at + word];
        let is_hash = word >= 8
            && text.bytes().all(|byte| byte.is_ascii_hexdigit())
            && text.bytes().any(|byte| byte.is_ascii_digit());
        if is_hash {
            kind.push('#');
        } else {
            let mut digits = false;
            for letter in text.chars() {
                if !letter.is_ascii_digit() {
                    kind.push(letter);
                } else if !digits {
                    kind.push('#');
                }
                digits = letter.is_ascii_digit();
            }
        }
        at += word;
    }
    kind
}

#[cfg(test)]
mod tests {
    use super::super::super::candidate::FileStat;
    use super::*;

    fn candidate(path: &str, written_ns: i64, names: &[&str]) -> Candidate {
        let files = names.iter().map(|name| FileStat {
            path: (*name).to_owned(),
            ino: 1,
            size_bytes: 1,
            mtime_ns: written_ns,
            ctime_ns: written_ns,
            mode: 0o644,
        });
        Candidate {
            key: if path == "." {
                format!("step:{written_ns}")
            } else {
                format!("dir:{path}")
            },
            path: path.to_owned(),
            step: Some(written_ns as u64),
            directory: true,
            unfinished: None,
            unreadable: None,
            files: files.collect(),
        }
    }

    #[test]
    fn numbers_and_hashes_in_names_do_not_matter() {
        for (name, expected) in [
            ("checkpoint-500", "checkpoint-#"),
            ("optim_000100_rank3.pt", "optim_#_rank#.pt"),
            (
                "model-00001-of-00004.safetensors",
                "model-#-of-#.safetensors",
            ),
            ("default/d/a20b43dd31d5384719b4719fd4cc3c84", "default/d/#"),
            ("deadbeef.bin", "deadbeef.bin"),
            ("größe7", "größe#"),
        ] {
            assert_eq!(kind(name), expected, "{name}");
        }
    }

    #[test]
    fn a_checkpoint_is_compared_with_the_newest_finished_one_of_its_family() {
        let shape = |path: &str, written: i64, names: &[&str]| {
            Shape::of(&candidate(path, written, names)).unwrap()
        };
        let finished = [
            shape(
                "checkpoint-100",
                1,
                &["model.pt", "optimizer.pt", "old.txt"],
            ),
            shape(
                "checkpoint-200",
                2,
                &["model.pt", "optimizer.pt", "rng_0.pth", "rng_1.pth"],
            ),
            shape("final-200", 3, &["model.pt"]),
        ];
        let check = |names: &[&str], there: &[Shape], expected: &str| {
            let found = compare(&candidate("checkpoint-300", 5, names), &finished, there);
            let found = format!("{found:?}");
            assert!(found.contains(expected), "{names:?}: {found}");
        };
        let whole = ["model.pt", "optimizer.pt", "rng_0.pth", "rng_1.pth"];
        check(&whole, &[], "Same");
        check(
            &whole[..3],
            &[],
            "1 files like rng_0.pth, checkpoint-200 has 2",
        );
        check(&["model.pt"], &[], "nothing like optimizer.pt");
        let newer = [shape("checkpoint-400", 9, &["model.pt"])];
        check(&["model.pt"], &newer, "superseded: true");
        let older = [shape("checkpoint-250", 4, &["model.pt"])];
        check(&["model.pt"], &older, "superseded: false");
        check(&["other.bin"], &[], "First");
    }

    #[test]
    fn flat_files_of_another_program_are_no_siblings() {
        let finished =
            [Shape::of(&candidate(".", 1, &["model_1.pt", "optim_1_rank0.pt"])).unwrap()];
        let compared = |names: &[&str]| compare(&candidate(".", 2, names), &finished, &[]);
        assert_eq!(compared(&["eval_2.npz"]), Comparison::First);
        assert!(matches!(compared(&["model_2.pt"]), Comparison::Smaller(_)));
        let mut lonely = candidate("ckpt.pt", 3, &[""]);
        (lonely.directory, lonely.key) = (false, "file:ckpt.pt".into());
        assert_eq!(compare(&lonely, &finished, &[]), Comparison::Same);
    }
}
