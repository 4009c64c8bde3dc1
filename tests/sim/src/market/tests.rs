//! Scripted lives of instances, with money to the last digit.

use std::net::SocketAddr;

mod endings;

use super::{
    contracts::Intruder,
    instance::{Order, Status},
    *,
};

const T0: Millis = 1_795_000_000_000;
const HOUR: Millis = 3_600_000;

/// A machine with the round numbers of the reference's sample: four GPUs at 0.34 $/h, floor 0.17, storage 0.15 $/GB/month.
fn sample_machine() -> Machine {
    let mut machine = catalogue::machines(0, T0).swap_remove(7);
    machine.spec.gpu_usd_per_hour = 0.34;
    machine.spec.min_bid_usd_per_hour = 0.17;
    machine.spec.storage_usd_per_gb_month = 0.15;
    machine
}

fn market() -> Market {
    let account = Account {
        id: 1,
        api_keys: vec!["key".to_owned()],
        deposit_usd: 10.0,
        ssh_keys: Vec::new(),
    };
    Market::new(
        0,
        Delays::scaled(1.0),
        vec![sample_machine()],
        vec![account],
        T0,
    )
}

fn order(bid: Option<f64>) -> Order {
    Order {
        image: "i:1".into(),
        disk_gb: 40.0,
        bid_usd_per_hour: bid,
        ..Order::default()
    }
}

fn offer(market: &Market, gpus: usize) -> u64 {
    market.machines[0]
        .listings
        .iter()
        .find(|l| l.gpus.len() == gpus)
        .unwrap()
        .id
}

fn sizes(market: &Market) -> Vec<usize> {
    let mut sizes: Vec<usize> = market.machines[0]
        .listings
        .iter()
        .map(|l| l.gpus.len())
        .collect();
    sizes.sort_unstable();
    sizes
}

fn address() -> SocketAddr {
    "127.0.0.1:2222".parse().unwrap()
}

/// Runs the clock to the start of the container and reports it up at once. Answers the moment.
fn up(market: &mut Market, id: InstanceId) -> Millis {
    market.take_effects();
    let due = loop {
        let due = market.next_due().expect("a start is coming");
        market.advance(due);
        if market
            .take_effects()
            .iter()
            .any(|e| matches!(e, Effect::Start(who, _) if *who == id))
        {
            break due;
        }
    };
    let epoch = market.instances[&id].epoch;
    market.box_started(due, id, epoch, address());
    due
}

fn words(market: &Market, id: InstanceId) -> (&str, &str, &str) {
    let instance = &market.instances[&id];
    (
        instance.intended.word(),
        instance.contract.word(),
        instance.status.map_or("null", Status::word),
    )
}

#[test]
fn renting_removes_every_offer_that_needs_the_gpus_and_numbers_are_never_used_again() {
    let mut market = market();
    assert_eq!(sizes(&market), [1, 2, 4]);
    let (one, four) = (offer(&market, 1), offer(&market, 4));
    let id = market.rent(T0, 0, one, order(None)).unwrap().id;
    assert_eq!(
        sizes(&market),
        [1, 2],
        "one GPU is taken: no four, another two, another one"
    );
    assert_eq!(
        market.rent(T0, 0, four, order(None)),
        Err(Refused::NoSuchAsk(four))
    );
    assert_eq!(
        market.rent(T0, 0, one, order(None)),
        Err(Refused::NoSuchAsk(one))
    );
    let during: Vec<u64> = market.machines[0].listings.iter().map(|l| l.id).collect();
    market.destroy(T0 + HOUR, id).unwrap();
    assert_eq!(sizes(&market), [1, 2, 4]);
    assert!(offer(&market, 4) > *during.iter().max().unwrap());
}

#[test]
fn a_new_instance_goes_through_null_created_loading_running_and_pays_its_gpu_from_running() {
    let mut market = market();
    let one = offer(&market, 1);
    let rented = market.rent(T0, 0, one, order(Some(0.21))).unwrap();
    assert!(rented.competitive);
    let id = rented.id;
    assert_eq!(words(&market, id), ("running", "running", "null"));
    assert_eq!(market.take_effects(), [Effect::Create(id)]);
    market.advance(T0 + 2_000);
    assert_eq!(words(&market, id), ("running", "running", "created"));
    market.advance(T0 + 5_000);
    assert_eq!(words(&market, id), ("running", "running", "loading"));
    market.advance(T0 + 30_000);
    assert_eq!(market.take_effects(), [Effect::Start(id, 1)]);
    assert_eq!(words(&market, id), ("running", "running", "loading"));
    market.box_started(T0 + 31_000, id, 1, address());
    assert_eq!(words(&market, id), ("running", "running", "running"));
    let now = T0 + 31_000 + HOUR;
    let bill = &market.instances[&id].bill;
    assert_eq!(bill.gpu_usd(now), 0.21);
    let storage = 0.15 * 40.0 / 720.0 * (31_000.0 + 3_600_000.0) / 3_600_000.0;
    assert!((bill.storage_usd(now) - storage).abs() < 1e-15);
}

