//! The rows of the API, key by key: an offer, and an instance.

use serde_json::{Map, Value, json};

use crate::market::{
    Market, Millis,
    instance::{Contract, Instance, Status},
    machine::{Listing, Machine, MachineSpec, storage_usd_per_hour},
};

/// Share of the price that a prepayment can save at most.
const CREDIT_DISCOUNT_MAX: f64 = 0.4;
/// A row shows this much more than one's bid as the price to beat.
const OWN_BID_MARGIN: f64 = 1.2;
/// What ssh's proxy is called while nothing listens; cannot be resolved, so nobody is reached by mistake.
const NO_PROXY: &str = "ssh.spotter-sim.invalid";

/// Price of a search: which price counts as the GPU's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pricing {
    /// List price.
    OnDemand,
    /// Lowest bid.
    Bid,
}

fn seconds(millis: Millis) -> f64 {
    millis as f64 / 1000.0
}

fn entries(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(entries) => entries,
        _ => Map::new(),
    }
}

/// What offers and instances say alike about the machine.
fn hardware(spec: &MachineSpec, gpus: usize) -> Map<String, Value> {
    let gpu = &spec.gpu;
    let share = spec.share(gpus);
    let mut row = entries(json!({
        "machine_id": spec.id, "host_id": spec.host_id, "bundle_id": spec.bundle_id,
        "hosting_type": u8::from(spec.datacenter), "cluster_id": null, "resource_type": "gpu",
        "num_gpus": gpus, "gpu_name": gpu.name, "gpu_arch": "nvidia", "gpu_ram": gpu.ram_mb, "gpu_frac": share,
        "gpu_lanes": 16, "gpu_mem_bw": gpu.mem_bw_gbps, "gpu_max_power": gpu.max_power_w, "gpu_max_temp": gpu.max_temp_c,
        "gpu_display_active": false, "bw_nvlink": if gpus > 1 { gpu.nvlink_gbps } else { 0.0 },
        "compute_cap": gpu.compute_cap, "cuda_max_good": spec.cuda_max_good,
        "driver_version": spec.driver_version, "driver_vers": driver_number(spec.driver_version),
        "total_flops": gpu.tflops * gpus as f64, "dlperf": gpu.dlperf * gpus as f64,
    }));
    row.extend(entries(json!({
        "cpu_name": spec.cpu_name, "cpu_arch": "amd64", "cpu_cores": spec.cpu_cores,
        "cpu_cores_effective": f64::from(spec.cpu_cores) * share, "cpu_ghz": spec.cpu_ghz, "cpu_ram": spec.cpu_ram_mb,
        "has_avx": 1, "mobo_name": spec.mobo_name, "os_version": spec.os_version, "pci_gen": spec.pci_gen,
        "pcie_bw": spec.pcie_bw_gbps, "disk_name": spec.disk_name, "disk_bw": spec.disk_bw_mbps,
        "inet_up": spec.inet_up_mbps, "inet_down": spec.inet_down_mbps,
        "inet_up_cost": spec.inet_up_usd_per_gb, "inet_down_cost": spec.inet_down_usd_per_gb,
        "internet_up_cost_per_tb": spec.inet_up_usd_per_gb * 1000.0,
        "internet_down_cost_per_tb": spec.inet_down_usd_per_gb * 1000.0,
        "static_ip": spec.static_ip, "direct_port_count": spec.direct_port_count,
        "geolocation": spec.geolocation, "logo": "/static/logos/vastai_small2.png", "webpage": null,
        "verification": spec.verification, "vericode": u8::from(spec.verification == "verified"),
        "is_vm_deverified": false, "vms_enabled": false, "external": null,
        "reliability2": spec.reliability,
        "storage_cost": spec.storage_usd_per_gb_month, "credit_discount_max": CREDIT_DISCOUNT_MAX,
    })));
    row
}

/// What follows from a price: totals and value for money.
fn prices(spec: &MachineSpec, gpus: usize, gpu_usd: f64, disk_usd: f64) -> Map<String, Value> {
    let total = gpu_usd + disk_usd;
    let ram_mb = spec.gpu.ram_mb as f64 * gpus as f64;
    let dlperf_per_dphtotal = spec.gpu.dlperf * gpus as f64 / total;
    entries(json!({
        "dph_base": gpu_usd, "storage_total_cost": disk_usd, "dph_total": total,
        "dlperf_per_dphtotal": dlperf_per_dphtotal,
        "flops_per_dphtotal": spec.gpu.tflops * gpus as f64 / total,
        "vram_costperhour": total / ram_mb,
        "score": dlperf_per_dphtotal * reliability_mult(spec) * expected_reliability(spec),
    }))
}

