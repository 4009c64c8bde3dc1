//! The machines of the simulated market: real products at plausible prices, varied by the seed alone.

use crate::market::{
    Millis,
    machine::{GpuModel, Machine, MachineSpec},
};

/// GPU products, with the figures hosts report for them.
mod gpus {
    use super::GpuModel;

    pub(super) const RTX_3090: GpuModel = GpuModel {
        name: "RTX 3090",
        ram_mb: 24_576,
        mem_bw_gbps: 831.5,
        nvlink_gbps: 0.0,
        max_power_w: 350.0,
        max_temp_c: 93.0,
        compute_cap: 860,
        tflops: 35.6,
        dlperf: 38.4,
    };
    pub(super) const RTX_4090: GpuModel = GpuModel {
        name: "RTX 4090",
        ram_mb: 24_564,
        mem_bw_gbps: 885.7,
        nvlink_gbps: 0.0,
        max_power_w: 450.0,
        max_temp_c: 90.0,
        compute_cap: 890,
        tflops: 81.9,
        dlperf: 95.2,
    };
    pub(super) const A100_SXM4: GpuModel = GpuModel {
        name: "A100 SXM4",
        ram_mb: 81_920,
        mem_bw_gbps: 1_610.4,
        nvlink_gbps: 600.0,
        max_power_w: 400.0,
        max_temp_c: 92.0,
        compute_cap: 800,
        tflops: 19.5,
        dlperf: 68.9,
    };
    pub(super) const A100_PCIE: GpuModel = GpuModel {
        name: "A100 PCIE",
        ram_mb: 81_920,
        mem_bw_gbps: 1_530.2,
        nvlink_gbps: 0.0,
        max_power_w: 300.0,
        max_temp_c: 92.0,
        compute_cap: 800,
        tflops: 19.5,
        dlperf: 60.3,
    };
    pub(super) const H100_SXM: GpuModel = GpuModel {
        name: "H100 SXM",
        ram_mb: 81_559,
        mem_bw_gbps: 2_740.8,
        nvlink_gbps: 900.0,
        max_power_w: 700.0,
        max_temp_c: 87.0,
        compute_cap: 900,
        tflops: 67.0,
        dlperf: 172.6,
    };
}

/// The processors and boards that go with them.
#[derive(Clone)]
struct Platform {
    cpu_name: &'static str,
    cpu_cores: u32,
    cpu_ghz: f64,
    cpu_ram_mb: u64,
    mobo_name: &'static str,
    pci_gen: f64,
    pcie_bw_gbps: f64,
    disk_name: &'static str,
    disk_bw_mbps: f64,
}

const RYZEN: Platform = Platform {
    cpu_name: "AMD Ryzen 9 5950X 16-Core Processor",
    cpu_cores: 32,
    cpu_ghz: 3.4,
    cpu_ram_mb: 128_714,
    mobo_name: "X570 Taichi",
    pci_gen: 4.0,
    pcie_bw_gbps: 22.9,
    disk_name: "Samsung SSD 980 PRO 2TB",
    disk_bw_mbps: 2_480.0,
};
const EPYC: Platform = Platform {
    cpu_name: "AMD EPYC 7543 32-Core Processor",
    cpu_cores: 64,
    cpu_ghz: 2.8,
    cpu_ram_mb: 257_650,
    mobo_name: "ROMED8-2T",
    pci_gen: 4.0,
    pcie_bw_gbps: 24.6,
    disk_name: "SAMSUNG MZQL23T8HCLS",
    disk_bw_mbps: 3_120.5,
};
const DUAL_EPYC: Platform = Platform {
    cpu_name: "AMD EPYC 7763 64-Core Processor",
    cpu_cores: 256,
    cpu_ghz: 2.45,
    cpu_ram_mb: 1_031_690,
    mobo_name: "G492-ZD2-00",
    pci_gen: 4.0,
    pcie_bw_gbps: 25.1,
    disk_name: "SAMSUNG MZQL27T6HBLA",
    disk_bw_mbps: 5_210.0,
};
const DUAL_XEON: Platform = Platform {
    cpu_name: "Intel Xeon Platinum 8480+",
    cpu_cores: 224,
    cpu_ghz: 2.0,
    cpu_ram_mb: 2_063_530,
    mobo_name: "X13DEG-OAD",
    pci_gen: 5.0,
    pcie_bw_gbps: 52.4,
    disk_name: "KIOXIA KCD8XPUG7T68",
    disk_bw_mbps: 6_330.0,
};