#[test]
fn the_bill_of_a_scripted_life_is_exact() {
    let mut market = market();
    let id = {
        let o = offer(&market, 1);
        market.rent(T0, 0, o, order(Some(0.2)))
    }
    .unwrap()
    .id;
    let started = up(&mut market, id);
    // An hour of work, outbid, 10 s to die, a rival for an hour, back after the market's 45 s and the host's 8 s.
    let outbid = started + HOUR;
    let intruder = Intruder {
        stays_ms: Some(HOUR),
        on_demand: true,
        bid_usd_per_hour: None,
    };
    market.outbid(outbid, id, intruder).unwrap();
    assert_eq!(
        words(&market, id),
        ("stopped", "stopped", "running"),
        "it flips before it exits"
    );
    assert_eq!(market.take_effects(), [Effect::Stop(id)]);
    market.box_stopped(outbid + 10_000, id);
    assert_eq!(words(&market, id), ("stopped", "stopped", "exited"));
    assert_eq!(sizes(&market), [1, 2], "the rival has the GPU");
    let again = up(&mut market, id);
    assert_eq!(again, outbid + HOUR + 45_000 + 8_000);
    assert_eq!(words(&market, id), ("running", "running", "running"));
    // Half an hour at a higher bid, stopped for two hours, destroyed.
    market.change_bid(again, id, Some(0.3)).unwrap();
    let stopped = again + HOUR / 2;
    market.stop(stopped, id).unwrap();
    market.box_stopped(stopped + 3_000, id);
    let end = stopped + 2 * HOUR;
    market.destroy(end, id).unwrap();

    let bill = &market.instances[&id].bill;
    assert!(
        (bill.gpu_usd(end + HOUR) - (0.2 + 0.15)).abs() < 1e-12,
        "{bill:#?}"
    );
    let storage = 0.15 * 40.0 / 720.0 * (end - T0) as f64 / 3_600_000.0;
    assert!((bill.storage_usd(end + HOUR) - storage).abs() < 1e-12);
    assert_eq!(bill.gpu_millis(end), HOUR + HOUR / 2);
    for pair in bill.intervals.windows(2) {
        assert_eq!(
            pair[0].end_ms,
            Some(pair[1].start_ms),
            "no gap and no overlap"
        );
    }
    assert!((market.credit_usd(0, end) - (10.0 - 0.35 - storage)).abs() < 1e-12);
}

#[test]
fn a_bid_below_the_floor_makes_a_stopped_instance_that_pays_its_disk_until_the_bid_wins() {
    let mut market = market();
    let o = offer(&market, 1);
    let rented = market.rent(T0, 0, o, order(Some(0.1))).unwrap();
    assert!(!rented.competitive);
    assert_eq!(words(&market, rented.id), ("stopped", "stopped", "created"));
    assert_ne!(offer(&market, 1), o, "the number is dead all the same");
    market.change_bid(T0 + HOUR, rented.id, None).unwrap();
    assert_eq!(
        market.instances[&rented.id].order.bid_usd_per_hour,
        Some(0.17 * 1.18)
    );
    let started = up(&mut market, rented.id);
    assert_eq!(started, T0 + HOUR + 45_000 + 2_000 + 3_000 + 25_000);
    assert_eq!(market.instances[&rented.id].bill.gpu_usd(started), 0.0);
}