fn breakdown(gpu_usd: f64, disk_usd: f64) -> Value {
    json!({
        "gpuCostPerHour": gpu_usd, "diskHour": disk_usd, "totalHour": gpu_usd + disk_usd,
        "discountTotalHour": 0.0, "discountedTotalPerHour": gpu_usd + disk_usd,
    })
}

/// One offer, priced for a disk of `allocated_gb`.
pub fn offer(
    machine: &Machine,
    listing: &Listing,
    free_disk_gb: f64,
    pricing: Pricing,
    allocated_gb: f64,
    rented_here: bool,
    now: Millis,
) -> Map<String, Value> {
    let spec = &machine.spec;
    let gpus = listing.gpus.len();
    let min_bid = machine.price_to_beat(gpus);
    let gpu_usd = match pricing {
        Pricing::OnDemand => spec.gpu_usd_per_hour * gpus as f64,
        Pricing::Bid => min_bid,
    };
    let disk_usd = storage_usd_per_hour(spec.storage_usd_per_gb_month, allocated_gb);
    let total = gpu_usd + disk_usd;
    let mut row = hardware(spec, gpus);
    row.extend(prices(spec, gpus, gpu_usd, disk_usd));
    row.extend(entries(json!({
        "id": listing.id, "ask_contract_id": listing.id, "bundled_results": null, "hostname": null, "rn": 1,
        "gpu_total_ram": spec.gpu.ram_mb * gpus as u64,
        "gpu_ids": listing.gpus.iter().map(|gpu| spec.first_gpu_id + *gpu as u64).collect::<Vec<_>>(),
        "disk_space": free_disk_gb, "nw_disk_min_bw": null, "nw_disk_max_bw": null, "nw_disk_avg_bw": null,
        "public_ipaddr": spec.public_ipaddr, "geolocode": geolocode(spec.geolocation),
        "reliability": spec.reliability, "reliability_mult": reliability_mult(spec),
        "expected_reliability": expected_reliability(spec),
        "rentable": true, "rented": rented_here, "is_bid": false,
        "start_date": seconds(spec.start_ms), "end_date": seconds(spec.end_ms), "duration": seconds(spec.end_ms - now),
        "time_remaining": "", "time_remaining_isbid": "",
        "dph_total_adj": total / reliability_mult(spec), "min_bid": min_bid,
        "discount_rate": 0.0, "discounted_hourly": 0.0, "discounted_dph_total": total, "platform_fee": null,
        "search": breakdown(gpu_usd, disk_usd), "instance": breakdown(0.0, disk_usd),
        "avail_vol_ask_id": listing.id + 776, "avail_vol_dph": storage_usd_per_hour(spec.storage_usd_per_gb_month, 1.0),
        "avail_vol_size": (free_disk_gb * 0.6).floor(),
    })));
    // A search row's breakdown takes no discount, and says so with a zero.
    row["search"]["discountTotalHour"] = 0.0.into();
    row
}

