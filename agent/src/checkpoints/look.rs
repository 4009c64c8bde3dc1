//! One look at a quiet candidate: is all of it there, does anybody write to it, is every file whole. Blocks on the disk.
//!
//! The order is that of what it costs: names and times, the framework's rule, writers, the files' own formats. Whatever changed
//! meanwhile is busy.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use spotter_bucket::whole::beside;
use spotter_bucket::whole::folder::{file_path, formats, opinion, stat_of};

use super::candidate::Candidate;
use super::command;
use super::complete::Finding;
use super::ranks::{self, Others};
use super::rules::shape::{self, Comparison, Shape};
use super::rules::user::CompleteWhen;
use super::rules::{Opinion, Silence};
use super::writers;

/// What a look must know besides the candidate.
#[derive(Debug, Clone, Default)]
pub struct Context {
    /// The checkpoint directory.
    pub dir: PathBuf,
    /// Shapes of checkpoints that were found finished in this session.
    pub finished: Vec<Shape>,
    /// Shapes of everything that lies in the directory.
    pub there: Vec<Shape>,
    /// The user's rule, instead of the frameworks'.
    pub when: Option<CompleteWhen>,
    /// Whether leases may be taken to find writers.
    pub tripwire: bool,
    /// How many ranks the training has, where that is known.
    pub ranks: Option<u32>,
    /// The session has ended: what is temporary now stays so, and is nobody's.
    pub ended: bool,
    /// The box goes away: nothing is waited for that silence can answer.
    pub hurried: bool,
    /// Nanoseconds since the epoch, by the clock of the files.
    pub now_ns: i64,
}

/// Looks at a candidate.
pub fn look(context: &Context, candidate: &Candidate) -> io::Result<Finding> {
    if let Some(reason) = &candidate.unreadable {
        return Ok(Finding::Broken(reason.clone()));
    }
    let changed = || Finding::Busy(format!("{} is changing", candidate.path));
    if !is_unchanged(&context.dir, candidate) {
        return Ok(changed());
    }
    let found = match judge(context, candidate) {
        Ok(found) => found,
        // It was truncated or removed under our hands.
        Err(err)
            if matches!(
                err.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof
            ) =>
        {
            changed()
        }
        Err(err) => return Err(err),
    };
    if !is_unchanged(&context.dir, candidate) {
        return Ok(changed());
    }
    Ok(found)
}

fn is_unchanged(dir: &Path, candidate: &Candidate) -> bool {
    candidate.files.iter().all(|file| {
        fs::metadata(file_path(dir, &candidate.path, &file.path))
            .is_ok_and(|metadata| stat_of(&file.path, &metadata) == *file)
    })
}

fn judge(context: &Context, candidate: &Candidate) -> io::Result<Finding> {
    if let Some(name) = &candidate.unfinished
        && !context.ended
    {
        return Ok(Finding::Incomplete(format!(
            "a temporary file is in it: {name}"
        )));
    }
    let when = context.when.as_ref();
    let (opinion, mut names) = opinion(&context.dir, candidate, &context.finished, when)?;
    if let Opinion::Missing(what) = opinion {
        return Ok(Finding::Incomplete(what));
    }
    if when.is_none()
        && let Some(other) = other_rank(candidate, &context.there)
    {
        return Ok(Finding::Incomplete(format!(
            "it is one rank's share, {other} is another's, and nothing says when all are there: let all ranks write below one directory of each \
             step, or, where each share is a checkpoint by itself, say when it is complete with `complete_when`"
        )));
    }
    let paths: Vec<PathBuf> = candidate
        .files
        .iter()
        .map(|file| file_path(&context.dir, &candidate.path, &file.path))
        .collect();
    if let Some(path) = writers::written_to(&paths, context.tripwire)? {
        let name = path.strip_prefix(&context.dir).unwrap_or(path);
        return Ok(Finding::Busy(format!(
            "{} is open for writing",
            name.display()
        )));
    }
    let formats = match formats(candidate, &paths)? {
        Ok(formats) => formats,
        Err(broken) => return Ok(Finding::Broken(broken)),
    };
    if let Some(CompleteWhen::Command(text)) = &context.when {
        let path = file_path(&context.dir, &candidate.path, "");
        if let Err(reason) = command::agrees(text, &path, candidate.step) {
            return Ok(Finding::Incomplete(reason));
        }
        names.push("command");
    }
    let mut doubt = None;
    let mut silence = match opinion {
        Opinion::Done { silence, .. } => silence,
        // A user who says how long is quiet enough means a writer that lives.
        _ if matches!(context.when, Some(CompleteWhen::Quiet(_))) && !formats.proven => {
            Silence::Unknown
        }
        _ if context.when.is_some() => Silence::File,
        _ if !formats.proven || is_unordered_group(candidate) => Silence::Unknown,
        // The shares of the other ranks may be on their way.
        _ if is_share_of_a_rank(candidate) => Silence::Unknown,
        _ if !candidate.directory => Silence::File,
        _ => Silence::Directory,
    };
    let is_orbaxs = names.contains(&"orbax");
    if context.when.is_none() && !is_orbaxs {
        match shape::compare(candidate, &context.finished, &context.there) {
            Comparison::Same => {}
            Comparison::Smaller(found) => doubt = Some(found),
            // Nothing to measure it by: only its own rule, or a long silence, can say that nothing follows.
            Comparison::First => {
                let alone = matches!(opinion, Opinion::None) && may_get_company(candidate);
                let unruled = candidate.directory && matches!(opinion, Opinion::None);
                if unruled || alone || silence == Silence::Unordered {
                    silence = Silence::Unknown;
                }
                // A framework's rule on files that lie side by side counts them; one on a directory knows of no other directory.
                let counts = candidate.is_flat() && !matches!(opinion, Opinion::None);
                let awaited = !context.ended
                    && !context.hurried
                    && ranks::are_awaited(candidate.written_ns(), context.now_ns);
                match ranks::others(candidate, &context.there, context.ranks, awaited) {
                    Others::Lacking(lacking) if !counts => {
                        (silence, doubt) = (Silence::Unknown, Some(lacking));
                    }
                    Others::MayCome if !counts => silence = Silence::Unknown,
                    _ => {}
                }
            }
        }
    }
    names.extend(formats.rules);
    let rule = if names.is_empty() {
        "generic".to_owned()
    } else {
        names.join("+")
    };
    let ruled = match &context.when {
        None => matches!(opinion, Opinion::Done { .. }),
        Some(when) => matches!(when, CompleteWhen::Quiet(_)),
    };
    Ok(Finding::Whole {
        rule,
        silence,
        doubt,
        ruled,
    })
}

