//! `spotter checkpoints`: what a run has in its bucket, and what can be done about it. A file for each thing to do.

mod diff;
mod hearing;
mod ls;
mod pins;
mod prune;
mod pull;
mod push;
mod show;
mod verify;

use std::{collections::HashSet, future::Future, time::Duration};

use clap::Subcommand;
use serde::Serialize;
use spotter_bucket::{
    BucketError, CommitId, ErrorKind as BucketErrorKind, Manifest, manifest as commit,
};

use crate::{
    checkpoints::{Shelf, choose::choose},
    commands::{
        Deps,
        doctor::{room, server},
    },
    credentials::ENVIRONMENT,
    doctor::diagnosis::{self, TOKEN_HINT, Trouble, renewal},
    error::CommandError,
    spec::BucketServer,
    store::RunRecord,
    ui::{Console, Ui},
};

pub(super) use hearing::Hearing;

/// After this long without any answer somebody who waits is told so.
const TELL_AFTER: Duration = Duration::from_secs(5);
/// Longest wait for the first answer of a server: one that starts, or a link that comes back, has answered by then.
const FIRST_ANSWER: Duration = Duration::from_secs(20);

/// List, prove, pull, push, pin and prune a run's checkpoints in the bucket
///
/// All of it works on the bucket itself with the keys of this machine, so it goes on working when the box is gone. Without a
/// further word the checkpoints are listed. A CHECKPOINT is `newest`, a step, an id or the beginning of the letters in it.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct CheckpointsArgs {
    #[command(subcommand)]
    verb: Option<CheckpointsVerb>,
    #[command(flatten)]
    ls: ls::LsArgs,
}

#[derive(Debug, Subcommand)]
enum CheckpointsVerb {
    Ls(ls::LsArgs),
    Show(show::ShowArgs),
    Verify(verify::VerifyArgs),
    Pull(pull::PullArgs),
    Push(push::PushArgs),
    Pin(pins::PinArgs),
    Unpin(pins::UnpinArgs),
    Prune(prune::PruneArgs),
    Diff(diff::DiffArgs),
}

/// Where to look for the run.
#[derive(Debug, clap::Args)]
pub(super) struct Place {
    /// Where its checkpoints are, for a run that this machine does not know; `checkpoints.to` of the run otherwise
    #[arg(long, value_name = "s3://BUCKET/PREFIX")]
    bucket: Option<String>,
}

impl Place {
    /// Where the run's own file says.
    pub(super) fn of_the_run() -> Self {
        Self { bucket: None }
    }
}

/// What the training's log said of a checkpoint.
#[derive(Debug, Serialize)]
pub(super) struct Metric {
    name: String,
    value: f64,
}

impl From<&commit::Metric> for Metric {
    fn from(metric: &commit::Metric) -> Self {
        Self {
            name: metric.name.clone(),
            value: metric.value(),
        }
    }
}

/// Does what was asked.
pub async fn checkpoints(
    ui: &mut Ui,
    deps: &Deps,
    args: &CheckpointsArgs,
) -> Result<(), CommandError> {
    match &args.verb {
        None => ls::ls(ui, deps, &args.ls).await,
        Some(CheckpointsVerb::Ls(args)) => ls::ls(ui, deps, args).await,
        Some(CheckpointsVerb::Show(args)) => show::show(ui, deps, args).await,
        Some(CheckpointsVerb::Verify(args)) => verify::verify(ui, deps, args).await,
        Some(CheckpointsVerb::Pull(args)) => pull::pull(ui, deps, args).await,
        Some(CheckpointsVerb::Push(args)) => push::push(ui, deps, args).await,
        Some(CheckpointsVerb::Pin(args)) => pins::pin(ui, deps, args).await,
        Some(CheckpointsVerb::Unpin(args)) => pins::unpin(ui, deps, args).await,
        Some(CheckpointsVerb::Prune(args)) => prune::prune(ui, deps, args).await,
        Some(CheckpointsVerb::Diff(args)) => diff::diff(ui, deps, args).await,
    }
}

