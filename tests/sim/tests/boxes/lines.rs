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

pub async fn a_slow_line_is_slow_or_says_that_it_cannot_be(tier: Tier) {
    let Some(world) = World::open(tier) else {
        return;
    };
    let at = world.start(7, "").await;
    let mut session = Echo::open(&world, at);
    match world.boxes.link(7, LinkFault::Delay(150)).await {
        Ok(()) => {
            let start = Instant::now();
            session.say("far");
            assert_eq!(
                session.read(Duration::from_secs(30)).as_deref(),
                Some("far")
            );
            assert!(
                start.elapsed() >= Duration::from_millis(290),
                "{:?}",
                start.elapsed()
            );
        }
        Err(err) => assert!(
            tier == Tier::Two && format!("{err:#}").contains("use tier 1"),
            "{err:#}"
        ),
    }
    world.boxes.link(7, LinkFault::Heal).await.unwrap();

    world.boxes.link(7, LinkFault::Rate(200_000)).await.unwrap();
    let start = Instant::now();
    let size = world
        .try_ssh(at, "key", "head -c 400000 /dev/zero")
        .stdout
        .len();
    assert!(size >= 400_000);
    assert!(
        start.elapsed() >= Duration::from_millis(1200),
        "{:?}",
        start.elapsed()
    );
    world.boxes.link(7, LinkFault::Heal).await.unwrap();
    assert_eq!(world.ssh(at, "echo fast"), "fast\n");
}
