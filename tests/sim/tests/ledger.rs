//! Our ledger against the market's bill, over random lives of runs: boxes that are rented, outbid, stopped, started, rebooted, lost with
//! their host, found again, bid for anew, destroyed, and rented again; looked at every ten seconds, but for hours in which the laptop is
//! off. The market's clock is simulated; the ledger is the store's own, in memory.
//!
//! Seen as it happens, every change of state gives the bill to the cent. What a look sees late may be wrong by its own difference in price
//! over its own delay, and not by anything more. Of what happens behind a closed lid the provider tells when a container came up and what was charged in all, and no moment at which a charge ended: there our own
//! looks alone are hours off, and the bill, which is held against them and counts, makes them right.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may hope, and tell"
)]

#[path = "ledger/life.rs"]
mod life;

use life::{Dice, Life, T0, Watch, lived, store};
use serde_json::Value;
use spotter::{
    ledger::{self, Charged, Cost, CostKind},
    provider::vast,
};
use spotter_sim::{market::contracts::Intruder, vast::account};

const LIVES: u64 = 1000;
/// Of a thousand lives in which somebody looks all the time, so many our own looks alone get right to the cent, at least. A watcher looks
/// every ten seconds, the provider does not say when in between a charge ended, and ten seconds of eight large GPUs are a nickel.
const EXACT_LIVES: usize = 700;
/// Lives of a thousand with hours that nobody saw, whose bill may be so far below what was metered that it is not believed: of two figures
/// that cannot both be true the dearer one counts.
const DOUBTED_LIVES: usize = 20;
/// What floats may lose over a life, dollars.
const ROUNDING_USD: f64 = 1e-6;

/// By our own looks alone, no life is further off than what was changed before a look; with the bill all of them are equal to the cent.
/// Answers how many were equal before it, and how many bills were not believed.
fn held_against_bills(watch: Watch) -> (usize, usize) {
    let (store, _dir) = store();
    let (mut apart_usd, mut late_usd): (Vec<f64>, Vec<f64>) = (Vec::new(), Vec::new());
    let (mut attempts, mut doubted) = (0, 0);
    for seed in 0..LIVES {
        let life = lived(seed, &store, watch);
        attempts += life.ids.len();
        let (ours, bill) = life.both_usd();
        let apart = (ours - bill).abs();
        assert!(
            apart <= life.late_usd + ROUNDING_USD,
            "seed {seed}: ours ${ours}, bill ${bill}, ${} for what was seen late\n{:#?}\n{:#?}",
            life.late_usd,
            life.intervals(),
            life.ids.iter().map(|id| life.bill(*id)).collect::<Vec<_>>()
        );
        apart_usd.push(apart);
        late_usd.push(life.late_usd);
        let charges = check_charges(&life);
        let (intervals, now_us) = (life.intervals(), life.now * 1000);
        let held = ledger::run_cost(&intervals, &charges, now_us).total_usd();
        let believed = charges
            .iter()
            .all(|read| ledger::is_plausible(&intervals, read.attempt, read.cost, now_us));
        let is_right = match believed {
            true => (held - bill).abs() < 0.005,
            false => held > bill - 0.005,
        };
        assert!(
            is_right,
            "seed {seed}: ${held} with the bill of ${bill}, ${ours} by our own looks"
        );
        doubted += usize::from(!believed && held > bill + 0.005);
    }
    let exact = apart_usd.iter().filter(|apart| **apart < 0.005).count();
    let (middle, worst) = median_and_worst(apart_usd);
    let (late_middle, late_worst) = median_and_worst(late_usd);
    println!(
        "{LIVES} lives, {attempts} boxes, watch: {watch:?}; by our own looks alone {exact} equal to the cent, with the bill {}; by our own \
         looks apart by ${middle:.6} (median) and ${worst:.2} (worst), where ${late_middle:.4} and ${late_worst:.2} were changed before a look",
        LIVES as usize - doubted
    );
    (exact, doubted)
}

#[test]
fn the_ledger_equals_the_bill_over_a_thousand_random_lives_whose_changes_are_seen_as_they_happen() {
    let (exact, doubted) = held_against_bills(Watch::AtOnce);
    assert_eq!(
        (exact, doubted),
        (LIVES as usize, 0),
        "by our own looks alone"
    );
}

