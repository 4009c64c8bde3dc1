//! Whether a training fits the memory of a GPU: by what it was seen to take, else by formulas (pure).

use super::{Check, Demand, Supply};
use crate::estimate::{
    advice::MEMORY_CEILING,
    baseline::Taken,
    calibrated::Calibration,
    evaluate::{self, Method},
    memory,
    playbook::{self, Verdict},
};

/// What was seen needs no formula: there is as much here, or it was here. Cards of one name have several sizes.
pub(super) fn says_all(taken: &Taken<'_>, supply: &Supply<'_>) -> bool {
    let share = taken.gib / supply.vram_gib;
    share <= MEMORY_CEILING || (taken.as_is && share <= 1.0)
}

/// The check of the memory of one GPU.
pub(super) fn gpu_memory(
    demand: &Demand<'_>,
    supply: &Supply<'_>,
    method: Method,
    calibration: &Calibration,
    taken: Option<Taken<'_>>,
) -> Check {
    let parts = memory::peak(demand.job, &supply.machine);
    let detail = format!(
        "states {:.1}, activations {:.1}, logits and gathered layers {:.1} GiB",
        parts.states_gib, parts.activations_gib, parts.temporary_gib
    );
    let has = supply.vram_gib;
    let peak = calibration.peak_gib(demand.job, &supply.machine);
    let fits_at = calibration.fits_at(demand.job);
    let by_formula = Check {
        what: "GPU memory",
        needs: peak.base,
        safe_up_to: has / fits_at,
        risky_up_to: has,
        has,
        unit: "GiB",
        verdict: evaluate::verdict(peak, has, Method::Calibrated, fits_at),
        detail,
    };
    match method {
        Method::Calibrated => match taken {
            Some(taken) => as_taken(by_formula, taken, supply),
            None => by_formula,
        },
        Method::Playbook => {
            let required =
                playbook::required_vram_gb(playbook::vram_bytes(demand.job, &supply.machine));
            // The rules count GB; what the card reports is GiB.
            let has = has * memory::GIB / 1e9;
            Check {
                needs: required,
                safe_up_to: playbook::VRAM_SAFE * has,
                risky_up_to: playbook::VRAM_RISKY * has,
                has,
                unit: "GB",
                verdict: playbook::vram_verdict(required, has),
                ..by_formula
            }
        }
    }
}

/// The same check by what the training was seen to take. On a GPU with less memory than that the formulas say more: what a framework
/// keeps for later is a part of what was seen. But then it is never more than tight.
fn as_taken(by_formula: Check, taken: Taken<'_>, supply: &Supply<'_>) -> Check {
    let ceiling = MEMORY_CEILING * supply.vram_gib;
    let machine = &taken.past.machine;
    let seen = format!(
        "observation {} took {:.1} GiB on {} x {}",
        taken.past.observation,
        taken.gib,
        machine.gpus(),
        machine.gpu.name
    );
    if !says_all(&taken, supply) {
        return Check {
            verdict: by_formula.verdict.max(Verdict::Tight),
            detail: format!("{seen}, more than is safe here; {}", by_formula.detail),
            ..by_formula
        };
    }
    Check {
        needs: taken.gib,
        safe_up_to: ceiling,
        verdict: match taken.gib <= ceiling {
            true => Verdict::Fits,
            false => Verdict::Tight,
        },
        detail: format!(
            "{seen}; by formula {:.1}: {}",
            by_formula.needs, by_formula.detail
        ),
        ..by_formula
    }
}