/// One line of the list. Prices are $/h for one GPU; `floor` is the lowest bid's share of the list price.
#[derive(Clone)]
struct Row {
    gpu: GpuModel,
    gpus: usize,
    platform: Platform,
    usd: f64,
    floor: f64,
    disk_gb: f64,
    inet_mbps: (f64, f64),
    reliability: f64,
    place: &'static str,
    datacenter: bool,
    verification: &'static str,
    driver: (&'static str, f64),
}

const NEW: (&str, f64) = ("570.124.06", 12.8);
const USUAL: (&str, f64) = ("550.127.05", 12.4);
const OLD: (&str, f64) = ("535.183.01", 12.2);

#[rustfmt::skip]
fn rows() -> Vec<Row> {
    use gpus::*;
    let row = |gpu, gpus, platform, usd, floor, disk_gb, inet_mbps, reliability, place, datacenter, verification, driver| Row {
        gpu, gpus, platform, usd, floor, disk_gb, inet_mbps, reliability, place, datacenter, verification, driver,
    };
    vec![
        row(RTX_3090,  1, RYZEN,     0.17, 0.52,   640.0, (310.0, 480.0),   0.978, "Poland, PL",         false, "verified",   USUAL),
        row(RTX_3090,  2, RYZEN,     0.19, 0.47,   910.0, (410.0, 590.0),   0.991, "Ontario, CA",        false, "verified",   NEW),
        row(RTX_3090,  4, EPYC,      0.18, 0.50, 1_320.0, (620.0, 810.0),   0.986, "Texas, US",          false, "verified",   USUAL),
        row(RTX_3090,  8, EPYC,      0.21, 0.55, 2_450.0, (910.0, 940.0),   0.996, "Sweden, SE",         true,  "verified",   NEW),
        row(RTX_4090,  1, RYZEN,     0.31, 0.55,   720.0, (280.0, 610.0),   0.982, "Czechia, CZ",        false, "verified",   USUAL),
        row(RTX_4090,  1, RYZEN,     0.29, 0.60,   350.0, (90.0, 180.0),    0.942, "Vietnam, VN",        false, "unverified", OLD),
        row(RTX_4090,  2, EPYC,      0.36, 0.50, 1_180.0, (720.0, 860.0),   0.993, "Oregon, US",         false, "verified",   NEW),
        row(RTX_4090,  4, EPYC,      0.34, 0.50, 1_640.0, (812.3, 934.8),   0.995, "Quebec, CA",         false, "verified",   NEW),
        row(RTX_4090,  8, DUAL_EPYC, 0.41, 0.58, 3_900.0, (2_900.0, 3_300.0), 0.998, "Norway, NO",       true,  "verified",   NEW),
        row(A100_PCIE, 2, EPYC,      0.78, 0.60, 1_900.0, (1_800.0, 2_100.0), 0.994, "France, FR",       true,  "verified",   USUAL),
        row(A100_SXM4, 4, DUAL_EPYC, 0.94, 0.62, 3_100.0, (3_900.0, 4_400.0), 0.997, "Virginia, US",     true,  "verified",   USUAL),
        row(A100_SXM4, 8, DUAL_EPYC, 1.02, 0.65, 6_300.0, (7_200.0, 7_900.0), 0.999, "Iceland, IS",      true,  "verified",   NEW),
        row(H100_SXM,  1, DUAL_XEON, 2.05, 0.62, 1_400.0, (4_100.0, 4_600.0), 0.990, "Netherlands, NL",  true,  "verified",   NEW),
        row(H100_SXM,  4, DUAL_XEON, 2.18, 0.60, 3_700.0, (6_400.0, 6_900.0), 0.997, "California, US",   true,  "verified",   NEW),
        row(H100_SXM,  8, DUAL_XEON, 2.34, 0.66, 7_000.0, (8_800.0, 9_300.0), 0.999, "Finland, FI",      true,  "verified",   NEW),
        row(H100_SXM,  8, DUAL_XEON, 2.02, 0.64, 5_200.0, (5_500.0, 6_100.0), 0.961, "Japan, JP",        true,  "unverified", USUAL),
    ]
}

/// Machines of the usual market, one for each line of the list.
pub const MACHINES: usize = 16;
/// Machines of the largest one: each has an address of its own in the range for documentation.
pub const MOST_MACHINES: usize = 240;

/// The machines for this seed, listed from a month before `now` until three months after it.
pub fn machines(seed: u64, now: Millis) -> Vec<Machine> {
    machines_of(MACHINES, seed, now)
}

/// The same for a market of `count` machines; beyond [`MACHINES`] the list begins again, at other prices.
pub fn machines_of(count: usize, seed: u64, now: Millis) -> Vec<Machine> {
    const DAY_MS: Millis = 86_400_000;
    rows()
        .into_iter()
        .cycle()
        .take(count.min(MOST_MACHINES))
        .enumerate()
        .map(|(index, row)| {
            let index = index as u64;
            // Up to 6 % either way, so that two seeds do not rank the same machines first.
            let vary = |what: &str| 0.94 + 0.12 * fraction(seed, what, index);
            let cents = |usd: f64| (usd * 1000.0).round() / 1000.0;
            let gpu_usd_per_hour = cents(row.usd * vary("price"));
            Machine::new(MachineSpec {
                id: 41_860 + index,
                host_id: 120_390 + index / 2,
                bundle_id: 1_240_077_100 + index,
                datacenter: row.datacenter,
                gpu: row.gpu,
                num_gpus: row.gpus,
                first_gpu_id: 301_100 + index * 16,
                cpu_name: row.platform.cpu_name,
                cpu_cores: row.platform.cpu_cores,
                cpu_ghz: row.platform.cpu_ghz,
                cpu_ram_mb: row.platform.cpu_ram_mb,
                mobo_name: row.platform.mobo_name,
                os_version: "22.04",
                pci_gen: row.platform.pci_gen,
                pcie_bw_gbps: row.platform.pcie_bw_gbps,
                disk_name: row.platform.disk_name,
                disk_gb: row.disk_gb,
                disk_bw_mbps: row.platform.disk_bw_mbps,
                inet_up_mbps: (row.inet_mbps.0 * vary("up")).round(),
                inet_down_mbps: (row.inet_mbps.1 * vary("down")).round(),
                inet_up_usd_per_gb: if row.datacenter { 0.002 } else { 0.003 },
                inet_down_usd_per_gb: if row.datacenter { 0.001 } else { 0.002 },
                // Addresses of the range for documentation: nothing can be reached by mistake.
                public_ipaddr: format!("203.0.113.{}", 10 + index),
                static_ip: row.datacenter,
                direct_port_count: if row.datacenter { 499 } else { 249 },
                geolocation: row.place,
                verification: row.verification,
                reliability: row.reliability,
                driver_version: row.driver.0,
                cuda_max_good: row.driver.1,
                start_ms: now - 30 * DAY_MS,
                end_ms: now + 90 * DAY_MS,
                gpu_usd_per_hour,
                min_bid_usd_per_hour: cents(gpu_usd_per_hour * row.floor),
                storage_usd_per_gb_month: if row.datacenter { 0.2 } else { 0.15 },
            })
        })
        .collect()
}

/// 64 hex digits for a purpose: the same for the same seed, unlike for any other.
pub fn secret(seed: u64, purpose: &str, number: u64) -> String {
    blake3::hash(format!("{seed} {purpose} {number}").as_bytes())
        .to_hex()
        .to_string()
}

/// A number from 0 to 1 that only this seed gives for this purpose.
fn fraction(seed: u64, purpose: &str, number: u64) -> f64 {
    let hash = blake3::hash(format!("{seed} {purpose} {number}").as_bytes());
    let bytes: [u8; 4] = hash.as_bytes()[..4]
        .try_into()
        .expect("a hash has 32 bytes");
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_market_and_another_seed_another() {
        assert_eq!(machines(7, 0), machines(7, 0));
        assert_ne!(machines(7, 0), machines(8, 0));
        assert_ne!(secret(7, "a", 0), secret(7, "b", 0));
    }

    #[test]
    fn a_larger_market_begins_with_the_usual_one_and_repeats_no_number_or_address() {
        let (usual, larger) = (machines(7, 0), machines_of(100, 7, 0));
        assert_eq!((usual.len(), larger.len()), (MACHINES, 100));
        assert_eq!(usual, larger[..MACHINES]);
        let distinct = |key: &dyn Fn(&MachineSpec) -> String| {
            let keys: std::collections::BTreeSet<String> =
                larger.iter().map(|machine| key(&machine.spec)).collect();
            keys.len()
        };
        assert_eq!(distinct(&|spec| spec.id.to_string()), 100);
        assert_eq!(distinct(&|spec| spec.public_ipaddr.clone()), 100);
        assert_eq!(machines_of(1000, 7, 0).len(), MOST_MACHINES);
    }

    #[test]
    fn every_product_has_a_machine_and_every_floor_is_below_its_price() {
        let machines = machines(1, 0);
        for name in ["RTX 3090", "RTX 4090", "A100 SXM4", "A100 PCIE", "H100 SXM"] {
            assert!(
                machines.iter().any(|machine| machine.spec.gpu.name == name),
                "{name}"
            );
        }
        for machine in &machines {
            let spec = &machine.spec;
            assert!(
                spec.min_bid_usd_per_hour < spec.gpu_usd_per_hour,
                "{spec:?}"
            );
            assert!([1, 2, 4, 8].contains(&spec.num_gpus), "{spec:?}");
        }
    }
}
