//! Accounts and money: what a box costs from a moment on, what an account has left, and what happens when that is nothing.

use crate::market::{InstanceId, Market, Millis, Refused, instance::Status};

impl Market {
    /// Adds traffic to an instance's bill, in GB.
    ///
    /// # Errors
    /// When it does not exist any more.
    pub fn add_traffic(
        &mut self,
        now: Millis,
        id: InstanceId,
        down_gb: f64,
        up_gb: f64,
    ) -> Result<(), Refused> {
        self.advance(now);
        let machine = self.living(id)?.machine;
        let spec = &self.machines[machine].spec;
        let usd = down_gb * spec.inet_down_usd_per_gb + up_gb * spec.inet_up_usd_per_gb;
        self.at(id).bill.add_traffic(now, down_gb, up_gb, usd);
        Ok(())
    }

    /// Dollars that an account has left.
    pub fn credit_usd(&self, account: usize, now: Millis) -> f64 {
        let spent: f64 = self
            .instances
            .values()
            .filter(|instance| instance.account == account)
            .map(|instance| instance.bill.total_usd(now))
            .sum();
        self.accounts[account].deposit_usd - spent
    }

    /// Puts dollars on an account, or takes them off.
    pub fn deposit(&mut self, now: Millis, account: usize, usd: f64) {
        self.advance(now);
        self.accounts[account].deposit_usd += usd;
        self.advance(now);
    }

    /// Takes the meter to the rates that hold from `now` on.
    pub(crate) fn meter(&mut self, id: InstanceId, now: Millis) {
        let instance = self.at(id);
        if instance.destroyed_ms.is_some() {
            return;
        }
        let offline = instance.status == Some(Status::Offline);
        let gpu = if instance.metered && !offline {
            instance.gpu_usd_per_hour()
        } else {
            0.0
        };
        let storage = if offline {
            0.0
        } else {
            instance.storage_usd_per_hour
        };
        let state = instance.status.map_or("provisioning", Status::word);
        instance.bill.meter(now, state, gpu, storage);
    }

    pub(super) fn stop_all(&mut self, account: usize, now: Millis) {
        let ids: Vec<InstanceId> = self
            .instances
            .values()
            .filter(|i| i.account == account && i.destroyed_ms.is_none() && i.wants_to_run)
            .map(|instance| instance.id)
            .collect();
        for id in ids {
            self.end_contract(id, now);
            self.at(id).wants_to_run = false;
        }
        self.settle(now);
    }
}
