//! What the market in memory answers.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::{MemoryMarket, Rented, offer};
use crate::provider::{
    Account, Actual, Charge, DiskLook, DiskPath, Instance, InstanceId, Intended, Offer, OfferQuery,
    Prepaid, Provider, ProviderError, RentRequest, Rental,
};

#[async_trait]
impl Provider for MemoryMarket {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn base_url(&self) -> String {
        "http://memory.invalid".to_owned()
    }

    async fn account(&self) -> Result<Account, ProviderError> {
        drop(self.reach("show user")?);
        Ok(Account {
            id: 1,
            credit_usd: self.state().credit_usd,
        })
    }

    async fn offers(&self, query: &OfferQuery) -> Result<Vec<Offer>, ProviderError> {
        let state = self.reach("search offers")?;
        let mut offers: Vec<Offer> = state.offers.clone();
        offers.retain(|offer| query.num_gpus.is_none_or(|wanted| wanted == offer.num_gpus));
        for offer in &mut offers {
            if query.rental == Rental::Interruptible {
                let price = state.floor_usd_per_hour * f64::from(offer.num_gpus);
                offer.gpu_usd_per_hour = price;
                offer.min_bid_usd_per_hour = Some(price);
            }
        }
        let taken = state.rented.values().filter(|_| state.lists_rivals);
        for rented in taken.filter(|rented| rented.destroyed.is_none()) {
            let Some(rival) = rented.rival_usd_per_hour else {
                continue;
            };
            let price = rival + 0.001;
            offers.push(Offer {
                gpu_usd_per_hour: price,
                min_bid_usd_per_hour: Some(price),
                ..offer(rented.instance.machine_id)
            });
        }
        offers.truncate(query.limit as usize);
        Ok(offers)
    }

    async fn rent(&self, request: &RentRequest) -> Result<InstanceId, ProviderError> {
        let operation = "create instance";
        let (late, slow, slow_answer, twice) = {
            let mut state = self.reach(operation)?;
            let twice = state.twins > 0;
            state.twins = state.twins.saturating_sub(1);
            let slow_answer = state.slow_answers.take();
            (
                state.late_creates.take(),
                state.slow_creates.take(),
                slow_answer,
                twice,
            )
        };
        if let Some(delay) = late {
            drop(self.rent_after(request, delay));
            let message = "connection closed before the answer".to_owned();
            return Err(ProviderError::Unreachable { operation, message });
        }
        if let Some(delay) = slow {
            let answer = self.rent_after(request, delay);
            return answer.await.expect("a rent does not panic");
        }
        let answer = self.rent_now(request);
        if twice {
            let mut twin = request.clone();
            let last = self.state().offers.last().map(|offer| offer.id);
            twin.offer = last.unwrap_or(request.offer);
            self.rent_now(&twin)?;
        }
        if let Some(delay) = slow_answer {
            tokio::time::sleep(delay).await;
        }
        answer
    }

    async fn instances(&self) -> Result<Vec<Instance>, ProviderError> {
        drop(self.reach("list instances")?);
        Ok(self.alive())
    }

    async fn instance(&self, id: InstanceId) -> Result<Option<Instance>, ProviderError> {
        let mut state = self.reach("show instance")?;
        if state.nulls > 0 {
            state.nulls -= 1;
            return Ok(None);
        }
        Ok(state
            .rented
            .get(&id)
            .filter(|r| r.destroyed.is_none())
            .map(Rented::view))
    }

    async fn start(&self, id: InstanceId) -> Result<bool, ProviderError> {
        let mut state = self.reach("start instance")?;
        if state.queue_starts {
            return Ok(false);
        }
        let Some(rented) = state.rented.get_mut(&id) else {
            return Ok(true);
        };
        let bid = rented.instance.gpu_usd_per_hour;
        if rented.rival_usd_per_hour.is_some_and(|rival| bid <= rival) {
            rented.instance.intended = Intended::Running;
            rented.instance.scheduling = true;
            return Ok(false);
        }
        rented.run();
        Ok(true)
    }

