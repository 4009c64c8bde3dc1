//! `accelerators`: which GPU and how many (pure). `"RTX 4090:1"`, `{H100 SXM: 4}` or a bare name.

/// A GPU by the market's name, and how many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accelerators {
    /// Product name with spaces.
    pub gpu_name: String,
    /// How many.
    pub num_gpus: u32,
}

/// Most GPUs in one box that any host offers, with room.
const MAX_GPUS: u32 = 64;

/// Reads `NAME`, `NAME:COUNT`.
pub fn parse(text: &str) -> Result<Accelerators, String> {
    match text.rsplit_once(':') {
        Some((name, count)) => of(name, count),
        None => of(text, "1"),
    }
}

/// Reads a name and a count.
pub fn of(name: &str, count: &str) -> Result<Accelerators, String> {
    let gpu_name = gpu_name(name)?;
    let num_gpus = count
        .trim()
        .parse()
        .ok()
        .filter(|count| (1..=MAX_GPUS).contains(count));
    let num_gpus = num_gpus.ok_or_else(|| {
        format!("the number of GPUs is from 1 to {MAX_GPUS}, as in \"{gpu_name}:1\"")
    })?;
    Ok(Accelerators { gpu_name, num_gpus })
}

/// Words that the market does not write in capitals.
const MIXED: [&str; 10] = [
    "Ti", "Ada", "Tesla", "Titan", "Quadro", "Radeon", "Instinct", "Xp", "laptop", "Max-Q",
];

/// A word of a name as the market writes it: its search minds case, people do not.
fn market_case(word: &str) -> String {
    for known in MIXED {
        if known.eq_ignore_ascii_case(word) {
            return known.to_owned();
        }
    }
    // `6000Ada`
    let split = word.len().saturating_sub("Ada".len());
    if let (Some(model), Some(end)) = (word.get(..split), word.get(split..))
        && end.eq_ignore_ascii_case("Ada")
        && model.ends_with(|c: char| c.is_ascii_digit())
    {
        return format!("{model}Ada");
    }
    word.to_ascii_uppercase()
}

/// The market writes names with blanks; people write `RTX_4090` and `RTX4090` as well.
fn gpu_name(text: &str) -> Result<String, String> {
    let valid =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, ' ' | '_' | '-' | '.' | '(' | ')');
    let name = text
        .replace('_', " ")
        .split_whitespace()
        .map(market_case)
        .collect::<Vec<_>>()
        .join(" ");
    if name.is_empty() || name.len() > 60 || !name.chars().all(valid) {
        return Err("a GPU is named as in \"RTX 4090:1\" or \"H100 SXM:8\"".to_owned());
    }
    for series in ["RTX", "GTX"] {
        let glued = name
            .get(..series.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(series));
        let model = &name[series.len().min(name.len())..];
        if glued && model.starts_with(|c: char| c.is_ascii_digit()) {
            return Ok(format!("{series} {model}"));
        }
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<(&str, u32)>) {
        let found = parse(text);
        let found = found
            .as_ref()
            .map(|found| (found.gpu_name.as_str(), found.num_gpus));
        assert_eq!(found.ok(), expected, "{text}");
    }

    #[test]
    fn names_and_counts() {
        check("RTX 4090:1", Some(("RTX 4090", 1)));
        check("RTX_4090:2", Some(("RTX 4090", 2)));
        check("RTX4090", Some(("RTX 4090", 1)));
        check("rtx4090", Some(("RTX 4090", 1)));
        check("rtx 3060 TI", Some(("RTX 3060 Ti", 1)));
        check("rtx_6000ada:2", Some(("RTX 6000Ada", 2)));
        check("tesla v100", Some(("Tesla V100", 1)));
        check("titan rtx", Some(("Titan RTX", 1)));
        check("h100 sxm", Some(("H100 SXM", 1)));
        check("gh200 SXM", Some(("GH200 SXM", 1)));
        check("H100 SXM: 8", Some(("H100 SXM", 8)));
        check("  A100   SXM4 ", Some(("A100 SXM4", 1)));
        check("RTX PRO 6000 S:1", Some(("RTX PRO 6000 S", 1)));
        check("RTX 4090:0", None);
        check("RTX 4090:65", None);
        check("RTX 4090:", None);
        check(":4", None);
        check("", None);
        check("a\"b", None);
        check("größe", None);
    }
}
