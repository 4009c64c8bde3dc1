//! Hosts behind a door that answers as it is told.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::{
    provider::{Rental, fleet::Fleet, memory::MemoryMarket},
    run::{State, summary::attempt_for_tests},
    spec::RunSpec,
    store::{AttemptRecord, RunRecord},
};

#[derive(Default)]
struct Told {
    silent: BTreeSet<String>,
    locks: BTreeMap<String, Holder>,
    ended: Vec<String>,
}

#[derive(Clone, Default)]
struct Script(Arc<Mutex<Told>>);

impl Script {
    fn told<T>(&self, at: &SshAddress, work: impl FnOnce(&mut Told) -> T) -> Result<T, String> {
        let mut told = self.0.lock().unwrap();
        match told.silent.contains(&name(at)) {
            true => Err("no answer".to_owned()),
            false => Ok(work(&mut told)),
        }
    }

    fn silence(&self, hosts: &[&str]) {
        self.0.lock().unwrap().silent = hosts.iter().map(|host| (*host).to_owned()).collect();
    }
}

fn holder(label: &str) -> Holder {
    Holder {
        label: label.to_owned(),
        since_s: 1_800_000_000,
        by: "laptop".to_owned(),
    }
}

#[async_trait]
impl Door for Script {
    async fn look(&self, at: &SshAddress) -> Result<Option<Holder>, String> {
        self.told(at, |told| told.locks.get(&name(at)).cloned())
    }

    async fn lock(&self, at: &SshAddress, label: &str) -> Result<Option<Holder>, String> {
        self.told(at, |told| match told.locks.get(&name(at)) {
            Some(held) if held.label != label => Some(held.clone()),
            _ => {
                told.locks.insert(name(at), holder(label));
                None
            }
        })
    }

    async fn quiet(&self, at: &SshAddress, _label: &str) -> Result<(), String> {
        self.told(at, |told| told.ended.push(name(at)))
    }

    async fn clear(&self, at: &SshAddress, label: &str) -> Result<(), String> {
        self.told(at, |told| {
            if told
                .locks
                .get(&name(at))
                .is_some_and(|held| held.label == label)
            {
                told.locks.remove(&name(at));
            }
        })
    }

    async fn answers(&self, at: &SshAddress) -> bool {
        self.told(at, |_| ()).is_ok()
    }
}

struct Desk {
    _dir: tempfile::TempDir,
    script: Script,
    hosts: Hosts,
}

impl Desk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::new(|| 1_800_000_000_000_000);
        let store = Store::open(&dir.path().join("spotter.db"), clock.clone()).unwrap();
        let script = Script::default();
        let hosts = Hosts::new(Box::new(script.clone()), Arc::new(store), clock);
        Self {
            _dir: dir,
            script,
            hosts,
        }
    }

    fn label(&self, run: &str) -> String {
        label::label(self.hosts.store.id(), run, 1, "x")
    }

    async fn offered(&self, names: &[&str]) -> Result<Vec<String>, String> {
        let query = OfferQuery {
            gpu_name: Some("RTX 4090".to_owned()),
            num_gpus: Some(1),
            rental: Rental::OnDemand,
            disk_gb: 20.0,
            filters: Vec::new(),
            hosts: names.iter().map(|name| parse(name).unwrap()).collect(),
            limit: 9,
            first: Default::default(),
        };
        let offers = self.hosts.offers(&query).await;
        let offers = offers.map_err(|err| err.to_string())?;
        Ok(offers.into_iter().map(|offer| offer.geolocation).collect())
    }

    async fn take(&self, host: &str, run: &str) -> Result<InstanceId, ProviderError> {
        let request = RentRequest {
            offer: number(&parse(host).unwrap()),
            label: self.label(run),
            image: String::new(),
            disk_gb: 20.0,
            onstart: String::new(),
            env: Vec::new(),
            bid_usd_per_hour: None,
            container: Default::default(),
        };
        self.hosts.rent(&request).await
    }

    async fn seen(&self, id: InstanceId) -> Option<(Intended, Actual)> {
        let found = self.hosts.instance(id).await.unwrap();
        found.map(|found| (found.intended, found.actual))
    }
}

