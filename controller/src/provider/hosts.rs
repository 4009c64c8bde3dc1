//! Boxes that the user has already, as a market without prices: what is rented is a lock on the box, and nobody bills.
//!
//! [`Door`] is the way to them over ssh. What was taken is kept in the run store, so that every later command knows it; the lock on the
//! box itself keeps other controllers out.

mod address;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

pub use address::{is_host, name, number, parse};
use async_trait::async_trait;
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::{
    Account, Actual, Charge, Instance, InstanceId, Intended, Offer, OfferId, OfferQuery, Provider,
    ProviderError, RentRequest, SshAddress,
};
use crate::{clock::Clock, run::label, store::Store, ui::text};

/// Under what the store keeps a host that was taken.
const KEPT: &str = "host/";
/// Longest look at a host.
const LOOK: Duration = Duration::from_secs(20);
/// Longest try to clear a host that was given up, beside other work.
const SWEEP: Duration = Duration::from_secs(10);

/// Who holds a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Label of the attempt: store, run, attempt.
    pub label: String,
    /// Since when, seconds since the epoch, by the host's clock.
    pub since_s: i64,
    /// Name of the machine that its controller runs on.
    pub by: String,
}

/// The way to hosts. Every call may be repeated; an error is what a person can do something about.
#[async_trait]
pub trait Door: Send + Sync {
    /// Who holds it; a lock whose agent is gone is no lock.
    async fn look(&self, at: &SshAddress) -> Result<Option<Holder>, String>;
    /// Locks it for a label, unless somebody else holds it, who is answered.
    async fn lock(&self, at: &SshAddress, label: &str) -> Result<Option<Holder>, String>;
    /// Ends what runs there under a label, agent and all; its files stay.
    async fn quiet(&self, at: &SshAddress, label: &str) -> Result<(), String>;
    /// The same, then removes the agent's directory and the lock. Success when another label holds it.
    async fn clear(&self, at: &SshAddress, label: &str) -> Result<(), String>;
    /// Whether it answers now.
    async fn answers(&self, at: &SshAddress) -> bool;
}

/// A host that was taken, as the store keeps it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    address: SshAddress,
    /// The other hosts of its run: whether one of them answers tells a lost host from a lost network.
    others: Vec<SshAddress>,
    label: String,
    since_us: i64,
    /// Nothing is to run on it.
    stopped: bool,
    /// Given up while it did not answer: cleared when it does.
    gone: bool,
}

/// Hosts of the user.
pub struct Hosts {
    door: Box<dyn Door>,
    store: Arc<Store>,
    clock: Clock,
    /// Lists in which hosts were offered, so that a host that is taken knows the others.
    offered: Mutex<HashMap<OfferId, (SshAddress, Vec<SshAddress>)>>,
}

impl Hosts {
    /// Hosts behind a door, with what was taken in a store.
    pub fn new(door: Box<dyn Door>, store: Arc<Store>, clock: Clock) -> Self {
        let offered = Mutex::default();
        Self {
            door,
            store,
            clock,
            offered,
        }
    }

    fn all_kept(&self) -> Result<Vec<(InstanceId, Kept)>, ProviderError> {
        let rows = self.store.metas(KEPT).map_err(|err| record(&err))?;
        Ok(rows
            .iter()
            .filter_map(|(key, value)| {
                let id = key.strip_prefix(KEPT)?.parse().ok()?;
                Some((id, serde_json::from_str(value).ok()?))
            })
            .collect())
    }

    fn kept(&self, id: InstanceId) -> Result<Option<Kept>, ProviderError> {
        let all = self.all_kept()?;
        Ok(all
            .into_iter()
            .find(|(known, kept)| *known == id && !kept.gone)
            .map(|(_, kept)| kept))
    }

    fn keep(&self, id: InstanceId, kept: &Kept) -> Result<(), ProviderError> {
        let value = serde_json::to_string(kept).expect("a host is plain data");
        self.store
            .set_meta(&format!("{KEPT}{id}"), &value)
            .map_err(|err| record(&err))
    }

