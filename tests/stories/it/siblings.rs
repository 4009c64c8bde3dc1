//! A run goes on in another slice of the machine that took its box back: its checkpoints come over from the old disk, for nothing, and the
//! bucket gives what is left. Whatever becomes of the copy, the run goes on, and nothing stays rented.

use std::time::Duration;

use spotter::{
    provider::{Offer, memory},
    run::State,
    store::Outcome,
};

use crate::world::{World, spec};

const RUN: &str = "story";
/// 3 GB: half a minute from disk to disk.
const KIB: u64 = 3_000_000;

/// One machine, of which another slice is listed when the first is taken back.
fn one_machine() -> World {
    let world = World::new(1, 300);
    world.plan(&spec(RUN));
    world
}

/// The box is taken back, its disk is full of checkpoints, and the machine has room beside it.
fn take(world: &World) -> u64 {
    let old = world.attempts(RUN)[0].instance;
    let id = old.expect("a box that trains has a number");
    world.market.fill_disk(id, KIB);
    world.market.list(Offer {
        id: 77,
        ..memory::offer(1)
    });
    world.outbid(old);
    id
}

fn place(kinds: &[String], kind: &str) -> usize {
    let found = kinds.iter().position(|known| known == kind);
    found.unwrap_or_else(|| panic!("no {kind} in {kinds:?}"))
}

#[tokio::test(start_paused = true)]
async fn a_new_box_gets_its_checkpoints_from_the_old_one_beside_it_before_the_bucket_is_asked() {
    let world = one_machine();
    let (run, (old, new)) = tokio::join!(world.drive(RUN), async {
        world.until(RUN, 1, State::Running).await;
        tokio::time::sleep(Duration::from_secs(75)).await;
        let old = take(&world);
        let second = world.until(RUN, 2, State::Syncing).await;
        let new = second.instance.unwrap();
        // The old disk is there until the new box trains, and only one GPU is paid for.
        let mut there: Vec<u64> = world.market.alive().iter().map(|found| found.id).collect();
        there.sort_unstable();
        assert_eq!(there, [old, new]);
        assert_eq!(world.market.gpu_charged(), 1);
        world.until(RUN, 2, State::Running).await;
        tokio::time::sleep(Duration::from_secs(150)).await;
        let there = world.market.alive();
        assert_eq!(there.len(), 1, "nobody needs the old disk any more");
        (old, new)
    });
    assert_eq!(run.outcome, Some(Outcome::Done));
    assert_eq!(world.market.copies(), (vec![(old, new)], 0));
    assert!(world.was_told(&format!(
        "Instance {old} of attempt 1 is on the same machine, 1: copying its checkpoints over, which costs nothing."
    )));
    let kinds = world.kinds(RUN);
    assert!(place(&kinds, "copied_from_sibling") < place(&kinds, "restored"));
    let events = world.store.events(RUN, 0).unwrap();
    let copied = events
        .iter()
        .find(|event| event.kind == "copied_from_sibling");
    let copied = &copied.unwrap().detail;
    assert_eq!(copied["kib"], KIB);
    assert_eq!(
        (copied["from"].as_u64(), copied["to"].as_u64()),
        (Some(old), Some(new))
    );
    let attempts = world.attempts(RUN);
    assert_eq!(attempts.len(), 2);
    assert_eq!(attempts[0].machine_id, attempts[1].machine_id);
    assert!(attempts[1].resumed_step >= Some(70), "{attempts:?}");
    assert!(world.market.alive().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_is_refused_or_brings_nothing_leaves_the_bucket_and_is_ended() {
    type Break = fn(&World);
    let cases: [(&str, Break, u32); 3] = [
        (
            "0 of 3000000 KiB came over",
            |world| world.market.copy_at(0),
            1,
        ),
        ("try again later", |world| world.market.fail("copy", 9), 0),
        (
            "try again later",
            |world| world.market.fail("execute", 9),
            0,
        ),
    ];
    for (says, broken, cancelled) in cases {
        let world = one_machine();
        broken(&world);
        let (run, _) = tokio::join!(world.drive(RUN), async {
            world.until(RUN, 1, State::Running).await;
            tokio::time::sleep(Duration::from_secs(75)).await;
            take(&world)
        });
        assert_eq!(run.outcome, Some(Outcome::Done), "{says}");
        assert!(world.was_told("They did not all come over"), "{says}");
        assert!(world.was_told(says), "{says}");
        assert_eq!(world.market.copies().1, cancelled, "{says}");
        let kinds = world.kinds(RUN);
        assert!(
            !kinds.contains(&"copied_from_sibling".to_owned()),
            "{kinds:?}"
        );
        place(&kinds, "restored");
        assert!(world.attempts(RUN)[1].resumed_step >= Some(70), "{says}");
        assert!(world.market.alive().is_empty(), "{says}");
    }
}

/// Whoever watches may be killed while it is copied.
#[tokio::test(start_paused = true)]
async fn a_copy_outlives_those_who_wait_for_it() {
    for seed in 0..4u64 {
        let world = one_machine();
        world.drive_for(RUN, Duration::from_secs(120)).await;
        let old = take(&world);
        for life in 0..60 {
            let killed_after = Duration::from_millis(700 + (seed * 977 + life * 1733) % 14_000);
            world.drive_for(RUN, killed_after).await;
            assert!(world.market.gpu_charged() <= 1, "seed {seed}, life {life}");
        }
        let run = world.drive(RUN).await;
        assert_eq!(run.outcome, Some(Outcome::Done), "seed {seed}");
        let (asked, _) = world.market.copies();
        assert!(!asked.is_empty(), "seed {seed}");
        assert!(
            asked.iter().all(|(from, to)| *from == old && to != from),
            "{asked:?}"
        );
        assert_eq!(world.attempts(RUN).len(), 2, "seed {seed}");
        assert!(world.market.alive().is_empty(), "seed {seed}");
    }
}
