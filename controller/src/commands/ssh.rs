//! `ssh`: a shell on the box of a run, or one command; and the way to a box that other verbs share.

use std::io::IsTerminal;

use serde::Serialize;
use serde_json::json;

use crate::{
    commands::{Deps, parts::no_box, watching::ConsoleReport},
    error::CommandError,
    run::lease::Lease,
    store::RunRecord,
    tunnel::{self, SshHome, SshTarget},
    ui::{Ui, text},
};

/// Open a shell on the box of a run, or run a command there
///
/// Uses the system's ssh. To let other programs (scp, rsync, editors) use the run's name as a host, add the line that
/// `spotter ssh --config` prints to ~/.ssh/config.
#[derive(Debug, clap::Args)]
pub struct SshArgs {
    /// The run [default: the only one that goes on]
    run: Option<String>,
    /// Print the line for ~/.ssh/config instead
    #[arg(long, conflicts_with = "command")]
    config: bool,
    /// Start the box first if it is stopped: its GPU is paid for until it is stopped again
    #[arg(long, conflicts_with = "config")]
    start: bool,
    /// Command to run instead of a shell
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Deps {
    /// Keys, pins and sockets of ssh.
    pub fn ssh_home(&self) -> Result<SshHome, CommandError> {
        let config = &self.config;
        let user_config = config.user_home().unwrap_or_default().join(".ssh/config");
        SshHome::open(
            config.home(),
            config.runtime_dir().as_deref(),
            config.ssh_key()?,
            user_config,
        )
        .map_err(|err| CommandError::new("ssh cannot be prepared").cause(err))
    }

    /// How the newest box of a run is reached, by the addresses on record: the market is not asked.
    pub async fn ssh_target(&self, run: &str) -> Result<SshTarget, CommandError> {
        let record = self.load_run(Some(run))?;
        let attempt = self
            .store()?
            .latest_attempt(run)?
            .filter(|attempt| attempt.may_cost());
        let (attempt, instance) = attempt
            .and_then(|attempt| attempt.instance.map(|instance| (attempt, instance)))
            .ok_or_else(|| no_box(&record))?;
        if attempt.ssh.is_empty() {
            return Err(
                CommandError::new(format!("the box of `{run}` has no ssh address yet"))
                    .about(run)
                    .hint(format!(
                        "it is {}: see `spotter status {run}`",
                        attempt.state.name()
                    )),
            );
        }
        self.not_stopped(&record, instance).await?;
        self.same_key(run, instance).await?;
        let home = self.ssh_home()?;
        let target = home
            .target(self.provider()?.name(), instance, attempt.ssh.clone())
            .await;
        let target = target.map_err(|err| failed(run).cause(err))?;
        home.publish(run, &target)
            .map_err(|err| failed(run).cause(err))?;
        Ok(target)
    }
}

fn failed(run: &str) -> CommandError {
    CommandError::new(format!("the box of `{run}` could not be reached")).about(run)
}

/// Starts the kept box of an ended run, and says what that costs.
async fn start(ui: &mut Ui, deps: &Deps, run: &RunRecord) -> Result<(), CommandError> {
    let name = &run.name;
    if run.outcome.is_none() {
        let err = CommandError::usage(format!("run `{name}` has not ended"));
        return Err(err
            .about(name)
            .hint(format!("go on with `spotter up {name}`")));
    }
    let store = deps.store()?;
    let attempt = store.latest_attempt(name)?.ok_or_else(|| no_box(run))?;
    let Some(_lease) = Lease::take(&store, name)? else {
        let text = format!("the box of `{name}` was not started: another spotter acts for the run");
        return Err(CommandError::new(text).about(name));
    };
    deps.lifecycle(ConsoleReport::new(ui))?
        .wake(run, &attempt)
        .await?;
    ui.status(format_args!(
        "The box runs and costs {} now, and stops itself {} after its start; stop it before with `spotter stop {name}`.",
        text::usd_per_hour(attempt.gpu_usd_per_hour + attempt.storage_usd_per_hour),
        text::duration(run.spec.limits.bring_up)
    ));
    Ok(())
}

/// How a program gets there by itself, for `--json`.
#[derive(Debug, Serialize)]
struct Way<'a> {
    run: &'a str,
    /// Command line, program first.
    argv: Vec<String>,
}

/// Becomes ssh, and returns only when it could not; a program is given the command line instead.
pub(super) fn go(
    ui: &mut Ui,
    run: &str,
    target: &SshTarget,
    terminal: bool,
    command: Option<&str>,
) -> Result<(), CommandError> {
    if !ui.is_json() {
        return Err(failed(run).cause(tunnel::become_ssh(target, terminal, command)));
    }
    let argv = tunnel::person_words(target, terminal, command)
        .map_err(|err| failed(run).cause(err))?
        .into_iter()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    ui.json(&Way { run, argv });
    Ok(())
}

/// A shell on the box, or what the flags ask for instead.
pub async fn ssh(ui: &mut Ui, deps: &Deps, args: &SshArgs) -> Result<(), CommandError> {
    if args.config {
        let include = deps.ssh_home()?.include_line();
        match ui.is_json() {
            true => ui.json(&json!({"config_line": include})),
            false => ui.line(format_args!("{include}")),
        }
        return Ok(());
    }
    let run = deps.load_run(args.run.as_deref())?;
    if args.start {
        start(ui, deps, &run).await?;
    }
    let target = deps.ssh_target(&run.name).await?;
    // As ssh itself does it: words are joined, the box's shell takes them apart.
    let command = (!args.command.is_empty()).then(|| args.command.join(" "));
    let terminal = command.is_none() && (ui.is_json() || std::io::stdin().is_terminal());
    go(ui, &run.name, &target, terminal, command.as_deref())
}