    fn forget(&self, id: InstanceId) -> Result<(), ProviderError> {
        let forgotten = self.store.forget_meta(&format!("{KEPT}{id}"));
        forgotten.map(drop).map_err(|err| record(&err))
    }

    /// A lock of this very store under a label that it does not hold any more.
    fn is_left_over(&self, label: &str) -> Result<bool, ProviderError> {
        let ours = label::parse(label).is_some_and(|label| label.store == self.store.id());
        let live = |(_, kept): &(InstanceId, Kept)| kept.label == label && !kept.gone;
        Ok(ours && !self.all_kept()?.iter().any(live))
    }

    /// Why a host cannot be taken; `None`: it can.
    async fn why_not(&self, at: &SshAddress) -> Result<Option<String>, ProviderError> {
        let looked = timeout(LOOK, self.door.look(at)).await;
        Ok(match looked {
            Err(_) => Some(format!("{}: no answer in {} s", name(at), LOOK.as_secs())),
            Ok(Err(why)) => Some(format!("{}: {why}", name(at))),
            Ok(Ok(None)) => None,
            Ok(Ok(Some(holder))) if self.is_left_over(&holder.label)? => None,
            Ok(Ok(Some(holder))) => Some(format!("{} {}", name(at), held(&holder))),
        })
    }

    /// Whether a host that does not answer is alone in that: then it is not this machine's network.
    async fn is_alone_silent(&self, kept: &Kept) -> bool {
        let others = kept
            .others
            .iter()
            .map(|at| timeout(LOOK, self.door.answers(at)));
        join_all(others)
            .await
            .into_iter()
            .any(|answers| answers == Ok(true))
    }

    /// Clears hosts that were given up, as far as they answer again.
    async fn sweep(&self) -> Result<(), ProviderError> {
        for (id, kept) in self.all_kept()?.into_iter().filter(|(_, kept)| kept.gone) {
            match timeout(SWEEP, self.door.clear(&kept.address, &kept.label)).await {
                Ok(Ok(())) => self.forget(id)?,
                Ok(Err(why)) => tracing::debug!(why, "a host that was given up is not cleared yet"),
                Err(_) => tracing::debug!("a host that was given up does not answer yet"),
            }
        }
        Ok(())
    }
}

/// Who holds a host, as the end of a sentence.
fn held(holder: &Holder) -> String {
    if holder.since_s == 0 {
        return "has an agent of spotter's that runs without a lock: end its run first".to_owned();
    }
    let run = match label::parse(&holder.label) {
        Some(label) => format!("run `{}` of spotter store {}", label.run, label.store),
        None => "somebody".to_owned(),
    };
    let by = match holder.by.as_str() {
        "" => String::new(),
        by => format!(" on {by}"),
    };
    let since = text::time(holder.since_s.saturating_mul(1_000_000));
    format!("is held by {run}{by} since {since}")
}

fn record(err: &crate::store::StoreError) -> ProviderError {
    unreachable("read what hosts are taken", err.to_string())
}

fn unreachable(operation: &'static str, message: String) -> ProviderError {
    ProviderError::Unreachable { operation, message }
}

fn offer(at: &SshAddress, query: &OfferQuery) -> Offer {
    Offer {
        id: number(at),
        machine_id: number(at),
        gpu_name: query.gpu_name.clone().unwrap_or_default(),
        num_gpus: query.num_gpus.unwrap_or(0),
        vram_mib: 0,
        ram_mb: 0,
        cpu_cores: 0.0,
        disk_gb: query.disk_gb,
        gpu_usd_per_hour: 0.0,
        storage_usd_per_hour: 0.0,
        min_bid_usd_per_hour: None,
        inet_down_usd_per_gb: 0.0,
        inet_up_usd_per_gb: 0.0,
        reliability: Some(1.0),
        inet_down_mbps: 0.0,
        inet_up_mbps: 0.0,
        nvlink_gbps: 0.0,
        cuda: 0.0,
        compute_cap: 0,
        verified: true,
        datacenter: false,
        geolocation: name(at),
        max_duration_s: Some(f64::INFINITY),
        direct_ports: 0,
    }
}