#[test]
fn nothing_is_made_when_the_order_makes_no_sense() {
    let cases: Vec<(Order, &str)> = vec![
        (
            Order {
                image: String::new(),
                ..order(None)
            },
            "image",
        ),
        (
            Order {
                disk_gb: 7.0,
                ..order(None)
            },
            "at least 8",
        ),
        (
            Order {
                disk_gb: f64::NAN,
                ..order(None)
            },
            "at least 8",
        ),
        (
            Order {
                disk_gb: 1e6,
                ..order(None)
            },
            "at most",
        ),
        (
            Order {
                onstart: Some("x".repeat(4097)),
                ..order(None)
            },
            "4096",
        ),
        (
            Order {
                label: Some("x".repeat(257)),
                ..order(None)
            },
            "256",
        ),
        (
            Order {
                env: vec![("A".into(), "x".repeat(32_768))],
                ..order(None)
            },
            "32768",
        ),
        (order(Some(0.0)), "price"),
        (order(Some(129.0)), "price"),
        (
            Order {
                cancel_unavailable: true,
                ..order(Some(0.1))
            },
            "no_such_ask",
        ),
    ];
    for (bad, expected) in cases {
        let mut market = market();
        let one = offer(&market, 1);
        let refused = market.rent(T0, 0, one, bad).unwrap_err().to_string();
        assert!(
            refused.contains(expected),
            "{refused} should say {expected}"
        );
        assert!(market.instances.is_empty() && market.take_effects().is_empty());
        assert_eq!(offer(&market, 1), one);
    }
}

#[test]
fn a_start_waits_for_the_gpus_and_a_stop_takes_it_off_the_queue() {
    let mut market = market();
    let one = offer(&market, 1);
    let id = market.rent(T0, 0, one, order(None)).unwrap().id;
    let now = up(&mut market, id);
    market.stop(now, id).unwrap();
    market.box_stopped(now, id);
    let rival = Intruder {
        on_demand: true,
        ..Intruder::default()
    };
    market.outbid(now, id, rival).unwrap();
    assert_eq!(market.start(now, id), Ok(Started::Queued));
    assert_eq!(words(&market, id), ("running", "stopped", "exited"));
    market.stop(now, id).unwrap();
    assert_eq!(words(&market, id), ("stopped", "stopped", "exited"));
    assert_eq!(market.start(now, id), Ok(Started::Queued));
    assert_eq!(market.tenant_leaves(now, id), Ok(1));
    up(&mut market, id);
    assert_eq!(words(&market, id), ("running", "running", "running"));
}

#[test]
fn the_higher_bid_holds_the_gpus() {
    let mut market = market();
    let four = offer(&market, 4);
    let id = market.rent(T0, 0, four, order(Some(0.8))).unwrap().id;
    let now = up(&mut market, id);
    let low = Intruder {
        bid_usd_per_hour: Some(0.8),
        ..Intruder::default()
    };
    assert!(
        matches!(market.outbid(now, id, low), Err(Refused::Impossible(_))),
        "equal does not win"
    );
    let rival = market.outbid(now, id, Intruder::default()).unwrap();
    assert_eq!(rival.bid_usd_per_hour, Some(1.0));
    market.box_stopped(now, id);
    market.change_bid(now, id, Some(1.0)).unwrap();
    assert_eq!(
        market.start(now, id),
        Ok(Started::Queued),
        "equal does not win back"
    );
    market.change_bid(now, id, Some(1.01)).unwrap();
    assert_eq!(up(&mut market, id), now + 45_000 + 8_000);
    assert!(market.machines[0].rivals.is_empty());
}

#[test]
fn an_on_demand_instance_keeps_its_gpus() {
    let mut market = market();
    let one = offer(&market, 1);
    let id = market.rent(T0, 0, one, order(None)).unwrap().id;
    let tenant = Intruder {
        on_demand: true,
        ..Intruder::default()
    };
    assert!(matches!(
        market.outbid(T0, id, tenant),
        Err(Refused::Impossible(_))
    ));
    assert_eq!(words(&market, id).1, "running");
}

#[test]
fn a_lost_host_is_unknown_then_offline_and_offline_costs_nothing() {
    let mut market = market();
    let one = offer(&market, 1);
    let id = market.rent(T0, 0, one, order(Some(0.2))).unwrap().id;
    let now = up(&mut market, id);
    assert_eq!(market.lose_host(now, id), Ok(vec![id]));
    assert_eq!(market.take_effects(), [Effect::LosePower(id)]);
    assert!(sizes(&market).is_empty(), "a lost host offers nothing");
    assert_eq!(
        words(&market, id),
        ("running", "running", "running"),
        "nobody has noticed yet"
    );
    market.advance(now + 20_000);
    assert_eq!(words(&market, id).2, "unknown");
    market.advance(now + 60_000);
    assert_eq!(words(&market, id).2, "offline");
    let before = market.instances[&id].bill.total_usd(now + 60_000);
    assert_eq!(
        market.instances[&id].bill.total_usd(now + 10 * HOUR),
        before
    );
    market.host_back(now + 10 * HOUR, id).unwrap();
    assert_eq!(up(&mut market, id), now + 10 * HOUR + 8_000);
    assert_eq!(words(&market, id), ("running", "running", "running"));
}

