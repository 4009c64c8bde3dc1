//! What GPUs can do: tensor peak, bandwidth, memory, power; found by the market's name or by any other that is in use (pure).
//!
//! The figures are in `data/gpus.tsv`, each with its source. `aliases` joins the names of tables of runs to the market's.

use std::sync::LazyLock;

use super::table::{Cells, Table, TableError};
use crate::spec::nearest;

/// Figures of one product.
#[derive(Debug, Clone, PartialEq)]
pub struct Gpu {
    /// The market's name.
    pub name: String,
    /// Other names in use.
    pub aliases: Vec<String>,
    /// Memory, nominal GB.
    pub vram_gb: f64,
    /// CUDA compute capability, such as 8.9.
    pub compute_cap: f64,
    /// Dense tensor peak at bf16/fp16 with fp32 accumulate, TFLOP/s; the fp32 rate for cards without tensor cores.
    pub tensor_tflops: f64,
    /// Computes in bf16.
    pub bf16: bool,
    /// Computes in fp8.
    pub fp8: bool,
    /// Vector peak at fp32, TFLOP/s.
    pub fp32_tflops: f64,
    /// Memory bandwidth, GB/s.
    pub memory_gb_per_s: f64,
    /// NVLink, both directions together, GB/s; 0 without.
    pub nvlink_gb_per_s: f64,
    /// Rated power, W.
    pub power_w: f64,
}

/// The GPUs that spotter knows.
static SHIPPED: LazyLock<Gpus> = LazyLock::new(|| {
    Gpus::parse(include_str!("../../data/gpus.tsv"))
        .expect("the shipped table of GPUs is read by a test")
});

/// A table of GPUs.
#[derive(Debug, Clone, PartialEq)]
pub struct Gpus(Vec<Gpu>);

impl Gpus {
    /// The table that comes with spotter.
    pub fn shipped() -> &'static Self {
        &SHIPPED
    }

    /// Reads a table of GPUs.
    pub fn parse(text: &str) -> Result<Self, TableError> {
        let table = Table::parse(text)?;
        table
            .rows()
            .map(|cells| gpu(&cells))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Gpu> {
        self.0.iter()
    }

    /// The GPU of a name as people write it: `RTX 4090`, `NVIDIA H100 80GB HBM3`, `A100 SXM 40GB`, `V100`. A memory size in the
    /// name, or else `vram_gb`, chooses among versions; without either the largest is meant.
    pub fn find(&self, name: &str, vram_gb: Option<f64>) -> Option<&Gpu> {
        let whole = key(name);
        let (rest, size_gb) = split_size(name);
        let rest = key(&rest);
        let named = |wanted: &str| -> Vec<&Gpu> {
            let fits = |gpu: &&Gpu| {
                key(&gpu.name) == wanted || gpu.aliases.iter().any(|alias| key(alias) == wanted)
            };
            self.0.iter().filter(fits).collect()
        };
        // A size may be part of the name: `H100 SXM 96GB` is another product than the 80 GB one. Of `4090` everybody knows what it is.
        let candidates = [
            whole,
            rest.clone(),
            format!("rtx{rest}"),
            format!("gtx{rest}"),
        ]
        .iter()
        .map(|wanted| named(wanted))
        .find(|found| !found.is_empty())
        .unwrap_or_default();
        let size_gb = size_gb.or(vram_gb);
        match size_gb {
            Some(size_gb) => candidates.into_iter().min_by(|a, b| {
                let distance = |gpu: &Gpu| (gpu.vram_gb / size_gb).ln().abs();
                distance(a).total_cmp(&distance(b))
            }),
            None => candidates
                .into_iter()
                .max_by(|a, b| a.vram_gb.total_cmp(&b.vram_gb)),
        }
    }
}

/// What somebody may have meant by the name of a GPU that is not known, a sentence without its full stop; `None`: it is known, or nothing is
/// near. A market may have GPUs that nobody told spotter of.
pub fn meant(name: &str) -> Option<String> {
    let gpus = Gpus::shipped();
    if gpus.find(name, None).is_some() {
        return None;
    }
    let names = |gpu: &'static Gpu| std::iter::once(&gpu.name).chain(&gpu.aliases);
    let wanted = name.to_uppercase();
    let known = gpus.iter().flat_map(names);
    let upper: Vec<(String, &str)> = known.map(|name| (name.to_uppercase(), &**name)).collect();
    let near = nearest(&wanted, upper.iter().map(|(upper, _)| upper.as_str()))?;
    let (_, near) = upper.iter().find(|(upper, _)| upper == near)?;
    let near = &gpus.find(near, None)?.name;
    Some(format!(
        "no GPU is known as \"{name}\", did you mean \"{near}\"?"
    ))
}

