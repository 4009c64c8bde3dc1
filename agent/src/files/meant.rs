//! What paths and patterns mean below the working directory, and which links among it lead to what they do not mean.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Component, Path, PathBuf},
};

use super::{HASHED_FILES_LIMIT, HashError};

/// What paths and patterns mean.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Meant {
    /// Files and directories, sorted. A link that a pattern found is that file.
    pub there: Vec<PathBuf>,
    /// Paths and patterns of which there is nothing.
    pub missing: Vec<String>,
    /// Links that patterns found and that lead to no file of the working directory, and what patterns mean behind a link, sorted;
    /// [`not_among`] says which of them matter.
    pub links: Vec<PathBuf>,
    /// Links that patterns found and that lead to nothing, sorted.
    pub broken: Vec<PathBuf>,
}

/// Entries that are looked at behind the links of one pattern: they may lead to a data set, or to the whole machine.
const BEHIND_ENTRIES: usize = 10_000;

/// Files and directories that paths and patterns mean, sorted, and those of which there is nothing. In a pattern `*` and `?` stand for
/// characters of one name, `[ab]` for one of several, `**` for any number of directories; a path that exists is no pattern.
pub fn expand(workdir: &Path, paths: &[String]) -> Result<Meant, HashError> {
    let (mut meant, mut links) = (BTreeSet::new(), BTreeSet::new());
    let mut broken = BTreeSet::new();
    let mut missing = Vec::new();
    for path in paths {
        let relative = inside(path).ok_or_else(|| HashError::Escapes(path.clone()))?;
        match fs::metadata(workdir.join(&relative)) {
            Ok(_) => {
                meant.insert(relative);
                continue;
            }
            Err(err) if is_absent(&err) => {}
            Err(source) => {
                return Err(HashError::Read {
                    path: path.clone(),
                    source,
                });
            }
        }
        let before = meant.len();
        if path.contains(['*', '?', '[']) {
            let names: Vec<String> = relative
                .iter()
                .map(|name| name.to_string_lossy().into_owned())
                .collect();
            let mut found = Found {
                meant: &mut meant,
                links: &mut links,
                broken: &mut broken,
                behind_a_link: false,
                left: BEHIND_ENTRIES,
            };
            descend(workdir, Path::new(""), &names, &mut found)?;
        }
        // What another pattern has found already is found all the same.
        if meant.len() == before && !meant.iter().any(|one| matches(path, one)) {
            missing.push(path.clone());
        }
    }
    Ok(Meant {
        there: meant.into_iter().collect(),
        missing,
        links: links.into_iter().collect(),
        broken: broken.into_iter().collect(),
    })
}

/// What patterns found so far.
struct Found<'a> {
    meant: &'a mut BTreeSet<PathBuf>,
    links: &'a mut BTreeSet<PathBuf>,
    broken: &'a mut BTreeSet<PathBuf>,
    /// Whether this is behind a link, where nothing is taken but everything is named.
    behind_a_link: bool,
    /// Entries that may still be looked at behind links.
    left: usize,
}

impl Found<'_> {
    /// Notes what the rest of a pattern means behind a link that lies in its middle. Nobody named the link, so that it is not followed;
    /// but who wrote the pattern may mean what is there.
    fn look_behind(&mut self, workdir: &Path, link: PathBuf, names: &[String]) {
        let mut behind = BTreeSet::new();
        let mut found = Found {
            meant: &mut behind,
            links: &mut BTreeSet::new(),
            broken: &mut BTreeSet::new(),
            behind_a_link: true,
            left: self.left,
        };
        let looked = descend(workdir, &link, names, &mut found);
        self.left = found.left;
        match looked {
            Ok(()) if self.left > 0 => self.links.extend(behind),
            // Nobody knows what else is there.
            Ok(()) | Err(_) => drop(self.links.insert(link)),
        }
    }
}

/// Where a link leads that nobody named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leads {
    /// To a file in the working directory.
    ToFile,
    /// To a directory, or out of the working directory.
    Elsewhere,
    /// To nothing.
    Nowhere,
}

pub(super) fn leads(workdir: &Path, link: &Path) -> Leads {
    let (home, target) = (
        fs::canonicalize(workdir),
        fs::canonicalize(workdir.join(link)),
    );
    match (home, target) {
        (Ok(home), Ok(target)) if target.starts_with(&home) && target.is_file() => Leads::ToFile,
        (_, Err(err)) if is_absent(&err) => Leads::Nowhere,
        _ => Leads::Elsewhere,
    }
}

/// Those links, sorted, that lead to what is not all among these files and directories by its own name: whoever takes these alone has not
/// got it.
pub fn not_among(workdir: &Path, meant: &[PathBuf], mut links: Vec<PathBuf>) -> Vec<PathBuf> {
    if links.is_empty() {
        return links;
    }
    let roots: BTreeSet<PathBuf> = meant
        .iter()
        .filter_map(|relative| fs::canonicalize(workdir.join(relative)).ok())
        .collect();
    links.retain(|link| {
        let target = fs::canonicalize(workdir.join(link));
        !target.is_ok_and(|target| is_among(&target, &roots))
    });
    links.sort_unstable();
    links.dedup();
    links
}

