//! Tells the user what happens to a run while he is away: by a command of his on the laptop, and by a webhook.
//!
//! Whoever holds the run's lease tells, or with `from_box` the box while nobody does ([`by_box`], pure): so each event is told once however many watch. What was told is marked after it was: a
//! spotter that dies in between leaves it to the next one, which may tell it twice, and `id` shows that. [`choice`] says what is
//! told (pure), [`command`] starts the user's command, [`webhook`] sends.

mod by_box;
mod choice;
mod command;
pub mod webhook;

use std::time::Duration;

use serde::Serialize;
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    error::CommandError,
    run::{lifecycle::Lifecycle, site::Site},
    spec::{self, Notify, RunSpec, WebhookFrom},
    store::{EventRecord, RunRecord, StoreError},
};

/// Variable of the shell with the URL that a run file leaves to it.
pub const WEBHOOK: &str = "SPOTTER_WEBHOOK";
/// Between two looks for something to tell.
const LOOK: Duration = Duration::from_secs(2);
/// Longest time for what is left to tell when nobody watches any more.
const REST: Duration = Duration::from_secs(45);
/// A way that failed is left alone for so long; what happens meanwhile is in `events`.
const PAUSE: Duration = Duration::from_secs(60);
/// Between two words to the box that the user is told from here, and how long it believes one.
pub(crate) const HAND_OVER: Duration = Duration::from_secs(15);
const QUIET: Duration = Duration::from_secs(60);
/// Longest text, characters: a box may print anything.
const MAX_TEXT_CHARS: usize = 1000;

/// What is told: the command's standard input, and the webhook's body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Message<'a> {
    run: &'a str,
    /// Attempt, from 1; 0: the run as a whole.
    attempt: u32,
    /// Position in the store: the same event has the same.
    id: i64,
    /// Kind of the event, in dotted lower case.
    event: &'a str,
    /// A sentence for people, with the run's name.
    text: String,
    time_us: i64,
}

/// Whether everything is there that telling needs, before anything is paid for.
///
/// # Errors
/// When the URL of the webhook is left to the shell, and the shell lacks it or has something else there.
pub fn check(spec: &RunSpec, shell: &dyn Fn(&str) -> Option<String>) -> Result<(), CommandError> {
    let Some(from) = spec
        .notify
        .as_ref()
        .and_then(|notify| notify.webhook.as_ref())
    else {
        return Ok(());
    };
    webhook_url(from, shell).map(drop).map_err(|why| {
        CommandError::usage(format!(
            "run `{}` was not rented: nobody could be told what happens to it",
            spec.name
        ))
        .because(why)
    })
}

/// The URL, from where it is kept. Never part of an error.
fn webhook_url(
    from: &WebhookFrom,
    shell: &dyn Fn(&str) -> Option<String>,
) -> Result<webhook::Url, String> {
    let text = match from {
        WebhookFrom::File(path) => spec::webhook_in(path)?,
        WebhookFrom::Shell => shell(WEBHOOK).map(Into::into).ok_or_else(|| {
            format!(
                "`notify.webhook` leaves its URL to {WEBHOOK} of your shell, where it is not set"
            )
        })?,
    };
    webhook::Url::parse(&text)
}

/// Says to the box of a run with `from_box` where it tells while nobody watches, and that he is told from here for now. Best effort: whoever
/// watches tells him all the same.
pub(crate) async fn hand_over(lifecycle: &Lifecycle, run: &RunRecord, site: &dyn Site) {
    let Some(notify) = run.spec.notify.as_ref().filter(|notify| notify.from_box) else {
        return;
    };
    let Some(from) = &notify.webhook else { return };
    let told = match webhook_url(from, lifecycle.shell.as_ref()) {
        Ok(url) => {
            let told = site.set_webhook(url.secret(), QUIET).await;
            told.map_err(|err| err.to_string())
        }
        Err(why) => Err(why),
    };
    if let Err(why) = told {
        tracing::debug!(why, "the box was not told where the user is told");
    }
}

/// Tells what happens to a run until `stop`, and then what is left. The caller holds the run's lease. Whatever goes wrong is told
/// once, and never harms the run.
pub async fn follow(lifecycle: &Lifecycle, run: &str, stop: &CancellationToken) {
    let spec = match lifecycle.store.run(run) {
        Ok(record) => record.spec,
        Err(err) => {
            tracing::warn!(%err, "nothing is told: the run cannot be read");
            return;
        }
    };
    let Some(notify) = &spec.notify else {
        return;
    };
    let mut teller = Teller::new(lifecycle, run, notify, &spec);
    let telling = async {
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = time::sleep(LOOK) => teller.look(false).await,
            }
        }
        teller.look(true).await;
    };
    // What is being told when the end comes counts as well: others wait for the lease.
    let too_long = async {
        stop.cancelled().await;
        time::sleep(REST).await;
    };
    tokio::select! {
        () = telling => {}
        () = too_long => tracing::warn!(run, "what is left to tell waits for whoever watches next"),
    }
}