impl Gpu {
    /// Bandwidth between GPUs of one host that a collective gets, bytes/s.
    ///
    /// NVLink reaches about three quarters of one direction's rate. Without it, traffic goes over PCIe and through the host, where
    /// consumer boards measure 10 to 15 GB/s. A bridge for pairs (up to 200 GB/s) is hardly ever mounted on rented hosts.
    pub fn link_bytes_per_s(&self) -> f64 {
        if self.nvlink_gb_per_s >= 300.0 && !self.name.contains("PCIE") {
            self.nvlink_gb_per_s / 2.0 * 0.75 * 1e9
        } else {
            12e9
        }
    }

    /// Bandwidth between hosts, per GPU, bytes/s: 200 to 400 Gb/s InfiniBand per GPU where NVLink is, shared Ethernet elsewhere.
    pub fn network_bytes_per_s(&self) -> f64 {
        if self.link_bytes_per_s() > 100e9 {
            30e9
        } else {
            5e9
        }
    }

    /// GPUs that NVLink joins: a host of eight, or a rack of GB200.
    pub fn domain(&self) -> u32 {
        if self.name.starts_with("GB") { 72 } else { 8 }
    }
}

fn gpu(cells: &Cells<'_>) -> Result<Gpu, TableError> {
    let number = |column: &str| {
        let stated = cells.number(column)?;
        stated
            .map(|stated| stated.value)
            .ok_or_else(|| cells.error(column, &format!("`{column}` is empty")))
    };
    let compute_cap = number("compute_cap")?;
    let fp32_tflops = number("fp32_tflops")?;
    let tensor = number("tensor_bf16_fp16_dense_tflops")?;
    let nvlink = cells.text("nvlink_gbs_total").trim_end_matches('?');
    Ok(Gpu {
        name: cells.text("vast_gpu_name").to_owned(),
        aliases: cells
            .text("aliases")
            .split('|')
            .filter(|alias| !alias.is_empty())
            .map(str::to_owned)
            .collect(),
        vram_gb: number("vram_gb")?,
        compute_cap,
        // Before Volta there are no tensor cores, and half precision runs at the rate of single precision or slower.
        tensor_tflops: if compute_cap < 7.0 {
            fp32_tflops
        } else {
            tensor
        },
        bf16: cells.text("native_bf16") == "yes",
        fp8: cells.number("fp8_dense_tflops")?.is_some(),
        fp32_tflops,
        memory_gb_per_s: number("mem_bw_gbs")?,
        nvlink_gb_per_s: nvlink
            .parse()
            .map_err(|_| cells.error("nvlink_gbs_total", "`nvlink_gbs_total` is a number"))?,
        power_w: number("tdp_w")?,
    })
}

/// A name without what makers, drivers and people add to it.
fn key(name: &str) -> String {
    let mut name = name.to_lowercase();
    for word in [
        "nvidia",
        "geforce",
        "tesla",
        "generation",
        "blackwell edition",
        "dgx",
        "hgx",
        "gpu",
        "hbm3e",
        "hbm3",
        "hbm2e",
        "hbm2",
    ] {
        name = name.replace(word, "");
    }
    let name = name.replace("quadro", "q");
    name.chars().filter(char::is_ascii_alphanumeric).collect()
}

