//! `spotter run`: from a run file to a running training.

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use crate::{
    commands::{
        Deps,
        plan::gate::{self, Start},
        watching,
    },
    config,
    doctor::diagnosis::KeyFault,
    error::CommandError,
    fault, notify,
    provider::{Rental, SshAddress, hosts},
    run::{container, lifecycle::Goal, site::SiteError},
    spec::{BareRun, OnDone, RunSpec},
    store::RunRecord,
    ui::{Ui, text},
};

/// Rent a box, start the training of a run file on it, and watch over it
///
/// Ctrl-C leaves the training alone; `spotter up NAME` watches again.
#[derive(Debug, clap::Args)]
#[command(visible_alias = "launch")]
pub struct RunArgs {
    /// Run file
    #[arg(value_name = "FILE", default_value = "run.yaml", conflicts_with_all = ["gpus", "command"])]
    file: PathBuf,
    /// Name of the run, instead of the file's
    #[arg(long)]
    name: Option<String>,
    /// Take this box of your own instead of renting one, user@host or user@host:port; may be given several times, the first that is free
    /// is taken, and the next when it is lost
    #[arg(long = "host", value_name = "USER@HOST[:PORT]", value_parser = hosts::parse)]
    hosts: Vec<SshAddress>,
    /// Leave as soon as the training runs
    #[arg(long)]
    detach: bool,
    /// Do not ask before money is paid in advance, as `rental: reserved` has it
    #[arg(long, short)]
    yes: bool,
    /// Rent without a whole plan, however long the run may take and whatever it may cost
    #[arg(long)]
    no_plan: bool,
    #[command(flatten)]
    bare: BareFlags,
    /// Without a run file: the training's command, after `--`
    #[arg(last = true, requires = "gpus")]
    command: Vec<String>,
}

/// What a run file would say.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Without a run file")]
struct BareFlags {
    /// GPU and count, such as "RTX 4090:1"
    #[arg(long, requires = "command", value_name = "NAME[:COUNT]")]
    gpus: Option<String>,
    /// Cheaper, but the market takes it back when somebody pays more; needs --bucket
    #[arg(long, requires = "gpus")]
    interruptible: bool,
    /// Disk of the box, such as 100GB
    #[arg(
        long,
        requires = "gpus",
        value_name = "SIZE",
        allow_hyphen_values = true
    )]
    disk: Option<String>,
    /// Highest price for the whole box, $/h, all in
    #[arg(
        long,
        requires = "gpus",
        value_name = "USD",
        allow_hyphen_values = true
    )]
    max_price: Option<String>,
    /// Highest bid, $/h
    #[arg(
        long,
        requires = "gpus",
        value_name = "USD",
        allow_hyphen_values = true
    )]
    bid_max: Option<String>,
    /// Bid over the price to beat, such as 15%
    #[arg(
        long,
        requires = "gpus",
        value_name = "SHARE",
        allow_hyphen_values = true
    )]
    bid_headroom: Option<String>,
    /// Further conditions in the market's query language, such as "reliability>0.95"
    #[arg(long, requires = "gpus", value_name = "QUERY")]
    offers: Option<String>,
    /// Container image
    #[arg(long, requires = "gpus")]
    image: Option<String>,
    /// Shell text that prepares the box
    #[arg(long, requires = "gpus", value_name = "COMMAND")]
    setup: Option<String>,
    /// Variable of the job, NAME=VALUE, or NAME alone to take it from your shell; may be given several times
    #[arg(long = "env", requires = "gpus", value_name = "NAME[=VALUE]")]
    envs: Vec<String>,
    /// Where checkpoints go, as in s3://bucket/runs
    #[arg(long, requires = "gpus", value_name = "URL")]
    bucket: Option<String>,
    /// Directory on the box in which the training writes checkpoints
    #[arg(long, requires = "gpus", value_name = "DIR")]
    checkpoints_dir: Option<String>,
    /// Dollars for all attempts
    #[arg(
        long,
        requires = "gpus",
        value_name = "USD",
        allow_hyphen_values = true
    )]
    budget: Option<String>,
    /// Longest time of training, such as 4h
    #[arg(
        long,
        requires = "gpus",
        value_name = "TIME",
        allow_hyphen_values = true
    )]
    max_runtime: Option<String>,
    /// File or directory to bring home, into results/NAME; may be given several times
    #[arg(long, requires = "gpus", value_name = "PATH")]
    fetch: Vec<String>,
}

