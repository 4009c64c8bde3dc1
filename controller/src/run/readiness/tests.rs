//! What of a box is as it was rented, what differs, and what is refused.

use super::*;
use crate::{
    agent_client::{CardInfo, DriverInfo, HostInfo},
    provider::Filter,
    top::examples,
};

const GIB: u64 = 1 << 30;

/// Two cards as an offer has them, on a box that is all that was promised.
fn offered() -> Promised {
    Promised {
        gpu_name: "A100 SXM4".to_owned(),
        num_gpus: 2,
        vram_mib: 81_920,
        ram_mb: 256_000,
        cpu_cores: 32.0,
        nvlink_gbps: 600.0,
        cuda: 12.8,
        compute_cap: 800,
    }
}

fn card(index: u32) -> CardInfo {
    CardInfo {
        index,
        name: "NVIDIA A100-SXM4-80GB".to_owned(),
        uuid: String::new(),
        pci_bus_id: String::new(),
        compute_capability: 80,
        vbios: String::new(),
        max_sm_clock_mhz: 1410,
        max_memory_clock_mhz: 1593,
        mig: false,
    }
}

fn whole_box() -> AgentStatus {
    let gpu = |index| GpuInfo {
        index,
        name: "NVIDIA A100-SXM4-80GB".to_owned(),
        memory_total_bytes: Some(80 * GIB),
        nvlinks_up: Some(12),
        ecc_uncorrected: Some(0),
        remap_failed: Some(0),
        ..GpuInfo::default()
    };
    let host = HostInfo {
        cpu_limit_cores: Some(32.0),
        memory_limit_bytes: Some(256_000_000_000),
        disk_free_bytes: Some(180_000_000_000),
        disk_total_bytes: Some(200_000_000_000),
        ..HostInfo::default()
    };
    let sample = SampleInfo {
        host: Some(host),
        ..examples::sample(0, vec![gpu(0), gpu(1)])
    };
    AgentStatus {
        sample: Some(sample),
        gpu_driver: Some(DriverInfo {
            version: "570.86.15".to_owned(),
            cuda: 12_080,
            library: String::new(),
            gpus: vec![card(0), card(1)],
        }),
        ..examples::status()
    }
}

/// A box with one thing changed, the line that shows it, and what follows.
type Case = (
    fn(&mut Promised, &mut RunSpec, &mut AgentStatus),
    &'static str,
    Expected,
);

