//! `spotter doctor`: checks what a run depends on, and prints what would mend it.

use std::{path::Path, time::Duration};

use serde::Serialize;
use spotter_bucket::{BucketError, Layout, S3Bucket, S3Options, Target};

use crate::{
    commands::Deps,
    credentials::{self, BucketAccess, Place},
    doctor::{
        diagnosis::{self, CLOCK_LIMIT_S, TOKEN_HINT, Trouble, renewal},
        policy::{self, Grantor, Need},
        probe::{self, Findings, Outcome},
    },
    error::{CommandError, chain},
    spec::{BucketServer, RunSpec},
    ui::{Table, Ui},
};

/// Run file that is looked for when nothing is named.
const RUN_FILE: &str = "run.yaml";
/// What follows where a server does not list parts.
const BEGINS_ANEW: &str = "an upload that is interrupted begins anew";

/// Check what a run depends on, and print what would mend it
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// What to check.
    #[command(subcommand)]
    what: What,
}

/// What to check.
#[derive(Debug, clap::Subcommand)]
enum What {
    Bucket(BucketArgs),
}

/// Try a bucket call by call, and print the least that its keys need
///
/// Lists, writes, reads back, uploads in parts and deletes one small object below the prefix. Says what is refused, with which
/// code, and prints what has to be granted: an AWS IAM or MinIO policy, the capabilities of a B2 key, the permission of an R2
/// token. Exit code 1: something is refused.
#[derive(Debug, clap::Args)]
pub struct BucketArgs {
    /// A run, a run file, or a bucket as in s3://bucket/prefix; without it run.yaml, or the only run that goes on
    #[arg(value_name = "RUN|FILE|URL")]
    subject: Option<String>,
    /// Only print what has to be granted, asking nobody; by whose rules, if not by those of the server that your keys are for
    #[arg(long, value_name = "PROVIDER", num_args = 0..=1, require_equals = true)]
    policy: Option<Option<Grantor>>,
}

/// What was checked, for programs.
#[derive(Debug, Serialize)]
struct Report {
    target: String,
    endpoint: Option<String>,
    region: String,
    /// Whose rules the policy follows.
    provider: &'static str,
    keys_from: String,
    access_key_id: String,
    ok: bool,
    checks: Vec<Row>,
    /// Seconds that the server's clock is ahead.
    clock_offset_s: Option<f64>,
    /// Rights that are missing.
    missing: Vec<Need>,
    /// What grants them.
    missing_policy: Option<String>,
    /// The least that the keys need.
    policy: String,
    /// An object that was written and may not be deleted.
    left_behind: Option<String>,
}

/// What has to be granted, for programs.
#[derive(Debug, Serialize)]
struct Grant {
    provider: &'static str,
    /// The least that the keys need, in the provider's words.
    policy: String,
    /// What to do with it, for people.
    how: String,
}

#[derive(Debug, Serialize)]
struct Row {
    name: &'static str,
    /// `null`: it could not be told.
    ok: Option<bool>,
    /// Whether spotter cannot do without.
    required: bool,
    /// HTTP status of the refusal; 0 when no answer came.
    status: Option<u16>,
    code: Option<String>,
    detail: Option<String>,
}

/// Runs the verb.
pub async fn doctor(ui: &mut Ui, deps: &Deps, args: &DoctorArgs) -> Result<(), CommandError> {
    match &args.what {
        What::Bucket(args) => bucket(ui, deps, args).await,
    }
}

/// A bucket, and where in it something may be tried.
struct Subject {
    /// `s3://bucket/prefix`, as the run file has it.
    url: String,
    /// Run whose name is appended to the prefix.
    run: Option<String>,
    /// What its run file says of the server.
    server: BucketServer,
}

