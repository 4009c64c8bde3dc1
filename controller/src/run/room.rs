//! Whether the limits of a run that somebody starts again leave it something to train with: on its own box at its price, on another one at
//! the market's. Asked before anything of the run is changed.

use std::time::Duration;

use crate::{
    error::CommandError,
    estimate::gpus,
    ledger::Rates,
    run::{
        budget::{self, Shortage},
        judge::{self, Judged, Verdicts},
        known::Known,
        lifecycle::Lifecycle,
        offering::{OFFERS_LISTED, asked, see_market, wanted},
        planned::Bar,
        searching,
    },
    spec::{Resources, RunSpec},
    store::{AttemptRecord, RunRecord},
};

impl Lifecycle {
    /// Whether `limits.max_runtime` leaves time after the attempts up to `number`.
    ///
    /// # Errors
    /// It does not; or the record cannot be read.
    pub(super) fn has_time(&self, run: &RunRecord, number: u32) -> Result<(), CommandError> {
        let Some(limit) = run.spec.limits.max_runtime else {
            return Ok(());
        };
        if self.runtime_left(run, number + 1) != Some(Duration::ZERO) {
            return Ok(());
        }
        let limit_h = limit.as_secs_f64() / 3600.0;
        let text = format!("it has trained for all of `limits.max_runtime`, {limit_h:.1} h");
        let flag = format!(" --max-runtime {:.0}h", (2.0 * limit_h).ceil());
        Err(self.refused(run, &text, None, &flag)?)
    }

    /// Whether the budget leaves something to train with on the run's own box, at its price: what would be finished at once is not begun.
    ///
    /// # Errors
    /// It does not; or the record cannot be read.
    pub(super) fn has_money_here(
        &self,
        run: &RunRecord,
        own: &AttemptRecord,
    ) -> Result<(), CommandError> {
        let Some(purse) = run.spec.limits.purse() else {
            return Ok(());
        };
        match budget::shortage(purse, self.spent_usd(&run.name)?, own.prices()) {
            Some(short) => Err(self.too_poor(run, None, &short, 0.0)?),
            None => Ok(()),
        }
    }

    /// Whether the market has a box with which the budget leaves something to train with, at its price. Where it has none at all now, the run
    /// waits for one; but not for GPUs or a disk that were just named. The record's resources count, changed or not.
    ///
    /// # Errors
    /// It does not, or there is none such; or market or record cannot be read.
    pub async fn has_money_elsewhere(&self, run: &RunRecord) -> Result<(), CommandError> {
        let before = self.store.run(&run.name)?.spec.resources;
        let now = &run.spec.resources;
        let purse = run.spec.limits.purse();
        let is_renamed = changes(&before, now).is_some();
        if purse.is_none() && !is_renamed {
            return Ok(());
        }
        let provider = self.provider.as_ref();
        let offers = searching::for_run(provider, &run.spec, OFFERS_LISTED, true).await?;
        if offers.is_empty() && is_renamed && now.hosts.is_empty() {
            let text = format!("run `{}` was not started again", run.name);
            let err = CommandError::new(text).about(&run.name).because(format!(
                "the market has no {} with {} GB of disk that matches",
                wanted(now),
                now.disk_gb
            ));
            let meant = now.gpu_name.as_deref().and_then(gpus::meant);
            let err = meant.into_iter().fold(err, CommandError::hint);
            return Err(err.hint(see_market(now)));
        }
        let Some(purse) = purse else {
            return Ok(());
        };
        let spent_usd = self.spent_usd(&run.name)?;
        let typed = changes(&before, now).unwrap_or_else(|| "--elsewhere ".to_owned());
        let known = Known::read(&self.store, &run.spec, self.clock.now_us())?;
        let left_usd = Some(purse.budget_usd - spent_usd);
        let asked = asked(&run.spec, &known, left_usd, self.going_on(run)?);
        let verdicts = judge::judge(&asked, &offers);
        let bar = Bar::dared(self.dares(run)?);
        let short = match offers.is_empty() {
            true => {
                let prices = self.prices_before(run, &before)?;
                budget::shortage(purse, spent_usd, prices).map(|short| (short, 0.0))
            }
            false => too_poor_for_all(&verdicts, bar),
        };
        match short {
            Some((short, expected_usd)) => {
                Err(self.too_poor(run, Some(&typed), &short, expected_usd)?)
            }
            None => Ok(()),
        }
    }

    /// What its newest box that had prices cost, with the disk that is wanted now.
    fn prices_before(&self, run: &RunRecord, before: &Resources) -> Result<Rates, CommandError> {
        let attempts = self.store.attempts(&run.name)?;
        let mut prices = attempts.iter().rev().map(AttemptRecord::prices);
        let rates = prices.find(|rates| rates.total() > 0.0).unwrap_or_default();
        Ok(scaled(rates, before.disk_gb, run.spec.resources.disk_gb))
    }