/// Another rank's directory of the same save, which lies beside one that is called after its rank.
fn other_rank<'a>(candidate: &Candidate, there: &'a [Shape]) -> Option<&'a str> {
    let own = candidate.key.strip_prefix("dir:")?;
    let of_all = |name: &str| beside::split_rank(name).map(|(of_all, _)| of_all);
    let whole = of_all(own)?;
    let mut others = there
        .iter()
        .filter_map(|shape| shape.key.strip_prefix("dir:"));
    others.find(|other| *other != own && of_all(other).as_ref() == Some(&whole))
}

/// Whether it is one file without a step that is called after its rank: it is called the same at every save, so nothing says how many ranks
/// there are.
fn is_share_of_a_rank(candidate: &Candidate) -> bool {
    !candidate.directory
        && candidate.step.is_none()
        && beside::split_rank(&candidate.path).is_some()
}

/// Whether it is files without a step that lie side by side: which of them is written last nobody says, and there is none to compare with.
fn is_unordered_group(candidate: &Candidate) -> bool {
    candidate.is_flat() && candidate.step.is_none()
}

/// Whether a file of one step is called as those that others of the same step follow: `model_000100.pt` of nanochat.
fn may_get_company(candidate: &Candidate) -> bool {
    candidate
        .path
        .strip_prefix("model_")
        .and_then(|rest| rest.strip_suffix(".pt"))
        .is_some_and(|digits| digits.len() == 6 && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use spotter_bucket::whole::samples;

    use super::super::scan::scan;
    use super::*;

    fn context(dir: &Path) -> Context {
        Context {
            dir: dir.to_owned(),
            tripwire: true,
            ..Context::default()
        }
    }

    fn looked(dir: &Path) -> Finding {
        look(&context(dir), &scan(dir).unwrap()[0]).unwrap()
    }

    fn whole(rule: &str, silence: Silence) -> Finding {
        Finding::Whole {
            rule: rule.into(),
            silence,
            doubt: None,
            ruled: rule.starts_with("quiet"),
        }
    }

    #[test]
    fn a_file_that_somebody_may_write_to_is_busy_with_leases_and_without() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ckpt.pt");
        fs::write(&path, samples::zip(&[("a", b"data")], false)).unwrap();
        let candidate = scan(dir.path()).unwrap().remove(0);
        for tripwire in [true, false] {
            let context = Context {
                tripwire,
                ..context(dir.path())
            };
            let finding = || look(&context, &candidate).unwrap();
            assert_eq!(finding(), whole("torch-zip", Silence::File));
            let writer = fs::OpenOptions::new().append(true).open(&path).unwrap();
            assert_eq!(
                finding(),
                Finding::Busy("ckpt.pt is open for writing".into())
            );
            drop(writer);
            let reader = File::open(&path).unwrap();
            assert_eq!(finding(), whole("torch-zip", Silence::File));
            drop(reader);
        }
        fs::write(&path, b"PK\x03\x04 torn").unwrap();
        let changed = look(&context(dir.path()), &candidate).unwrap();
        assert!(
            matches!(changed, Finding::Busy(_)),
            "it changed since the listing"
        );
        assert!(matches!(looked(dir.path()), Finding::Broken(_)));
    }

    #[test]
    fn one_ranks_file_alone_is_no_proof_that_the_others_are_not_to_come() {
        for (name, silence) in [
            ("ckpt_rank0.pt", Silence::Unknown),
            ("ckpt.pt", Silence::File),
            ("ranking.pt", Silence::File),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let bytes = samples::zip(&[("a", b"data")], false);
            fs::write(dir.path().join(name), bytes).unwrap();
            assert_eq!(looked(dir.path()), whole("torch-zip", silence), "{name}");
        }
    }

    #[test]
    fn a_directory_that_nobody_knows_is_measured_by_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        for (step, names) in [
            (1, &["a.pt", "b.pt"][..]),
            (2, &["a.pt"]),
            (3, &["a.pt", "b.pt", "c.txt"]),
        ] {
            let inner = dir.path().join(format!("save-{step}"));
            fs::create_dir(&inner).unwrap();
            for name in names {
                fs::write(inner.join(name), samples::zip(&[("a", b"data")], false)).unwrap();
            }
        }
        let mut found = scan(dir.path()).unwrap();
        found.sort_by_key(|candidate| candidate.step);
        let with = |finished: &[usize]| Context {
            finished: finished
                .iter()
                .filter_map(|at| Shape::of(&found[*at]))
                .collect(),
            ..context(dir.path())
        };
        let unknown = whole("torch-zip", Silence::Unknown);
        assert_eq!(look(&with(&[]), &found[0]).unwrap(), unknown);
        assert_eq!(
            look(&with(&[0]), &found[2]).unwrap(),
            whole("torch-zip", Silence::Directory)
        );
        let Finding::Whole {
            doubt: Some(doubt), ..
        } = look(&with(&[0]), &found[1]).unwrap()
        else {
            panic!("no doubt");
        };
        assert!(
            doubt.reason.contains("nothing like b.pt, which save-1 has"),
            "{doubt:?}"
        );
    }

    #[test]
    fn what_is_temporary_is_incomplete_until_the_session_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("save-1");
        fs::create_dir(&inner).unwrap();
        fs::write(inner.join("a.pt"), samples::zip(&[("a", b"data")], false)).unwrap();
        fs::write(inner.join(".tmpAb12"), b"half").unwrap();
        assert_eq!(
            looked(dir.path()),
            Finding::Incomplete("a temporary file is in it: .tmpAb12".into())
        );
        let ended = Context {
            ended: true,
            ..context(dir.path())
        };
        let found = look(&ended, &scan(dir.path()).unwrap()[0]).unwrap();
        assert_eq!(found, whole("torch-zip", Silence::Unknown));
    }

    #[test]
    fn the_users_rule_decides_instead_of_ours_but_never_over_a_torn_file() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("checkpoint-5");
        fs::create_dir(&inner).unwrap();
        fs::write(inner.join("config.json"), b"{}").unwrap();
        fs::write(inner.join("weights.xyz"), b"whatever").unwrap();
        let finding = |when: &str| {
            let context = Context {
                when: Some(when.parse().unwrap()),
                ..context(dir.path())
            };
            look(&context, &scan(dir.path()).unwrap()[0]).unwrap()
        };
        assert!(
            matches!(looked(dir.path()), Finding::Incomplete(_)),
            "a Trainer's"
        );
        assert_eq!(finding("quiet 10ms"), whole("quiet+json", Silence::File));
        assert_eq!(
            finding("marker DONE"),
            Finding::Incomplete("DONE is not there".into())
        );
        assert!(matches!(
            finding("command test -e \"$SPOTTER_CHECKPOINT/DONE\""),
            Finding::Incomplete(reason) if reason.contains("exit code 1")
        ));
        fs::write(inner.join("DONE"), b"").unwrap();
        assert_eq!(finding("marker DONE"), whole("marker+json", Silence::File));
        assert_eq!(
            finding("command test -e \"$SPOTTER_CHECKPOINT/DONE\""),
            whole("command+json", Silence::File)
        );
        fs::write(inner.join("m.safetensors"), b"torn").unwrap();
        assert!(matches!(finding("quiet 10ms"), Finding::Broken(_)));
    }
}
