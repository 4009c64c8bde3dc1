//! Files that come from a box to this laptop: named by the box with their hashes, verified here, and on the disk for good before the
//! box may go.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde_json::json;
use spotter_bucket::layout::check_path;

use crate::{
    agent_client::{FileHash, FileList},
    checkpoints::{
        Shelf,
        pull::{self, PullError},
        results as left,
    },
    error::{CommandError, chain},
    run::{
        halt::Halt,
        lifecycle::Lifecycle,
        site::{Site, SiteError},
    },
    spec::Results,
    store::{AttemptRecord, RunRecord},
};

/// Event: all that there is of the results came (`files`, `size_bytes`, `to`).
pub(crate) const FETCHED: &str = "results_fetched";

/// Why files were not fetched.
enum NotFetched {
    /// The box did not do it.
    Site(SiteError),
    /// A file is not what the box said, or could not be written here.
    Here(CommandError),
}

impl From<SiteError> for NotFetched {
    fn from(err: SiteError) -> Self {
        Self::Site(err)
    }
}

impl From<NotFetched> for CommandError {
    fn from(err: NotFetched) -> Self {
        match err {
            NotFetched::Site(err) => Self::from_error(&err),
            NotFetched::Here(err) => err,
        }
    }
}

impl Lifecycle {
    /// Copies files of an attempt's box to a directory here, each verified by its hash. Answers the box's working directory, too.
    pub async fn fetch_from(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        site: &dyn Site,
        paths: &[String],
        to: &Path,
    ) -> Result<(String, FileList), CommandError> {
        let workdir = site
            .configure(&self.assignment(run, attempt))
            .await
            .map_err(|err| {
                CommandError::new(format!("nothing was fetched from `{}`", run.name)).cause(err)
            })?;
        let list = self
            .fetch_verified(run, site, &workdir, paths, to, Others::Overwrite)
            .await?;
        Ok((workdir, list))
    }

    /// Copies files from the box and verifies each by its hash.
    async fn fetch_verified(
        &self,
        run: &RunRecord,
        site: &dyn Site,
        workdir: &str,
        paths: &[String],
        to: &Path,
        others: Others,
    ) -> Result<FileList, NotFetched> {
        let list = site.hash_files(paths).await?;
        // The box says the names, and is not to choose which of our files are moved or read.
        if let Some(file) = list
            .files
            .iter()
            .find(|file| check_path(&file.path).is_err())
        {
            let text = format!(
                "the box names a file outside its working directory: {}",
                file.path
            );
            return Err(NotFetched::Here(CommandError::new(text)));
        }
        // The box says what patterns mean.
        let found = match list.meant.is_empty() {
            false => list.meant.clone(),
            true => paths
                .iter()
                .filter(|path| !list.missing.contains(path))
                .cloned()
                .collect(),
        };
        if found.is_empty() {
            return Ok(list);
        }
        make_folder(to).map_err(|err| {
            NotFetched::Here(CommandError::new(format!("{} was not made", to.display())).cause(err))
        })?;
        if others == Others::SetAside {
            for file in &list.files {
                self.keep_another(run, file, to).map_err(NotFetched::Here)?;
            }
        }
        let progress = |done, total| self.report.transfer(&run.name, "results", done, total);
        site.fetch(workdir, &found, &list.files, to, &progress)
            .await?;
        for file in &list.files {
            verify(file, to).map_err(NotFetched::Here)?;
        }
        Ok(list)
    }