/// `A100 SXM 40GB` is `A100 SXM` with 40, and so are `A100-SXM-40G` and `A100 SXM 40 GiB`.
fn split_size(name: &str) -> (String, Option<f64>) {
    let upper = name.to_ascii_uppercase();
    for (end, _) in upper.rmatch_indices('G') {
        let unit = ["GIB", "GB", "G"]
            .into_iter()
            .find(|unit| upper[end..].starts_with(unit))
            .unwrap_or("G");
        let after = &upper[end + unit.len()..];
        let before = upper[..end].trim_end();
        let start = before.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        // `GB200` has no number before it, and the `10` of `A10G` is no size.
        let apart = !before[..start].ends_with(|c: char| c.is_ascii_alphanumeric());
        let whole = !after.starts_with(|c: char| c.is_ascii_alphanumeric());
        if let Ok(size_gb) = before[start..].parse()
            && start > 0
            && (unit != "G" || apart && whole)
        {
            return (format!("{} {after}", &upper[..start]), Some(size_gb));
        }
    }
    (name.to_owned(), None)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_name_of_a_gpu_that_is_not_known_has_one_near_it() {
        let check = |typed: &str, expected: Option<&str>| {
            let found = super::meant(typed);
            let near = expected.map(|near| format!("did you mean \"{near}\"?"));
            match (&found, near) {
                (Some(found), Some(near)) => assert!(found.ends_with(&near), "{found}"),
                (found, near) => assert_eq!(found.as_ref(), near.as_ref(), "{typed}"),
            }
        };
        check("RTX 4900", Some("RTX 4090"));
        check("rtx 409", Some("RTX 4090"));
        check("H1000 SXM", Some("H100 SXM"));
        check("RTX 4090", None);
        check("h100", None);
        check("TPU v5", None);
    }

    use super::*;

    #[track_caller]
    fn check(name: &str, vram_gb: Option<f64>, expected: (&str, f64)) {
        let found = Gpus::shipped()
            .find(name, vram_gb)
            .map(|gpu| (gpu.name.as_str(), gpu.vram_gb));
        assert_eq!(found, Some(expected), "{name}");
    }

    #[test]
    fn a_gpu_is_found_by_every_name_in_use() {
        check("RTX 4090", None, ("RTX 4090", 24.0));
        check("NVIDIA GeForce RTX 4090", None, ("RTX 4090", 24.0));
        check("RTX_3080", Some(12.0), ("RTX 3080", 12.0));
        check("RTX 3080 10GB", None, ("RTX 3080", 10.0));
        check("A100 SXM 40GB", None, ("A100 SXM4", 40.0));
        check("A100 80GB?", None, ("A100 SXM4", 80.0));
        check("A100 PCIe 80GB", None, ("A100 PCIE", 80.0));
        check("A100 SXM4", Some(39.6), ("A100 SXM4", 40.0));
        check("NVIDIA H100 80GB HBM3", None, ("H100 SXM", 80.0));
        check("H100 SXM 96GB", None, ("H100 SXM 96GB", 96.0));
        check("H100 NVL 94GB", None, ("H100 NVL", 94.0));
        check("B200 180GB", None, ("B200", 180.0));
        check("GB200 186GB", None, ("GB200", 186.0));
        check("H200 141GB", None, ("H200", 141.0));
        check("V100 SXM 32GB", None, ("Tesla V100", 32.0));
        check("Tesla T4", None, ("Tesla T4", 16.0));
        check("RTX 6000 Ada", None, ("RTX 6000Ada", 48.0));
        check("RTX A6000", None, ("RTX A6000", 48.0));
        check("Quadro RTX 8000", None, ("Q RTX 8000", 48.0));
        check("GTX TITAN X", None, ("GTX TITAN X", 12.0));
        check("A10G 24GB", None, ("A10G", 24.0));
        check("A10g", None, ("A10G", 24.0));
        check("A100-40G", None, ("A100 SXM4", 40.0));
        check("A100-SXM4-80 GiB", None, ("A100 SXM4", 80.0));
        check("NVIDIA A100-PCIE-40GB", None, ("A100 PCIE", 40.0));
        check("NVIDIA GH200 480GB", None, ("GH200 SXM", 96.0));
        check("DGX H100", None, ("H100 SXM", 80.0));
        check("4090", None, ("RTX 4090", 24.0));
        check("1080 Ti", None, ("GTX 1080 Ti", 11.0));
        check("RTX 3060 Laptop GPU", None, ("RTX 3060 laptop", 6.0));
        check(
            "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition",
            None,
            ("RTX PRO 6000 Max-Q", 96.0),
        );
        assert_eq!(Gpus::shipped().find("G", None), None);
        assert_eq!(Gpus::shipped().find("\u{f6}G\u{df}", None), None);
        assert_eq!(Gpus::shipped().find("InstinctMI300X", None), None);
        assert_eq!(Gpus::shipped().find("TPU v4", None), None);
        assert_eq!(Gpus::shipped().find("", None), None);
    }

    /// What the market calls GPUs, by its official client's list and by offers that were seen.
    const MARKET: &str = "A10|A10g|A16|A30|A40|A100 PCIE|A100 SXM4|A100 SXM|A100X|A800 PCIE|B200|B300|GB200|GH200 SXM|\
        H100 PCIE|H100 SXM|H100 NVL|H200|H200 NVL|L4|L40|L40S|Tesla K80|Tesla M40|Tesla P4|Tesla P6|Tesla P40|Tesla P100|\
        Tesla T4|Tesla V100|GTX 1050|GTX 1050 Ti|GTX 1060|GTX 1070|GTX 1070 Ti|GTX 1080|GTX 1080 Ti|GTX 1650|GTX 1650 S|\
        GTX 1650 Ti|GTX 1660|GTX 1660 S|GTX 1660 Ti|GTX TITAN X|RTX 2060|RTX 2060S|RTX 2070|RTX 2070S|RTX 2080|RTX 2080S|\
        RTX 2080 Ti|RTX 3050|RTX 3060|RTX 3060 laptop|RTX 3060 Ti|RTX 3070|RTX 3070 laptop|RTX 3070 Ti|RTX 3080|\
        RTX 3080 Ti|RTX 3090|RTX 3090 Ti|RTX 4060|RTX 4060 laptop|RTX 4060 Ti|RTX 4070|RTX 4070 laptop|RTX 4070S|\
        RTX 4070S Ti|RTX 4070 Ti|RTX 4080|RTX 4080 laptop|RTX 4080S|RTX 4090|RTX 4090D|RTX 5060|RTX 5060 Ti|RTX 5070|\
        RTX 5070 Ti|RTX 5080|RTX 5090|Titan RTX|Titan V|TITAN V CEO|Titan X|Titan Xp|Quadro P2000|Quadro P4000|\
        Quadro P5000|Quadro P6000|Quadro GP100|Quadro GV100|Q RTX 4000|Q RTX 5000|Q RTX 6000|Q RTX 8000|RTX A2000|\
        RTX A4000|RTX A4500|RTX A5000|RTX A6000|RTX 2000Ada|RTX 4000Ada|RTX 4500Ada|RTX 5000Ada|RTX 5880Ada|RTX 6000Ada|\
        RTX PRO 4000|RTX PRO 4500|RTX PRO 5000|RTX PRO 6000|RTX PRO 6000 S|RTX PRO 6000 WS|RTX PRO 6000 Max-Q";
    /// Those of which there are no figures: too old for today's PyTorch, cut down for mining, never sold, or not NVIDIA's.
    const WITHOUT_FIGURES: &str = "Tesla K20c|GeForce 970|GTX 750 Ti|Quadro K620|Quadro K2200|CMP 50HX|CMP 170HX|P104-100|\
        P106-100|RTX 4090 Ti|RTX 5090 Ti|RTX PRO 4000 Mobile|InstinctMI50|InstinctMI100|InstinctMI210|InstinctMI250X|\
        InstinctMI300X|PRO W6800|PRO W7900|Pro V620|Radeon VII|RX 6800 XT|RX 7600|RX 7900 XTX";

    #[test]
    fn every_name_of_the_market_is_joined_to_a_row_or_known_to_have_none() {
        for name in MARKET.split('|') {
            assert!(Gpus::shipped().find(name, None).is_some(), "{name}");
        }
        for name in WITHOUT_FIGURES.split('|') {
            assert_eq!(Gpus::shipped().find(name, None), None, "{name}");
        }
    }

    #[test]
    fn every_shipped_name_finds_its_own_row() {
        for gpu in Gpus::shipped().iter() {
            for name in std::iter::once(&gpu.name).chain(&gpu.aliases) {
                let found = Gpus::shipped()
                    .find(name, Some(gpu.vram_gb))
                    .expect("it is in the table");
                assert_eq!(found.vram_gb, gpu.vram_gb, "{name}");
            }
        }
    }

    #[test]
    fn cards_without_tensor_cores_run_at_their_vector_rate() {
        let p100 = Gpus::shipped().find("P100", None).unwrap();
        assert_eq!(p100.tensor_tflops, p100.fp32_tflops);
    }
}
