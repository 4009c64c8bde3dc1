//! Weeks of runs in random markets, in virtual time: what the controller's pure functions decide about bids, boxes and budgets is held
//! against the bill, and against simpler rules.
//!
//! The numbers in `choosing` were chosen on the seeds of [`TUNING`], and 1000 to 1999; what is claimed is claimed on those of [`HELD_OUT`].
//! Seeds 100 to 199 were held out at first: there the first version was in time in 98 markets, where bidding the price to beat was in 100. It
//! was then made to expect longer waits, on the seeds for tuning, and the claim moved to seeds that nobody had looked at: 200 to 299, in
//! which it cost 0.994 of the price to beat in the median. Since then it is told when the result is wanted, and 300 to 399 are spent on that.
#![allow(clippy::unwrap_used, reason = "a test may hope")]
#![allow(
    clippy::print_stdout,
    reason = "a table for whoever asks with --no-capture"
)]

#[path = "weeks/alone.rs"]
mod alone;
#[path = "weeks/books.rs"]
mod books;
#[path = "weeks/life.rs"]
mod life;

use std::ops::Range;

use life::{Job, Outcome, Strategy};
use spotter_sim::random_market::{Dice, RandomMarket};

/// Markets on which numbers were chosen.
const TUNING: Range<u64> = 0..100;
/// Markets that nobody looked at before.
const HELD_OUT: Range<u64> = 300..400;
/// Markets in which every rule is kept.
const ALL: Range<u64> = 0..200;
/// Days of a stopped box's disk that are held back.
const WEEK_DAYS: f64 = 7.0;
/// Length of a market.
const DAYS: u32 = 28;

/// A job of half a day to a week, with whatever checkpoints, set-up and disk the seed says.
fn job(seed: u64) -> Job {
    let mut dice = Dice::new(seed, 777);
    let hours = dice.log_between(12.0, 150.0);
    Job {
        hours,
        every_h: dice.log_between(0.15, 1.0),
        setup_h: dice.log_between(0.1, 0.6),
        return_h: 0.05,
        upload_h: 0.05,
        disk_gb: dice.log_between(40.0, 400.0),
        budget_usd: hours * 0.8 + 5.0,
        // Prices are compared; a budget that holds nothing for a large disk begins nothing.
        storage_days: 0.0,
        max_bid_usd_per_hour: 0.6,
        deadline_h: hours * 1.5 + 4.0,
    }
}

fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1).expect("there are some");
    sorted[(last as f64 * share).round() as usize]
}

fn in_time(outcome: &Outcome, job: &Job) -> bool {
    outcome
        .done_h
        .is_some_and(|done_h| done_h <= job.deadline_h)
}

/// Within a life it is asserted that no two GPUs are charged at once, that no bid passes the maximum, that the bill stays within the
/// budget and equals the ledger, and that nothing is left.
#[test]
fn no_run_passes_its_budget_leaves_a_box_or_rents_twice_in_two_hundred_markets() {
    let mut ended_by_budget = 0;
    for seed in ALL {
        let market = RandomMarket::new(seed, DAYS);
        // From far too little to plenty.
        for share in [0.1, 0.5, 1.0] {
            let plenty = job(seed);
            let job = Job {
                budget_usd: plenty.budget_usd * share,
                storage_days: WEEK_DAYS,
                ..plenty
            };
            for strategy in [
                Strategy::Choice,
                Strategy::Elsewhere(0.15),
                Strategy::Here(0.15),
            ] {
                let outcome = life::live(&market, job, strategy);
                assert!(outcome.usd <= job.budget_usd, "seed {seed}: {outcome:?}");
                // A week of its disk is held back to the end, which is most of a small budget.
                let spent = outcome.usd > 0.2 * job.budget_usd;
                ended_by_budget += u32::from(outcome.done_h.is_none() && spent);
            }
        }
    }
    assert!(ended_by_budget > 100, "{ended_by_budget}: too few to tell");
}

/// What the choice costs as a share of what another rule costs, in the markets in which that rule is in time; where the choice is not, it
/// counts as twice the price.
fn shares(lives: &[(Job, Vec<Outcome>)], rule: usize) -> Vec<f64> {
    lives
        .iter()
        .filter(|(job, outcomes)| in_time(&outcomes[rule], job))
        .map(|(job, outcomes)| match in_time(&outcomes[0], job) {
            true => outcomes[0].usd / outcomes[rule].usd,
            false => 2.0,
        })
        .collect()
}