    /// Brings the results of a training that has ended home; answers what of them does not exist, for people.
    pub(super) async fn fetch_results(
        &self,
        run: &RunRecord,
        attempt: u32,
        site: &dyn Site,
        workdir: &str,
        results: &Results,
    ) -> Result<Option<String>, Halt> {
        let (paths, to) = (&results.fetch, &results.to);
        let list = self
            .fetch_verified(run, site, workdir, paths, to, Others::SetAside)
            .await
            .map_err(|err| match err {
                // The box is there with everything on it: it is done again over a new link.
                NotFetched::Site(err @ SiteError::Unreachable(_)) => {
                    self.not_saved(run, attempt, "results", err)
                }
                other => {
                    let err = CommandError::from(other);
                    let mut made = CommandError::new(format!(
                        "run `{}` ended well, but its results were not fetched",
                        run.name
                    ))
                    .because(err.message());
                    for cause in err.causes() {
                        made = made.because(cause);
                    }
                    Halt::Fatal(made.hint(format!("try again with `spotter up {}`", run.name)))
                }
            })?;
        let bytes: u64 = list.files.iter().map(|file| file.size_bytes).sum();
        self.say(
            run,
            &format!(
                "Fetched and verified {} files, {bytes} bytes.",
                list.files.len()
            ),
        );
        self.note_fetched(run, attempt, list.files.len(), bytes, to)?;
        // Nothing is lost with them.
        if !list.broken.is_empty() {
            self.say(run, &format!("Careful: {}.", leading_nowhere(&list.broken)));
        }
        let is_pattern = |path: &str| path.contains(['*', '?', '[']);
        let missing: Vec<String> = paths
            .iter()
            .filter(|path| {
                list.missing.contains(path)
                    || !is_pattern(path) && !list.files.iter().any(|file| is_of(&file.path, path))
            })
            .cloned()
            .collect();
        let lacking = [
            (!missing.is_empty()).then(|| absent(&missing)),
            (!list.leading_out.is_empty()).then(|| not_followed(&list.leading_out)),
        ];
        let lacking: Vec<String> = lacking.into_iter().flatten().collect();
        Ok((!lacking.is_empty()).then(|| lacking.join("; ")))
    }

    /// Brings the results home that a box left in the bucket because nobody was there. Answers which of them are not among those;
    /// `None`: they are of no use. Waits for a bucket that is away.
    pub(super) async fn bring_left_results(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        key: &str,
    ) -> Result<Option<Vec<String>>, Halt> {
        let Some(results) = &run.spec.results else {
            return Ok(None);
        };
        let text = "the results that its box left in the bucket were not brought home";
        self.say(
            run,
            &format!(
                "Fetching results from the bucket to {}.",
                results.to.display()
            ),
        );
        let mut told = String::new();
        loop {
            match self
                .pull_left_results(run, attempt.number, results, key)
                .await
            {
                Ok(missing) => return Ok(Some(missing)),
                Err(NotPulled::Damaged(why)) => {
                    self.say(run, &format!("Careful: {text}: {why}."));
                    return Ok(None);
                }
                Err(NotPulled::Here(err)) => {
                    let mut why =
                        CommandError::new(format!("run `{}` is not carried on", run.name))
                            .because(text)
                            .because(err.message());
                    for cause in err.causes() {
                        why = why.because(cause);
                    }
                    return Err(Halt::Pause(why));
                }
                Err(NotPulled::Away(err)) => {
                    self.still_ours(run, attempt)?;
                    let err = CommandError::new(text).because(err);
                    self.wait(run, &err, &mut told).await;
                }
            }
        }
    }

    /// Bytes of the results that a box left in the bucket, of those that the run wants; `None`: the bucket does not tell now.
    pub(super) async fn left_results_bytes(&self, run: &RunRecord, key: &str) -> Option<u64> {
        let Some(results) = &run.spec.results else {
            return Some(0);
        };
        let kept = run.spec.checkpoints.as_ref()?;
        let opened = self.sites.bucket(kept.to.as_deref()?, &kept.server).await;
        let (bucket, target) = opened.ok()?;
        let shelf = Shelf::new(bucket, &target, &run.name).ok()?;
        let manifest = match left::read(&shelf, key).await.ok()? {
            Ok(manifest) => manifest,
            // That they are of no use is told where they are fetched.
            Err(_) => return Some(0),
        };
        let (files, _) = left::choose(&manifest.files, &results.fetch);
        Some(files.iter().map(|file| file.size_bytes).sum())
    }

