//! A run whose laptop is off for a week: its box trains as long as it was told it may, stops itself, and its disk is paid for.

use spotter_sim::{
    market::Millis,
    random_market::{
        HOUR_MS, RandomMarket,
        tenancy::{Presence, Tenancy},
    },
};

use crate::{books::Books, life::Job};

/// `limits.bring_up`: a box that comes back while nobody watches stops itself after it.
const BRING_UP_MS: Millis = 45 * 60_000;
/// The laptop is off for so long after the box's own end: what is held back pays for it.
const WEEK_MS: Millis = 7 * 24 * HOUR_MS;

/// What a week alone came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Week {
    /// The bill when somebody comes back, dollars.
    pub usd: f64,
    /// The box stopped itself because of the money; otherwise somebody took it before.
    pub stopped_itself: bool,
    /// Hours that it trained alone.
    pub hours: f64,
}

/// The lid is closed `watched_h` after the first order; `None`: there was no box to leave alone. `starts_again`: a box that is taken and
/// given back goes on with its training by itself, until the same moment.
pub fn week_alone(
    market: &RandomMarket,
    job: Job,
    watched_h: f64,
    starts_again: bool,
) -> Option<Week> {
    let mut tenancy = Tenancy::new(market);
    let mut books = Books::new(&job);
    let offers = market.offers(0);
    let id = offers.iter().find_map(|offer| {
        let bid = books.order(offer, Some(0.0), &job, 0)?;
        tenancy.rent(0, offer.machine, Some(bid), job.disk_gb)
    })?;
    books.look(&tenancy, id, 0);
    let closed_ms = (watched_h * HOUR_MS as f64) as Millis;
    let mut now = 0;
    while now < closed_ms {
        let next = tenancy.next_of(id).unwrap_or(closed_ms);
        now = next.clamp(now + 1, closed_ms);
        tenancy.advance(now);
        books.look(&tenancy, id, now);
    }
    if tenancy.presence(id) != Presence::Up || books.must_finish(now) {
        return None;
    }
    // What it was told last; from here on nobody looks.
    let allowed = books.alone(&tenancy.boxes[id], now);
    assert!(!allowed.left.is_zero(), "whoever watches ends it before");
    let ends_ms = now + (allowed.left + allowed.finish).as_millis() as Millis;
    let began_ms = now;
    let mut alone_since_ms = None;
    let stopped_itself = loop {
        let next = tenancy.next_of(id).filter(|next| *next < ends_ms);
        let comes_back: Option<Millis> = alone_since_ms.map(|since: Millis| since + BRING_UP_MS);
        let due = next.into_iter().chain(comes_back).min();
        now = due.unwrap_or(ends_ms).clamp(now + 1, ends_ms.max(now + 1));
        tenancy.advance(now);
        let up = tenancy.presence(id) == Presence::Up;
        let again = tenancy.boxes[id]
            .up_since_ms
            .filter(|since| *since > began_ms);
        alone_since_ms = again.filter(|_| !starts_again);
        let forgotten = again.is_some_and(|since| !starts_again && now >= since + BRING_UP_MS);
        if now >= ends_ms || forgotten {
            tenancy.stop(now, id);
            break up && !forgotten;
        }
    };
    let hours = (now - began_ms) as f64 / HOUR_MS as f64;
    now += WEEK_MS;
    tenancy.advance(now);
    Some(Week {
        usd: tenancy.total_usd(now),
        stopped_itself,
        hours,
    })
}