#[test]
fn the_choice_by_price_costs_less_than_fixed_rules_in_markets_it_was_not_made_for() {
    let rules = [
        ("choice by price", Strategy::Choice),
        ("the same, no deadline", Strategy::Hurry),
        ("price to beat, elsewhere", Strategy::Elsewhere(0.0)),
        ("+15 %, elsewhere", Strategy::Elsewhere(0.15)),
        ("+20 %, elsewhere", Strategy::Elsewhere(0.2)),
        ("price to beat, waits", Strategy::Here(0.0)),
        ("+20 %, waits", Strategy::Here(0.2)),
        ("on-demand", Strategy::OnDemand),
    ];
    let mut held_out = Vec::new();
    for (name, seeds) in [("tuning", TUNING), ("held out", HELD_OUT)] {
        let lives: Vec<(Job, Vec<Outcome>)> = seeds
            .map(|seed| {
                let (market, job) = (RandomMarket::new(seed, DAYS), job(seed));
                let outcomes = rules.map(|(_, rule)| life::live(&market, job, rule));
                (job, outcomes.to_vec())
            })
            .collect();
        println!(
            "{name}: dollars by hour of training of those in time; what the choice costs as a share of each"
        );
        println!(
            "rule                       in time   $/h median  worst tenth   share median  worst tenth   mean  cheaper in"
        );
        for (index, (rule, _)) in rules.iter().enumerate() {
            let per_hour: Vec<f64> = lives
                .iter()
                .filter(|(job, outcomes)| in_time(&outcomes[index], job))
                .map(|(job, outcomes)| outcomes[index].usd / job.hours)
                .collect();
            let shares = shares(&lives, index);
            let mean = shares.iter().sum::<f64>() / shares.len() as f64;
            let cheaper = shares.iter().filter(|share| **share <= 1.0 + 1e-9).count();
            println!(
                "{rule:<26} {:>3}/{}     {:>8.4}     {:>8.4}       {:>8.3}     {:>8.3}  {mean:>6.3}  {cheaper:>3}/{}",
                per_hour.len(),
                lives.len(),
                quantile(&per_hour, 0.5),
                quantile(&per_hour, 0.9),
                quantile(&shares, 0.5),
                quantile(&shares, 0.9),
                shares.len(),
            );
        }
        if name == "held out" {
            held_out = lives;
        }
    }
    let check = |rule: usize, median: f64, worst_tenth: f64| {
        let shares = shares(&held_out, rule);
        let found = (quantile(&shares, 0.5), quantile(&shares, 0.9));
        let name = rules[rule].0;
        assert!(
            found.0 <= median && found.1 <= worst_tenth,
            "{name}: {found:?}"
        );
    };
    let punctual = |rule: usize| {
        let punctual = |(job, outcomes): &&(Job, Vec<Outcome>)| in_time(&outcomes[rule], job);
        held_out.iter().filter(punctual).count()
    };
    assert!(
        punctual(0) + 3 >= punctual(2),
        "{} {}",
        punctual(0),
        punctual(2)
    );
    check(2, 0.995, 1.03);
    check(3, 0.93, 0.98);
    check(4, 0.91, 0.97);
    // Who waits for the price to beat is in time in a fourth of the markets; in those the choice costs about the same.
    assert!(3 * punctual(5) < held_out.len(), "{}", punctual(5));
    check(5, 1.02, 1.15);
    check(6, 0.93, 1.0);
    check(7, 0.75, 0.9);
}

#[test]
fn a_box_that_is_left_alone_for_a_week_after_its_end_has_not_passed_its_budget() {
    let (mut left, mut stopped) = (0, 0);
    for seed in ALL {
        let market = RandomMarket::new(seed, DAYS);
        for budget_usd in [2.0, 5.0, 20.0] {
            let job = Job {
                budget_usd,
                storage_days: WEEK_DAYS,
                ..job(seed)
            };
            for starts_again in [false, true] {
                let Some(week) = alone::week_alone(&market, job, 1.5, starts_again) else {
                    continue;
                };
                left += 1;
                stopped += u32::from(week.stopped_itself);
                assert!(
                    week.usd <= budget_usd && week.hours > 0.0,
                    "seed {seed}: {week:?} of {budget_usd}"
                );
            }
        }
    }
    println!("{left} boxes were left alone, {stopped} of them stopped themselves");
    assert!(left > 300 && stopped > 100, "{left} {stopped}");
}
