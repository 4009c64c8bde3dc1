//! What is read of GPUs whose driver answers.

use std::fs;

use nvml_probe::GpuProcess;
use spotter_agent::telemetry::{GpuSample, Sample};

use crate::world::{EIGHT_GPUS, PATIENCE, World, home, parts};

#[tokio::test(flavor = "multi_thread")]
async fn eight_gpus_are_sampled_with_their_values() {
    let world = World::start(EIGHT_GPUS, &parts().1, PATIENCE);
    let sample = world.sample(|sample| sample.gpus.len() == 8).await;

    for (index, gpu) in sample.gpus.iter().enumerate() {
        assert_eq!((gpu.index as usize, gpu.error), (index, 0));
        assert_eq!(&*gpu.name, "NVIDIA H100 80GB HBM3");
        assert_eq!(
            gpu.uuid.to_string(),
            format!("GPU-00000000-fa4e-0000-0000-{index:012}")
        );
        assert_eq!(gpu.memory_used_bytes, Some(61_234 << 20));
        assert_eq!(gpu.memory_total_bytes, Some(81_559 << 20));
        assert_eq!(
            (gpu.temperature_c, gpu.sm_clock_mhz, gpu.memory_clock_mhz),
            (Some(63), Some(1755), Some(2619))
        );
        assert_eq!(
            (gpu.throttle_reasons, gpu.energy_mj),
            (Some(4), Some(123_456_789))
        );
    }
    let load = |index: usize| {
        (
            sample.gpus[index].utilisation_percent,
            sample.gpus[index].power_mw,
        )
    };
    assert_eq!(
        (load(0), load(3)),
        ((Some(97), Some(612_000)), (Some(5), Some(70_500)))
    );

    let host = sample.host.as_ref().unwrap();
    assert!(
        host.memory_limit_bytes > Some(0)
            && host.disk_total_bytes > Some(0)
            && host.cpu_limit_cores > Some(0.0)
    );
    assert_eq!(
        (world.telemetry.gpu_problem(), world.problems()),
        (String::new(), vec![])
    );
    assert!(
        world.telemetry.since(0).any(|held| held == sample),
        "the history holds it"
    );
    assert!(
        world
            .telemetry
            .since(sample.time_us)
            .all(|held| held.time_us > sample.time_us)
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_drivers_are_asked_by_the_old_names_and_only_once_by_the_new() {
    let no_field_values = "* err.nvmlDeviceGetFieldValues NOT_SUPPORTED\n";
    let old = format!(
        "{no_field_values}\
* util.gpu 50
* mem.used_mib 100
* mem.reserved_mib 50
* power_w 250
* temp 40
* throttle 1
* err.nvmlDeviceGetMemoryInfo_v2 FUNCTION_NOT_FOUND
* err.nvmlDeviceGetTemperatureV FUNCTION_NOT_FOUND
* err.nvmlDeviceGetCurrentClocksEventReasons NOT_SUPPORTED
* err.nvmlDeviceGetTotalEnergyConsumption NOT_SUPPORTED
"
    );
    let world = World::start(&old, &parts().1, PATIENCE);
    let gpu = world
        .sample(|sample| sample.gpus.len() == 1)
        .await
        .gpus
        .remove(0);
    assert_eq!(
        gpu.memory_used_bytes,
        Some(150 << 20),
        "the first version counts the driver's reserve as used"
    );
    assert_eq!(
        (gpu.power_mw, gpu.temperature_c, gpu.throttle_reasons),
        (Some(250_000), Some(40), Some(1))
    );
    assert_eq!(
        (gpu.energy_mj, gpu.sm_clock_mhz, gpu.error),
        (None, None, 0)
    );

    world.play(&(old.replace(no_field_values, "* field.186 999000\n") + "* util.gpu 51\n"));
    let later = world
        .sample(|sample| sample.gpus[0].utilisation_percent == Some(51))
        .await;
    assert_eq!(
        later.gpus[0].power_mw,
        Some(250_000),
        "a call that was not supported is not made again"
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slow_tier_has_limits_links_errors_and_processes() {
    let full = format!(
        "{EIGHT_GPUS}\
* util.mem 41
* pstate 0
* power_limit_w 700
* fan 30
* field.82 71
* pcie.replays 2
* pcie.generation 5
* pcie.width 16
* nvlinks 18
* nvlink.3 0
* field.38 1
* field.45 2
* field.138 ramp 0 100000000 100
* field.139 ramp 0 50000000 100
* field.197 ramp 0 100000000000 100
* field.198 ramp 0 100000000000 100
* field.230 1
* ecc.corrected 3
* ecc.uncorrected 1
* ecc.corrected.lifetime 30
* ecc.uncorrected.lifetime 10
* remap 1 2 1 0
6 proc 4242:1073741824 4300:-
"
    );
    let world = World::start(&full, &parts().1, PATIENCE);
    let sample = world
        .sample(|sample| {
            let rates = |gpu: &GpuSample| gpu.pcie_tx_bytes_per_s.and(gpu.nvlink_tx_bytes_per_s);
            sample.gpus.len() == 8 && sample.gpus.iter().all(|gpu| rates(gpu).is_some())
        })
        .await;
    let gpu = &sample.gpus[6];
    assert_eq!(
        (
            gpu.memory_busy_percent,
            gpu.performance_state,
            gpu.memory_temperature_c
        ),
        (Some(41), Some(0), Some(71))
    );
    assert_eq!(
        (gpu.power_limit_mw, gpu.fan_percent),
        (Some(700_000), Some(30))
    );
    assert_eq!(
        (gpu.pcie_replays, gpu.pcie_generation, gpu.pcie_width),
        (Some(2), Some(5), Some(16))
    );
    assert_eq!((gpu.nvlinks_up, gpu.nvlink_errors), (Some(17), Some(3)));
    assert_eq!((gpu.ecc_corrected, gpu.ecc_uncorrected), (Some(3), Some(1)));
    assert_eq!(
        (gpu.ecc_corrected_lifetime, gpu.ecc_uncorrected_lifetime),
        (Some(30), Some(10))
    );
    assert_eq!(
        (gpu.remapped_rows_corrected, gpu.remapped_rows_uncorrected),
        (Some(1), Some(2))
    );
    assert_eq!(
        (gpu.remap_pending, gpu.remap_failed, gpu.recovery_action),
        (Some(1), Some(0), Some(1))
    );
    let process = |pid, memory_bytes| GpuProcess { pid, memory_bytes };
    assert_eq!(
        gpu.processes,
        [process(4242, Some(1 << 30)), process(4300, None)]
    );
    assert!(sample.gpus[5].processes.is_empty());
    // 1 GB/s and 1,000,000 KiB/s by the scenario's ramps; the clock of a busy machine makes it more or less.
    let near = |rate: Option<u64>, wanted: f64| {
        let rate = rate.unwrap() as f64;
        assert!(
            rate > wanted * 0.3 && rate < wanted * 3.0,
            "{rate} for {wanted}"
        );
    };
    near(gpu.pcie_rx_bytes_per_s, 1e9);
    near(gpu.nvlink_tx_bytes_per_s, 1.024e9);
    near(gpu.nvlink_rx_bytes_per_s, 0.512e9);
    assert_eq!((gpu.sm_active_percent, gpu.xid_count), (None, 0));

    let driver = world.telemetry.driver().unwrap();
    let card = &driver.gpus[6];
    assert_eq!((driver.driver.as_str(), driver.cuda), ("580.82.07", 13_000));
    assert_eq!(
        (card.pci_bus_id.as_str(), card.compute_capability, card.mig),
        ("00000000:16:00.0", 90, false)
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_without_ecc_links_or_counters_gives_what_it_has_and_is_asked_slowly_for_pcie() {
    let card = "* util.gpu 99\n* fan 61\n* pcie.tx_kbps 2000\n* pcie.rx_kbps 9000\n";
    let world = World::start(card, &parts().1, PATIENCE);
    let sample = world.sample(|sample| sample.gpus.len() == 1).await;
    let gpu = &sample.gpus[0];
    assert_eq!(
        (
            gpu.fan_percent,
            gpu.pcie_tx_bytes_per_s,
            gpu.pcie_rx_bytes_per_s
        ),
        (Some(61), Some(2_000_000), Some(9_000_000))
    );
    assert_eq!(
        (gpu.nvlinks_up, gpu.nvlink_tx_bytes_per_s, gpu.ecc_corrected),
        (None, None, None)
    );
    assert_eq!((gpu.remap_pending, gpu.error), (None, 0));

    // What it does not have is not asked for again, even when it would answer now.
    world.play(&format!(
        "{card}* ecc.corrected 5\n* ecc.uncorrected 0\n* fan 62\n"
    ));
    let later = world
        .sample(|sample| sample.gpus[0].fan_percent == Some(62))
        .await;
    assert_eq!(later.gpus[0].ecc_corrected, None);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_monitor_of_hopper_tells_what_the_cores_did_and_can_be_left_alone() {
    let hopper = "* gpm 1\n* util.gpu 100\n* nvlinks 2\n* gpm.2 87.5\n* gpm.3 40\n* gpm.5 55.25\n* gpm.10 61\n\
        * gpm.20 1024\n* gpm.21 2048\n* gpm.61 10\n* gpm.60 20\n";
    let world = World::start(hopper, &parts().1, PATIENCE);
    let active = |sample: &Sample| sample.gpus.first().and_then(|gpu| gpu.sm_active_percent);
    let sample = world.sample(|sample| active(sample).is_some()).await;
    let gpu = &sample.gpus[0];
    assert_eq!(
        (gpu.sm_active_percent, gpu.sm_occupancy_percent),
        (Some(87.5), Some(40.0))
    );
    assert_eq!(
        (gpu.tensor_active_percent, gpu.dram_active_percent),
        (Some(55.25), Some(61.0))
    );
    assert_eq!(
        (gpu.pcie_tx_bytes_per_s, gpu.pcie_rx_bytes_per_s),
        (Some(1 << 30), Some(2 << 30))
    );
    assert_eq!(
        (gpu.nvlink_tx_bytes_per_s, gpu.nvlink_rx_bytes_per_s),
        (Some(10 << 20), Some(20 << 20))
    );
    world.end().await;

    let home = home(hopper, &parts().1);
    let environment = home.path().join(".spotter/container.env");
    let mut text = fs::read(&environment).unwrap();
    text.extend_from_slice(b"SPOTTER_NO_GPM=1\0");
    fs::write(&environment, text).unwrap();
    let world = World::at(home, PATIENCE);
    let utilised = |sample: &Sample| sample.gpus.first().and_then(|gpu| gpu.utilisation_percent);
    for _ in 0..3 {
        let sample = world.sample(|sample| utilised(sample) == Some(100)).await;
        assert_eq!(active(&sample), None);
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_parts_of_a_split_gpu_are_read_where_the_whole_one_may_not_be() {
    let split = "\
0 mig 0 2
0 temp 40
0 err.nvmlDeviceGetMemoryInfo_v2 NO_PERMISSION
0 err.nvmlDeviceGetMemoryInfo NO_PERMISSION
0.0 name NVIDIA H100 80GB HBM3 MIG 1g.10gb
0.0 mem.total_mib 9856
0.0 mem.used_mib 512
0.2 uuid MIG-2
";
    let world = World::start(split, &parts().1, PATIENCE);
    let sample = world.sample(|sample| sample.gpus.len() == 1).await;
    let gpu = &sample.gpus[0];
    assert_eq!(
        (gpu.memory_used_bytes, gpu.temperature_c, gpu.error),
        (None, Some(40), 0)
    );
    assert_eq!(gpu.mig.len(), 2);
    assert_eq!(gpu.mig[0].name, "NVIDIA H100 80GB HBM3 MIG 1g.10gb");
    assert_eq!(
        (gpu.mig[0].memory_used_bytes, gpu.mig[0].memory_total_bytes),
        (Some(512 << 20), Some(9856 << 20))
    );
    assert_eq!((gpu.mig[1].index, gpu.mig[1].uuid.as_str()), (2, "MIG-2"));
    assert!(world.telemetry.driver().unwrap().gpus[0].mig);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_card_tells_its_retired_pages() {
    // The fields of pages that were retired, and of one that waits.
    let card = "* util.gpu 99\n* ecc.corrected 5\n* ecc.uncorrected 1\n* field.29 4\n* field.30 2\n* field.31 1\n";
    let world = World::start(card, &parts().1, PATIENCE);
    let sample = world
        .sample(|sample| {
            let told = |gpu: &GpuSample| gpu.retirement_pending.is_some();
            sample.gpus.len() == 1 && sample.gpus.iter().all(told)
        })
        .await;
    let gpu = &sample.gpus[0];
    assert_eq!(
        (gpu.retired_pages_corrected, gpu.retired_pages_uncorrected),
        (Some(4), Some(2))
    );
    assert_eq!((gpu.retirement_pending, gpu.remap_pending), (Some(1), None));
    world.end().await;
}
