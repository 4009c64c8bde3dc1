//! Tells the user by his webhook what happens while nobody watches. Whoever watches tells himself, and says so again and again; each
//! event is told by one of the two, and the journal says which the box told.

use std::{
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::json;
use spotter_trainlog::telling;
use tokio::time::{self, Instant};
use tracing::warn;

use super::core::Core;
use crate::{
    chain,
    events::EventSink,
    journal::Entry,
    now_us,
    webhook::{Untaken, Url},
};

/// Event: the box told, or is about to tell, of the event `seq`.
const NOTIFIED: &str = "notified";
/// Event: it could not.
const FAILED: &str = "notify.failed";
/// Between two looks for something to tell.
const LOOK: Duration = Duration::from_secs(1);
/// Events that are looked at at one go.
const AT_ONCE: usize = 256;
/// A watcher whose link broke comes back within this; a little less than what a box waits before it ends itself.
const ALONE: Duration = Duration::from_secs(25);
/// A webhook that failed is left alone for so long.
const PAUSE: Duration = Duration::from_secs(60);
/// One that has failed for so long is asked once more for each event, and no more.
const GIVE_UP: Duration = Duration::from_secs(60 * 60);
/// Longest time for what is left to tell when the box ends itself: it is paid for.
const LAST_LIMIT: Duration = Duration::from_secs(10);
/// Longest time for one message otherwise, with all its tries.
const LIMIT: Duration = Duration::from_secs(75);
/// Longest text, characters: a training may print anything.
const MAX_TEXT_CHARS: usize = 1000;

/// Where to tell, and how far this is.
#[derive(Default)]
pub struct Telling {
    state: Mutex<State>,
    /// One at a time: an event is told once.
    busy: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    url: Option<Arc<Url>>,
    /// Until then whoever watches tells.
    quiet_until: Option<Instant>,
    /// A failure is not repeated before.
    rests_until: Option<Instant>,
    /// Since when nothing was taken.
    failing_since: Option<Instant>,
    /// The event of which the journal says that it could not be told; it is tried again.
    failed: Option<u64>,
    /// Up to this event everything is told, or is somebody else's to tell.
    dealt: u64,
}

impl Telling {
    /// Whoever watches tells the user for this long; after that the box does, by this URL. `newest`: the newest event.
    pub fn hand_over(&self, url: Option<Url>, quiet: Duration, newest: u64) {
        let mut state = self.state();
        // What was before is known to whoever brings the URL.
        if state.url.is_none() {
            state.dealt = newest;
        }
        state.url = url.map(Arc::new);
        state.quiet_until = Some(Instant::now() + quiet);
        state.failing_since = None;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Events that the box is to look at now. Whoever watches has taken all up to `acknowledged`; `alone`: nobody is connected any more,
    /// whatever was said.
    fn due(
        &mut self,
        now: Instant,
        alone: bool,
        acknowledged: u64,
        newest: u64,
    ) -> Option<RangeInclusive<u64>> {
        self.url.as_ref()?;
        if !alone && self.quiet_until.is_some_and(|until| now < until) {
            self.dealt = self.dealt.max(acknowledged);
            return None;
        }
        let rests = self.rests_until.is_some_and(|until| now < until);
        (!rests && self.dealt < newest).then(|| self.dealt + 1..=newest)
    }

    /// An event was taken. Whether the journal is to say so: it said that it could not be told.
    fn sent(&mut self, seq: u64) -> bool {
        self.dealt = self.dealt.max(seq);
        self.failing_since = None;
        self.failed.take() == Some(seq)
    }

    /// It was not taken, and is tried again until that is given up. Whether the journal is to say so: once of each.
    fn not_sent(&mut self, seq: u64, now: Instant) -> bool {
        self.rests_until = Some(now + PAUSE);
        let since = *self.failing_since.get_or_insert(now);
        if now.duration_since(since) >= GIVE_UP {
            self.dealt = self.dealt.max(seq);
        }
        self.failed.replace(seq) != Some(seq)
    }

    /// It was refused, and is not tried again: what came after it waits for nothing. Whether the journal is to say so, once.
    fn refused(&mut self, seq: u64) -> bool {
        self.dealt = self.dealt.max(seq);
        // Somebody answered.
        self.failing_since = None;
        self.failed.take() != Some(seq)
    }
}

/// Tells until the daemon stops.
pub async fn watch(core: Arc<Core>) {
    loop {
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = time::sleep(LOOK) => {}
        }
        round(&core, LIMIT).await;
    }
}

/// Tells what is left, before the box ends itself.
pub async fn rest(core: &Arc<Core>) {
    // All of it, whoever is at it just now: a webhook that is slow must not keep a box that is to end.
    if time::timeout(LAST_LIMIT, round(core, LAST_LIMIT))
        .await
        .is_err()
    {
        warn!("not everything was told before the end");
    }
}

async fn round(core: &Arc<Core>, limit: Duration) {
    let telling = &core.telling;
    let _one_at_a_time = telling.busy.lock().await;
    while let Some(range) = due(core) {
        let from = *range.start();
        let read = core
            .blocking(move |core| core.journal.read(from, AT_ONCE))
            .await;
        let events = match read.map_err(std::io::Error::other).and_then(|read| read) {
            Ok(events) => events,
            Err(err) => return warn!(error = %chain(&err), "what is to be told waits"),
        };
        // Nothing is there: what was dropped was read by somebody.
        let last = events.last().map_or(*range.end(), |event| event.seq);
        for event in &events {
            let Some(text) = telling::text(&event.run, &event.kind, &event.detail) else {
                telling.state().dealt = event.seq;
                continue;
            };
            // Somebody may have come meanwhile.
            if due(core).is_none() {
                return;
            }
            if !tell(core, event, &text, limit).await {
                return;
            }
        }
        let mut state = telling.state();
        state.dealt = state.dealt.max(last);
    }
}

fn due(core: &Core) -> Option<RangeInclusive<u64>> {
    let newest = core.journal.last();
    let acknowledged = match core.journal.oldest_unacknowledged() {
        0 => newest,
        oldest => oldest - 1,
    };
    let left_us = core.presence.alone_since_us();
    let alone =
        left_us.is_some_and(|left_us| now_us().saturating_sub(left_us) >= ALONE.as_micros() as u64);
    let mut state = core.telling.state();
    state.due(Instant::now(), alone, acknowledged, newest)
}

/// Tells of one event; false: the webhook cannot be told just now.
async fn tell(core: &Core, event: &Entry, text: &str, limit: Duration) -> bool {
    let (url, again) = {
        let state = core.telling.state();
        (state.url.clone(), state.failed == Some(event.seq))
    };
    let Some(url) = url else { return false };
    let notified = || core.journal.event(NOTIFIED, json!({"seq": event.seq}));
    // First: whoever comes while it is sent does not tell it again.
    if !again {
        notified();
    }
    let sent = time::timeout(limit, url.send(message(event, text))).await;
    match sent.unwrap_or_else(|_| Err(Untaken::passing("no answer in time"))) {
        Ok(()) => {
            if core.telling.state().sent(event.seq) {
                notified();
            }
            true
        }
        Err(Untaken { why, is_final }) => {
            warn!(why, kind = event.kind, "the webhook was not told");
            let is_news = match is_final {
                true => core.telling.state().refused(event.seq),
                false => core.telling.state().not_sent(event.seq, Instant::now()),
            };
            if is_news {
                core.journal
                    .event(FAILED, json!({"seq": event.seq, "reason": why}));
            }
            is_final
        }
    }
}

/// The message, of the same keys as that of whoever watches; `by` says that `id` counts the box's own events.
fn message(event: &Entry, text: &str) -> Vec<u8> {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let text = format!("`{}`: {text}", event.run);
    let text: String = text.chars().map(plain).take(MAX_TEXT_CHARS).collect();
    let message = json!({
        "run": event.run, "attempt": event.attempt, "id": event.seq, "event": event.kind,
        "text": text, "time_us": event.time_us, "by": "box",
    });
    serde_json::to_vec(&message).expect("a message is plain data")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_box_tells_what_nobody_took_once_nobody_watches() {
        let telling = Telling::default();
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(telling.state().due(now, true, 0, 9), None, "it has no URL");
        let url = || Url::parse("https://hooks.example.com/hush").ok();
        telling.hand_over(url(), Duration::from_secs(60), 5);
        let due = |seconds, acknowledged, newest| {
            let mut state = telling.state();
            state.due(after(seconds), false, acknowledged, newest)
        };
        assert_eq!(due(1, 5, 7), None, "somebody watches");
        assert_eq!(due(59, 6, 8), None);
        assert_eq!(due(60, 6, 8), Some(7..=8), "what he took he tells");
        // Somebody who only looks takes events, too, and tells nobody.
        assert_eq!(due(61, 8, 8), Some(7..=8));
        telling.state().dealt = 8;
        assert_eq!(due(62, 8, 8), None);
        telling.state().rests_until = Some(after(122));
        assert_eq!(due(70, 8, 9), None, "it failed just now");
        assert_eq!(due(122, 8, 9), Some(9..=9));
        telling.hand_over(url(), Duration::from_secs(60), 9);
        assert_eq!(telling.state().dealt, 8, "it goes on where it was");
        let gone = telling.state().due(after(123), true, 8, 9);
        assert_eq!(gone, Some(9..=9), "whoever said that he watches has left");
        telling.hand_over(None, Duration::ZERO, 9);
        assert_eq!(due(200, 8, 9), None, "it may not any more");
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_webhook_did_not_take_is_tried_for_an_hour_and_noted_once() {
        let telling = Telling::default();
        let url = Url::parse("https://hooks.example.com/hush").ok();
        telling.hand_over(url, Duration::ZERO, 5);
        let start = Instant::now();
        let after = |minutes: u64| start + Duration::from_secs(60 * minutes);
        let due = |minutes: u64| telling.state().due(after(minutes), true, 5, 7);
        for minute in 0..60 {
            assert_eq!(due(minute), Some(6..=7), "minute {minute}");
            let noted = telling.state().not_sent(6, after(minute));
            assert_eq!(noted, minute == 0, "minute {minute}");
            assert_eq!(due(minute), None, "it rests");
        }
        assert!(telling.state().sent(6), "it was said that it was not told");
        assert_eq!(due(60), Some(7..=7));
        assert!(!telling.state().sent(7));
        // An hour without an answer: given up, and each that follows is tried once.
        assert!(telling.state().not_sent(8, after(60)));
        assert_eq!(telling.state().dealt, 7);
        assert!(!telling.state().not_sent(8, after(120)));
        assert_eq!(telling.state().dealt, 8);
        assert!(telling.state().not_sent(9, after(121)));
        assert_eq!(telling.state().dealt, 9);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_the_webhook_refuses_holds_up_none_that_follow() {
        let telling = Telling::default();
        let url = Url::parse("https://hooks.example.com/hush").ok();
        telling.hand_over(url, Duration::ZERO, 5);
        let start = Instant::now();
        let after = |minutes: u64| start + Duration::from_secs(60 * minutes);
        let due = |minutes: u64| telling.state().due(after(minutes), true, 5, 8);
        assert!(telling.state().refused(6), "it is said");
        assert_eq!(due(0), Some(7..=8), "and what follows comes at once");
        // It could not be reached at first: that was said.
        assert!(telling.state().not_sent(7, after(0)));
        assert!(!telling.state().refused(7));
        assert_eq!(due(1), Some(8..=8));
        // It answered: what cannot be told from now on is tried for an hour of its own.
        assert!(telling.state().not_sent(8, after(90)));
        assert_eq!(due(91), Some(8..=8));
    }
}
