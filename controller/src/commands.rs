//! Sends each verb to its file. [`Deps`] holds the parts that a verb may use; each is made when it is first asked for.

pub mod accept;
pub mod attach;
pub mod bid;
pub mod checklist;
pub mod checkpoints;
pub mod cost;
pub mod destroy;
pub mod doctor;
pub mod events;
pub mod fetch;
mod from_bucket;
pub mod gc;
pub mod history;
pub mod init;
pub mod logs;
mod market_word;
pub mod metrics;
pub mod offers;
mod own_end;
pub mod parse;
mod parts;
pub mod plan;
pub mod prepay;
pub mod ps;
pub mod report;
pub mod resume;
pub mod run;
pub mod serve;
pub mod ssh;
pub mod status;
pub mod stop;
pub mod top;
pub mod up;
pub mod volumes;
pub mod wait;
pub mod watching;

use std::{
    future::Future,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use crate::{
    cli::Verb,
    clock::Clock,
    config::Config,
    error::{CommandError, ErrorKind},
    ledger,
    provider::{Provider, hosts::is_host},
    run::{State, site::Sites},
    store::{AttemptRecord, RunRecord, Store},
    ui::{Console, Ui, text},
};

/// Makes a part out of the configuration; the real ones are chosen in `main.rs`.
pub type Make<T> = Box<dyn Fn(&Config) -> Result<Arc<T>, CommandError> + Send + Sync>;

/// The parts a verb may use.
pub struct Deps {
    /// What was decided from flags, environment and files.
    pub config: Config,
    /// The date.
    pub clock: Clock,
    make_provider: Make<dyn Provider>,
    make_sites: Make<dyn Sites>,
    provider: OnceLock<Arc<dyn Provider>>,
    sites: OnceLock<Arc<dyn Sites>>,
    store: OnceLock<Arc<Store>>,
}

impl Deps {
    /// Nothing is opened yet.
    pub fn new(
        config: Config,
        clock: Clock,
        make_provider: Make<dyn Provider>,
        make_sites: Make<dyn Sites>,
    ) -> Self {
        let (provider, sites, store) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        Self {
            config,
            clock,
            make_provider,
            make_sites,
            provider,
            sites,
            store,
        }
    }

    /// The market.
    pub fn provider(&self) -> Result<Arc<dyn Provider>, CommandError> {
        if let Some(provider) = self.provider.get() {
            return Ok(provider.clone());
        }
        let made = (self.make_provider)(&self.config)?;
        Ok(self.provider.get_or_init(|| made).clone())
    }

    /// The run store, made where there is none.
    pub fn store(&self) -> Result<Arc<Store>, CommandError> {
        if let Some(store) = self.store.get() {
            return Ok(store.clone());
        }
        let store = Arc::new(Store::open(&self.config.store_path(), self.clock.clone())?);
        Ok(self.store.get_or_init(|| store).clone())
    }

    /// The run store, if there is one.
    pub fn existing_store(&self) -> Result<Option<Arc<Store>>, CommandError> {
        if let Some(store) = self.store.get() {
            return Ok(Some(store.clone()));
        }
        let store = Store::open_existing(&self.config.store_path(), self.clock.clone())?;
        Ok(store.map(|store| self.store.get_or_init(|| Arc::new(store)).clone()))
    }

    /// The run of that name; without a name, the only one that goes on.
    pub fn load_run(&self, name: Option<&str>) -> Result<RunRecord, CommandError> {
        let Some(store) = self.existing_store()? else {
            return Err(none_yet(name));
        };
        let runs = store.runs()?;
        // Nothing to list, so nothing to look up either.
        if runs.is_empty() {
            return Err(none_yet(name));
        }
        if let Some(name) = name {
            return Ok(store.run(name)?);
        }
        let mut going: Vec<RunRecord> = runs
            .into_iter()
            .filter(|run| run.outcome.is_none())
            .collect();
        match going.len() {
            1 => Ok(going.remove(0)),
            0 => Err(
                CommandError::usage("no run is going on: name the one you mean")
                    .hint("see what there is with `spotter ps --all`"),
            ),
            count => {
                let names: Vec<_> = going.iter().map(|run| format!("`{}`", run.name)).collect();
                Err(CommandError::usage(format!(
                    "{count} runs are going on: name the one you mean"
                ))
                .hint(format!("there are {}", names.join(", "))))
            }
        }
    }

    /// What boxes cost right now, one line each: of one run, or of all.
    pub fn money(&self, run: Option<&str>) -> Vec<String> {
        // This is added to an error that is about something else: a store that cannot be read has its own.
        let Ok(Some(store)) = self.existing_store() else {
            return Vec::new();
        };
        let attempts = match run {
            Some(run) => store.attempts(run),
            None => store.all_attempts(),
        };
        attempts
            .unwrap_or_default()
            .iter()
            .filter(|attempt| attempt.may_cost())
            // For a host of one's own nobody bills.
            .filter(|attempt| !attempt.instance.is_some_and(is_host))
            .map(|attempt| money_line(&store, attempt, run.is_none()))
            .collect()
    }
}

fn money_line(store: &Store, attempt: &AttemptRecord, name_run: bool) -> String {
    let of = if name_run {
        format!(" of run `{}`", attempt.run)
    } else {
        String::new()
    };
    let Some(instance) = attempt.instance else {
        return format!(
            "a box{of} may have been rented: its label would be `{}`",
            attempt.label
        );
    };
    let intervals = store.intervals(&attempt.run).unwrap_or_default();
    let rate = ledger::rate_usd_per_hour(&intervals, Some(attempt.number));
    // Nobody is charged for a GPU before the box runs, but soon.
    if rate > 0.0 && attempt.state == State::Loading {
        return format!(
            "instance {instance}{of} costs {} for its disk now, and {} once it runs",
            text::usd_per_hour(rate),
            text::usd_per_hour(attempt.gpu_usd_per_hour + attempt.storage_usd_per_hour)
        );
    }
    if rate > 0.0 {
        return format!(
            "instance {instance}{of} still costs {}",
            text::usd_per_hour(rate)
        );
    }
    // Nothing is on record as open: tell what it costs at most.
    format!(
        "instance {instance}{of} may still cost {}",
        text::usd_per_hour(attempt.at_most_usd_per_hour())
    )
}

/// Runs one verb and prints its error. Answers the exit code.
pub fn execute(verb: &Verb, ui: &mut Ui, deps: &Deps) -> u8 {
    match dispatch(verb, ui, deps) {
        Ok(()) => 0,
        Err(err) => {
            // Only what the error is about; `gc` is about all that is rented.
            let money = match (err.run(), err.exit_code() == ErrorKind::Usage.exit_code()) {
                (Some(run), _) => deps.money(Some(run)),
                (None, false) if matches!(verb, Verb::Gc(_)) => deps.money(None),
                // It is about no box: what others cost is no part of it.
                (None, _) => Vec::new(),
            };
            ui.error(&err, &money);
            err.exit_code()
        }
    }
}

fn dispatch(verb: &Verb, ui: &mut Ui, deps: &Deps) -> Result<(), CommandError> {
    match verb {
        Verb::Init(args) => init::init(ui, args),
        Verb::Offers(args) => block_on(offers::offers(ui, deps, args)),
        Verb::Volumes(args) => block_on(volumes::volumes(ui, deps, args)),
        Verb::Plan(args) => block_on(plan::plan(ui, deps, args)),
        Verb::Run(args) => {
            block_on_with_stop(&ui.console().clone(), |stop| run::run(ui, deps, args, stop))
        }
        Verb::Up(args) => {
            block_on_with_stop(&ui.console().clone(), |stop| up::up(ui, deps, args, stop))
        }
        Verb::Resume(args) => block_on_with_stop(&ui.console().clone(), |stop| {
            resume::resume(ui, deps, args, stop)
        }),
        Verb::Accept(args) => block_on(accept::accept(ui, deps, args)),
        Verb::Cost(args) => block_on(cost::cost(ui, deps, args)),
        Verb::Bid(args) => block_on(bid::bid(ui, deps, args)),
        Verb::Prepay(args) => block_on(prepay::prepay(ui, deps, args)),
        Verb::History(args) => history::history(ui, deps, args),
        Verb::Ps(args) => block_on(ps::ps(ui, deps, args)),
        Verb::Status(args) => block_on(status::status(ui, deps, args)),
        Verb::Checklist(args) => block_on(checklist::checklist(ui, deps, args)),
        Verb::Top(args) => {
            block_on_with_stop(&ui.console().clone(), |stop| top::top(ui, deps, args, stop))
        }
        Verb::Serve(args) => block_on_with_stop(&ui.console().clone(), |stop| {
            serve::serve(ui, deps, args, stop)
        }),
        Verb::Logs(args) => block_on(logs::logs(ui, deps, args)),
        Verb::Metrics(args) => block_on(metrics::metrics(ui, deps, args)),
        Verb::Report(args) => block_on(report::report(ui, deps, args)),
        Verb::Attach(args) => block_on(attach::attach(ui, deps, args)),
        Verb::Ssh(args) => block_on(ssh::ssh(ui, deps, args)),
        Verb::Wait(args) => block_on_with_stop(&ui.console().clone(), |stop| {
            wait::wait(ui, deps, args, stop)
        }),
        Verb::Checkpoints(args) => block_on(checkpoints::checkpoints(ui, deps, args)),
        Verb::Fetch(args) => block_on(fetch::fetch(ui, deps, args)),
        Verb::Events(args) => events::events(ui, deps, args),
        Verb::Parse(args) => parse::parse(ui, args),
        Verb::Stop(args) => block_on_with_stop(&ui.console().clone(), |leave| {
            stop::stop(ui, deps, args, leave)
        }),
        Verb::Doctor(args) => block_on(doctor::doctor(ui, deps, args)),
        Verb::Destroy(args) => block_on(destroy::destroy(ui, deps, args)),
        Verb::Gc(args) => block_on(gc::gc(ui, deps, args)),
    }
}

/// Runs a verb that waits for the network. Ctrl-C ends the program at once: for verbs that only look.
pub fn block_on<T>(verb: impl Future<Output = Result<T, CommandError>>) -> Result<T, CommandError> {
    let runtime = runtime()?;
    let result = runtime.block_on(verb);
    // A thread that reads stdin cannot be woken; it must not keep the program.
    runtime.shutdown_timeout(SHUTDOWN);
    result
}

/// Runs a verb that has something to put in order first. Its token is cancelled at the first Ctrl-C, SIGTERM or SIGHUP; a
/// second Ctrl-C ends the program at once, and says what that means.
pub fn block_on_with_stop<T, F>(
    console: &Console,
    verb: impl FnOnce(CancellationToken) -> F,
) -> Result<T, CommandError>
where
    F: Future<Output = Result<T, CommandError>>,
{
    let runtime = runtime()?;
    let stop = CancellationToken::new();
    let result = runtime.block_on(async {
        let signals = tokio::spawn(cancel_on_signal(stop.clone(), console.clone()));
        let result = verb(stop).await;
        signals.abort();
        result
    });
    runtime.shutdown_timeout(SHUTDOWN);
    result
}

/// How long threads that cannot be cancelled are waited for at the end.
const SHUTDOWN: Duration = Duration::from_millis(100);

/// Exit code of a program that Ctrl-C ended, as shells have it.
const EXIT_INTERRUPTED: i32 = 130;

async fn cancel_on_signal(stop: CancellationToken, console: Console) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
        signal(SignalKind::hangup()),
    ) else {
        // Without handlers the signals end the program, which every run survives.
        return;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    stop.cancel();
    interrupt.recv().await;
    console.last_word(
        "Left at once: nothing was ended, and what was rented is still paid for. See it with `spotter ps`, go on with `spotter up`.",
    );
    std::process::exit(EXIT_INTERRUPTED);
}

fn runtime() -> Result<tokio::runtime::Runtime, CommandError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|err| CommandError::new("the program's threads cannot be started").cause(err))
}

impl std::fmt::Debug for Deps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deps")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// Nothing was ever run from here.
fn none_yet(name: Option<&str>) -> CommandError {
    let what = match name {
        Some(name) => format!("there is no run `{name}`"),
        None => "there is no run".to_owned(),
    };
    CommandError::usage(what).hint("begin with `spotter init`, then `spotter run`")
}

#[cfg(test)]
mod tests;