/// Whether all of it lies under these; there is no link in these paths.
fn is_among(target: &Path, roots: &BTreeSet<PathBuf>) -> bool {
    let is_under = |path: &Path| path.ancestors().any(|above| roots.contains(above));
    if is_under(target) {
        return true;
    }
    // `out/**` means every file for itself.
    let Ok(mut entries) = fs::read_dir(target) else {
        return false;
    };
    entries.all(|entry| {
        let Ok(entry) = entry else { return false };
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_symlink() => match fs::canonicalize(&path) {
                Ok(target) => is_under(&target),
                Err(err) => is_absent(&err),
            },
            Ok(_) => is_among(&path, roots),
            Err(_) => false,
        }
    })
}

/// Nothing is there: no such name, or a file where a directory would have to be.
fn is_absent(err: &io::Error) -> bool {
    matches!(
        err.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn matches(pattern: &str, path: &Path) -> bool {
    let options = glob::MatchOptions {
        require_literal_separator: true,
        ..glob::MatchOptions::default()
    };
    let pattern = pattern.trim_start_matches("./").trim_end_matches('/');
    glob::Pattern::new(pattern).is_ok_and(|pattern| pattern.matches_path_with(path, options))
}

/// Adds what lies below `at` under these names. Links that nobody named are taken for the files they lead to, and never followed out; what
/// lies behind them is noted.
fn descend(
    workdir: &Path,
    at: &Path,
    names: &[String],
    found: &mut Found<'_>,
) -> Result<(), HashError> {
    let Some((name, rest)) = names.split_first() else {
        return Ok(());
    };
    if found.meant.len() > HASHED_FILES_LIMIT {
        return Err(HashError::TooMany);
    }
    if !name.contains(['*', '?', '[']) {
        // A link that was named is followed, as it is outside of patterns.
        let child = at.join(name);
        if !rest.is_empty() {
            return descend(workdir, &child, rest, found);
        }
        if fs::metadata(workdir.join(&child)).is_ok() {
            found.meant.insert(child);
        }
        return Ok(());
    }
    if name == "**" {
        // No directory at all, too.
        descend(workdir, at, rest, found)?;
    }
    let bad = |err: glob::PatternError| HashError::Pattern {
        pattern: name.clone(),
        reason: err.msg,
    };
    let pattern = match name.as_str() {
        "**" => None,
        name => Some(glob::Pattern::new(name).map_err(bad)?),
    };
    let entries = match fs::read_dir(workdir.join(at)) {
        Ok(entries) => entries,
        // Gone since it was listed, or no directory: nothing lies below it.
        Err(err) if is_absent(&err) => return Ok(()),
        Err(source) => {
            return Err(HashError::Read {
                path: at.display().to_string(),
                source,
            });
        }
    };
    for entry in entries.flatten() {
        if found.behind_a_link {
            found.left = found.left.saturating_sub(1);
            if found.left == 0 {
                return Ok(());
            }
        }
        let child = at.join(entry.file_name());
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        let fits = match &pattern {
            Some(pattern) => pattern.matches(&entry.file_name().to_string_lossy()),
            // At its end it means everything below.
            None => rest.is_empty() || kind.is_dir(),
        };
        if kind.is_symlink() {
            let is_last = fits && rest.is_empty();
            match leads(workdir, &child) {
                Leads::Nowhere if is_last => drop(found.broken.insert(child)),
                Leads::Nowhere => {}
                // Those behind a link may lead in circles.
                _ if found.behind_a_link && is_last => drop(found.meant.insert(child)),
                _ if found.behind_a_link => {}
                Leads::ToFile if is_last => drop(found.meant.insert(child)),
                Leads::Elsewhere if is_last => drop(found.links.insert(child)),
                Leads::Elsewhere if pattern.is_none() => {
                    found.look_behind(workdir, child, names);
                }
                Leads::Elsewhere if fits => found.look_behind(workdir, child, rest),
                Leads::ToFile | Leads::Elsewhere => {}
            }
            continue;
        }
        if !fits || !(kind.is_dir() || kind.is_file()) {
            continue;
        }
        match &pattern {
            None if kind.is_dir() => descend(workdir, &child, names, found)?,
            Some(_) if !rest.is_empty() => descend(workdir, &child, rest, found)?,
            _ => {
                found.meant.insert(child);
            }
        }
    }
    Ok(())
}

/// The path with `.` removed, or `None` when it is absolute or climbs out by `..`.
pub fn inside(path: &str) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(clean)
}

#[cfg(test)]
mod tests {
    use super::super::hash_files;
    use super::*;

    #[test]
    fn patterns_mean_what_a_shell_would_make_of_them() {
        let dir = tempfile::tempdir().unwrap();
        for path in [
            "a.pt",
            "b.pt",
            "c.txt",
            "[x].log",
            "out/final.pt",
            "out/deep/best.pt",
            "out/deep/.metadata",
            "ckpt-1/model",
            "ckpt-2/model",
        ] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "content").unwrap();
        }
        std::os::unix::fs::symlink("/etc", dir.path().join("out/etc")).unwrap();
        let check = |patterns: &[&str], meant: &[&str], missing: &[&str]| {
            let patterns: Vec<String> = patterns.iter().map(|one| (*one).to_owned()).collect();
            let found = expand(dir.path(), &patterns).unwrap();
            let (found, none) = (found.there, found.missing);
            let found: Vec<&str> = found.iter().map(|path| path.to_str().unwrap()).collect();
            let none: Vec<&str> = none.iter().map(String::as_str).collect();
            assert_eq!((&found[..], &none[..]), (meant, missing), "{patterns:?}");
        };
        check(&["*.pt"], &["a.pt", "b.pt"], &[]);
        check(&["./?.pt", "a.pt"], &["a.pt", "b.pt"], &[]);
        check(&["a.pt", "*.pt", "[ab].pt"], &["a.pt", "b.pt"], &[]);
        check(&["[x].log"], &["[x].log"], &[]);
        check(
            &["**/*.pt"],
            &["a.pt", "b.pt", "out/deep/best.pt", "out/final.pt"],
            &[],
        );
        check(
            &["out/**"],
            &["out/deep/.metadata", "out/deep/best.pt", "out/final.pt"],
            &[],
        );
        check(&["ckpt-*"], &["ckpt-1", "ckpt-2"], &[]);
        check(
            &["ckpt-*/model", "none"],
            &["ckpt-1/model", "ckpt-2/model"],
            &["none"],
        );
        check(
            &["*.bin", "out/*/x", "a.pt/*"],
            &[],
            &["*.bin", "out/*/x", "a.pt/*"],
        );
        check(
            &["out/*/passwd", "out/e*"],
            &[],
            &["out/*/passwd", "out/e*"],
        );
        for pattern in ["/etc/*", "../*", "a/../../*"] {
            assert!(
                expand(dir.path(), &[pattern.to_owned()]).is_err(),
                "{pattern}"
            );
        }
        let bad = expand(dir.path(), &["[".to_owned()]);
        assert!(matches!(bad, Err(HashError::Pattern { .. })), "{bad:?}");
        let hashed = hash_files(dir.path(), &["ckpt-*".to_owned()]).unwrap();
        assert_eq!(hashed.files.len(), 2);
    }

    #[test]
    fn what_a_pattern_means_behind_a_link_in_its_middle_is_named_unless_it_is_meant_by_its_own_name()
     {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for path in ["out/run-1/x", "out/run-1/more", "runs/7/x", "runs/7/deep/x"] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "content").unwrap();
        }
        fs::write(outside.path().join("x"), "content").unwrap();
        std::os::unix::fs::symlink(outside.path(), outside.path().join("again")).unwrap();
        let link = |target: &Path, link: &str| {
            std::os::unix::fs::symlink(target, dir.path().join(link)).unwrap();
        };
        link(Path::new("run-1"), "out/latest");
        link(Path::new("../runs/7"), "out/best");
        link(outside.path(), "out/scratch");
        link(Path::new("nothing"), "out/gone");
        link(Path::new("run-1/x"), "out/file");
        for (pattern, meant, named) in [
            (
                "out/*/x",
                &["out/run-1/x"][..],
                &["out/best/x", "out/scratch/x"][..],
            ),
            ("out/r*/x", &["out/run-1/x"], &[]),
            ("out/*/none", &[], &[]),
            ("out/s*/*", &[], &["out/scratch/again", "out/scratch/x"]),
            (
                "out/**/x",
                &["out/run-1/x"],
                &["out/best/deep/x", "out/best/x", "out/scratch/x"],
            ),
            ("*/*/x", &["out/run-1/x", "runs/7/x"], &["out/scratch/x"]),
            // It was named.
            ("out/latest/*", &["out/latest/more", "out/latest/x"], &[]),
        ] {
            let found = expand(dir.path(), &[pattern.to_owned()]).unwrap();
            let paths = |all: &[&str]| all.iter().map(PathBuf::from).collect::<Vec<_>>();
            assert_eq!(found.there, paths(meant), "{pattern}");
            let links = not_among(dir.path(), &found.there, found.links);
            assert_eq!(links, paths(named), "{pattern}");
        }
        for number in 0..BEHIND_ENTRIES {
            fs::write(outside.path().join(number.to_string()), "").unwrap();
        }
        let found = expand(dir.path(), &["out/s*/none".to_owned()]).unwrap();
        assert_eq!(
            found.links,
            [] as [PathBuf; 0],
            "a name needs no look around"
        );
        let found = expand(dir.path(), &["out/s*/*.pt".to_owned()]).unwrap();
        assert_eq!(found.links, [Path::new("out/scratch")], "who knows");
    }
}