async fn bucket(ui: &mut Ui, deps: &Deps, args: &BucketArgs) -> Result<(), CommandError> {
    let subject = subject(deps, args.subject.as_deref())?;
    if let Some(grantor) = args.policy {
        let place = credentials::place().map_err(|err| CommandError::from_error(&err))?;
        let place = place.at(&subject.server);
        let grantor = grantor.unwrap_or_else(|| Grantor::of(place.endpoint.as_deref()));
        let target = target(&subject, &place)?;
        let policy = policy::policy(grantor, &target);
        if ui.is_json() {
            ui.json(&Grant {
                provider: grantor.name(),
                policy: policy.text,
                how: policy.how,
            });
            return Ok(());
        }
        ui.bytes(format!("{}\n", policy.text).as_bytes());
        ui.hint(format_args!("{}: {}", grantor.name(), policy.how));
        return Ok(());
    }
    let mut access = credentials::find().await.map_err(|err| {
        CommandError::new(format!(
            "{} was not tried: there are no keys for it",
            subject.url
        ))
        .cause(err)
    })?;
    access.place = access.place.at(&subject.server);
    let target = target(&subject, &access.place)?;
    let authorities = access.place.authorities();
    let authorities = authorities.map_err(|err| CommandError::from_error(&err))?;
    let root = match &subject.run {
        Some(run) => Layout::new(&target.prefix, run)
            .map_err(|err| CommandError::from_error(&err))?
            .data_prefix(),
        None => target.prefix.clone(),
    };
    ui.status(format_args!(
        "Trying {} at {} with keys from {}.",
        target.url(),
        server(&target),
        access.source
    ));
    let keys = access.credentials.clone();
    let options = S3Options {
        // A person waits: two tries tell as much as four, and ten seconds as much as thirty.
        tries: 2,
        base_timeout: Duration::from_secs(10),
        ..S3Options::default()
    };
    let client = S3Bucket::new(
        target.clone(),
        std::sync::Arc::new(move || Some(keys.clone())),
        options,
    )
    .map_err(|err| CommandError::from_error(&err))?;
    if !authorities.is_empty() {
        let trusted = client.trust(authorities.as_bytes());
        trusted.map_err(|err| CommandError::from_error(&err))?;
    }
    let findings = probe::probe(&client, &root).await;

    let diagnosis = diagnosis::diagnose(&findings);
    let grantor = Grantor::of(target.endpoint.as_deref());
    let report = report(&target, &access, grantor, &findings, diagnosis.as_ref());
    show(ui, &report, grantor, &target);
    if let Some(key) = &findings.left_behind {
        ui.warning(format_args!(
            "{key} was written and cannot be deleted with these keys"
        ));
    }
    match diagnosis {
        None => Ok(()),
        Some((trouble, err)) => {
            let again = match &args.subject {
                Some(subject) => format!("`spotter doctor bucket {subject}`"),
                None => "`spotter doctor bucket`".to_owned(),
            };
            Err(sick(&trouble, err, &target, &access, &again))
        }
    }
}

fn subject(deps: &Deps, named: Option<&str>) -> Result<Subject, CommandError> {
    let of = |spec: &RunSpec| {
        let kept = spec.checkpoints.as_ref();
        let to = kept.and_then(|kept| kept.to.clone());
        let url = to.ok_or_else(|| {
            CommandError::usage(format!(
                "run `{}` has no bucket: `checkpoints.to` is not set",
                spec.name
            ))
        })?;
        Ok(Subject {
            url,
            run: Some(spec.name.clone()),
            server: kept.map_or_else(BucketServer::default, |kept| kept.server.clone()),
        })
    };
    match named {
        Some(url) if url.contains("://") => Ok(Subject {
            url: url.to_owned(),
            run: None,
            server: BucketServer::default(),
        }),
        Some(file) if is_file_name(file) => of(&RunSpec::load(Path::new(file))?),
        None if Path::new(RUN_FILE).is_file() => of(&RunSpec::load(Path::new(RUN_FILE))?),
        run => of(&deps.load_run(run)?.spec),
    }
}

/// What no run can be called, or what lies here.
fn is_file_name(text: &str) -> bool {
    let path = Path::new(text);
    let yaml = path
        .extension()
        .is_some_and(|ending| ending == "yaml" || ending == "yml");
    yaml || text.contains('/') || path.is_file()
}

fn target(subject: &Subject, place: &Place) -> Result<Target, CommandError> {
    let target = place.target(&subject.url);
    target.map_err(|err| CommandError::usage(chain(&err)))
}

/// What makes room in a bucket.
pub(super) fn room(again: &str) -> String {
    format!(
        "make room there: `spotter checkpoints prune RUN --grace 0s` deletes what an ended run need not keep, then {again}"
    )
}

/// Who is asked, for people.
pub(super) fn server(target: &Target) -> String {
    match &target.endpoint {
        Some(endpoint) => endpoint.clone(),
        None => format!("AWS, region {}", target.region),
    }
}