impl RunArgs {
    /// The run that was typed.
    fn spec(&self) -> Result<RunSpec, CommandError> {
        let Some(gpus) = &self.bare.gpus else {
            return Ok(RunSpec::load(&self.file)?);
        };
        let workdir = std::path::absolute(".").map_err(|err| {
            CommandError::usage("the current directory cannot be read").cause(err)
        })?;
        let bare = &self.bare;
        Ok(RunSpec::from_flags(&BareRun {
            name: self.name.clone(),
            workdir,
            gpus: gpus.clone(),
            interruptible: bare.interruptible,
            disk: bare.disk.clone(),
            max_price: bare.max_price.clone(),
            bid_max: bare.bid_max.clone(),
            bid_headroom: bare.bid_headroom.clone(),
            offers: bare.offers.clone(),
            image: bare.image.clone(),
            setup: bare.setup.clone(),
            envs: bare.envs.clone(),
            checkpoints_dir: bare.checkpoints_dir.clone(),
            bucket: bare.bucket.clone(),
            budget: bare.budget.clone(),
            max_runtime: bare.max_runtime.clone(),
            fetch: bare.fetch.clone(),
            command: self.command.clone(),
        })?)
    }
}

/// Room without which nothing is rented: a record that cannot be written loses sight of a box that is paid for.
const RECORD_BYTES: u64 = 64 << 20;

/// Money in advance leaves the credit at once: whoever has it says so.
fn agree_to_prepay(
    ui: &mut Ui,
    spec: &RunSpec,
    credit_usd: f64,
    yes: bool,
) -> Result<(), CommandError> {
    let Some(usd) = spec.resources.prepay_usd else {
        return Ok(());
    };
    let refused =
        |why: &str| CommandError::new(format!("run `{}` was not rented", spec.name)).because(why);
    let prepay = text::usd(usd);
    if usd > credit_usd {
        let credit = text::usd(credit_usd);
        return Err(refused(&format!(
            "`resources.prepay` pays {prepay} in advance, and the account has {credit}"
        ))
        .hint("add credit in the web console"));
    }
    if yes {
        return Ok(());
    }
    let question = format!(
        "Pay {prepay} in advance for its box when the training begins? Some of it may be lost when the box is ended before it is used up"
    );
    match ui.confirm(&question) {
        Some(true) => Ok(()),
        Some(false) => Err(refused("you said no")),
        None => Err(refused(&format!(
            "`resources.prepay` pays {prepay} in advance, and nobody can be asked here"
        ))
        .hint("run it with `--yes` if you are sure")),
    }
}

