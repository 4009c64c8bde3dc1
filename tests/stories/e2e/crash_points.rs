//! (c) The controller killed at every point from renting to running, as the program itself enumerates them.
//!
//! Every point has its turn on both tiers, with `up` after it and with nobody after it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use serde_json::Value;

use crate::world::{Training, World, gpus_charged_at_once, on_both_tiers};

on_both_tiers! {
    a_controller_killed_at_any_point_is_finished_by_up_and_never_pays_for_two_boxes: killed_then_up;
    a_controller_killed_for_good_leaves_a_box_that_ends_itself: killed_for_good;
}

/// The point behind which there is a box, whatever the controller has heard of it.
const ORDERED: &str = "provider.rent.after#1";
/// GPUs that are rented, of each kind by one run at a time: two that go for one offer pass other points than one alone, and
/// boxes that nobody comes back to hold theirs until they end, which is more than there are of one kind.
const GPUS: [&str; 4] = ["RTX 4090:1", "RTX 3090:1", "A100 SXM4:1", "H100 SXM:1"];

fn killed_then_up(world: &World) {
    let points = points(world);
    println!("{} points: {points:?}", points.len());
    each(&points, |number, point, gpu| {
        let name = kill_at(world, point, ("crash", number), gpu, 15, "3m");
        if world.status(name).is_null() {
            // Killed before the run was written down: nothing can have been rented for it.
            return;
        }
        let said = world.say(&["up", name]);
        assert_eq!(said.code, 0, "{point}: {}\n{}", said.out, world.sim_log());
        assert_eq!(world.status(name)["outcome"], "done", "{point}");
    });
    world.assert_nothing_rented();
    for (number, point) in points.iter().enumerate() {
        let bills = world.bills_of(&format!("crash-{number}"));
        let finished = !world.status(&format!("crash-{number}")).is_null();
        assert_eq!(
            bills.len(),
            usize::from(finished),
            "boxes that were rented for the run killed at {point}: {bills:?}"
        );
        assert!(!gpus_charged_at_once(&bills), "{point}: {bills:?}");
    }
}

fn killed_for_good(world: &World) {
    let points = points(world);
    let after_the_order = |point: &str| {
        let place = |wanted: &str| points.iter().position(|known| known == wanted);
        place(point) >= place(ORDERED)
    };
    println!("{} points: {points:?}", points.len());
    each(&points, |number, point, gpu| {
        // Where the session has started already, the box does its job first.
        kill_at(world, point, ("dead", number), gpu, 60, "45s");
    });
    // Before the order there is no box; after it there is one, whatever the controller had heard of it.
    let left = world.alive();
    for (number, point) in points.iter().enumerate() {
        let run = format!("dead-{number}");
        let of_run = left.iter().filter(|row| run_of(row) == run).count();
        let bills = world.bills_of(&run);
        let expected = usize::from(after_the_order(point));
        assert_eq!(
            (of_run, bills.len()),
            (expected, expected),
            "boxes that are left, and that were ever rented, of the run killed at {point}: {bills:?}"
        );
    }
    let with_box = points.iter().filter(|point| after_the_order(point)).count();
    assert!(with_box > 2, "{points:?}");
    let ended = world.until("every box to stop itself", || {
        let rows = world.alive();
        let running = rows.iter().filter(|row| row["cur_state"] == "running");
        (running.count() == 0).then_some(rows)
    });
    // By their own hand: nobody destroyed one, and the market took none back.
    assert_eq!(ended.len(), left.len());
    for row in &ended {
        assert_eq!(row["cur_state"], "stopped", "{row}");
        assert_eq!(row["intended_status"], "stopped", "{row}");
    }
    // What they cost from here on is their disks, until somebody destroys them.
    let bills = || {
        world.ctl(&["bill"])["instances"]
            .as_array()
            .unwrap()
            .clone()
    };
    let then = bills();
    std::thread::sleep(std::time::Duration::from_secs(2));
    let mut disks_usd_per_hour = 0.0;
    for (then, now) in then.iter().zip(bills()) {
        assert_eq!(then["id"], now["id"]);
        assert_eq!(
            then["gpu_seconds"], now["gpu_seconds"],
            "no GPU is charged any more: {now}"
        );
        if !now["destroyed_ms"].is_null() {
            continue;
        }
        let last = now["intervals"].as_array().and_then(|all| all.last());
        let last = last.expect("a bill has intervals");
        assert!(last["end_ms"].is_null(), "{now}");
        assert_eq!(last["gpu_usd_per_hour"], 0.0, "{now}");
        let storage_usd = |bill: &Value| bill["storage_usd"].as_f64().unwrap();
        assert!(storage_usd(&now) > storage_usd(then), "{now}");
        disks_usd_per_hour += last["storage_usd_per_hour"].as_f64().unwrap();
    }
    let disks = ended.len();
    println!(
        "{disks} boxes ended themselves: no GPU is charged; their disks cost ${disks_usd_per_hour:.3}/h until they are destroyed"
    );
}