/// Tells what is left, for a verb that ends a run itself. The caller holds the run's lease.
pub async fn rest(lifecycle: &Lifecycle, run: &str) {
    let stop = CancellationToken::new();
    stop.cancel();
    follow(lifecycle, run, &stop).await;
}

/// Who tells, and how far he is.
struct Teller<'a> {
    lifecycle: &'a Lifecycle,
    run: &'a str,
    notify: &'a Notify,
    dir: Option<&'a std::path::Path>,
    url: Option<Result<webhook::Url, String>>,
    /// Position of the newest event that was looked at.
    seen: Option<i64>,
    /// Position of the newest event that was there at the last look.
    there: i64,
    /// When each way last failed.
    command_failed: Option<Instant>,
    webhook_failed: Option<Instant>,
}

impl<'a> Teller<'a> {
    fn new(
        lifecycle: &'a Lifecycle,
        run: &'a str,
        notify: &'a Notify,
        spec: &'a RunSpec,
    ) -> Teller<'a> {
        let url = notify.webhook.as_ref();
        Teller {
            lifecycle,
            run,
            notify,
            dir: spec.workdir.as_deref(),
            // Now: the file may be gone when there is something to tell.
            url: url.map(|from| webhook_url(from, lifecycle.shell.as_ref())),
            seen: None,
            there: 0,
            command_failed: None,
            webhook_failed: None,
        }
    }

    async fn look(&mut self, last: bool) {
        if let Err(err) = self.try_look(last).await {
            tracing::warn!(%err, "what is to be told waits for the next look");
        }
    }

    async fn try_look(&mut self, last: bool) -> Result<(), StoreError> {
        let store = &self.lifecycle.store;
        let mark = format!("notified/{}", self.run);
        let seen = match self.seen {
            Some(seen) => seen,
            None => {
                let marked = store.meta(&mark)?;
                marked.and_then(|id| id.parse().ok()).unwrap_or(0)
            }
        };
        self.seen = Some(seen);
        let events = store.events(self.run, seen)?;
        // What the box says of its own telling may be on its way behind what it told.
        let until = match self.notify.from_box && !last {
            true => self.there,
            false => i64::MAX,
        };
        self.there = events.last().map_or(self.there, |event| event.id);
        let told = match self.notify.from_box && !events.is_empty() {
            true => by_box::told(&store.events(self.run, 0)?),
            false => by_box::Told::default(),
        };
        for event in events {
            if event.id > until {
                break;
            }
            let event = match told.turn(&event) {
                by_box::Turn::Ours => event,
                by_box::Turn::Told => {
                    self.seen = Some(event.id);
                    continue;
                }
                // It could not be told there, after all.
                by_box::Turn::Again(original) => EventRecord {
                    id: event.id,
                    ..original
                },
            };
            let text = choice::text(self.run, &event);
            if let Some(text) = &text {
                self.tell(&event, text).await;
            }
            // Before the mark, which a full disk may refuse: this one does not tell it again.
            self.seen = Some(event.id);
            if text.is_some() {
                // Only what was told is marked: the rest is passed over again at no cost.
                store.set_meta(&mark, &event.id.to_string())?;
            }
        }
        Ok(())
    }

    async fn tell(&mut self, event: &EventRecord, text: &str) {
        let plain = |c: char| if c.is_control() { ' ' } else { c };
        let text = format!("`{}`: {text}", self.run);
        let message = Message {
            run: self.run,
            attempt: event.attempt,
            id: event.id,
            event: &event.kind,
            text: text.chars().map(plain).take(MAX_TEXT_CHARS).collect(),
            time_us: event.time_us,
        };
        let body = serde_json::to_vec(&message).expect("a message is plain data");
        if let Some(text) = self
            .notify
            .command
            .as_ref()
            .filter(|_| rested(self.command_failed))
        {
            let shell = (self.lifecycle.shell)("SHELL").filter(|shell| shell.starts_with('/'));
            let shell = shell.as_deref().unwrap_or("/bin/sh");
            let told = command::run(shell, text, self.dir, &message, &body).await;
            let failed = told.map_err(|why| format!("the command of `notify.command` {why}"));
            self.command_failed = self.complain(failed, self.command_failed);
        }
        if let Some(url) = self.url.as_ref().filter(|_| rested(self.webhook_failed)) {
            let told = match url {
                Ok(url) => webhook::send(url, &body).await,
                Err(why) => Err(why.clone()),
            };
            let failed = told.map_err(|why| format!("the webhook was not told: {why}"));
            self.webhook_failed = self.complain(failed, self.webhook_failed);
        }
    }

    /// Says what went wrong, unless it went wrong before. Answers when it did.
    fn complain(&self, told: Result<(), String>, before: Option<Instant>) -> Option<Instant> {
        if let (Err(why), None) = (&told, before) {
            let text = format!("A notification failed, which does the run no harm: {why}.");
            self.lifecycle.report.status(self.run, &text);
        }
        told.is_err().then(Instant::now)
    }
}

/// Whether a way may be tried again: one that hangs must not take its half minute for each event of a long night.
fn rested(failed: Option<Instant>) -> bool {
    failed.is_none_or(|failed| failed.elapsed() >= PAUSE)
}