    async fn stop(&self, id: InstanceId) -> Result<(), ProviderError> {
        let mut state = self.reach("stop instance")?;
        if let Some(rented) = state.rented.get_mut(&id) {
            rented.close();
            rented.instance.intended = Intended::Stopped;
            rented.instance.scheduling = false;
            rented.instance.contract_running = false;
            rented.instance.actual = Actual::Exited;
        }
        Ok(())
    }

    async fn destroy(&self, id: InstanceId) -> Result<(), ProviderError> {
        let mut state = self.reach("destroy instance")?;
        if let Some(rented) = state.rented.get_mut(&id) {
            rented.close();
            rented.instance.contract_running = false;
            rented.destroyed.get_or_insert_with(Instant::now);
        }
        Ok(())
    }

    async fn change_bid(&self, id: InstanceId, usd_per_hour: f64) -> Result<(), ProviderError> {
        let mut state = self.reach("change bid")?;
        if let Some(rented) = state.rented.get_mut(&id) {
            rented.instance.gpu_usd_per_hour = usd_per_hour;
        }
        Ok(())
    }

    async fn reboot(&self, id: InstanceId) -> Result<(), ProviderError> {
        self.restart("reboot instance", id)
    }

    async fn recycle(&self, id: InstanceId) -> Result<(), ProviderError> {
        self.restart("recycle instance", id)
    }

    async fn prepay(&self, _id: InstanceId, usd: f64) -> Result<Prepaid, ProviderError> {
        let mut state = self.reach("prepay instance")?;
        if usd > state.credit_usd {
            let message = "Insufficient credit".to_owned();
            return Err(ProviderError::NoCredit { message });
        }
        state.credit_usd -= usd;
        Ok(Prepaid {
            months: Some(usd / 100.0),
            discount: 0.2,
        })
    }

    async fn look_at_disk(
        &self,
        id: InstanceId,
        look: DiskLook,
        path: &str,
    ) -> Result<String, ProviderError> {
        let state = self.reach("execute")?;
        Ok(match (look, state.disks.size_kib(id)) {
            (DiskLook::Size, Some(kib)) => format!("{kib}\t{path}\n"),
            _ => String::new(),
        })
    }

    async fn copy(&self, from: DiskPath<'_>, to: DiskPath<'_>) -> Result<(), ProviderError> {
        self.reach("copy")?.disks.copy(from.instance, to.instance);
        Ok(())
    }

    async fn cancel_copy(&self, to: InstanceId) -> Result<(), ProviderError> {
        self.reach("cancel copy")?.disks.cancel(to);
        Ok(())
    }

    async fn attach_key(&self, _id: InstanceId, _public_key: &str) -> Result<(), ProviderError> {
        self.reach("attach ssh key").map(drop)
    }

    async fn register_key(&self, _public_key: &str) -> Result<(), ProviderError> {
        self.reach("create ssh key").map(drop)
    }

    async fn container_log(&self, _id: InstanceId, _tail: u32) -> Result<String, ProviderError> {
        drop(self.reach("request logs")?);
        Ok(self.state().container_log.clone())
    }

    async fn charges(
        &self,
        _since_s: f64,
        instances: &[InstanceId],
    ) -> Result<Vec<Charge>, ProviderError> {
        let state = self.reach("show charges")?;
        let charge = |id: &InstanceId| {
            let rented = state.rented.get(id)?;
            let open = rented
                .gpu_since
                .map_or(Duration::ZERO, |since| since.elapsed());
            let gpu_h = (rented.gpu + open).as_secs_f64() / 3600.0;
            let end = rented.destroyed.unwrap_or_else(Instant::now);
            let disk_h = end.duration_since(rented.created).as_secs_f64() / 3600.0;
            Some(Charge {
                instance: *id,
                gpu_usd: gpu_h * rented.instance.gpu_usd_per_hour,
                disk_usd: disk_h * rented.instance.storage_usd_per_hour,
                bandwidth_usd: 0.0,
            })
        };
        Ok(instances.iter().filter_map(charge).collect())
    }
}
