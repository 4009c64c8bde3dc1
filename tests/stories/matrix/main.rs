//! The crash matrix: the agent, or its box, is lost at every point at which a saved checkpoint changes the disk or the bucket, while
//! every switch of the S3 server is on. Afterwards nothing that was committed is lost and nothing half is believed. And the way back:
//! whoever brings a checkpoint down is killed at every point of that. So is whoever collects results.
//!
//! Nothing is picked by hand: the agent names its points (feature `faults`), the server its faults. `scripts/whole matrix` runs every
//! cell, by `SPOTTER_MATRIX=whole`, which takes two cores more than an hour; otherwise one of 30, or fewer, is drawn by a seed
//! (`SPOTTER_MATRIX_SEED` draws others). `SPOTTER_MATRIX_ONLY=END/SWITCH/POINT` runs one (`Restore` or `Pull` for the END of the way back,
//! `Collector` or `Other` for that of results).
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may hope, and tell"
)]

mod bringing;
mod cell;
mod collecting;
mod sidecar;
mod stage;
mod switch;
mod trainer;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    sync::Mutex,
    time::Instant,
};

use bringing::{Bringing, By};
use cell::{Cell, End, Ended};
use collecting::{Collecting, Next};
use switch::Switch;

/// Cells at once: most of their time they wait for the disk, or for an answer that does not come.
const AT_ONCE: usize = 6;
/// Of so many cells one is run, unless the whole matrix is asked for.
const ONE_OF: usize = 30;
/// The same on the way back.
const ONE_OF_BRINGING: usize = 20;
/// The same of results.
const ONE_OF_COLLECTING: usize = 60;

#[test]
fn no_end_of_the_agent_or_its_box_loses_a_checkpoint_or_makes_half_of_one() {
    let runtime = runtime();
    // The agent's processes are this test once more: each is told its part.
    if sidecar::play(&runtime) {
        return;
    }
    let began = Instant::now();
    let healthy = each(&runtime, vec![Switch::none()], |switch| {
        cell::trace(&switch)
    });
    let operations = operations(healthy);
    assert!(operations.len() >= 8, "{operations:?}");
    let traces = each(&runtime, Switch::each(&operations), |switch| {
        let points = cell::trace(&switch).map_err(|err| format!("{}: {err}", switch.name))?;
        Ok((switch, points))
    });
    let (traces, failures) = split(traces);
    assert_eq!(failures, Vec::<String>::new());

    let all: Vec<Cell> = traces
        .iter()
        .flat_map(|(switch, points)| {
            points.iter().flat_map(move |point| {
                End::EACH.map(|end| Cell {
                    end,
                    point: point.clone(),
                    switch: switch.clone(),
                })
            })
        })
        .collect();
    println!("{} switches", traces.len());
    let cells = chosen(all, ONE_OF);

    let ended = each(&runtime, cells, |cell| {
        let ended = cell.run().map_err(|err| format!("{cell}: {err}"))?;
        Ok((cell, ended))
    });
    let (ended, failures) = split(ended);
    table(&traces, &ended);
    println!("in {} s", began.elapsed().as_secs());
    all_held(&failures, &ended);
}

#[test]
fn no_end_of_a_collection_leaves_half_of_results_or_keeps_the_next_from_all_of_them() {
    let began = Instant::now();
    let runtime = runtime();
    let healthy = each(&runtime, vec![Switch::none()], |switch| {
        collecting::trace(&switch)
    });
    let operations = operations(healthy);
    assert!(operations.len() >= 6, "{operations:?}");
    let traces = each(&runtime, Switch::each(&operations), |switch| {
        let points = collecting::trace(&switch).map_err(|err| format!("{}: {err}", switch.name))?;
        Ok((switch, points))
    });
    let (traces, failures) = split(traces);
    assert_eq!(failures, Vec::<String>::new());
    let mut all = Vec::new();
    for (switch, points) in traces {
        assert!(points.len() >= 25, "{}: {points:?}", switch.name);
        for point in points {
            all.extend(Next::EACH.map(|next| Collecting {
                next,
                point: point.clone(),
                switch: switch.clone(),
            }));
        }
    }
    let cells = chosen(all, ONE_OF_COLLECTING);
    let ended = each(&runtime, cells, |cell| {
        let ended = cell.run().map_err(|err| format!("{cell}: {err}"))?;
        Ok((cell, ended))
    });
    let (ended, failures) = split(ended);
    println!("in {} s", began.elapsed().as_secs());
    all_held(&failures, &ended);
}