#[test]
fn a_start_during_a_stop_waits_for_the_stop() {
    let mut market = market();
    let one = offer(&market, 1);
    let id = market.rent(T0, 0, one, order(None)).unwrap().id;
    let now = up(&mut market, id);
    market.stop(now, id).unwrap();
    assert_eq!(market.start(now + 1_000, id), Ok(Started::Running));
    assert_eq!(market.take_effects(), [Effect::Stop(id)]);
    assert_eq!(
        market.next_due(),
        Some(market.machines[0].spec.end_ms),
        "nothing starts before the stop is done"
    );
    market.box_stopped(now + 5_000, id);
    assert_eq!(up(&mut market, id), now + 5_000 + 8_000);
}

#[test]
fn a_late_report_of_an_older_start_changes_nothing() {
    let mut market = market();
    let one = offer(&market, 1);
    let id = market.rent(T0, 0, one, order(None)).unwrap().id;
    let now = up(&mut market, id);
    market.lose_host(now, id).unwrap();
    market.host_back(now + 1, id).unwrap();
    market.advance(now + 1 + 8_000);
    market.box_started(now + 8_002, id, 1, address());
    assert_eq!(
        words(&market, id).2,
        "loading",
        "epoch 1 was before the loss"
    );
    market.box_started(now + 8_003, id, 2, address());
    assert_eq!(words(&market, id).2, "running");
}

#[test]
fn an_empty_account_stops_everything_and_cannot_rent() {
    let mut market = market();
    let one = offer(&market, 1);
    let id = market.rent(T0, 0, one, order(None)).unwrap().id;
    let now = up(&mut market, id);
    market.deposit(now, 0, -10.0);
    assert_eq!(words(&market, id), ("stopped", "stopped", "running"));
    assert_eq!(market.take_effects(), [Effect::Stop(id)]);
    let next = offer(&market, 1);
    assert_eq!(
        market.rent(now, 0, next, order(None)),
        Err(Refused::InsufficientCredit)
    );
    assert_eq!(market.start(now, id), Err(Refused::InsufficientCredit));
}

#[test]
fn a_loading_that_never_ends_is_ended_by_destroying() {
    let mut market = market();
    market.set_loading(Loading::Forever);
    let one = offer(&market, 1);
    let id = market.rent(T0, 0, one, order(None)).unwrap().id;
    market.advance(T0 + 100 * HOUR);
    assert_eq!(words(&market, id).2, "loading");
    assert_eq!(market.instances[&id].bill.gpu_usd(T0 + 100 * HOUR), 0.0);
    market.destroy(T0 + 100 * HOUR, id).unwrap();
    assert_eq!(
        market.destroy(T0 + 100 * HOUR, id),
        Err(Refused::NoSuchInstance(id))
    );
}

#[test]
fn keys_of_the_account_reach_new_instances_only_and_attaching_reaches_an_old_one() {
    let mut market = market();
    let first = {
        let o = offer(&market, 1);
        market.rent(T0, 0, o, order(None))
    }
    .unwrap()
    .id;
    let key = market.add_account_key(T0, 0, "ssh-ed25519 AAAA me@x\n");
    assert_eq!(
        market
            .add_account_key(T0, 0, "ssh-ed25519 AAAA other comment")
            .id,
        key.id
    );
    let second = {
        let o = offer(&market, 1);
        market.rent(T0, 0, o, order(None))
    }
    .unwrap()
    .id;
    assert!(market.instances[&first].ssh_keys.is_empty());
    assert_eq!(
        market.instances[&second].ssh_keys[0].text,
        "ssh-ed25519 AAAA me@x"
    );
    market.take_effects();
    assert_eq!(
        market.attach_key(T0, first, "ssh-ed25519 AAAA"),
        Ok(keys::Attached::Added)
    );
    assert_eq!(
        market.attach_key(T0, first, "ssh-ed25519 AAAA"),
        Ok(keys::Attached::Already)
    );
    assert_eq!(market.take_effects(), [Effect::SetKeys(first)]);
}