#[test]
fn the_ledger_equals_the_bill_over_a_thousand_random_lives_that_are_watched() {
    let (exact, doubted) = held_against_bills(Watch::Polls);
    assert!(exact >= EXACT_LIVES, "{exact} of {LIVES}");
    assert_eq!(doubted, 0, "with the bill all are equal to the cent");
}

#[test]
fn the_ledger_equals_the_bill_over_a_thousand_random_lives_in_which_the_lid_is_closed_for_hours() {
    let (_, doubted) = held_against_bills(Watch::Sleeps);
    assert!(doubted <= DOUBTED_LIVES, "{doubted} of {LIVES}");
}

fn median_and_worst(mut numbers: Vec<f64>) -> (f64, f64) {
    numbers.sort_by(f64::total_cmp);
    (numbers[numbers.len() / 2], numbers[numbers.len() - 1])
}

/// The provider's account of all boxes, told apart by box: each attempt has its own, traffic too.
fn check_charges(life: &Life<'_>) -> Vec<Charged> {
    let instances = life.market.instances();
    let rows: Vec<Value> = life
        .ids
        .iter()
        .map(|id| account::charge(&instances[id], 0, life.now, true).unwrap())
        .collect();
    let mut read = Vec::new();
    for (index, id) in life.ids.iter().enumerate() {
        let charges = vast::read_charges(&rows, &[*id]);
        let bill = life.bill(*id);
        assert_eq!(charges.len(), 1);
        assert!((charges[0].gpu_usd - bill.gpu_usd(life.now)).abs() < ROUNDING_USD);
        assert!((charges[0].disk_usd - bill.storage_usd(life.now)).abs() < ROUNDING_USD);
        assert!((charges[0].bandwidth_usd - bill.traffic_usd()).abs() < ROUNDING_USD);
        read.push(Charged {
            attempt: index as u32 + 1,
            cost: Cost::from(&charges[0]),
            is_final: true,
        });
    }
    read
}

#[test]
fn a_life_that_we_alone_decide_is_exact() {
    let (store, _dir) = store();
    let mut life = Life::begin(&mut Dice(7), &store, "ours".to_owned(), Watch::Polls);
    life.pass(T0 + 3_600_000);
    life.market.stop(life.now, life.id()).unwrap();
    life.boxes();
    life.look();
    life.pass(T0 + 7_200_000);
    life.destroy();
    // The start of the container is told by the provider, though it was seen ten seconds later.
    let (ours, bill) = life.both_usd();
    assert!((ours - bill).abs() < ROUNDING_USD, "{ours} {bill}");
    let disks = life.intervals();
    let disks = disks.iter().filter(|known| known.kind == CostKind::Disk);
    assert_eq!(disks.count(), 1);
}

/// The laptop is off when the market gives a box back: how long its container runs tells since when it is charged.
#[test]
fn a_box_that_came_back_while_nobody_looked_is_charged_from_the_minute_it_came_up() {
    let (store, _dir) = store();
    let mut checked = 0;
    for seed in 0..40 {
        let mut life = Life::begin(
            &mut Dice(seed),
            &store,
            format!("off-{seed}"),
            Watch::Sleeps,
        );
        if life.market.instances()[&life.id()]
            .order
            .bid_usd_per_hour
            .is_none()
        {
            continue;
        }
        life.pass(T0 + 3_600_000);
        let intruder = Intruder {
            on_demand: true,
            bid_usd_per_hour: None,
            stays_ms: Some(2 * 3_600_000),
        };
        life.market.outbid(life.now, life.id(), intruder).unwrap();
        life.boxes();
        life.look();
        // It is stopped, and known to be. Two hours later it runs again; the next look is three hours after that.
        life.off(life.now + 5 * 3_600_000);
        assert!(life.seen().contract_running);
        life.look();
        assert!(life.late_usd > 0.0);
        life.destroy();
        let (ours, bill) = life.both_usd();
        assert!(
            (ours - bill).abs() < ROUNDING_USD,
            "seed {seed}: {ours} {bill}"
        );
        checked += 1;
    }
    assert!(checked >= 20, "{checked} lives by bid");
}
