//! What is known of runs to contract messages (pure): readings as the agent told them.

use spotter_proto::v1;

use crate::{
    agent_client::{
        GpuInfo, GpuProcessInfo, HostInfo, MigInfo, ProcessInfo, SampleInfo, TrainingInfo,
    },
    lookout::facts::{Facts, Reach},
    serve::{
        hub::{ToldEvent, ToldSample},
        prometheus::run_reading,
    },
    store::Origin,
    top::model,
};

/// Times before the epoch are none.
pub(super) fn unsigned(us: i64) -> u64 {
    u64::try_from(us).unwrap_or(0)
}

/// How a run stands.
pub(super) fn run(facts: &Facts, now_us: i64) -> v1::RunState {
    let (recorded, live) = (&facts.recorded, &facts.live);
    let reading = run_reading(facts, now_us);
    let status = live.status.as_ref();
    let told = status.and_then(|status| status.training.as_ref());
    let backup = status.and_then(|status| status.backup.as_ref());
    let (step, total_steps) = model::steps(facts);
    let reachable = facts.reach == Reach::Live;
    v1::RunState {
        run: recorded.name.clone(),
        attempt: recorded.attempt,
        state: recorded.state.clone(),
        over: recorded.is_over,
        reachable,
        watched: recorded.watched,
        gpus: recorded.gpus.clone(),
        created_us: unsigned(recorded.created_us),
        step,
        total_steps,
        training: told.filter(|_| reachable).map(training),
        usd_per_hour: recorded.usd_per_hour,
        cost_usd: recorded.cost_usd,
        budget_usd: recorded.budget_usd,
        checkpoints_committed: reading.committed,
        last_checkpoint_us: reading.last_checkpoint_us.map_or(0, unsigned),
        last_checkpoint_step: match backup.filter(|backup| backup.last_commit_us.is_some()) {
            // The name of the newest may have no step.
            Some(backup) => backup.last_step,
            None => recorded.saved.and_then(|(step, _)| step),
        },
        alerts: facts.alerts(),
    }
}

/// A reading and whose it is.
pub(super) fn run_sample(told: &ToldSample) -> v1::RunSample {
    v1::RunSample {
        run: told.run.clone(),
        attempt: told.attempt,
        sample: Some(sample(&told.sample)),
    }
}

/// Something that happened.
pub(super) fn run_event(told: &ToldEvent) -> v1::RunEvent {
    v1::RunEvent {
        id: unsigned(told.id),
        by_spotter: told.origin == Origin::Spotter,
        event: Some(v1::Event {
            seq: told.seq,
            time_us: unsigned(told.time_us),
            kind: told.kind.clone(),
            run: told.run.clone(),
            attempt: told.attempt,
            detail_json: told.detail.to_string(),
        }),
    }
}

fn sample(of: &SampleInfo) -> v1::Sample {
    v1::Sample {
        time_us: of.time_us,
        gpus: of.gpus.iter().map(gpu).collect(),
        host: of.host.as_ref().map(host),
        span_s: of.span_s,
        processes: of.processes.iter().map(process).collect(),
    }
}

fn gpu(of: &GpuInfo) -> v1::GpuSample {
    v1::GpuSample {
        index: of.index,
        name: of.name.clone(),
        uuid: of.uuid.clone(),
        error: of.error,
        utilisation_percent: of.utilisation_percent,
        memory_used_bytes: of.memory_used_bytes,
        memory_total_bytes: of.memory_total_bytes,
        power_mw: of.power_mw,
        temperature_c: of.temperature_c,
        sm_clock_mhz: of.sm_clock_mhz,
        memory_clock_mhz: of.memory_clock_mhz,
        throttle_reasons: of.throttle_reasons,
        energy_mj: of.energy_mj,
        memory_busy_percent: of.memory_busy_percent,
        memory_temperature_c: of.memory_temperature_c,
        performance_state: of.performance_state,
        sm_active_percent: of.sm_active_percent,
        sm_occupancy_percent: of.sm_occupancy_percent,
        tensor_active_percent: of.tensor_active_percent,
        dram_active_percent: of.dram_active_percent,
        mig: of.mig.iter().map(mig).collect(),
        power_limit_mw: of.power_limit_mw,
        fan_percent: of.fan_percent,
        pcie_tx_bytes_per_s: of.pcie_tx_bytes_per_s,
        pcie_rx_bytes_per_s: of.pcie_rx_bytes_per_s,
        pcie_replays: of.pcie_replays,
        pcie_generation: of.pcie_generation,
        pcie_width: of.pcie_width,
        nvlink_tx_bytes_per_s: of.nvlink_tx_bytes_per_s,
        nvlink_rx_bytes_per_s: of.nvlink_rx_bytes_per_s,
        nvlinks_up: of.nvlinks_up,
        nvlink_errors: of.nvlink_errors,
        ecc_corrected: of.ecc_corrected,
        ecc_uncorrected: of.ecc_uncorrected,
        ecc_corrected_lifetime: of.ecc_corrected_lifetime,
        ecc_uncorrected_lifetime: of.ecc_uncorrected_lifetime,
        remapped_rows_corrected: of.remapped_rows_corrected,
        remapped_rows_uncorrected: of.remapped_rows_uncorrected,
        remap_pending: of.remap_pending,
        remap_failed: of.remap_failed,
        retired_pages_corrected: of.retired_pages_corrected,
        retired_pages_uncorrected: of.retired_pages_uncorrected,
        retirement_pending: of.retirement_pending,
        recovery_action: of.recovery_action,
        processes: of.processes.iter().map(gpu_process).collect(),
        xid_count: of.xid_count,
        last_xid: of.last_xid,
        last_xid_us: of.last_xid_us,
    }
}