/// The bucket of a run, which has answered, and its record if this machine has one. `told`: whoever waits.
pub(super) async fn open(
    deps: &Deps,
    told: Option<&Console>,
    run: Option<&str>,
    place: &Place,
) -> Result<(Shelf, Option<RunRecord>), CommandError> {
    let (name, to, server, record) = match (&place.bucket, run) {
        // A run that this machine knows keeps what its run file says, wherever its bucket is named.
        (Some(to), Some(run)) => {
            let store = deps.existing_store()?;
            let record = store
                .map(|store| store.find_run(run))
                .transpose()?
                .flatten();
            (run.to_owned(), to.clone(), BucketServer::default(), record)
        }
        (Some(_), None) => {
            return Err(CommandError::usage(
                "name the run too: a bucket may hold many",
            ));
        }
        (None, run) => {
            let record = deps.load_run(run).map_err(|err| match run {
                Some(run) => err.hint(format!(
                    "or say where it is with `spotter checkpoints ls {run} --bucket s3://BUCKET/PREFIX`"
                )),
                None => err,
            })?;
            let checkpoints = record.spec.checkpoints.as_ref();
            let to = checkpoints.and_then(|checkpoints| checkpoints.to.clone());
            let to = to.ok_or_else(|| {
                CommandError::usage(format!(
                    "run `{}` has no bucket: `checkpoints.to` is not set",
                    record.name
                ))
            })?;
            let server = checkpoints.map_or_else(BucketServer::default, |kept| kept.server.clone());
            (record.name.clone(), to, server, Some(record))
        }
    };
    let failed = |why: &dyn std::error::Error| {
        CommandError::new(format!("the bucket of `{name}` cannot be used"))
            .because(crate::error::chain(why))
    };
    let sites = deps.sites()?;
    let (bucket, target) = sites
        .bucket(&to, &server)
        .await
        .map_err(|err| failed(&err))?;
    let mut shelf = Shelf::new(bucket, &target, &name).map_err(|err| failed(&err))?;
    shelf.keys_from = sites.keys_source().await;
    // Where the bucket does not even list them, the verb itself meets that and says so.
    match first_answer(told, &shelf, shelf.adopt(&deps.clock)).await {
        Err(err) if err.kind == BucketErrorKind::Transient && err.status == 0 => {
            let what = format!("the checkpoints of `{name}` were not listed");
            return Err(self::failed(&shelf, what, err));
        }
        Err(err) if err.operation != "ListObjectsV2" => {
            return Err(self::failed(
                &shelf,
                format!("checkpoints that wait in the bucket of `{name}` were not put in place"),
                err,
            ));
        }
        _ => {}
    }
    Ok((shelf, record))
}

/// What is asked of a bucket first: a server from which nothing comes at all is not waited for long, and waiting for it is told.
async fn first_answer<T>(
    told: Option<&Console>,
    shelf: &Shelf,
    asked: impl Future<Output = Result<T, BucketError>>,
) -> Result<T, BucketError> {
    tokio::pin!(asked);
    if let Ok(answer) = tokio::time::timeout(TELL_AFTER, &mut asked).await {
        return answer;
    }
    let left = FIRST_ANSWER - TELL_AFTER;
    if let Some(console) = told.filter(|_| !shelf.bucket.has_answered()) {
        console.status(format_args!(
            "No answer from {} yet: it is asked for {} s more.",
            shelf.url,
            left.as_secs()
        ));
    }
    if let Ok(answer) = tokio::time::timeout(left, &mut asked).await {
        return answer;
    }
    // What it has to say may be long.
    if shelf.bucket.has_answered() {
        return asked.await;
    }
    let within = format!("no answer in {} s", FIRST_ANSWER.as_secs());
    Err(BucketError {
        operation: "ListObjectsV2",
        key: shelf.layout.commits_prefix(),
        kind: BucketErrorKind::Transient,
        status: 0,
        code: None,
        message: match shelf.bucket.trouble() {
            Some(trouble) => format!("{within}: {trouble}"),
            None => within,
        },
    })
}

/// Those that are marked as damaged, which is written down where this machine knows the run and this is its bucket. What may not be listed
/// is not known, and no reason to do nothing.
async fn marked(deps: &Deps, shelf: &Shelf, record: Option<&RunRecord>) -> HashSet<CommitId> {
    let Ok(damaged) = shelf.vault().damaged().await else {
        return HashSet::new();
    };
    if let Some(run) = record
        && is_its_own(deps, shelf, run).await
    {
        deps.note_marks(run, &damaged);
    }
    damaged
}

/// Whether that is where the run file keeps its checkpoints: `--bucket` may name any other.
async fn is_its_own(deps: &Deps, shelf: &Shelf, run: &RunRecord) -> bool {
    let kept = run.spec.checkpoints.as_ref();
    let Some((to, kept)) = kept.and_then(|kept| Some((kept.to.as_ref()?, kept))) else {
        return false;
    };
    let Ok(sites) = deps.sites() else {
        return false;
    };
    let own = sites.bucket(to, &kept.server).await;
    own.is_ok_and(|(_, target)| target == shelf.target)
}