/// One instance.
pub fn instance(market: &Market, instance: &Instance, now: Millis) -> Map<String, Value> {
    let machine = market.machine_of(instance);
    let spec = &machine.spec;
    let gpus = instance.gpus.len();
    let gpu_usd = instance.gpu_usd_per_hour();
    let disk_usd = instance.storage_usd_per_hour;
    let charged = if instance.metered { gpu_usd } else { 0.0 };
    let up = instance
        .address
        .filter(|_| instance.status == Some(Status::Running));
    let order = &instance.order;
    let floor = market.floor_usd_per_hour(instance);
    let min_bid = order
        .bid_usd_per_hour
        .map_or(floor, |bid| floor.max(bid * OWN_BID_MARGIN));
    let mut row = hardware(spec, gpus);
    row.extend(prices(spec, gpus, gpu_usd, disk_usd));
    row.extend(entries(json!({
        "id": instance.id,
        "actual_status": instance.shown_status(now).map(Status::word), "intended_status": instance.intended.word(),
        "cur_state": instance.contract.word(), "next_state": instance.contract.word(),
        "status_msg": instance.status_msg, "label": order.label,
        "template_id": null, "template_hash_id": null, "template_name": null,
        "image_uuid": order.image, "image_args": order.args, "image_runtype": order.runtype,
        "extra_env": order.env, "onstart": order.onstart, "jupyter_token": instance.jupyter_token,
        "ssh_host": up.map_or(NO_PROXY.to_owned(), |address| address.ip().to_string()),
        "ssh_idx": "6", "ssh_port": up.map_or(10_000 + instance.id % 20_000, |address| u64::from(address.port())),
        "machine_dir_ssh_port": 21_000,
        "public_ipaddr": up.map_or(spec.public_ipaddr.clone(), |address| address.ip().to_string()),
        "local_ipaddrs": "10.0.0.5 172.17.0.2 \n",
        "ports": ports(up),
        "direct_port_start": -1, "direct_port_end": -1, "country_code": spec.country(),
        "start_date": seconds(instance.created_ms), "end_date": seconds(spec.end_ms),
        "duration": seconds(spec.end_ms - now),
        "uptime_mins": up.and(instance.container_started_ms).map(|since| seconds(now - since) / 60.0),
    })));
    row.extend(entries(json!({
        "gpu_totalram": spec.gpu.ram_mb * gpus as u64, "gpu_util": null, "gpu_temp": null, "cpu_util": null,
        "mem_limit": spec.ram_share_mb(gpus) / 1024.0, "mem_usage": null, "vmem_usage": null,
        "disk_space": order.disk_gb, "disk_usage": -1.0, "disk_util": -1.0,
        "inet_up_billed": instance.bill.traffic.iter().map(|traffic| traffic.up_gb * 1e6).sum::<f64>(),
        "inet_down_billed": instance.bill.traffic.iter().map(|traffic| traffic.down_gb * 1e6).sum::<f64>(),
        "rentable": instance.contract != Contract::Running, "is_bid": order.bid_usd_per_hour.is_some(), "min_bid": min_bid,
        "external": false,
        "search": breakdown(gpu_usd, disk_usd), "instance": breakdown(charged, disk_usd),
        "credit_balance": null, "credit_discount": null,
        "client_run_time": seconds(now - instance.created_ms), "host_run_time": seconds(spec.end_ms - now),
        "time_remaining": in_words(spec.end_ms - now), "time_remaining_isbid": in_words(spec.end_ms - now),
    })));
    row
}

/// Docker's port map: ssh only, since nothing listens on the other ports of a simulated box.
fn ports(up: Option<std::net::SocketAddr>) -> Value {
    up.map_or_else(
        || json!({}),
        |address| json!({"22/tcp": [{"HostIp": "0.0.0.0", "HostPort": address.port().to_string()}]}),
    )
}

/// `570.124.06` as 570124006: three digits for each part.
fn driver_number(version: &str) -> u64 {
    version
        .split('.')
        .filter_map(|part| part.parse::<u64>().ok())
        .fold(0, |sum, part| sum * 1000 + part)
}

fn reliability_mult(spec: &MachineSpec) -> f64 {
    (spec.reliability * 100.0).floor() / 100.0
}

fn expected_reliability(spec: &MachineSpec) -> f64 {
    ((spec.reliability - 0.002) * 1000.0).floor() / 1000.0
}

fn geolocode(place: &str) -> u32 {
    place.bytes().fold(7, |code: u32, byte| {
        code.wrapping_mul(31).wrapping_add(u32::from(byte))
    }) % 10_000_000
}

