//! What a test turns: how boxes load, how slowly they vanish, which offers are there and what they ask.

use crate::market::{Loading, Market, Millis};

impl Market {
    /// Sets how long image pulls take from now on.
    pub fn set_loading(&mut self, loading: Loading) {
        self.loading = loading;
    }

    /// Image pulls end with this text from now on, or well again.
    pub fn set_pull_failure(&mut self, text: Option<String>) {
        self.pull_failure = text;
    }

    /// How long instances that are destroyed from now on are shown.
    pub fn set_destroy_delay(&mut self, delay_ms: Millis) {
        self.destroy_delay_ms = delay_ms;
    }

    /// Takes an offer off the list; its GPUs are listed again under a new number.
    pub fn withdraw(&mut self, now: Millis, offer: u64) {
        self.advance(now);
        if let Some((machine, _)) = self.listing(offer) {
            self.machines[machine]
                .listings
                .retain(|listing| listing.id != offer);
            self.relist(machine);
        }
    }

    /// The machine of an offer asks at least this much for all GPUs of the offer from now on, $/h.
    pub fn raise_floor(&mut self, now: Millis, offer: u64, usd_per_hour: f64) {
        self.advance(now);
        if let Some((machine, gpus)) = self.listing(offer) {
            let spec = &mut self.machines[machine].spec;
            let each = usd_per_hour / gpus.len() as f64;
            spec.min_bid_usd_per_hour = spec.min_bid_usd_per_hour.max(each);
        }
    }

    /// Brings the list of a machine's offers in line with its free GPUs. Numbers are never used again.
    pub(crate) fn relist(&mut self, machine: usize) {
        let next = &mut self.next_offer;
        self.machines[machine].relist(|| {
            *next += 1;
            *next - 1
        });
    }
}
