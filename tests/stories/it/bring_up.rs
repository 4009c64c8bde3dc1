//! Boxes that do not come up: each is destroyed in time, its machine remembered, and the next offer taken, within the budget.

use std::time::Duration;

use spotter::{
    agent_client::{CheckResult, GpuInfo, HostInfo, SampleInfo},
    cli::Verb,
    commands::status,
    provider::{Actual, Instance, Intended},
    run::{State, lease::Lease, lifecycle::Goal, machines, site::SiteError},
    store::Outcome,
};

use crate::world::{World, spec};

const RUN: &str = "story";

/// What is wrong with a box whenever somebody looks.
type Spoil = fn(&mut Instance);

/// That, what the run says of it, and after how many minutes at most it is destroyed.
struct Case {
    spoil: Spoil,
    says: &'static str,
    minutes: u64,
}

fn loading(instance: &mut Instance, says: &str) {
    instance.actual = Actual::Loading;
    instance.status_msg = says.to_owned();
    instance.ssh.clear();
}

fn case(spoil: Spoil, says: &'static str, minutes: u64) -> Case {
    Case {
        spoil,
        says,
        minutes,
    }
}

fn cases() -> Vec<Case> {
    vec![
        // The texts after which an image never arrives, in any letters.
        case(
            |i| loading(i, "Error response from daemon: no such thing"),
            "Error response from daemon",
            1,
        ),
        case(
            |i| loading(i, "failed to pull image a:b"),
            "failed to pull image",
            1,
        ),
        case(
            |i| loading(i, "write: No space left on device"),
            "No space left on device",
            1,
        ),
        case(
            |i| loading(i, "manifest unknown: a:b"),
            "manifest unknown",
            1,
        ),
        case(
            |i| loading(i, "UNAUTHORIZED: access denied"),
            "UNAUTHORIZED",
            1,
        ),
        case(
            // It is fetched again once, which takes its moment to be seen.
            |i| loading(i, "layer 3: unexpected EOF"),
            "unexpected EOF",
            2,
        ),
        // A layer that never ends looks like one that takes long: only the clock tells.
        case(
            |i| {
                loading(i, "0a9fb61ac2dd: Downloading");
                i.inet_down_mbps = 800.0;
            },
            "had not arrived within 13 min",
            14,
        ),
        case(
            |i| {
                loading(i, "0a9fb61ac2dd: Downloading");
                i.inet_down_mbps = 200.0;
            },
            "had not arrived within 37 min",
            38,
        ),
        // It runs, and nobody learns where.
        case(
            |i| i.ssh.clear(),
            "its ports were not published within 300 s",
            7,
        ),
        // It is not what was ordered.
        case(
            |i| i.disk_gb /= 2.0,
            "its disk has 20 GB instead of 40 GB",
            1,
        ),
        case(|i| i.is_bid = Some(false), "it was rented on-demand", 1),
        case(|i| i.gpu_usd_per_hour *= 2.0, "it costs $", 1),
        case(|i| i.storage_usd_per_hour *= 3.0, "its disk costs $", 1),
        case(|i| i.num_gpus = 2, "it has 2 GPUs instead of 1", 1),
        case(
            |i| i.gpu_name = "RTX 3060".to_owned(),
            "it is a RTX 3060 instead of a RTX 4090",
            1,
        ),
        // What ends while it is waited for.
        case(
            |i| {
                i.actual = Actual::Exited;
                i.ssh.clear();
            },
            "its container ended",
            2,
        ),
        case(
            |i| {
                i.actual = Actual::Error;
                i.ssh.clear();
            },
            "its host calls it an error",
            1,
        ),
        case(
            |i| {
                i.actual = Actual::Offline;
                i.ssh.clear();
            },
            "its host is offline",
            6,
        ),
        case(
            |i| {
                i.actual = Actual::Unknown;
                i.ssh.clear();
            },
            "its host has not been heard of lately",
            11,
        ),
        case(
            |i| {
                i.actual = Actual::Frozen;
                i.ssh.clear();
                i.intended = Intended::Frozen;
            },
            "",
            45,
        ),
    ]
}

