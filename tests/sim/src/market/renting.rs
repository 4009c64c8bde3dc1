//! Renting: from an order to a box, and its end.

use crate::market::{
    Effect, InstanceId, Market, Millis, Refused, Rented, bill,
    instance::{Container, Contract, Instance, Intended, Order, Status, Step},
    machine,
};

impl Market {
    /// Rents an offer. The offer's number is dead afterwards, whatever becomes of the instance.
    ///
    /// # Errors
    /// When the offer is gone, the account has no credit, or the order makes no sense; then nothing was made.
    pub fn rent(
        &mut self,
        now: Millis,
        account: usize,
        offer: u64,
        order: Order,
    ) -> Result<Rented, Refused> {
        self.advance(now);
        if self.credit_usd(account, now) <= 0.0 {
            return Err(Refused::InsufficientCredit);
        }
        let (machine, gpus) = self.listing(offer).ok_or(Refused::NoSuchAsk(offer))?;
        order.check(self.free_disk_gb(machine))?;

        let spec = &self.machines[machine].spec;
        let count = gpus.len() as f64;
        let competitive = order
            .bid_usd_per_hour
            .is_none_or(|bid| bid >= self.machines[machine].price_to_beat(gpus.len()));
        if !competitive && order.cancel_unavailable {
            return Err(Refused::NoSuchAsk(offer));
        }
        let id = self.next_instance;
        self.next_instance += 1;
        let runs = competitive && !order.start_stopped;
        let instance = Instance {
            id,
            account,
            machine,
            gpus,
            list_usd_per_hour: spec.gpu_usd_per_hour * count,
            storage_usd_per_hour: machine::storage_usd_per_hour(
                spec.storage_usd_per_gb_month,
                order.disk_gb,
            ),
            intended: Intended::Stopped,
            contract: Contract::Stopped,
            status: None,
            status_msg: None,
            wants_to_run: !order.start_stopped,
            container: Container::Down,
            epoch: 0,
            address: None,
            metered: false,
            created_ms: now,
            container_started_ms: None,
            exit_shows_ms: 0,
            ended: false,
            restart: None,
            delete_ms: None,
            destroyed_ms: None,
            shown_until_ms: 0,
            ssh_keys: self.accounts[account].ssh_keys.clone(),
            api_key: self.secret("instance key", id),
            jupyter_token: self.secret("jupyter token", id),
            bill: bill::Bill::default(),
            next: None,
            order,
        };
        let api_key = instance.api_key.clone();
        self.instances.insert(id, instance);
        self.effects.push(Effect::Create(id));
        if runs {
            let taken = self.try_take(id, now);
            debug_assert!(taken, "an offer lists free GPUs only");
            let created = now + self.delays.created_ms;
            self.at(id).next = Some((created, Step::Created));
        } else {
            self.at(id).status = Some(Status::Created);
        }
        // The number that was rented is dead even when its GPUs can still be had.
        self.machines[machine]
            .listings
            .retain(|listing| listing.id != offer);
        self.settle(now);
        self.meter(id, now);
        Ok(Rented {
            id,
            api_key,
            competitive,
        })
    }

    /// Ends an instance and its bill.
    ///
    /// # Errors
    /// When it does not exist any more.
    pub fn destroy(&mut self, now: Millis, id: InstanceId) -> Result<(), Refused> {
        self.advance(now);
        self.living(id)?;
        self.unload(id, now);
        Ok(())
    }

    pub(super) fn unload(&mut self, id: InstanceId, now: Millis) {
        self.release(id);
        let shown_until_ms = now + self.destroy_delay_ms;
        let instance = self.at(id);
        instance.contract = Contract::Unloaded;
        instance.intended = Intended::Stopped;
        instance.wants_to_run = false;
        instance.metered = false;
        instance.address = None;
        instance.next = None;
        instance.destroyed_ms = Some(now);
        instance.shown_until_ms = shown_until_ms;
        instance.bill.close(now);
        self.effects.push(Effect::Destroy(id));
        self.settle(now);
    }

    /// Sets the label.
    ///
    /// # Errors
    /// When the instance does not exist any more.
    pub fn label(&mut self, now: Millis, id: InstanceId, label: String) -> Result<(), Refused> {
        self.advance(now);
        self.living(id)?;
        self.at(id).order.label = Some(label);
        Ok(())
    }

    /// Changes what a container is made from; takes effect when it is made anew.
    ///
    /// # Errors
    /// When the instance does not exist any more.
    pub fn reorder(
        &mut self,
        now: Millis,
        id: InstanceId,
        image: Option<String>,
        onstart: Option<String>,
    ) -> Result<(), Refused> {
        self.advance(now);
        self.living(id)?;
        let order = &mut self.at(id).order;
        order.image = image.unwrap_or_else(|| std::mem::take(&mut order.image));
        order.onstart = onstart.or_else(|| order.onstart.take());
        Ok(())
    }
}