fn instance(id: InstanceId, kept: &Kept, actual: Actual) -> Instance {
    let running = !kept.stopped;
    Instance {
        id,
        machine_id: number(&kept.address),
        label: Some(kept.label.clone()),
        intended: if running {
            Intended::Running
        } else {
            Intended::Stopped
        },
        actual: if running { actual } else { Actual::Stopped },
        contract_running: running,
        scheduling: false,
        status_msg: String::new(),
        is_bid: Some(false),
        gpu_usd_per_hour: 0.0,
        storage_usd_per_hour: 0.0,
        disk_gb: 0.0,
        gpu_name: String::new(),
        num_gpus: 0,
        ssh: vec![kept.address.clone()],
        start_s: kept.since_us as f64 / 1e6,
        end_s: None,
        up_since_s: None,
        charged_gpu_usd_per_hour: None,
        inet_down_mbps: 0.0,
        inet_down_usd_per_gb: 0.0,
        inet_up_usd_per_gb: 0.0,
    }
}

/// One that somebody else holds by now: our agent was gone for too long.
fn taken_back(id: InstanceId, kept: &Kept) -> Instance {
    Instance {
        intended: Intended::Stopped,
        contract_running: false,
        // As of a box that was bid for: taken by somebody else, and not stopped by hand.
        is_bid: Some(true),
        ..instance(id, kept, Actual::Exited)
    }
}