#[tokio::test(start_paused = true)]
async fn every_way_not_to_come_up_ends_in_time_and_another_machine_is_taken() {
    for case in cases() {
        let world = World::new(4, 60);
        world.market.spoil_next(case.spoil);
        world.plan(&spec(RUN));
        let run = world.drive(RUN).await;
        let says = case.says;
        assert_eq!(run.outcome, Some(Outcome::Done), "{says}");
        let attempts = world.attempts(RUN);
        assert_eq!(attempts.len(), 2, "{says}");
        let reason = attempts[0].reason.clone().unwrap_or_default();
        assert!(reason.contains(says), "{says:?} is not in {reason:?}");
        let lived = Duration::from_micros((attempts[0].gone_us - attempts[0].created_us) as u64);
        assert!(
            lived <= Duration::from_secs(case.minutes * 60),
            "{says}: {lived:?}"
        );
        assert_eq!(attempts[0].state, State::Gone, "{says}");
        assert_ne!(attempts[0].machine_id, attempts[1].machine_id, "{says}");
        assert!(world.market.alive().is_empty(), "{says}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_box_that_is_not_what_was_rented_is_given_up_at_once_and_another_one_shows_what_it_is() {
    let world = World::new(4, 60);
    let measured = |name: &str, gib: u64| SampleInfo {
        time_us: 0,
        gpus: vec![GpuInfo {
            name: name.to_owned(),
            memory_total_bytes: Some(gib << 30),
            ..GpuInfo::default()
        }],
        host: Some(HostInfo {
            memory_limit_bytes: Some(4_000_000_000),
            ..HostInfo::default()
        }),
        span_s: 0,
        processes: Vec::new(),
    };
    world.boxes.script().sample = Some(measured("NVIDIA GeForce RTX 3060", 12));
    world.plan(&spec(RUN));
    let (run, ()) = tokio::join!(world.drive(RUN), async {
        world.until(RUN, 2, State::Loading).await;
        world.boxes.script().sample = Some(measured("NVIDIA GeForce RTX 4090", 24));
    });
    assert_eq!(run.outcome, Some(Outcome::Done));
    let attempts = world.attempts(RUN);
    assert_eq!(attempts.len(), 2);
    let why = "GPUs: 1 x NVIDIA GeForce RTX 3060: a RTX 4090 was rented";
    assert_eq!(attempts[0].reason.as_deref(), Some(why));
    let lived = Duration::from_micros((attempts[0].gone_us - attempts[0].created_us) as u64);
    assert!(lived <= Duration::from_secs(60), "{lived:?}");
    let machine = attempts[0].machine_id.unwrap();
    let now_us = world.clock().now_us();
    let avoided = machines::avoided(&world.store, machine, now_us).unwrap();
    assert_eq!(avoided.as_deref(), Some(why));
    for shown in [
        "What its box is:\n  GPUs      1 x NVIDIA GeForce RTX 4090\n  VRAM      24.0 GiB each",
        "RAM       4.0 GB; careful: ",
    ] {
        assert!(world.was_told(shown), "{shown}: {:?}", world.told);
    }
    assert!(world.market.alive().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_box_whose_ssh_is_silent_is_given_up_with_what_its_container_printed() {
    let world = World::new(4, 60);
    world.boxes.script().dead_boxes = 1;
    world
        .market
        .set_container_log("sshd: no hostkeys available -- exiting.\n");
    world.plan(&spec(RUN));
    let (run, ()) = tokio::join!(world.drive(RUN), async {
        world.until(RUN, 2, State::Loading).await;
        world.boxes.script().dead_boxes = 0;
    });
    assert_eq!(run.outcome, Some(Outcome::Done));
    let first = &world.attempts(RUN)[0];
    assert!(
        first
            .reason
            .as_ref()
            .unwrap()
            .contains("ssh did not let us in within 600 s")
    );
    let failed = world
        .store
        .newest_event(RUN, 1, "bring_up_failed")
        .unwrap()
        .unwrap();
    assert!(
        failed.detail["container_log"]
            .as_str()
            .unwrap()
            .contains("no hostkeys")
    );
}

/// Whatever refuses a connection is there and comes up; where every packet vanishes, nothing ever will.
#[tokio::test(start_paused = true)]
async fn a_box_that_lets_every_packet_vanish_is_given_up_after_a_minute_and_one_that_refuses_is_not()
 {
    for (deaf, seconds, words) in [
        (
            true,
            60..180,
            "its network is broken: nothing answered ssh for 60 s",
        ),
        (false, 600..720, "ssh did not let us in within 600 s"),
    ] {
        let world = World::new(4, 60);
        (world.boxes.script().dead_boxes, world.boxes.script().deaf) = (1, deaf);
        world.plan(&spec(RUN));
        let (run, ()) = tokio::join!(world.drive(RUN), async {
            world.until(RUN, 2, State::Loading).await;
            world.boxes.script().dead_boxes = 0;
        });
        assert_eq!(run.outcome, Some(Outcome::Done));
        let first = &world.attempts(RUN)[0];
        let reason = first.reason.as_deref().unwrap();
        assert!(reason.contains(words), "{reason}");
        let lived_s = (first.gone_us - first.created_us) / 1_000_000;
        assert!(seconds.contains(&lived_s), "{lived_s} s: {reason}");
        let now_us = world.clock().now_us();
        let remembered = machines::all(&world.store, now_us).unwrap();
        assert_eq!(Some(remembered[0].machine_id), first.machine_id);
        assert!(remembered[0].reason.contains(words), "{remembered:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_without_egress_is_given_up_for_another_one_and_a_bucket_that_no_box_reaches_is_not_its_fault()
 {
    let world = World::new(4, 60);
    world.boxes.script().no_egress = 1;
    world.plan(&spec(RUN));
    assert_eq!(world.drive(RUN).await.outcome, Some(Outcome::Done));
    let attempts = world.attempts(RUN);
    let reason = attempts[0].reason.as_deref().unwrap();
    assert!(
        reason.contains("lets nothing out to the bucket"),
        "{reason}"
    );
    assert!(reason.contains("no answer in 30 s"), "{reason}");
    assert_ne!(attempts[0].machine_id, attempts[1].machine_id);
    assert!(world.market.alive().is_empty());

    let world = World::new(4, 60);
    world.boxes.script().no_egress = 9;
    world.plan(&spec(RUN));
    let _lease = Lease::take(&world.store, RUN).unwrap().unwrap();
    let refused = world.lifecycle().drive(RUN, Goal::End).await.unwrap_err();
    let says = refused.to_string();
    assert!(says.contains("cannot be used from the box"), "{says}");
    assert_eq!(world.attempts(RUN).len(), 2);
    assert!(world.market.alive().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_failed_is_avoided_by_later_runs_until_nothing_else_is_left() {
    let world = World::new(2, 60);
    world
        .market
        .spoil_next(|i| loading(i, "no space left on device"));
    world.plan(&spec(RUN));
    world.drive(RUN).await;
    let bad = world.attempts(RUN)[0].machine_id;
    // Its offer is listed again, and so is that of the machine that did well.
    world.market.relist();
    world.plan(&spec("second"));
    world.drive("second").await;
    assert_ne!(world.attempts("second")[0].machine_id, bad);
    assert_eq!(world.attempts("second").len(), 1);
    // Now it is the only one.
    world.plan(&spec("third"));
    assert_eq!(world.drive("third").await.outcome, Some(Outcome::Done));
    assert_eq!(world.attempts("third")[0].machine_id, bad);
    assert!(world.was_told("something bad is known lately: no space left on device"));
}

/// A typo in `image`, a login that is wrong, a registry that counts: machines are as good as before.
#[tokio::test(start_paused = true)]
async fn an_image_that_cannot_be_had_ends_the_run_at_the_second_machine_and_none_is_avoided_for_it()
{
    let cases: [(Spoil, &str); 3] = [
        (
            |i| loading(i, "manifest for a:b not found: manifest unknown"),
            "check `image`, and `image_login`",
        ),
        (
            |i| loading(i, "pull access denied for a, repository does not exist"),
            "check `image`, and `image_login`",
        ),
        (
            |i| loading(i, "toomanyrequests: You have reached your pull rate limit"),
            "log in with `image_login`",
        ),
    ];
    for (spoil, remedy) in cases {
        let world = World::new(6, 60);
        (0..4).for_each(|_| world.market.spoil_next(spoil));
        world.plan(&spec(RUN));
        let _lease = Lease::take(&world.store, RUN).unwrap().unwrap();
        let err = world
            .lifecycle()
            .drive(RUN, Goal::End)
            .await
            .expect_err("nobody has such an image");
        let said = format!("{} {}", err.message(), err.hints().join(" "));
        assert!(said.contains("cannot be had"), "{said}");
        assert!(said.contains(remedy), "{said}");
        assert!(said.contains("the tries cost $"), "{said}");
        assert_eq!(world.attempts(RUN).len(), 2, "{said}");
        assert_eq!(
            world.store.run(RUN).unwrap().outcome,
            Some(Outcome::Failed),
            "{said}"
        );
        let now_us = world.clock().now_us();
        assert_eq!(machines::all(&world.store, now_us).unwrap(), []);
        assert!(world.market.alive().is_empty(), "{said}");
    }
}

/// The market's machines promise 800 Mb/s.
#[tokio::test(start_paused = true)]
async fn a_host_whose_line_is_far_from_what_it_promised_is_remembered_with_both_figures() {
    for (seconds, endpoint, lies) in [
        (800, None, true),
        (100, None, false),
        // The bucket is the user's own server: who knows which end is slow.
        (800, Some("http://nas.invalid:9000"), false),
    ] {
        let world = World::new(3, 600);
        world.boxes.script().restores = (5_000_000_000, Duration::from_secs(seconds));
        let mut story = spec(RUN);
        let kept = story.checkpoints.as_mut().unwrap();
        kept.server.endpoint = endpoint.map(str::to_owned);
        world.plan(&story);
        let (run, ()) = tokio::join!(world.drive(RUN), async {
            let first = world.until(RUN, 1, State::Running).await;
            tokio::time::sleep(Duration::from_secs(30)).await;
            world.outbid(first.instance);
        });
        assert_eq!(run.outcome, Some(Outcome::Done));
        let second = world.attempts(RUN)[1].machine_id.unwrap();
        let now_us = world.clock().now_us();
        let why = machines::avoided(&world.store, second, now_us).unwrap();
        let told = world.was_told(&format!(
            "Machine {second} is avoided from now on: it received 5.0 GB at 50 Mb/s"
        ));
        assert_eq!(
            (why.is_some(), told),
            (lies, lies),
            "{seconds} s, {endpoint:?}: {why:?}"
        );
        if let Some(why) = why {
            assert!(why.ends_with("where its host promises 800 Mb/s"), "{why}");
            let noted = world.kinds(RUN);
            let noted = noted.iter().filter(|kind| *kind == "bandwidth_lied");
            assert_eq!(noted.count(), 1, "it is told once");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn low_credit_and_the_end_of_a_contract_are_told_before_they_bite() {
    let world = World::new(2, 4_000);
    world.market.set_credit(1.0);
    world
        .market
        .spoil_next(|i| i.end_s = Some(1_767_225_600.0 + 20_000.0));
    world.plan(&spec(RUN));
    assert_eq!(world.drive(RUN).await.outcome, Some(Outcome::Done));
    assert!(world.was_told("the account has $1.00 left, which lasts"));
    assert!(world.was_told("ends at 2026-01-01 05:33:20Z"));
    let kinds = world.kinds(RUN);
    for kind in ["credit_low", "contract_ends"] {
        assert_eq!(
            kinds.iter().filter(|known| *known == kind).count(),
            1,
            "{kinds:?}"
        );
    }
    let warnings = spotter::run::foresight::warnings(&world.store, RUN, 1).unwrap();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    // Told as a moment, which stays true however late it is read.
    assert!(
        warnings[0].contains("lasts until 2026-01-01 "),
        "{warnings:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_warning_that_is_over_is_not_repeated() {
    let world = World::new(2, 4_000);
    world.market.set_credit(1.0);
    world.plan(&spec(RUN));
    let warnings = || spotter::run::foresight::warnings(&world.store, RUN, 1).unwrap();
    let (run, ()) = tokio::join!(world.drive(RUN), async {
        world.until(RUN, 1, State::Running).await;
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(warnings().len(), 1);
        world.market.set_credit(100.0);
        tokio::time::sleep(Duration::from_secs(15 * 60)).await;
        assert_eq!(warnings(), Vec::<String>::new());
        world.market.set_credit(1.0);
        tokio::time::sleep(Duration::from_secs(15 * 60)).await;
        assert_eq!(warnings().len(), 1, "it is so again");
    });
    assert_eq!(run.outcome, Some(Outcome::Done));
    assert!(world.kinds(RUN).contains(&"credit_restored".to_owned()));
}

/// A fault of our own meets every box alike: one rental is enough to find it.
#[tokio::test(start_paused = true)]
async fn a_fault_of_our_own_is_not_tried_on_another_box() {
    for own_check in [true, false] {
        let world = World::new(8, 100);
        if own_check {
            world.boxes.script().checks = vec![CheckResult {
                name: "agent".to_owned(),
                ok: false,
                required: true,
                detail: "it was built without its NVML probe".to_owned(),
            }];
        } else {
            let words = "the agent refused `configure`: unknown field".to_owned();
            world.boxes.script().refuses_to_configure = Some(SiteError::Fault(words));
        }
        world.plan(&spec(RUN));
        let _lease = Lease::take(&world.store, RUN).unwrap().unwrap();
        let lifecycle = world.lifecycle();
        let err = lifecycle.drive(RUN, Goal::End).await.unwrap_err();
        assert!(
            err.hints()
                .iter()
                .any(|hint| hint.contains("no other box was tried")),
            "{err:?}"
        );
        let run = world.store.run(RUN).unwrap();
        assert_eq!(run.outcome, Some(Outcome::Failed));
        assert_eq!(world.attempts(RUN).len(), 1, "own check: {own_check}");
        assert!(world.market.alive().is_empty());
    }
}

/// What stopped a bring-up is on record where a run has trained before, too, and `status` shows it.
#[tokio::test(start_paused = true)]
async fn why_a_later_box_did_not_come_up_is_kept_with_its_attempt() {
    let world = World::new(9, 400);
    world.plan(&spec(RUN));
    world.drive_for(RUN, Duration::from_secs(120)).await;
    let trained = world.attempts(RUN).remove(0);
    assert_eq!(trained.state, State::Running);
    let words = "the agent refused `configure`: unknown field";
    world.boxes.script().refuses_to_configure = Some(SiteError::Fault(words.to_owned()));
    world.outbid(trained.instance);
    {
        let _lease = Lease::take(&world.store, RUN).unwrap().unwrap();
        let driven = world.lifecycle().drive(RUN, Goal::End).await;
        assert!(driven.is_err());
    }
    let second = world.attempts(RUN).remove(1);
    assert_eq!(second.state, State::Gone);
    let reason = second.reason.unwrap();
    assert!(reason.contains(words), "{reason}");
    let told = world.store.newest_event(RUN, 2, "bring_up_failed").unwrap();
    assert_eq!(told.unwrap().detail["reason"], reason.as_str());
    let (mut ui, deps, verb, paper) = world.typed(&["spotter", "status", RUN]);
    let Verb::Status(args) = verb else { panic!() };
    status::status(&mut ui, &deps, &args).await.unwrap();
    let shown = paper.text();
    assert!(shown.contains("not up       attempt 2: "), "{shown}");
    assert!(shown.contains(words), "{shown}");

    world.boxes.script().refuses_to_configure = None;
    assert_eq!(world.drive(RUN).await.outcome, Some(Outcome::Done));
    assert_eq!(world.attempts(RUN).len(), 3);
}
