//! What each fault of a box's line looks like from an ssh client.

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use spotter_sim::boxes::{LinkFault, Tier};

use crate::world::{Echo, World};

pub async fn a_dropped_line_stalls_and_a_healed_one_goes_on(tier: Tier) {
    let Some(world) = World::open(tier) else {
        return;
    };
    let at = world.start(7, "").await;
    let mut session = Echo::open(&world, at);
    world.boxes.link(7, LinkFault::Drop).await.unwrap();
    session.say("into the void");
    assert_eq!(session.read(Duration::from_secs(1)), None);
    assert!(!session.ended_within(Duration::ZERO));
    world.boxes.link(7, LinkFault::Heal).await.unwrap();
    assert_eq!(
        session.read(Duration::from_secs(30)).as_deref(),
        Some("into the void")
    );
}

pub async fn a_reset_line_breaks_what_was_connected_and_takes_new_connections(tier: Tier) {
    let Some(world) = World::open(tier) else {
        return;
    };
    let at = world.start(7, "").await;
    let mut session = Echo::open(&world, at);
    world.boxes.link(7, LinkFault::Reset).await.unwrap();
    assert!(session.ended_within(Duration::from_secs(10)));
    assert_eq!(world.ssh(at, "echo back"), "back\n");
}

pub async fn a_refusing_box_breaks_connections_and_takes_none(tier: Tier) {
    let Some(world) = World::open(tier) else {
        return;
    };
    let at = world.start(7, "").await;
    let mut session = Echo::open(&world, at);
    world.boxes.link(7, LinkFault::Refuse).await.unwrap();
    assert!(session.ended_within(Duration::from_secs(10)));
    let refused = TcpStream::connect_timeout(&at, Duration::from_secs(5)).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);

    world.boxes.stop(7, Duration::from_secs(5)).await.unwrap();
    let at = world.boxes.start(7).await.unwrap();
    assert!(
        TcpStream::connect_timeout(&at, Duration::from_secs(5)).is_err(),
        "a fault outlives a restart"
    );
    world.boxes.link(7, LinkFault::Heal).await.unwrap();
    assert_eq!(world.ssh(at, "echo back"), "back\n");
}

pub async fn a_late_line_is_late_both_ways_and_loses_nothing(tier: Tier) {
    let Some(world) = World::open(tier) else {
        return;
    };
    let at = world.start(7, "").await;
    let mut session = Echo::open(&world, at);
    let mut said = 0..;
    let mut say = |session: &mut Echo, count| -> Vec<String> {
        let lines: Vec<String> = said
            .by_ref()
            .take(count)
            .map(|number: u32| format!("{number} {}", "x".repeat(100)))
            .collect();
        lines.iter().for_each(|line| session.say(line));
        lines
    };
    let back = |session: &Echo, lines: Vec<String>| {
        for line in lines {
            let read = session.read(Duration::from_secs(60));
            assert_eq!(read.as_deref(), Some(line.as_str()));
        }
    };
    if !slow(&world, LinkFault::Delay(150)).await {
        return;
    }
    let start = Instant::now();
    let far = say(&mut session, 1);
    back(&session, far);
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(300), "{took:?}");

    // Off, on again and longer, while hundreds of lines are under way each way; the session is the same one all the time.
    let mut lines = say(&mut session, 300);
    world.boxes.link(7, LinkFault::Delay(0)).await.unwrap();
    lines.extend(say(&mut session, 300));
    world.boxes.link(7, LinkFault::Delay(400)).await.unwrap();
    lines.extend(say(&mut session, 300));
    world.boxes.link(7, LinkFault::Heal).await.unwrap();
    lines.extend(say(&mut session, 300));
    back(&session, lines);
    assert!(!session.ended_within(Duration::ZERO));
    assert_eq!(world.ssh(at, "echo near"), "near\n");
}

pub async fn a_late_line_stays_late_through_a_restart(tier: Tier) {
    let Some(world) = World::open(tier) else {
        return;
    };
    world.start(7, "").await;
    if !slow(&world, LinkFault::Delay(100)).await {
        return;
    }
    world.boxes.stop(7, Duration::from_secs(5)).await.unwrap();
    let at = world.boxes.start(7).await.unwrap();
    let mut session = Echo::open(&world, at);
    let start = Instant::now();
    session.say("far");
    assert_eq!(
        session.read(Duration::from_secs(60)).as_deref(),
        Some("far")
    );
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(200), "{took:?}");
    world.boxes.lose_power(7).await.unwrap();
    let at = world.boxes.start(7).await.unwrap();
    assert_eq!(world.ssh(at, "echo back"), "back\n");
    world.boxes.destroy(7).await.unwrap();
    assert_eq!(world.interfaces(), Vec::<String>::new());
}

pub async fn a_narrow_line_carries_no_more_than_its_rate(tier: Tier) {
    let Some(world) = World::open(tier) else {
        return;
    };
    let at = world.start(7, "").await;
    if !slow(&world, LinkFault::Rate(200_000)).await {
        return;
    }
    let start = Instant::now();
    let printed = world.try_ssh(at, "key", "head -c 400000 /dev/zero").stdout;
    let took = start.elapsed();
    assert!(printed.len() >= 400_000, "{} bytes", printed.len());
    assert!(took >= Duration::from_millis(1900), "{took:?}");
    world.boxes.link(7, LinkFault::Heal).await.unwrap();
    assert_eq!(world.ssh(at, "echo fast"), "fast\n");
}

/// Makes the line of box 7 slow; false, and told, where this machine cannot.
async fn slow(world: &World, fault: LinkFault) -> bool {
    match world.boxes.link(7, fault).await {
        Ok(()) => true,
        Err(err) => {
            let why = format!("{err:#}");
            let excused = world.boxes.tier() == Tier::Two && why.contains("use tier 1");
            assert!(excused, "{why}");
            crate::skip::skip(&why);
            false
        }
    }
}