fn host(of: &HostInfo) -> v1::HostSample {
    v1::HostSample {
        cpu_percent: of.cpu_percent,
        cpu_limit_cores: of.cpu_limit_cores,
        memory_used_bytes: of.memory_used_bytes,
        memory_limit_bytes: of.memory_limit_bytes,
        disk_free_bytes: of.disk_free_bytes,
        disk_total_bytes: of.disk_total_bytes,
        network_rx_bytes: of.network_rx_bytes,
        network_tx_bytes: of.network_tx_bytes,
        oom_kills: of.oom_kills,
        cpu_throttled_us: of.cpu_throttled_us,
        cpu_pressure_percent: of.cpu_pressure_percent,
        memory_pressure_percent: of.memory_pressure_percent,
        io_pressure_percent: of.io_pressure_percent,
        memory_limit_hits: of.memory_limit_hits,
        disk_read_bytes_per_s: of.disk_read_bytes_per_s,
        disk_write_bytes_per_s: of.disk_write_bytes_per_s,
        network_rx_bytes_per_s: of.network_rx_bytes_per_s,
        network_tx_bytes_per_s: of.network_tx_bytes_per_s,
        shm_free_bytes: of.shm_free_bytes,
        shm_total_bytes: of.shm_total_bytes,
    }
}

fn process(of: &ProcessInfo) -> v1::ProcessSample {
    v1::ProcessSample {
        pid: of.pid,
        name: of.name.clone(),
        cpu_percent: of.cpu_percent,
        memory_bytes: of.memory_bytes,
    }
}

fn gpu_process(of: &GpuProcessInfo) -> v1::GpuProcess {
    v1::GpuProcess {
        pid: of.pid,
        memory_bytes: of.memory_bytes,
    }
}

fn mig(of: &MigInfo) -> v1::MigSample {
    v1::MigSample {
        index: of.index,
        name: of.name.clone(),
        uuid: of.uuid.clone(),
        memory_used_bytes: of.memory_used_bytes,
        memory_total_bytes: of.memory_total_bytes,
    }
}

fn training(of: &TrainingInfo) -> v1::TrainingRecord {
    v1::TrainingRecord {
        time_us: of.time_us,
        step: of.step,
        total_steps: of.total_steps,
        epoch: of.epoch,
        loss: of.loss,
        eval_loss: of.eval_loss,
        learning_rate: of.learning_rate,
        tokens_per_s: of.tokens_per_s,
        samples_per_s: of.samples_per_s,
        step_time_s: of.step_time_s,
        grad_norm: of.grad_norm,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::examples::{self, NOW_US};

    #[test]
    fn a_reading_goes_out_as_it_came_in() {
        let facts = examples::live(2);
        let told = facts.live.sample.clone().unwrap();
        assert_eq!(SampleInfo::from(sample(&told)), told);
        let training = facts.live.status.as_ref().unwrap().training.clone();
        let found = run(&facts, NOW_US);
        assert_eq!(found.training.map(TrainingInfo::from), training);
        assert_eq!((found.run.as_str(), found.attempt), ("llama-7b", 2));
        assert_eq!(found.last_checkpoint_step, Some(1200));
    }
}