#[async_trait]
impl Provider for Hosts {
    fn name(&self) -> &'static str {
        "host"
    }

    fn base_url(&self) -> String {
        String::new()
    }

    async fn account(&self) -> Result<Account, ProviderError> {
        Ok(Account {
            id: 0,
            credit_usd: f64::INFINITY,
        })
    }

    async fn offers(&self, query: &OfferQuery) -> Result<Vec<Offer>, ProviderError> {
        let looks = join_all(query.hosts.iter().map(|at| self.why_not(at))).await;
        let (mut offers, mut refused) = (Vec::new(), Vec::new());
        for (at, look) in query.hosts.iter().zip(looks) {
            match look? {
                None => offers.push(offer(at, query)),
                Some(why) => refused.push(why),
            }
        }
        if offers.is_empty() {
            return Err(ProviderError::NoHost {
                message: refused.join("; "),
            });
        }
        let mut offered = self.offered.lock().unwrap_or_else(PoisonError::into_inner);
        for at in &query.hosts {
            let others = query.hosts.iter().filter(|other| *other != at);
            offered.insert(number(at), (at.clone(), others.cloned().collect()));
        }
        Ok(offers)
    }

    async fn rent(&self, request: &RentRequest) -> Result<InstanceId, ProviderError> {
        let all = self.all_kept()?;
        if let Some((id, _)) = all.iter().find(|(_, kept)| kept.label == request.label) {
            return Ok(*id);
        }
        let found = {
            let offered = self.offered.lock().unwrap_or_else(PoisonError::into_inner);
            offered.get(&request.offer).cloned()
        };
        let gone = ProviderError::OfferGone {
            offer: request.offer,
            leftover: None,
        };
        let Some((address, others)) = found else {
            return Err(gone);
        };
        let lock = || async {
            timeout(LOOK, self.door.lock(&address, &request.label))
                .await
                .unwrap_or_else(|_| Err("no answer in time".to_owned()))
                .map_err(|why| unreachable("lock the host", why))
        };
        if let Some(holder) = lock().await? {
            if !self.is_left_over(&holder.label)? {
                return Err(gone);
            }
            self.door
                .clear(&address, &holder.label)
                .await
                .map_err(|why| unreachable("clear the host", why))?;
            if lock().await?.is_some() {
                return Err(gone);
            }
        }
        // Of every host only the newest life is wanted, and no number is used twice.
        let id = address::one_of(rand::random());
        let kept = Kept {
            address,
            others,
            label: request.label.clone(),
            since_us: self.clock.now_us(),
            stopped: false,
            gone: false,
        };
        self.keep(id, &kept)?;
        Ok(id)
    }

    async fn instances(&self) -> Result<Vec<Instance>, ProviderError> {
        self.sweep().await?;
        let all = self.all_kept()?;
        let live = all.iter().filter(|(_, kept)| !kept.gone);
        Ok(live
            .map(|(id, kept)| instance(*id, kept, Actual::Running))
            .collect())
    }

    async fn instance(&self, id: InstanceId) -> Result<Option<Instance>, ProviderError> {
        let Some(kept) = self.kept(id)? else {
            return Ok(None);
        };
        if kept.stopped {
            return Ok(Some(instance(id, &kept, Actual::Stopped)));
        }
        match timeout(LOOK, self.door.look(&kept.address)).await {
            // One who is about to take it has not written who he is yet.
            Ok(Ok(Some(holder))) if !holder.label.is_empty() && holder.label != kept.label => {
                return Ok(Some(taken_back(id, &kept)));
            }
            Ok(Ok(_)) => return Ok(Some(instance(id, &kept, Actual::Running))),
            Ok(Err(_)) | Err(_) => {}
        }
        if self.is_alone_silent(&kept).await {
            return Ok(Some(instance(id, &kept, Actual::Offline)));
        }
        Err(unreachable(
            "look at the host",
            format!(
                "neither {} nor another host of the run answers",
                name(&kept.address)
            ),
        ))
    }

    async fn start(&self, id: InstanceId) -> Result<bool, ProviderError> {
        let Some(mut kept) = self.kept(id)? else {
            return Ok(true);
        };
        // From now on it is held by what runs there again.
        let locked = timeout(LOOK, self.door.lock(&kept.address, &kept.label)).await;
        let locked = locked.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        if let Some(holder) = locked.map_err(|why| unreachable("lock the host", why))? {
            let message = format!("{} {}", name(&kept.address), held(&holder));
            return Err(ProviderError::NoHost { message });
        }
        kept.stopped = false;
        self.keep(id, &kept)?;
        Ok(true)
    }

    async fn stop(&self, id: InstanceId) -> Result<(), ProviderError> {
        let Some(mut kept) = self.kept(id)? else {
            return Ok(());
        };
        let quieted = timeout(LOOK * 2, self.door.quiet(&kept.address, &kept.label)).await;
        match quieted.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
            Ok(()) => {}
            Err(why) if self.is_alone_silent(&kept).await => {
                tracing::warn!(
                    why,
                    "what runs on a host that is given up could not be ended"
                );
            }
            Err(why) => return Err(unreachable("end what runs on the host", why)),
        }
        kept.stopped = true;
        self.keep(id, &kept)
    }

    async fn destroy(&self, id: InstanceId) -> Result<(), ProviderError> {
        let Some(mut kept) = self.kept(id)? else {
            return Ok(());
        };
        let cleared = timeout(LOOK * 2, self.door.clear(&kept.address, &kept.label)).await;
        match cleared.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
            Ok(()) => self.forget(id),
            Err(why) if self.is_alone_silent(&kept).await => {
                tracing::warn!(
                    why,
                    "a host that does not answer is given up, and cleared when it does"
                );
                kept.gone = true;
                self.keep(id, &kept)
            }
            Err(why) => Err(unreachable("clear the host", why)),
        }
    }

    async fn change_bid(&self, _id: InstanceId, _usd_per_hour: f64) -> Result<(), ProviderError> {
        Err(ProviderError::Refused {
            operation: "change the bid",
            status: 400,
            message: "nobody bids for a host of one's own".to_owned(),
            leftover: None,
        })
    }

    async fn charges(
        &self,
        _since_s: f64,
        instances: &[InstanceId],
    ) -> Result<Vec<Charge>, ProviderError> {
        let nothing = |id: &InstanceId| Charge {
            instance: *id,
            gpu_usd: 0.0,
            disk_usd: 0.0,
            bandwidth_usd: 0.0,
        };
        Ok(instances.iter().map(nothing).collect())
    }
}

#[cfg(test)]
mod tests;
