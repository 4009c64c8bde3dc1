//! The market and the user's own hosts as one provider: who is asked follows from the number, or from who is searched for.

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;

use super::{
    Account, Charge, DiskLook, DiskPath, Instance, InstanceId, Offer, OfferQuery, Prepaid,
    Provider, ProviderError, RentRequest,
    hosts::{Hosts, is_host},
    volumes::{Volume, VolumeId, VolumeOffer, VolumeQuery},
};
use crate::store::Store;

/// Both.
pub struct Fleet {
    market: Arc<dyn Provider>,
    hosts: Hosts,
    store: Arc<Store>,
}

impl Fleet {
    /// `store` tells whether the market has anything of ours.
    pub fn new(market: Arc<dyn Provider>, hosts: Hosts, store: Arc<Store>) -> Self {
        Self {
            market,
            hosts,
            store,
        }
    }

    fn of(&self, id: u64) -> &dyn Provider {
        if is_host(id) {
            &self.hosts
        } else {
            self.market.as_ref()
        }
    }

    /// Whether only hosts are on record: where the market may have a box of ours, an account that cannot be read is no empty one.
    fn has_hosts_only(&self) -> bool {
        let (Ok(runs), Ok(attempts)) = (self.store.runs(), self.store.all_attempts()) else {
            return false;
        };
        let on_hosts: BTreeSet<&str> = runs
            .iter()
            .filter(|run| !run.spec.resources.hosts.is_empty())
            .map(|run| run.name.as_str())
            .collect();
        !on_hosts.is_empty()
            && attempts
                .iter()
                .all(|attempt| !attempt.may_cost() || on_hosts.contains(attempt.run.as_str()))
    }
}

#[async_trait]
impl Provider for Fleet {
    fn name(&self) -> &'static str {
        self.market.name()
    }

    fn base_url(&self) -> String {
        self.market.base_url()
    }

    async fn account(&self) -> Result<Account, ProviderError> {
        self.market.account().await
    }

    async fn offers(&self, query: &OfferQuery) -> Result<Vec<Offer>, ProviderError> {
        match query.hosts.is_empty() {
            true => self.market.offers(query).await,
            false => self.hosts.offers(query).await,
        }
    }

    async fn rent(&self, request: &RentRequest) -> Result<InstanceId, ProviderError> {
        self.of(request.offer).rent(request).await
    }

    async fn instances(&self) -> Result<Vec<Instance>, ProviderError> {
        let mut all = match self.market.instances().await {
            Err(err) if self.has_hosts_only() => {
                tracing::debug!(%err, "the market is passed over: nothing on record is there");
                Vec::new()
            }
            answer => answer?,
        };
        all.extend(self.hosts.instances().await?);
        Ok(all)
    }

    async fn instance(&self, id: InstanceId) -> Result<Option<Instance>, ProviderError> {
        self.of(id).instance(id).await
    }

    async fn start(&self, id: InstanceId) -> Result<bool, ProviderError> {
        self.of(id).start(id).await
    }

    async fn stop(&self, id: InstanceId) -> Result<(), ProviderError> {
        self.of(id).stop(id).await
    }

    async fn destroy(&self, id: InstanceId) -> Result<(), ProviderError> {
        self.of(id).destroy(id).await
    }

    async fn change_bid(&self, id: InstanceId, usd_per_hour: f64) -> Result<(), ProviderError> {
        self.of(id).change_bid(id, usd_per_hour).await
    }

    async fn set_label(&self, id: InstanceId, label: &str) -> Result<(), ProviderError> {
        self.of(id).set_label(id, label).await
    }

    async fn reboot(&self, id: InstanceId) -> Result<(), ProviderError> {
        self.of(id).reboot(id).await
    }

    async fn recycle(&self, id: InstanceId) -> Result<(), ProviderError> {
        self.of(id).recycle(id).await
    }

    async fn prepay(&self, id: InstanceId, usd: f64) -> Result<Prepaid, ProviderError> {
        self.of(id).prepay(id, usd).await
    }

    async fn look_at_disk(
        &self,
        id: InstanceId,
        look: DiskLook,
        path: &str,
    ) -> Result<String, ProviderError> {
        self.of(id).look_at_disk(id, look, path).await
    }

    async fn copy(&self, from: DiskPath<'_>, to: DiskPath<'_>) -> Result<(), ProviderError> {
        self.of(from.instance).copy(from, to).await
    }

    async fn cancel_copy(&self, to: InstanceId) -> Result<(), ProviderError> {
        self.of(to).cancel_copy(to).await
    }

    async fn volumes(&self) -> Result<Vec<Volume>, ProviderError> {
        self.market.volumes().await
    }

    async fn volume_offers(&self, query: &VolumeQuery) -> Result<Vec<VolumeOffer>, ProviderError> {
        self.market.volume_offers(query).await
    }

    async fn rent_volume(
        &self,
        offer: u64,
        size_gb: f64,
        name: &str,
    ) -> Result<VolumeId, ProviderError> {
        self.market.rent_volume(offer, size_gb, name).await
    }

    async fn end_volume(&self, id: VolumeId) -> Result<(), ProviderError> {
        self.market.end_volume(id).await
    }

    async fn forget_keys(
        &self,
        id: InstanceId,
        is_old: &(dyn for<'a> Fn(&'a str) -> bool + Send + Sync),
    ) -> Result<u32, ProviderError> {
        self.of(id).forget_keys(id, is_old).await
    }

    async fn attach_key(&self, id: InstanceId, public_key: &str) -> Result<(), ProviderError> {
        self.of(id).attach_key(id, public_key).await
    }

    async fn register_key(&self, public_key: &str) -> Result<(), ProviderError> {
        self.market.register_key(public_key).await
    }

    async fn container_log(&self, id: InstanceId, tail: u32) -> Result<String, ProviderError> {
        self.of(id).container_log(id, tail).await
    }

    async fn charges(
        &self,
        since_s: f64,
        instances: &[InstanceId],
    ) -> Result<Vec<Charge>, ProviderError> {
        let (hosts, rented): (Vec<_>, Vec<_>) = instances.iter().partition(|id| is_host(**id));
        let mut charges = match rented.is_empty() {
            true => Vec::new(),
            false => self.market.charges(since_s, &rented).await?,
        };
        charges.extend(self.hosts.charges(since_s, &hosts).await?);
        Ok(charges)
    }
}