fn report(
    target: &Target,
    access: &BucketAccess,
    grantor: Grantor,
    findings: &Findings,
    diagnosis: Option<&(Trouble, &BucketError)>,
) -> Report {
    let missing = match diagnosis {
        Some((Trouble::Missing(needs), _)) => needs.clone(),
        _ => Vec::new(),
    };
    let row = |check: &probe::Check| {
        let (ok, err, detail) = match &check.result {
            Outcome::Works => (Some(true), None, None),
            Outcome::Fails(err) if check.need == Need::ListParts && check.is_optional() => (
                Some(false),
                Some(err),
                Some(format!("{BEGINS_ANEW}: {}", err.message)),
            ),
            Outcome::Fails(err) => (Some(false), Some(err), Some(err.message.clone())),
            Outcome::Untried(why) => (None, None, Some((*why).to_owned())),
        };
        Row {
            name: check.need.name(),
            ok,
            required: !check.is_optional(),
            status: err.map(|err| err.status),
            code: err.and_then(|err| err.code.clone()),
            detail,
        }
    };
    Report {
        target: target.url(),
        endpoint: target.endpoint.clone(),
        region: target.region.clone(),
        provider: grantor.name(),
        keys_from: access.source.clone(),
        access_key_id: access.credentials.access_key_id.clone(),
        ok: diagnosis.is_none(),
        checks: findings.checks.iter().map(row).collect(),
        clock_offset_s: findings.clock_offset_s,
        missing_policy: (!missing.is_empty())
            .then(|| policy::granting(grantor, target, &missing).text),
        missing,
        policy: policy::policy(grantor, target).text,
        left_behind: findings.left_behind.clone(),
    }
}

fn show(ui: &mut Ui, report: &Report, grantor: Grantor, target: &Target) {
    if ui.is_json() {
        ui.json(report);
        return;
    }
    let mut table = Table::new(&["CHECK", "RESULT", "DETAIL"]);
    for row in &report.checks {
        let result = match (row.ok, row.required) {
            (Some(true), _) => "ok".to_owned(),
            (Some(false), true) => refusal(row, "refused"),
            (Some(false), false) => refusal(row, "not needed"),
            (None, _) => "not tried".to_owned(),
        };
        table.row([
            row.name.to_owned(),
            result,
            row.detail.clone().unwrap_or_default(),
        ]);
    }
    if let Some(offset_s) = report.clock_offset_s {
        let good = offset_s.abs() < CLOCK_LIMIT_S;
        table.row([
            "clock".to_owned(),
            if good { "ok" } else { "off" }.to_owned(),
            clock(offset_s),
        ]);
    }
    ui.table(&table);
    let (title, granted) = if report.ok {
        (
            format!(
                "The least that keys for {} need, {}:",
                report.target,
                grantor.name()
            ),
            policy::policy(grantor, target),
        )
    } else if report.missing.is_empty() {
        return;
    } else {
        (
            format!("What is missing, {}:", grantor.name()),
            policy::granting(grantor, target, &report.missing),
        )
    };
    ui.line(format_args!("\n{title}"));
    ui.bytes(format!("{}\n", granted.text).as_bytes());
    ui.hint(format_args!("{}", granted.how));
}

fn refusal(row: &Row, word: &str) -> String {
    match (&row.code, row.status) {
        (Some(code), _) => format!("{word}: {code}"),
        (None, Some(0)) | (None, None) => word.to_owned(),
        (None, Some(status)) => format!("{word}: HTTP {status}"),
    }
}

