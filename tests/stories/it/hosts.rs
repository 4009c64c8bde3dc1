//! Hosts of the user's own in place of a market: a lost one is followed by the next of its list, and nobody bills.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use spotter::{
    provider::{
        Provider, Rental, SshAddress,
        fleet::Fleet,
        hosts::{self, Door, Holder, Hosts},
    },
    run::{
        State,
        lease::Lease,
        lifecycle::{Goal, Lifecycle},
    },
    spec::RunSpec,
    store::{Outcome, RunRecord},
};

use crate::world::{World, spec};

const RUN: &str = "story";

/// Hosts that nobody else holds; those named are silent.
#[derive(Debug, Clone, Default)]
pub struct Doors(Arc<Mutex<(BTreeSet<String>, Vec<String>)>>);

impl Doors {
    fn silence(&self, names: &[&str]) {
        self.0.lock().unwrap().0 = names.iter().map(|name| (*name).to_owned()).collect();
    }

    fn cleared(&self) -> Vec<String> {
        self.0.lock().unwrap().1.clone()
    }

    fn reach(&self, at: &SshAddress) -> Result<(), String> {
        match self.0.lock().unwrap().0.contains(&hosts::name(at)) {
            true => Err("no answer".to_owned()),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl Door for Doors {
    async fn look(&self, at: &SshAddress) -> Result<Option<Holder>, String> {
        self.reach(at).map(|()| None)
    }

    async fn lock(&self, at: &SshAddress, _label: &str) -> Result<Option<Holder>, String> {
        self.reach(at).map(|()| None)
    }

    async fn quiet(&self, at: &SshAddress, _label: &str) -> Result<(), String> {
        self.reach(at)
    }

    async fn clear(&self, at: &SshAddress, _label: &str) -> Result<(), String> {
        self.reach(at)?;
        self.0.lock().unwrap().1.push(hosts::name(at));
        Ok(())
    }

    async fn answers(&self, at: &SshAddress) -> bool {
        self.reach(at).is_ok()
    }
}

/// What a `spotter` has whose runs are on hosts.
fn lifecycle(world: &World, doors: &Doors) -> Lifecycle {
    let store = Arc::clone(&world.store);
    let hosts = Hosts::new(Box::new(doors.clone()), store.clone(), world.clock());
    let market = Arc::new(world.market.clone());
    Lifecycle {
        provider: Arc::new(Fleet::new(market, hosts, store)) as Arc<dyn Provider>,
        ..world.lifecycle()
    }
}

/// A story whose boxes are these hosts.
pub fn on_hosts(names: &[&str]) -> RunSpec {
    let mut story = spec(RUN);
    story.resources.rental = Rental::OnDemand;
    story.resources.hosts = names
        .iter()
        .map(|name| hosts::parse(name).unwrap())
        .collect();
    story
}

/// Carries it on to its end.
pub async fn drive(world: &World, doors: &Doors) -> RunRecord {
    let _lease = Lease::take(&world.store, RUN)
        .unwrap()
        .expect("nobody else watches");
    let lifecycle = lifecycle(world, doors);
    lifecycle.drive(RUN, Goal::End).await.unwrap()
}

/// The host goes away with all that runs on it.
fn lose(world: &World, doors: &Doors, name: &str, instance: Option<u64>) {
    let instance = instance.expect("it trains somewhere");
    doors.silence(&[name]);
    world.boxes.script().dead_hosts.insert(instance);
    world.boxes.end_container(instance);
}

#[tokio::test(start_paused = true)]
async fn a_run_goes_on_on_the_next_host_when_its_own_is_lost_and_costs_nothing() {
    let (world, doors) = (World::new(1, 2_000), Doors::default());
    world.plan(&on_hosts(&["a", "b"]));
    let (run, ()) = tokio::join!(drive(&world, &doors), async {
        let first = world.until(RUN, 1, State::Running).await;
        assert_eq!(first.ssh[0].host, "a");
        tokio::time::sleep(Duration::from_secs(75)).await;
        lose(&world, &doors, "a", first.instance);
        let second = world.until(RUN, 2, State::Running).await;
        assert_eq!(second.ssh[0].host, "b");
        assert!(second.resumed_step >= Some(60), "{second:?}");
        doors.silence(&[]);
    });
    assert_eq!(run.outcome, Some(Outcome::Done), "{:?}", run.reason);
    assert_eq!(lifecycle(&world, &doors).spent_usd(RUN).unwrap(), 0.0);
    assert!(
        world
            .attempts(RUN)
            .iter()
            .all(|attempt| attempt.state == State::Gone)
    );
    let cleared: BTreeSet<String> = doors.cleared().into_iter().collect();
    assert_eq!(cleared, BTreeSet::from(["a".to_owned(), "b".to_owned()]));
    assert!(world.market.alive().is_empty(), "nothing was ever rented");
}

#[tokio::test(start_paused = true)]
async fn a_laptop_without_a_network_judges_no_host() {
    let (world, doors) = (World::new(1, 400), Doors::default());
    world.plan(&on_hosts(&["a", "b"]));
    let (run, ()) = tokio::join!(drive(&world, &doors), async {
        world.until(RUN, 1, State::Running).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        doors.silence(&["a", "b"]);
        world.boxes.script().cut = true;
        tokio::time::sleep(Duration::from_secs(3600)).await;
        doors.silence(&[]);
        world.boxes.script().cut = false;
    });
    assert_eq!(run.outcome, Some(Outcome::Done), "{:?}", run.reason);
    assert_eq!(world.attempts(RUN).len(), 1);
    assert_eq!(doors.cleared(), ["a"]);
}