#[test]
fn a_host_is_written_as_ssh_writes_it() {
    for (text, expected) in [
        ("me@box", Some(("me@box", 22))),
        ("box", Some(("box", 22))),
        ("me@10.0.0.7:2222", Some(("me@10.0.0.7", 2222))),
        ("me@[fe80::1]:2222", Some(("me@fe80::1", 2222))),
        ("me@[fe80::1]", Some(("me@fe80::1", 22))),
        ("me@box:", None),
        ("me@box:0", None),
        ("me@box:70000", None),
        ("me@", None),
        ("-oProxyCommand=x", None),
        ("me@-box", None),
        ("me@box;rm", None),
        ("me@[fe80::1", None),
        ("", None),
    ] {
        let found = parse(text).ok();
        let found = found.as_ref().map(|at| (at.host.as_str(), at.port));
        assert_eq!(found, expected, "{text}");
    }
    let at = parse("me@box:2222").unwrap();
    assert_eq!(name(&at), "me@box:2222");
    assert!(is_host(number(&at)) && number(&at) == number(&at));
    assert!(!is_host(99_999_999));
}

#[tokio::test]
async fn the_first_host_that_answers_and_is_free_is_taken_and_others_say_why_not() {
    let desk = Desk::new();
    desk.script.silence(&["a"]);
    assert_eq!(desk.offered(&["a", "b", "c"]).await.unwrap(), ["b", "c"]);
    desk.take("b", "mine").await.unwrap();
    assert_eq!(desk.offered(&["a", "b", "c"]).await.unwrap(), ["c"]);
    let theirs = label::label("theirs", "run", 3, "y");
    desk.script
        .0
        .lock()
        .unwrap()
        .locks
        .insert("c".to_owned(), holder(&theirs));
    let why = desk.offered(&["a", "b", "c"]).await.unwrap_err();
    for part in [
        "a: no answer",
        "b is held by run `mine`",
        "c is held by run `run` of spotter store theirs on laptop since ",
    ] {
        assert!(why.contains(part), "{part}: {why}");
    }
    // Somebody was faster between the look and the lock.
    let gone = desk.take("c", "late").await;
    assert!(
        matches!(gone, Err(ProviderError::OfferGone { .. })),
        "{gone:?}"
    );
}

#[tokio::test]
async fn a_lost_answer_takes_no_second_host_and_an_end_is_final() {
    let desk = Desk::new();
    desk.offered(&["a"]).await.unwrap();
    let id = desk.take("a", "mine").await.unwrap();
    assert_eq!(desk.take("a", "mine").await.unwrap(), id);
    assert_eq!(desk.hosts.instances().await.unwrap().len(), 1);
    assert_eq!(
        desk.seen(id).await,
        Some((Intended::Running, Actual::Running))
    );

    desk.hosts.stop(id).await.unwrap();
    assert_eq!(desk.script.0.lock().unwrap().ended, ["a"]);
    assert_eq!(
        desk.seen(id).await,
        Some((Intended::Stopped, Actual::Stopped))
    );
    assert!(
        desk.offered(&["a"]).await.is_err(),
        "it is kept for its run"
    );
    desk.hosts.start(id).await.unwrap();
    assert_eq!(
        desk.seen(id).await,
        Some((Intended::Running, Actual::Running))
    );

    desk.hosts.destroy(id).await.unwrap();
    desk.hosts.destroy(id).await.unwrap();
    assert_eq!(desk.seen(id).await, None);
    assert!(desk.script.0.lock().unwrap().locks.is_empty());
    let charges = desk.hosts.charges(0.0, &[id]).await.unwrap();
    assert_eq!(charges[0].total_usd(), 0.0);
}