/// What is wrong, why, and what to do. `again`: what to type once it is mended.
fn sick(
    trouble: &Trouble,
    err: &BucketError,
    target: &Target,
    access: &BucketAccess,
    again: &str,
) -> CommandError {
    let (url, server, source) = (target.url(), server(target), &access.source);
    let said = |text: String| CommandError::new(text).cause(err);
    let (named_by, named) = match &access.place.named_by {
        Some(by) => (by.as_str(), format!("{by} names that server")),
        None => (
            "AWS_ENDPOINT_URL_S3",
            "nothing names another server than AWS: `checkpoints.server.endpoint` of the run file or AWS_ENDPOINT_URL_S3 would"
                .to_owned(),
        ),
    };
    let rest = server.split_once("://").map_or("", |(_, rest)| rest);
    match trouble {
        Trouble::Silent => said(format!("{url} was not tried: {server} does not answer")).hint(format!(
            "{named}: see that it runs and that its port is right, then {again}"
        )),
        Trouble::NotS3 => said(format!("{url} was not tried: what answers at {server} is no S3 server"))
            .hint(format!(
                "{named}: name the address of its S3 API, not of a web page or a console, and with https:// where it speaks TLS, \
                 then {again}"
            )),
        Trouble::PlainHttp => said(format!("{url} was not tried: {server} does not speak TLS"))
            .hint(format!("set {named_by} to http://{rest}, then {again}")),
        Trouble::NeedsTls => said(format!("{url} was not tried: {server} speaks TLS, or no HTTP"))
            .hint(format!("set {named_by} to https://{rest}, then {again}")),
        Trouble::Untrusted => said(format!(
            "{url} was not tried: the certificate of {server} is not trusted here"
        ))
        .hint(format!(
            "name the file of its authority by `checkpoints.server.ca` of the run file or AWS_CA_BUNDLE, then {again}"
        )),
        Trouble::NoBucket => said(format!("there is no bucket `{}` at {server}", target.bucket))
            .hint("make it there, or correct `checkpoints.to` in the run file; the server is named by `checkpoints.server` or AWS_ENDPOINT_URL_S3"),
        Trouble::WrongKeys => said(format!("{server} does not accept the keys from {source}"))
            .hint("they belong to another server, were deleted, or the secret is not that of the id"),
        Trouble::Expired => said(format!("the keys from {source} have expired"))
            .hint(format!("{}, then {again}", renewal(Some(source)))),
        Trouble::WrongToken => said(format!("{server} does not accept the session token from {source}"))
            .hint(TOKEN_HINT),
        Trouble::Clock => said("the clock of this machine is too far off".to_owned())
            .hint("set it: `timedatectl set-ntp true`"),
        Trouble::Region => said(format!("`{}` is not in region {}", target.bucket, target.region))
            .hint("set AWS_REGION to the region of the bucket"),
        Trouble::Missing(needs) => {
            let names: Vec<&str> = needs.iter().map(|need| need.name()).collect();
            said(format!(
                "the keys from {source} may not {} under {url}",
                names.join(", ")
            ))
            .hint(format!(
                "grant what is missing; all that is needed prints `spotter doctor bucket {url} --policy`"
            ))
        }
        Trouble::DiskFull => said(format!("{server} takes nothing more: its disk is full"))
            .hint(room(again)),
        Trouble::QuotaUsed => said(format!(
            "{server} takes nothing more: what `{}`, or its owner, may hold is used up",
            target.bucket
        ))
        .hint(format!("raise the quota, or {}", room(again))),
        Trouble::NoParts => said(format!(
            "{server} takes no uploads in parts, and files of more than 8 MiB go in no other way"
        ))
        .hint(format!("{named}: name one that has them, then {again}")),
        Trouble::Other => said(format!("{url} cannot be used as it is")),
    }
}

/// A server dates its answers by whole seconds, and they take their time to come: less than this is no measurement.
const CLOCK_GRAIN_S: f64 = 2.0;

/// How far the clock of a server is from this machine's, in words (pure).
fn clock(offset_s: f64) -> String {
    match offset_s.abs() < CLOCK_GRAIN_S {
        true => "the server and this machine agree, as far as its whole seconds tell".to_owned(),
        false => format!("the server is {offset_s:+.0} s from this machine"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_told_no_finer_than_it_is_read() {
        let agree = "the server and this machine agree, as far as its whole seconds tell";
        for (offset_s, expected) in [
            (0.5, agree),
            (-1.9, agree),
            (2.0, "the server is +2 s from this machine"),
            (-3.4, "the server is -3 s from this machine"),
        ] {
            assert_eq!(clock(offset_s), expected, "{offset_s}");
        }
    }

    #[test]
    fn a_file_is_told_from_a_run_by_its_name() {
        for (text, expected) in [
            ("run.yaml", true),
            ("a.yml", true),
            ("./a", true),
            ("llama-7b", false),
            ("v1.2", false),
        ] {
            assert_eq!(is_file_name(text), expected, "{text}");
        }
    }
}