/// `3 Mon 6 D 1 Hr`.
fn in_words(millis: Millis) -> String {
    let hours = (millis / 3_600_000).max(0);
    let (months, days) = (hours / 720, hours / 24 % 30);
    format!("{months} Mon {days} D {} Hr", hours % 24)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::market::catalogue;

    /// The sample of the reference: every key with its arithmetic.
    fn sample() -> Machine {
        let mut machine = catalogue::machines(0, 1_795_301_600_000).swap_remove(7);
        let spec = &mut machine.spec;
        spec.gpu_usd_per_hour = 0.34;
        spec.min_bid_usd_per_hour = 0.17;
        spec.storage_usd_per_gb_month = 0.15;
        spec.end_ms = 1_803_600_000_000;
        machine
    }

    fn priced(pricing: Pricing, gpus: usize) -> Map<String, Value> {
        let listing = Listing {
            id: 36_230_001,
            gpus: (0..gpus).collect(),
        };
        offer(
            &sample(),
            &listing,
            812.4,
            pricing,
            40.0,
            false,
            1_795_301_600_000,
        )
    }

    #[test]
    fn the_arithmetic_of_an_offer_holds_to_the_last_digit() {
        let row = priced(Pricing::OnDemand, 1);
        let number = |key: &str| row[key].as_f64().unwrap();
        assert_eq!(number("storage_total_cost"), 0.008_333_333_333_333_333);
        // The sample prints the decimal sum; added as doubles it is one unit of the last place more.
        assert!((number("dph_total") - 0.348_333_333_333_333_33).abs() <= f64::EPSILON / 4.0);
        assert_eq!(
            0.21 + number("storage_total_cost"),
            0.218_333_333_333_333_32
        );
        assert_eq!(number("duration"), 8_298_400.0);
        assert_eq!(number("gpu_frac"), 0.25);
        assert_eq!(number("cpu_cores_effective"), 16.0);
        assert_eq!(row["driver_vers"], 570_124_006);
        assert_eq!(row["internet_down_cost_per_tb"], 2.0);
        // The sample prints these with fewer digits.
        assert!((number("dlperf_per_dphtotal") - 273.301_435_4).abs() < 1e-7);
        assert!((number("flops_per_dphtotal") - 235.119_617_2).abs() < 1e-7);
        assert!((number("vram_costperhour") - 1.418_064_37e-5).abs() < 1e-13);
        assert_eq!(row["search"]["totalHour"], row["dph_total"]);
        assert_eq!(row["instance"]["totalHour"], row["storage_total_cost"]);
    }

    #[test]
    fn a_bid_search_is_priced_at_the_floor() {
        let row = priced(Pricing::Bid, 2);
        assert_eq!(row["min_bid"], 0.34);
        assert_eq!(row["dph_total"], 0.34 + 0.15 * 40.0 / 720.0);
        assert_eq!(row["gpu_total_ram"], 49_128);
    }

    #[test]
    fn an_offer_has_exactly_the_documented_keys() {
        let documented = "id ask_contract_id bundle_id bundled_results machine_id host_id hostname hosting_type cluster_id \
            resource_type rn num_gpus gpu_name gpu_arch gpu_ram gpu_total_ram gpu_frac gpu_lanes gpu_mem_bw gpu_max_power \
            gpu_max_temp gpu_ids gpu_display_active bw_nvlink compute_cap cuda_max_good driver_version driver_vers \
            total_flops dlperf cpu_name cpu_arch cpu_cores cpu_cores_effective cpu_ghz cpu_ram has_avx mobo_name os_version \
            pci_gen pcie_bw disk_name disk_space disk_bw nw_disk_min_bw nw_disk_max_bw nw_disk_avg_bw inet_up inet_down \
            inet_up_cost inet_down_cost internet_up_cost_per_tb internet_down_cost_per_tb public_ipaddr static_ip \
            direct_port_count geolocation geolocode logo webpage verification vericode is_vm_deverified vms_enabled external \
            reliability reliability2 reliability_mult expected_reliability rentable rented is_bid start_date end_date \
            duration time_remaining time_remaining_isbid score dph_base storage_cost storage_total_cost dph_total \
            dph_total_adj min_bid dlperf_per_dphtotal flops_per_dphtotal vram_costperhour credit_discount_max discount_rate \
            discounted_hourly discounted_dph_total platform_fee search instance avail_vol_ask_id avail_vol_dph avail_vol_size";
        let mut documented: Vec<&str> = documented.split_whitespace().collect();
        documented.sort_unstable();
        let row = priced(Pricing::OnDemand, 1);
        let mut keys: Vec<&str> = row.keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, documented);
    }

    #[test]
    fn a_duration_reads_as_months_days_and_hours() {
        assert_eq!(in_words(8_298_400_000), "3 Mon 6 D 1 Hr");
    }
}