#[tokio::test]
async fn a_host_is_lost_only_while_another_one_of_its_run_answers() {
    let desk = Desk::new();
    desk.offered(&["a", "b"]).await.unwrap();
    let id = desk.take("a", "mine").await.unwrap();
    // It may be this machine's network.
    desk.script.silence(&["a", "b"]);
    assert!(desk.hosts.instance(id).await.unwrap_err().is_ambiguous());
    assert!(desk.hosts.destroy(id).await.is_err());
    desk.script.silence(&["a"]);
    assert_eq!(
        desk.seen(id).await,
        Some((Intended::Running, Actual::Offline))
    );

    // Given up, it is no instance any more; when it is back, what it holds is cleared.
    desk.hosts.destroy(id).await.unwrap();
    assert_eq!(desk.seen(id).await, None);
    assert!(desk.hosts.instances().await.unwrap().is_empty());
    assert_eq!(desk.script.0.lock().unwrap().locks.len(), 1);
    desk.script.silence(&[]);
    assert_eq!(
        desk.offered(&["a"]).await.unwrap(),
        ["a"],
        "the lock is our own"
    );
    assert!(desk.hosts.instances().await.unwrap().is_empty());
    assert!(desk.script.0.lock().unwrap().locks.is_empty());
}

#[tokio::test]
async fn a_lock_that_this_store_left_is_cleared_before_it_is_taken() {
    let desk = Desk::new();
    let left = desk.label("before");
    desk.script
        .0
        .lock()
        .unwrap()
        .locks
        .insert("a".to_owned(), holder(&left));
    assert_eq!(desk.offered(&["a"]).await.unwrap(), ["a"]);
    desk.take("a", "mine").await.unwrap();
    let locks = desk.script.0.lock().unwrap().locks.clone();
    assert_eq!(locks["a"].label, desk.label("mine"));
}

#[tokio::test]
async fn a_host_that_somebody_else_holds_by_now_was_taken_back_and_is_left_to_him() {
    let desk = Desk::new();
    desk.offered(&["a"]).await.unwrap();
    let id = desk.take("a", "mine").await.unwrap();
    let theirs = label::label("theirs", "run", 3, "y");
    let hold = |label: &str| {
        let mut told = desk.script.0.lock().unwrap();
        told.locks.insert("a".to_owned(), holder(label));
    };
    // He has not written who he is yet.
    hold("");
    assert_eq!(
        desk.seen(id).await,
        Some((Intended::Running, Actual::Running))
    );
    hold(&theirs);
    let found = desk.hosts.instance(id).await.unwrap().unwrap();
    assert_eq!(
        (found.intended, found.contract_running, found.is_bid),
        (Intended::Stopped, false, Some(true))
    );
    desk.hosts.destroy(id).await.unwrap();
    assert_eq!(desk.seen(id).await, None);
    let locks = desk.script.0.lock().unwrap().locks.clone();
    assert_eq!(locks["a"].label, theirs);
}

#[tokio::test]
async fn a_market_that_does_not_answer_is_passed_over_while_nothing_on_record_is_there() {
    let Desk {
        _dir,
        script: _script,
        hosts,
    } = Desk::new();
    let store = hosts.store.clone();
    let market = MemoryMarket::new(1);
    market.set_unreachable(true);
    let fleet = Fleet::new(Arc::new(market), hosts, store.clone());
    assert!(fleet.instances().await.is_err(), "nothing is on record");
    let label_of = |run: &str| label::label(store.id(), run, 1, "x");
    let record = |name: &str, hosts: &[&str]| {
        let mut spec = RunSpec::from_flags_for_tests();
        name.clone_into(&mut spec.name);
        spec.resources.hosts = hosts.iter().map(|host| parse(host).unwrap()).collect();
        let run = RunRecord {
            name: name.to_owned(),
            spec,
            created_us: 1,
            stop_requested: false,
            outcome: None,
            reason: None,
        };
        store.create_run(&run).unwrap();
        let attempt = AttemptRecord {
            run: name.to_owned(),
            label: label_of(name),
            state: State::Renting,
            gone_us: 0,
            ..attempt_for_tests(1)
        };
        store.create_attempt(&attempt).unwrap();
    };
    record("own", &["a"]);
    assert!(fleet.instances().await.unwrap().is_empty());
    record("rented", &[]);
    assert!(fleet.instances().await.is_err(), "a box may be there");
}