#[test]
fn no_end_of_a_restore_or_a_pull_leaves_half_a_checkpoint_or_reads_a_part_twice() {
    let began = Instant::now();
    let runtime = runtime();
    let mut all = Vec::new();
    for by in By::EACH {
        let healthy = each(&runtime, vec![Switch::none()], |switch| {
            bringing::trace(by, &switch)
        });
        let operations = operations(healthy);
        assert!(operations.len() >= 4, "{operations:?}");
        let traces = each(&runtime, Switch::each(&operations), |switch| {
            let points = bringing::trace(by, &switch);
            let points = points.map_err(|err| format!("{by:?}/{}: {err}", switch.name))?;
            Ok((switch, points))
        });
        let (traces, failures) = split(traces);
        assert_eq!(failures, Vec::<String>::new());
        let points: BTreeSet<&String> = traces.iter().flat_map(|(_, points)| points).collect();
        println!("{by:?}: {} switches, points {points:?}", traces.len());
        assert!(points.len() >= 15, "{points:?}");
        for (switch, points) in traces {
            all.extend(points.into_iter().map(|point| Bringing {
                by,
                point,
                switch: switch.clone(),
            }));
        }
    }
    let cells = chosen(all, ONE_OF_BRINGING);
    let ended = each(&runtime, cells, |cell| {
        let ended = cell.run().map_err(|err| format!("{cell}: {err}"))?;
        Ok((cell, ended))
    });
    let (ended, failures) = split(ended);
    println!("in {} s", began.elapsed().as_secs());
    all_held(&failures, &ended);
}

fn runtime() -> tokio::runtime::Runtime {
    spotter_agent::fault::divide_waits_by(sidecar::WAITS_DIVIDED_BY);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// The cells that are run now, some at least; tells how many of them, and the seed that drew them.
fn chosen<T: Display>(all: Vec<T>, one_of: usize) -> Vec<T> {
    // The same cells are drawn each time: a change is judged, not the luck of the day.
    let seed =
        std::env::var("SPOTTER_MATRIX_SEED").map_or(1, |text| text.parse::<usize>().unwrap());
    let whole = std::env::var("SPOTTER_MATRIX").is_ok_and(|text| text == "whole");
    let only = std::env::var("SPOTTER_MATRIX_ONLY").ok();
    let count = all.len();
    let chosen: Vec<T> = all
        .into_iter()
        .enumerate()
        .filter(|(number, cell)| match &only {
            Some(only) => cell.to_string() == *only,
            // One of each run of neighbours, at a place that moves on: every switch, end and kind of point has its turn.
            None => whole || (number + seed) % one_of == (number / one_of) % one_of,
        })
        .map(|(_, cell)| cell)
        .collect();
    println!("{count} cells, {} of them now (seed {seed})", chosen.len());
    assert!(!chosen.is_empty());
    chosen
}

/// Nothing failed, and nearly everybody died where it was meant.
fn all_held<T>(failures: &[String], ended: &[(T, Ended)]) {
    for failure in failures {
        println!("{failure}");
    }
    assert_eq!(
        failures.len(),
        0,
        "of {} cells",
        ended.len() + failures.len()
    );
    // A point under a fault may come a little earlier or later than in its trace; that it does not come at all is rare.
    let missed = ended.iter().filter(|(_, ended)| !ended.reached).count();
    assert!(
        missed * 10 <= ended.len(),
        "{missed} of {} points were not passed again",
        ended.len()
    );
}

/// What is asked of the bucket, in the words of these traces.
fn operations(traces: Vec<Result<Vec<String>, String>>) -> Vec<String> {
    let operations: BTreeSet<String> = traces
        .into_iter()
        .flat_map(Result::unwrap)
        .filter_map(|point| {
            let name = point.strip_prefix("bucket.")?;
            Some(name.split('.').next()?.to_owned())
        })
        .collect();
    operations.into_iter().collect()
}

/// Does this for each, some at once, on threads of their own: processes that a thread started are to end with it.
fn each<T: Send, R: Send>(
    runtime: &tokio::runtime::Runtime,
    items: Vec<T>,
    work: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    let queue = Mutex::new(items.into_iter());
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                let _inside = runtime.enter();
                loop {
                    let Some(item) = queue.lock().unwrap().next() else {
                        return;
                    };
                    let result = work(item);
                    results.lock().unwrap().push(result);
                }
            });
        }
    });
    results.into_inner().unwrap()
}

fn split<T>(results: Vec<Result<T, String>>) -> (Vec<T>, Vec<String>) {
    let mut good = Vec::new();
    let mut bad = Vec::new();
    for result in results {
        match result {
            Ok(value) => good.push(value),
            Err(text) => bad.push(text),
        }
    }
    (good, bad)
}

fn table(traces: &[(Switch, Vec<String>)], ended: &[(Cell, Ended)]) {
    let mut rows: BTreeMap<&str, [usize; 6]> = BTreeMap::new();
    for (switch, points) in traces {
        rows.entry(&switch.name).or_default()[0] = points.len();
    }
    for (cell, ended) in ended {
        let row = rows.entry(&cell.switch.name).or_default();
        row[1 + cell.end as usize] += 1;
        row[4] += usize::from(!ended.reached);
        row[5] += usize::from(ended.was_committed);
    }
    println!(
        "{:<24}{:>8}{:>8}{:>8}{:>8}{:>8}{:>12}",
        "switch", "points", "agent", "box", "back", "missed", "committed"
    );
    for (name, row) in rows {
        println!(
            "{name:<24}{:>8}{:>8}{:>8}{:>8}{:>8}{:>12}",
            row[0], row[1], row[2], row[3], row[4], row[5]
        );
    }
}