    async fn pull_left_results(
        &self,
        run: &RunRecord,
        attempt: u32,
        results: &Results,
        key: &str,
    ) -> Result<Vec<String>, NotPulled> {
        let checkpoints = run.spec.checkpoints.as_ref();
        let kept = checkpoints.and_then(|kept| Some((kept.to.as_deref()?, &kept.server)));
        let Some((to, server)) = kept else {
            return Err(NotPulled::Damaged("the run names no bucket".to_owned()));
        };
        let (bucket, target) = match self.sites.bucket(to, server).await {
            Ok(opened) => opened,
            Err(SiteError::Local(why)) => return Err(NotPulled::Here(CommandError::new(why))),
            Err(err) => return Err(NotPulled::Away(chain(&err))),
        };
        let shelf = Shelf::new(bucket, &target, &run.name);
        let shelf = shelf.map_err(|err| NotPulled::Damaged(err.to_string()))?;
        let read = left::read(&shelf, key).await;
        let manifest = read.map_err(|err| NotPulled::Away(chain(&err)))?;
        let manifest = manifest.map_err(NotPulled::Damaged)?;
        let (files, missing) = left::choose(&manifest.files, &results.fetch);
        let to = &results.to;
        make_folder(to).map_err(|err| {
            NotPulled::Here(CommandError::new(format!("{} was not made", to.display())).cause(err))
        })?;
        for file in &files {
            let file = FileHash {
                path: file.path.clone(),
                size_bytes: file.size_bytes,
                blake3: file.blake3.clone(),
            };
            self.keep_another(run, &file, to).map_err(NotPulled::Here)?;
        }
        let mut tell = |done, total| self.report.transfer(&run.name, "results", done, total);
        let pulled = pull::pull_files(&shelf, &files, to, &mut tell).await;
        pulled.map_err(|err| match err {
            PullError::Damaged(why) => NotPulled::Damaged(why),
            err @ (PullError::Bucket(_) | PullError::Silent(_)) => NotPulled::Away(chain(&err)),
            err => NotPulled::Here(CommandError::from_error(&err)),
        })?;
        let bytes: u64 = files.iter().map(|file| file.size_bytes).sum();
        let count = files.len();
        self.say(
            run,
            &format!("Fetched and verified {count} files, {bytes} bytes."),
        );
        self.note_fetched(run, attempt, count, bytes, to)
            .map_err(NotPulled::Here)?;
        Ok(missing)
    }

    /// When all that there is of the results came, and where.
    fn note_fetched(
        &self,
        run: &RunRecord,
        attempt: u32,
        files: usize,
        size_bytes: u64,
        to: &Path,
    ) -> Result<(), CommandError> {
        let detail = json!({"files": files, "size_bytes": size_bytes, "to": to});
        self.note(run, attempt, FETCHED, detail)
    }

    /// Gives another file that lies where one is going to be brought another name, and says so.
    fn keep_another(
        &self,
        run: &RunRecord,
        file: &FileHash,
        to: &Path,
    ) -> Result<(), CommandError> {
        if let Some(aside) = set_aside(file, to)? {
            let (was, is) = (to.join(&file.path), aside.display());
            let text = format!(
                "Careful: there was another {}: it is {is} now.",
                was.display()
            );
            self.say(run, &text);
        }
        Ok(())
    }
}

/// What of the results there is nothing of, for people.
pub(super) fn absent(missing: &[String]) -> String {
    format!(
        "results that do not exist on the box: {}",
        missing.join(", ")
    )
}

/// Links that were not fetched, for people.
pub(crate) fn not_followed(links: &[String]) -> String {
    format!(
        "links that lead to what is not fetched with them are not followed: {}",
        links.join(", ")
    )
}

/// Links of which there is nothing to fetch, for people.
pub(crate) fn leading_nowhere(links: &[String]) -> String {
    format!(
        "links that lead to nothing were not fetched: {}",
        links.join(", ")
    )
}