/// Writes the run down, then carries it on.
pub async fn run(
    ui: &mut Ui,
    deps: &Deps,
    args: &RunArgs,
    stop: CancellationToken,
) -> Result<(), CommandError> {
    let mut spec = args.spec()?;
    if let Some(name) = &args.name {
        spec.rename(name)?;
    }
    let on_hosts = !args.hosts.is_empty();
    if on_hosts {
        let resources = &mut spec.resources;
        resources.hosts = args.hosts.clone();
        // What is said of a market does not count: nobody takes such a box back.
        (resources.rental, resources.prepay_usd) = (Rental::OnDemand, None);
        (
            resources.max_price_usd_per_hour,
            resources.bid_max_usd_per_hour,
        ) = (None, None);
    }
    let store = deps.store()?;
    if let Some(known) = store.find_run(&spec.name)? {
        let err = CommandError::usage(format!("there is a run `{}` already", spec.name));
        return Err(match known.outcome {
            None => err.hint(format!("go on with it: `spotter up {}`", spec.name)),
            Some(_) => err
                .hint("give this one another name with `--name`")
                .hint(format!(
                    "or start that one again with `spotter resume {}`",
                    spec.name
                )),
        });
    }
    let missing: Vec<&str> = spec
        .envs
        .iter()
        .filter(|(key, value)| value.is_none() && deps.shell_variable(key).is_none())
        .map(|(key, _)| key.as_str())
        .collect();
    if !missing.is_empty() {
        return Err(CommandError::usage(format!(
            "run `{}` needs variables that your shell lacks",
            spec.name
        ))
        .because(format!("`envs` leaves {} to the shell", missing.join(", "))));
    }

    notify::check(&spec, &|name| deps.shell_variable(name))?;
    container::check(&spec, &|name| deps.shell_variable(name))?;

    // Everything that can be proved without money is proved before any is spent.
    let sites = deps.sites()?;
    let not_rented = |err: CommandError| err.so(format!("run `{}` was not rented", spec.name));
    let provider = deps.provider().map_err(not_rented)?;
    let credit_usd = match on_hosts {
        true => f64::INFINITY,
        false => {
            let account = provider.account().await;
            account.map_err(|err| not_rented(err.into()))?.credit_usd
        }
    };
    if credit_usd <= 0.0 {
        return Err(CommandError::new(format!(
            "run `{}` was not rented: the account has no credit",
            spec.name
        ))
        .hint("add credit in the web console"));
    }
    let proved = sites.prove_bucket(&spec).await;
    let source = match &proved {
        Ok(_) => None,
        Err(_) => sites.keys_source().await,
    };
    let there = proved.map_err(|err| {
        let fault = match &err {
            SiteError::Refused(why) => KeyFault::of(why),
            _ => None,
        };
        let to = spec
            .checkpoints
            .as_ref()
            .and_then(|checkpoints| checkpoints.to.as_deref());
        let not_rented = format!("run `{}` was not rented", spec.name);
        if let (Some(fault), Some(to)) = (fault, to) {
            let told = fault.told(to, source.as_deref());
            return CommandError::new(format!("{not_rented}: {told}"))
                .cause(err)
                .hint(fault.hint(source.as_deref(), "run it again"));
        }
        match (&err, to) {
            // Keys or an agent that this laptop lacks: the bucket was never asked.
            (SiteError::Local(_), Some(to)) => {
                CommandError::new(not_rented).cause(err).hint(format!(
                    "see which keys are found, and what they may do: `spotter doctor bucket {to}`"
                ))
            }
            (_, None) => CommandError::new(not_rented).cause(err),
            (SiteError::Unreachable(_), Some(to)) => {
                CommandError::new(format!("{not_rented}: its bucket {to} did not answer"))
                    .cause(err)
                    .hint("check the network, and `checkpoints.server.endpoint` if there is one")
            }
            (_, Some(to)) => CommandError::new(format!(
                "{not_rented}: its bucket {to} cannot be used"
            ))
            .cause(err)
            .hint(format!(
                "the keys need to list, read, write and delete under {to}, which has to exist"
            ))
            .hint(format!(
                "see what is refused and what to grant: `spotter doctor bucket {to}`"
            )),
        }
    })?;
    if let Some(kept) = spec.checkpoints.as_mut().filter(|kept| kept.to.is_some()) {
        // Days later another shell may name no server, or another one.
        let server = sites.bucket_server(&kept.server).await;
        kept.server = server.map_err(|err| {
            let text = format!("run `{}` was not rented", spec.name);
            CommandError::new(text).cause(err)
        })?;
    }
    let free_bytes = config::free_bytes(deps.config.home());
    if let Some(free_bytes) = free_bytes.filter(|free| *free < RECORD_BYTES) {
        let home = deps.config.home().display();
        return Err(not_rented(
            CommandError::new(format!(
                "the disk of {home} has {} free, and the record and the logs of a run need {}",
                text::bytes(free_bytes),
                text::bytes(RECORD_BYTES)
            ))
            .hint("free some space there, or name another folder with `SPOTTER_HOME`"),
        ));
    }
    if there > 0 {
        return Err(CommandError::usage(format!(
            "run `{}` was not rented: the bucket holds {there} checkpoints of a run of this name",
            spec.name
        ))
        .hint("give this one another name with `--name`, or another prefix in `checkpoints.to`"));
    }
    let key = sites
        .public_key()
        .await
        .map_err(|err| {
            let text = format!("run `{}` was not rented: no box could be reached", spec.name);
            CommandError::new(text).cause(err).hint(
                "the system's ssh does it: install OpenSSH's client (Debian, Ubuntu: `apt-get install openssh-client`)",
            )
        })?;
    if !on_hosts {
        fault::point("provider.register_key.before");
        provider.register_key(&key).await?;
        fault::point("provider.register_key.after");
    }

    let record = RunRecord {
        name: spec.name.clone(),
        spec: spec.clone(),
        created_us: deps.clock.now_us(),
        stop_requested: false,
        outcome: None,
        reason: None,
    };
    if spec.brings_nothing_home() && !on_hosts {
        let end = match spec.on_done {
            OnDone::Destroy if spec.checkpoints.is_none() => {
                "is lost when its box is destroyed at the end, as `on_done` says"
            }
            OnDone::Keep => {
                "stays on its box, which is kept and costs what it costs until you end it"
            }
            _ => {
                "stays on the disk of its box, which is stopped at the end and costs storage until you end it"
            }
        };
        ui.status(format_args!(
            "Careful: `{}` names neither a bucket nor results, so what it writes {end}.",
            spec.name
        ));
        ui.hint(format_args!(
            "bring files home with `results` (`--fetch PATH`), or checkpoints with `checkpoints.to` (`--bucket URL`)"
        ));
    }
    // A name is used up only by a run that could begin.
    let offer = deps
        .lifecycle(watching::ConsoleReport::new(ui))?
        .find_offer(&record)
        .await?;
    if on_hosts {
        // No money is at stake there, and what the host has is not known before.
        store.create_run(&record)?;
    } else {
        let start = match &args.bare.gpus {
            None => Start::File(&args.file),
            Some(_) => Start::Flags,
        };
        let planned = gate::pass(ui, deps, &spec, &offer, start, args.no_plan)?;
        agree_to_prepay(ui, &spec, credit_usd, args.yes)?;
        store.create_planned_run(&record, gate::PLANNED, &planned)?;
    }
    let goal = if args.detach {
        Goal::Running
    } else {
        Goal::End
    };
    watching::watch_and_show(ui, deps, &spec.name, goal, stop).await
}
