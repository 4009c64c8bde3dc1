//! The random market keeps its rules, whatever the seed.

use super::*;
use crate::random_market::tenancy::{Presence, Tenancy};

/// Seeds of the property test.
const SEEDS: u64 = 60;
const DAYS: u32 = 21;

#[test]
fn a_seed_gives_the_same_market_and_another_seed_another() {
    assert_eq!(RandomMarket::new(7, 5), RandomMarket::new(7, 5));
    assert_ne!(
        RandomMarket::new(7, 5).machines,
        RandomMarket::new(8, 5).machines
    );
    // A longer look ahead does not change what kind of a market it is.
    let (short, long) = (RandomMarket::new(7, 5), RandomMarket::new(7, 50));
    assert_eq!(short.character, long.character);
}

#[test]
fn prices_are_in_order_and_every_moment_has_one_answer() {
    for seed in 0..SEEDS {
        let market = RandomMarket::new(seed, DAYS);
        for timeline in &market.machines {
            assert_eq!(timeline.segments[0].from_ms, 0, "seed {seed}");
            for pair in timeline.segments.windows(2) {
                assert!(pair[0].from_ms < pair[1].from_ms, "seed {seed}");
                assert!(!pair[0].gone || pair[1].gone, "seed {seed}: gone for good");
            }
            for segment in &timeline.segments {
                assert!(segment.from_ms < market.horizon_ms);
                let (floor, list) = (segment.floor_usd_per_hour, segment.list_usd_per_hour);
                assert!(0.0 < floor && floor < list, "seed {seed}: {segment:?}");
                assert!(!segment.gone || !segment.up);
                let Some(price) = segment.price_to_beat() else {
                    assert!(!segment.holds(Some(1e9)), "no bid has it: {segment:?}");
                    continue;
                };
                // Whoever bids the price that is shown has the box, and whoever bids a tick less than it has not.
                assert!(segment.holds(Some(price)), "seed {seed}: {segment:?}");
                let below = price - 2.0 * params::TICK_USD_PER_HOUR;
                assert!(!segment.holds(Some(below)), "seed {seed}: {segment:?}");
            }
        }
        for hour in (0..i64::from(DAYS) * 24).step_by(7) {
            let offers = market.offers(hour * HOUR_MS);
            assert!(offers.is_sorted_by_key(|offer| offer.min_bid_usd_per_hour));
        }
    }
}

#[test]
fn markets_differ_and_are_neither_dead_nor_free_for_all() {
    let mut taken = Vec::new();
    for seed in 0..SEEDS {
        let market = RandomMarket::new(seed, DAYS);
        let (mut all, mut held) = (0, 0);
        for hour in 0..i64::from(DAYS) * 24 {
            for timeline in &market.machines {
                all += 1;
                held += i64::from(timeline.at(hour * HOUR_MS).price_to_beat().is_none());
            }
        }
        taken.push(held as f64 / all as f64);
    }
    taken.sort_by(f64::total_cmp);
    let (calm, usual, busy) = (taken[3], taken[30], taken[56]);
    assert!(calm < 0.1 && busy > 0.3, "{calm} {usual} {busy}");
    assert!((0.03..0.6).contains(&usual), "{calm} {usual} {busy}");
}