/// Why results that a box left in the bucket are not here.
enum NotPulled {
    /// The bucket does not answer, or refuses.
    Away(String),
    /// What it holds is not what the box said, so that it can only come from the box.
    Damaged(String),
    /// This laptop's own trouble.
    Here(CommandError),
}

/// What becomes of other files that lie where fetched ones go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Others {
    /// Somebody named the place just now.
    Overwrite,
    /// Nobody looks: they may be all that is left of another run.
    SetAside,
}

/// Gives a file that lies where another one is going to be brought another name, the first free `NAME.~N~`; `None`: nothing lies
/// there, or the same.
fn set_aside(file: &FileHash, to: &Path) -> Result<Option<PathBuf>, CommandError> {
    let path = to.join(&file.path);
    let kept =
        |err: io::Error| CommandError::new(format!("{} was not kept", path.display())).cause(err);
    match blake3_of(&path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(kept(err)),
        Ok(hash) if hash == file.blake3 => return Ok(None),
        Ok(_) => {}
    }
    let name = path.as_os_str().to_string_lossy();
    let aside = (1_u32..)
        .map(|number| PathBuf::from(format!("{name}.~{number}~")))
        .find(|aside| !aside.exists())
        .expect("there is a free number");
    fs::rename(&path, &aside).map_err(kept)?;
    Ok(Some(aside))
}

/// Makes the folder for what is fetched. It often lies in the working directory, and is no code for the next box.
fn make_folder(to: &Path) -> io::Result<()> {
    if to.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(to)?;
    fs::write(to.join(".spotterignore"), "*\n")
}

/// Whether a file is one of the paths, or lies below it.
fn is_of(file: &str, path: &str) -> bool {
    let path = path.trim_start_matches("./").trim_end_matches('/');
    file == path
        || file
            .strip_prefix(path)
            .is_some_and(|rest| rest.starts_with('/'))
}

/// Holds a fetched file against the hash that the box gave for it, and has it on this disk for good: the box it came from goes next.
fn verify(file: &FileHash, dir: &Path) -> Result<(), CommandError> {
    let path = dir.join(&file.path);
    let wrong = |why: String| {
        CommandError::new(format!("{} was not fetched whole", path.display())).because(why)
    };
    let got = blake3_of(&path).map_err(|err| wrong(err.to_string()))?;
    if got == file.blake3 {
        // The file, and every folder that got a new name by it, up to the one that holds `dir`.
        let above = dir.parent().unwrap_or(dir);
        return path
            .ancestors()
            .take_while(|part| part.starts_with(above))
            .filter(|part| !part.as_os_str().is_empty())
            .try_for_each(|part| fs::File::open(part)?.sync_all())
            .map_err(|err| wrong(err.to_string()));
    }
    Err(wrong(format!(
        "its hash is {} here and {} on the box",
        &got[..16],
        &file.blake3[..16.min(file.blake3.len())]
    )))
}

/// Hash of a file, hex.
fn blake3_of(path: &Path) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    io::copy(&mut fs::File::open(path)?, &mut hasher)?;
    Ok(hasher.finalize().to_hex().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_file_that_lies_where_one_is_brought_keeps_its_bytes_under_another_name() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let brought = |text: &str| FileHash {
            path: "final.pt".to_owned(),
            size_bytes: text.len() as u64,
            blake3: blake3::hash(text.as_bytes()).to_hex().to_string(),
        };
        let aside = |text: &str| set_aside(&brought(text), dir.path()).unwrap();
        assert_eq!(aside("one"), None, "nothing lies there");
        fs::write(at("final.pt"), "one").unwrap();
        assert_eq!(aside("one"), None, "the same lies there");
        for (number, text) in [(1, "two"), (2, "three")] {
            let name = at(&format!("final.pt.~{number}~"));
            assert_eq!(aside(text), Some(name));
            fs::write(at("final.pt"), text).unwrap();
        }
        assert_eq!(fs::read_to_string(at("final.pt.~1~")).unwrap(), "one");
        assert_eq!(fs::read_to_string(at("final.pt.~2~")).unwrap(), "two");
    }
}