/// Run that an instance was rented for.
fn run_of(row: &Value) -> &str {
    let label = row["label"].as_str().unwrap_or_default();
    label.split('/').nth(2).unwrap_or_default()
}

/// Starts a run that is killed at this point, and returns its name.
fn kill_at(
    world: &World,
    point: &str,
    (kind, number): (&str, usize),
    gpu: &str,
    steps: u64,
    bring_up: &'static str,
) -> &'static str {
    let name: &'static str = Box::leak(format!("{kind}-{number}").into_boxed_str());
    let mut training = training(name, steps);
    training.bring_up = bring_up;
    // Of those that nobody carries on every box is looked at afterwards, whatever it had saved.
    if kind == "dead" {
        training.on_done = "stop";
    }
    world.training(&training);
    let file = format!("{name}.yaml");
    let yaml = fs::read_to_string(world.work().join(&file)).unwrap();
    world.write(&file, &yaml.replace(GPUS[0], gpu));
    let killed = world
        .spotter(&["run", &file, "--detach"])
        .env("SPOTTER_DIE_AT", point)
        .output()
        .unwrap();
    assert_eq!(
        killed.status.code(),
        None,
        "{point}: {}",
        String::from_utf8_lossy(&killed.stderr)
    );
    name
}

/// One that passes every kind of point.
fn training(name: &'static str, steps: u64) -> Training {
    let mut training = Training::interruptible(name, steps);
    training.setup = Some("sleep 0.2");
    training
}

/// Does this for every point, as many at once as there are kinds of GPUs: each with one that nobody else goes for meanwhile.
fn each(points: &[String], work: impl Fn(usize, &str, &str) + Sync) {
    let next = std::sync::Mutex::new(points.iter().enumerate());
    let (next, work) = (&next, &work);
    std::thread::scope(|scope| {
        for gpu in GPUS {
            scope.spawn(move || {
                loop {
                    let taken = next.lock().unwrap().next();
                    let Some((number, point)) = taken else { return };
                    work(number, point, gpu);
                }
            });
        }
    });
}

/// The points that a run passes from its start until its training runs, in the program's own words and in their order.
fn points(world: &World) -> Vec<String> {
    world.training(&training("trace", 15));
    let trace = world.work().join("trace.txt");
    let traced = world
        .spotter(&["run", "trace.yaml", "--detach"])
        .env("SPOTTER_TRACE_POINTS", &trace)
        .output()
        .unwrap();
    assert!(
        traced.status.success(),
        "{}",
        String::from_utf8_lossy(&traced.stderr)
    );
    let mut seen = BTreeSet::new();
    let mut passes: BTreeMap<String, u32> = BTreeMap::new();
    let points: Vec<String> = fs::read_to_string(&trace)
        .unwrap()
        .lines()
        .filter(|point| {
            let (name, _) = point.split_once('#').unwrap();
            let nth = passes.entry(name.to_owned()).or_default();
            *nth += 1;
            seen.insert((*point).to_owned())
        })
        .map(str::to_owned)
        .collect();
    world.ok(&["wait", "trace"]);
    // Each call that changes something outside, and each write of the record.
    for name in [
        "provider.register_key.before",
        "provider.register_key.after",
        "store.run.before",
        "store.run.after",
        "store.lease.after",
        "store.renting.after",
        "provider.rent.before",
        "provider.rent.after",
        "store.loading.after",
        "provider.attach_key.before",
        "provider.attach_key.after",
        "store.meta.before",
        "store.meta.after",
        "agent.upload.before",
        "agent.upload.after",
        "agent.daemon.after",
        "agent.preflight.after",
        "agent.configure.after",
        "agent.credentials.after",
        "agent.prove.after",
        "agent.sync.after",
        "agent.start_setup.after",
        "agent.start_session.before",
        "agent.start_session.after",
        "store.interval.gpu.after",
        "store.interval.disk.after",
        "store.running.after",
    ] {
        assert!(
            passes.contains_key(name),
            "`{name}` is not among {points:?}"
        );
    }
    points
}