    fn too_poor(
        &self,
        run: &RunRecord,
        typed: Option<&str>,
        short: &Shortage,
        expected_usd: f64,
    ) -> Result<CommandError, CommandError> {
        let flag = format!(" --budget {:.0}", short.enough_usd(expected_usd));
        self.refused(run, &short.to_string(), typed, &flag)
    }

    /// Names the whole command that is not refused for this. `typed`: the flags before the name, each with a space after it.
    fn refused(
        &self,
        run: &RunRecord,
        text: &str,
        typed: Option<&str>,
        flag: &str,
    ) -> Result<CommandError, CommandError> {
        let name = &run.name;
        let before = self.store.run(name)?.spec;
        let also = limits(&before, &run.spec, flag);
        let typed = typed.unwrap_or_default();
        Ok(
            CommandError::usage(format!("run `{name}` was not started again: {text}"))
                .about(name)
                .hint(format!(
                    "give it more: `spotter resume {typed}{name}{also}{flag}`"
                )),
        )
    }
}

/// The prices of a box with another disk (pure).
pub(crate) fn scaled(rates: Rates, from_gb: f64, to_gb: f64) -> Rates {
    let times = match from_gb > 0.0 {
        true => to_gb / from_gb,
        false => 1.0,
    };
    Rates {
        disk_usd_per_hour: rates.disk_usd_per_hour * times,
        ..rates
    }
}

/// The least that is wanting where the budget alone keeps the run from every offer that it could be on, and what it is expected to cost
/// there if it goes badly (pure); `None`: there is one, or it is not the budget.
fn too_poor_for_all(verdicts: &Verdicts<'_>, bar: Bar) -> Option<(Shortage, f64)> {
    if verdicts.best(bar).is_some() {
        return None;
    }
    let with_more = |judged: &Judged<'_>| {
        let rich = Judged {
            shortage: None,
            ..judged.clone()
        };
        rich.obstacle(bar).is_none()
    };
    let fit = verdicts.offers.iter().filter(|judged| with_more(judged));
    let least = fit
        .filter_map(|judged| Some((judged.shortage?, judged.expected_usd())))
        .min_by(|(one, one_usd), (other, other_usd)| {
            let enough = |short: &Shortage, usd: &f64| short.enough_usd(*usd);
            enough(one, one_usd).total_cmp(&enough(other, other_usd))
        });
    least.or_else(|| Some((verdicts.shortage?, 0.0)))
}

/// The flags of `resume` that name other GPUs and another disk, each with a space after it (pure); `None`: both are as before.
fn changes(before: &Resources, now: &Resources) -> Option<String> {
    let mut flags = String::new();
    if (&before.gpu_name, before.num_gpus) != (&now.gpu_name, now.num_gpus) {
        let name = now.gpu_name.as_deref().unwrap_or("any");
        flags += &format!("--gpus \"{name}:{}\" ", now.num_gpus);
    }
    if before.disk_gb != now.disk_gb {
        flags += &format!("--disk {}GB ", now.disk_gb);
    }
    (!flags.is_empty()).then_some(flags)
}

/// The flags of `resume` that raise limits other than the one of `flag`, each after a space (pure).
fn limits(before: &RunSpec, now: &RunSpec, flag: &str) -> String {
    let (before, now) = (&before.limits, &now.limits);
    let mut flags = String::new();
    if let Some(usd) = now.budget_usd.filter(|_| !flag.contains("--budget"))
        && before.budget_usd != now.budget_usd
    {
        flags += &format!(" --budget {usd}");
    }
    if let Some(time) = now.max_runtime.filter(|_| !flag.contains("--max-runtime"))
        && before.max_runtime != now.max_runtime
    {
        flags += &format!(" --max-runtime {}s", time.as_secs());
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_that_is_named_has_what_was_typed() {
        let before = RunSpec::from_flags_for_tests();
        let mut now = before.clone();
        assert_eq!(changes(&before.resources, &now.resources), None);
        assert_eq!(limits(&before, &now, " --budget 4"), "");
        now.resources.disk_gb = 99.5;
        now.resources.num_gpus = 8;
        now.resources.gpu_name = Some("H100 SXM".to_owned());
        now.limits.budget_usd = Some(3.5);
        now.limits.max_runtime = Some(Duration::from_secs(7200));
        assert_eq!(
            changes(&before.resources, &now.resources).unwrap(),
            "--gpus \"H100 SXM:8\" --disk 99.5GB "
        );
        assert_eq!(limits(&before, &now, " --budget 4"), " --max-runtime 7200s");
        assert_eq!(limits(&before, &now, " --max-runtime 9h"), " --budget 3.5");
    }

    #[test]
    fn a_disk_costs_by_its_size() {
        let rates = Rates {
            gpu_usd_per_hour: 0.4,
            disk_usd_per_hour: 0.01,
        };
        let twice = scaled(rates, 40.0, 80.0);
        assert_eq!(
            (twice.gpu_usd_per_hour, twice.disk_usd_per_hour),
            (0.4, 0.02)
        );
        assert_eq!(scaled(rates, 0.0, 80.0), rates);
    }
}