/// A life of boxes that does whatever its dice say.
fn random_life(seed: u64) {
    let market = RandomMarket::new(seed, DAYS);
    let mut dice = Dice::new(seed, 999);
    let mut tenancy = Tenancy::new(&market);
    let mut now = 0;
    for _ in 0..120 {
        now += (dice.exponential(2.5) * HOUR_MS as f64) as Millis;
        tenancy.advance(now);
        let alive: Vec<usize> = (0..tenancy.boxes.len())
            .filter(|id| tenancy.boxes[*id].destroyed_ms.is_none())
            .collect();
        let offers = market.offers(now);
        if alive.len() < 3
            && let Some(offer) = offers.first()
        {
            let bid = dice
                .chance(0.8)
                .then(|| offer.min_bid_usd_per_hour * dice.between(0.9, 1.4));
            let ours = alive.iter().any(|id| {
                let rented = &tenancy.boxes[*id];
                rented.machine == offer.machine && rented.wants_to_run()
            });
            let wins = market.machines[offer.machine].at(now).holds(bid);
            let rented = tenancy.rent(now, offer.machine, bid, 40.0);
            assert_eq!(rented.is_some(), wins && !ours, "seed {seed}");
        }
        for id in alive {
            match (dice.fraction() * 12.0) as u32 {
                0 => tenancy.destroy(now, id),
                1 => tenancy.stop(now, id),
                2 => tenancy.start(now, id),
                3 => {
                    let bid = tenancy.boxes[id].gpu_usd_per_hour() * dice.between(0.8, 1.5);
                    tenancy.change_bid(now, id, bid);
                }
                _ => {}
            }
            let (rented, presence) = (&tenancy.boxes[id], tenancy.presence(id));
            if rented.destroyed_ms.is_some() {
                continue;
            }
            let segment = market.machines[rented.machine].at(now);
            assert_eq!(presence == Presence::Offline, !segment.up, "seed {seed}");
            assert_eq!(
                presence == Presence::Up,
                rented.up_since_ms.is_some(),
                "seed {seed}"
            );
            if presence == Presence::Up {
                assert!(segment.holds(rented.bid_usd_per_hour), "seed {seed}");
                assert!(rented.wants_to_run(), "seed {seed}");
            }
        }
    }
    // What was billed is what each stretch cost, and nothing is billed after the end.
    for id in 0..tenancy.boxes.len() {
        tenancy.destroy(now, id);
    }
    let total = tenancy.total_usd(now);
    let sum: f64 = tenancy
        .boxes
        .iter()
        .flat_map(|rented| &rented.bill.intervals)
        .map(|stretch| stretch.gpu_usd(0, now) + stretch.storage_usd(0, now))
        .sum();
    assert!((total - sum).abs() < 1e-9 && total > 0.0, "seed {seed}");
    assert_eq!(tenancy.total_usd(now + 100 * HOUR_MS), total, "seed {seed}");
    assert_eq!((tenancy.alive(), tenancy.gpus_charged()), (0, 0));
    for rented in &tenancy.boxes {
        for pair in rented.bill.intervals.windows(2) {
            assert_eq!(pair[0].end_ms, Some(pair[1].start_ms), "seed {seed}");
        }
    }
}

#[test]
fn a_tenant_has_a_box_only_while_his_bid_has_the_machine_and_pays_by_the_second() {
    for seed in 0..SEEDS {
        random_life(seed);
    }
}

#[test]
fn a_box_that_was_outbid_comes_back_by_itself_within_a_few_minutes_of_its_rival_leaving() {
    let mut returns = 0;
    for seed in 0..SEEDS {
        let market = RandomMarket::new(seed, DAYS);
        let Some(offer) = market.offers(0).first().copied() else {
            continue;
        };
        let mut tenancy = Tenancy::new(&market);
        let bid = offer.min_bid_usd_per_hour;
        let id = tenancy.rent(0, offer.machine, Some(bid), 40.0).unwrap();
        let timeline = &market.machines[offer.machine];
        for pair in timeline.segments.windows(2) {
            let back = !pair[0].holds(Some(bid)) && pair[1].holds(Some(bid));
            let later = pair[1].from_ms + 3 * 60_000;
            let stays = timeline
                .next_change(pair[1].from_ms)
                .is_none_or(|next| next > later);
            if back && stays {
                tenancy.advance(pair[1].from_ms + 30_000);
                assert_eq!(tenancy.presence(id), Presence::Away, "seed {seed}");
                tenancy.advance(later);
                assert_eq!(tenancy.presence(id), Presence::Up, "seed {seed}");
                returns += 1;
            }
        }
    }
    assert!(returns > 50, "{returns}");
}