#[derive(Clone, Copy)]
enum Expected {
    Fine,
    Differs(&'static str),
    Refuse(&'static str),
}

use Expected::{Differs, Fine, Refuse};

fn case(
    change: fn(&mut Promised, &mut RunSpec, &mut AgentStatus),
    what: &'static str,
    expected: Expected,
) -> Case {
    (change, what, expected)
}

fn gpus(status: &mut AgentStatus) -> &mut Vec<GpuInfo> {
    &mut status.sample.as_mut().unwrap().gpus
}

fn host(status: &mut AgentStatus) -> &mut HostInfo {
    let sample = status.sample.as_mut().unwrap();
    sample.host.as_mut().unwrap()
}

fn cards(status: &mut AgentStatus) -> &mut Vec<CardInfo> {
    &mut status.gpu_driver.as_mut().unwrap().gpus
}

fn named(status: &mut AgentStatus, name: &str) {
    gpus(status)
        .iter_mut()
        .for_each(|gpu| gpu.name = name.to_owned());
}

fn cases() -> Vec<Case> {
    vec![
        // The product, as the maker calls it.
        case(|_, _, s| named(s, "NVIDIA A100-SXM4-80GB"), "GPUs", Fine),
        case(
            |_, _, s| named(s, "NVIDIA GeForce RTX 3090"),
            "GPUs",
            Refuse("a A100 SXM4 was rented"),
        ),
        case(
            |_, _, s| named(s, "Tesla V100-SXM2-32GB"),
            "GPUs",
            Refuse("a A100 SXM4 was rented"),
        ),
        case(
            |_, _, s| named(s, "NVIDIA H100 80GB HBM3"),
            "GPUs",
            Differs("a A100 SXM4 was rented"),
        ),
        case(|_, _, s| named(s, "NVIDIA Z900 Prototype"), "GPUs", Fine),
        case(
            |_, _, s| gpus(s)[1].name = "NVIDIA A100 80GB PCIe".to_owned(),
            "GPUs",
            Differs("they are not alike: one is a NVIDIA A100 80GB PCIe"),
        ),
        // Its memory.
        case(
            |_, _, s| gpus(s)[1].memory_total_bytes = Some(79 * GIB),
            "VRAM",
            Fine,
        ),
        case(
            |_, _, s| gpus(s)[1].memory_total_bytes = Some(40 * GIB),
            "VRAM",
            Refuse("80.0 GiB were offered"),
        ),
        case(
            |p, _, s| {
                p.vram_mib = 0;
                gpus(s)[0].memory_total_bytes = Some(GIB);
            },
            "VRAM",
            Fine,
        ),
        // What its driver runs, and what the run needs; that the image's container runs is more than what its tag says.
        case(
            |_, _, s| s.gpu_driver.as_mut().unwrap().cuda = 12_040,
            "driver",
            Differs("CUDA 12.8 was offered"),
        ),
        case(
            |_, r, s| {
                r.image = "vastai/base-image:cuda-12.8.1-auto".to_owned();
                s.gpu_driver.as_mut().unwrap().cuda = 12_040;
            },
            "driver",
            Differs("CUDA 12.8 was offered"),
        ),
        case(
            |_, r, _| r.needs = vec!["fp8".parse().unwrap()],
            "compute",
            Refuse("fp8 needs compute capability 8.9, and this GPU has 8.0"),
        ),
        case(
            |_, r, s| {
                r.resources.num_gpus = 2;
                cards(s)[1].compute_capability = 75;
            },
            "compute",
            Refuse("8.0 was offered"),
        ),
        // Another card beside the one that is asked for.
        case(
            |_, r, s| {
                r.resources.num_gpus = 1;
                cards(s)[1].compute_capability = 75;
            },
            "compute",
            Fine,
        ),
        case(
            |p, _, _| p.compute_cap = 750,
            "compute",
            Differs("7.5 was offered"),
        ),
        case(
            |_, _, s| cards(s)[0].mig = true,
            "compute",
            Differs("a GPU is split by MIG"),
        ),
        // How its cards are joined.
        case(
            |_, _, s| gpus(s)[0].nvlinks_up = Some(0),
            "NVLink",
            Differs("600 GB/s were offered"),
        ),
        case(
            |_, r, s| {
                r.resources.filters = vec![Filter {
                    field: "bw_nvlink".to_owned(),
                    op: "gt".to_owned(),
                    value: 200.into(),
                }];
                gpus(s)[0].nvlinks_up = Some(0);
            },
            "NVLink",
            Refuse("600 GB/s were offered, and `resources.offers` asks for it"),
        ),
        case(
            |p, _, s| {
                p.nvlink_gbps = 0.0;
                gpus(s)[0].nvlinks_up = Some(0);
            },
            "NVLink",
            Fine,
        ),
        // What is broken.
        case(
            |_, _, s| gpus(s)[1].ecc_uncorrected = Some(3),
            "errors",
            Differs("its memory has failed lately"),
        ),
        case(
            |_, _, s| gpus(s)[1].remap_pending = Some(1),
            "errors",
            Differs("a part of GPU memory waits for a reset to be replaced"),
        ),
        case(
            |_, _, s| gpus(s)[1].retirement_pending = Some(1),
            "errors",
            Differs("a part of GPU memory waits for a reset to be replaced"),
        ),
        case(
            |_, _, s| {
                gpus(s)[0].ecc_uncorrected = Some(2);
                gpus(s)[0].remap_pending = Some(1);
            },
            "errors",
            Refuse(
                "its memory has failed lately, and the broken part of it is in use until a reset",
            ),
        ),
        case(
            |_, _, s| {
                for gpu in gpus(s) {
                    gpu.ecc_uncorrected = None;
                }
                gpus(s)[1].remap_failed = Some(1);
            },
            "errors",
            Refuse("a row of GPU memory is broken and could not be replaced"),
        ),
        case(
            |_, _, s| gpus(s)[0].remap_failed = Some(1),
            "errors",
            Refuse("a row of GPU memory is broken and could not be replaced"),
        ),
        // Its slice of the host, by the container's limits.
        case(
            |_, _, s| host(s).memory_limit_bytes = Some(64_000_000_000),
            "RAM",
            Differs("256.0 GB were offered"),
        ),
        case(
            |_, _, s| host(s).memory_limit_bytes = Some(240_000_000_000),
            "RAM",
            Fine,
        ),
        case(
            |_, _, s| host(s).cpu_limit_cores = Some(8.0),
            "CPU",
            Differs("32.0 cores were offered"),
        ),
        case(
            |p, _, s| {
                p.cpu_cores = 0.0;
                host(s).cpu_limit_cores = Some(1.0);
            },
            "CPU",
            Fine,
        ),
        case(|_, _, _| {}, "disk", Fine),
    ]
}

#[test]
fn a_box_is_as_it_was_rented_or_differs_or_is_refused() {
    for (number, (change, what, expected)) in cases().into_iter().enumerate() {
        let (mut promised, mut spec, mut status) =
            (offered(), RunSpec::from_flags_for_tests(), whole_box());
        spec.image = "image".to_owned();
        change(&mut promised, &mut spec, &mut status);
        let lines = hold(&promised, &spec, &status);
        for line in &lines {
            let expected = match (line.what == what, expected) {
                (false, _) | (true, Fine) => Verdict::Fine,
                (true, Differs(how)) => Verdict::Differs(how.to_owned()),
                (true, Refuse(why)) => Verdict::Refuse(why.to_owned()),
            };
            assert_eq!(line.verdict, expected, "case {number}: {line:?}");
        }
        assert!(
            lines.iter().any(|line| line.what == what),
            "case {number}: {what}"
        );
    }
}

#[test]
fn what_a_box_does_not_tell_is_not_held_against_it() {
    let spec = RunSpec::from_flags_for_tests();
    let silent = examples::status();
    assert_eq!(hold(&offered(), &spec, &silent), []);
    // Nor what nobody promised.
    let lines = hold(&Promised::default(), &spec, &whole_box());
    assert!(
        lines.iter().all(|line| line.verdict == Verdict::Fine),
        "{lines:?}"
    );
}

#[test]
fn every_line_is_shown() {
    let mut status = whole_box();
    host(&mut status).cpu_limit_cores = Some(8.0);
    gpus(&mut status)[0].memory_total_bytes = Some(40 * GIB);
    let lines = hold(&offered(), &RunSpec::from_flags_for_tests(), &status);
    let shown: Vec<String> = lines.iter().map(Line::text).collect();
    insta::assert_snapshot!("shown", shown.join("\n"));
}

#[test]
fn what_was_promised_is_kept_by_the_label_of_its_box() {
    let dir = tempfile::tempdir().unwrap();
    let clock = crate::clock::Clock::new(|| 0);
    let store = Store::open(&dir.path().join("store.db"), clock).unwrap();
    assert_eq!(
        promised(&store, "spotter/a/b/1/c").unwrap(),
        Promised::default()
    );
    let text = serde_json::json!(offered()).to_string();
    store.set_meta(&key("spotter/a/b/1/c"), &text).unwrap();
    assert_eq!(promised(&store, "spotter/a/b/1/c").unwrap(), offered());
}
