//! The term of a contract: what becomes of the instances of a machine when its listing ends.

use crate::market::{InstanceId, Market, Millis, Refused};

/// The latest end that can be set, seconds from now: ten years.
pub const LONGEST_S: f64 = 315_360_000.0;

impl Market {
    /// The listing of an instance's machine ends `after_ms` from now, and with it every contract on it. Answers that moment.
    ///
    /// # Errors
    /// When the instance does not exist any more, or its contract has ended already.
    pub fn end_term(
        &mut self,
        now: Millis,
        id: InstanceId,
        after_ms: Millis,
    ) -> Result<Millis, Refused> {
        self.advance(now);
        let machine = self.living(id)?.machine;
        if self.machines[machine].ended {
            let text = format!("the contract of instance {id} has ended already");
            return Err(Refused::Impossible(text));
        }
        self.machines[machine].spec.end_ms = now + after_ms;
        self.advance(now);
        Ok(now + after_ms)
    }

    /// Everything on the machine stops and stays stopped; later it is deleted.
    pub(crate) fn term_ends(&mut self, machine: usize, now: Millis) {
        self.machines[machine].ended = true;
        let deleted = now + self.delays.deletion_ms;
        for id in self.living_on(machine) {
            let instance = self.at(id);
            instance.wants_to_run = false;
            instance.delete_ms = Some(deleted);
            self.end_contract(id, now);
        }
        self.settle(now);
    }
}