/// Which checkpoint is meant.
pub(super) async fn find(shelf: &Shelf, wanted: Option<&str>) -> Result<CommitId, CommandError> {
    let ids = shelf.vault().ids().await.map_err(|err| {
        failed(
            shelf,
            format!("the checkpoints of `{}` were not listed", shelf.run),
            err,
        )
    })?;
    choose(&ids, wanted).map_err(|why| {
        let what = match wanted {
            Some(wanted) => format!("run `{}` has no checkpoint `{wanted}`", shelf.run),
            None => format!("run `{}` has no checkpoint", shelf.run),
        };
        CommandError::usage(what)
            .because(why)
            .hint(format!("see what there is with {}", ls_command(shelf)))
    })
}

/// The manifest of one checkpoint, which must be whole.
pub(super) async fn manifest(
    shelf: &Shelf,
    wanted: Option<&str>,
) -> Result<Manifest, CommandError> {
    let id = find(shelf, wanted).await?;
    let unread = format!("checkpoint {id} of `{}` was not read", shelf.run);
    match shelf.vault().read(&id).await {
        Ok(Some(Ok(manifest))) => Ok(manifest),
        Ok(Some(Err(why))) if why.may_be_whole() => Err(CommandError::new(unread)
            .because(why.to_string())
            .hint("install the spotter that wrote it, or a newer one, then try again")),
        Ok(Some(Err(why))) => Err(CommandError::new(format!(
            "checkpoint {id} of `{}` is damaged",
            shelf.run
        ))
        .because(why.to_string())),
        Ok(None) => Err(CommandError::new(unread).because("it was deleted just now")),
        Err(err) => Err(failed(shelf, unread, err)),
    }
}

pub(super) fn ls_command(shelf: &Shelf) -> String {
    format!("`spotter checkpoints ls {}`", shelf.run)
}

/// What the bucket refused, why, and what may help.
pub(super) fn failed(shelf: &Shelf, what: impl Into<String>, err: BucketError) -> CommandError {
    let made = CommandError::new(what);
    match hint_of(shelf, &err) {
        Some(hint) => made.cause(err).hint(hint),
        None => made.cause(err),
    }
}

fn hint_of(shelf: &Shelf, err: &BucketError) -> Option<String> {
    let (source, url) = (shelf.keys_from.as_deref(), &shelf.url);
    let keys = source.map_or_else(
        || "the keys that were found here".to_owned(),
        |source| format!("the keys from {source}"),
    );
    let again = "try again";
    Some(match (diagnosis::behind_all(err), err.kind) {
        (Some(Trouble::WrongKeys), _) => format!(
            "{} does not accept {keys}: they belong to another server, were deleted, or the secret is not that of the id; see \
             `spotter doctor bucket {}`",
            server(&shelf.target),
            shelf.target.url()
        ),
        (Some(Trouble::Expired), _) => {
            format!("{keys} have ended: {}, then {again}", renewal(source))
        }
        (Some(Trouble::WrongToken), _) => TOKEN_HINT.to_owned(),
        (Some(Trouble::DiskFull), _) => {
            format!(
                "the disk of {} is full: {}",
                server(&shelf.target),
                room(again)
            )
        }
        (Some(Trouble::QuotaUsed), _) => format!(
            "what `{}`, or its owner, may hold is used up: raise the quota, or {}",
            shelf.target.bucket,
            room(again)
        ),
        (Some(Trouble::NoBucket), _) if err.code.as_deref() == Some("NoSuchBucket") => format!(
            "{url} names a bucket that does not exist at this endpoint: check it, AWS_ENDPOINT_URL_S3 and AWS_REGION"
        ),
        (_, BucketErrorKind::Denied) => {
            let others = match source {
                // They count before any profile.
                Some(ENVIRONMENT) => {
                    "export others, or unset these and name a profile by AWS_PROFILE"
                }
                _ => "choose others with AWS_PROFILE",
            };
            format!("{keys} need that right under {url}: {others}")
        }
        (_, BucketErrorKind::Transient) if err.status == 0 => {
            "no server answers there: check the network and AWS_ENDPOINT_URL_S3, then try again"
                .to_owned()
        }
        (_, BucketErrorKind::Transient) => "the server is busy or ill: try again later".to_owned(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
