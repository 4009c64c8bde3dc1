//! Numbers of a plan as people read them (pure).

use crate::estimate::playbook::Scenarios;

/// A count with three digits that matter: `1,650`, `78.6k`, `1.14M`, `49.8B`.
pub(in crate::commands) fn count(value: f64) -> String {
    const UNITS: [(f64, &str); 4] = [(1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")];
    if value < 9_999.5 {
        let whole = format!("{value:.0}");
        return match whole.len() {
            4 => format!("{},{}", &whole[..1], &whole[1..]),
            _ if value < 10.0 => format!("{value:.1}"),
            _ => whole,
        };
    }
    let (unit, name) = UNITS
        .into_iter()
        // 999.6k is shown as 1M and not as 1000k.
        .find(|(unit, _)| value >= unit * 0.9995)
        .unwrap_or((1e3, "k"));
    let scaled = value / unit;
    let digits = match scaled {
        scaled if scaled < 9.995 => 2,
        scaled if scaled < 99.95 => 1,
        _ => 0,
    };
    format!("{scaled:.digits$}{name}")
}

/// A share: `12.5%`.
pub(in crate::commands) fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

/// Reliability of a host: `98.7%`; `-`: it is not known.
pub(in crate::commands) fn reliability(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), percent)
}

/// Hours: `0.4`, `12`, `1,250`.
pub(in crate::commands) fn hours(hours: f64) -> String {
    if hours < 9.95 {
        format!("{hours:.1}")
    } else {
        count(hours)
    }
}

/// Dollars without cents where they do not matter: `$0.42`, `$12`, `$1,240`.
pub(in crate::commands) fn dollars(usd: f64) -> String {
    if usd < 9.995 {
        format!("${usd:.2}")
    } else {
        format!("${}", count(usd))
    }
}

/// Three scenarios: `4.1 / 6.2 / 11`.
pub(in crate::commands) fn scenarios(scenarios: Scenarios, show: impl Fn(f64) -> String) -> String {
    let Scenarios {
        optimistic,
        base,
        pessimistic,
    } = scenarios;
    format!(
        "{} / {} / {}",
        show(optimistic),
        show(base),
        show(pessimistic)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_keep_three_digits() {
        for (value, expected) in [
            (3.21, "3.2"),
            (81.6, "82"),
            (1650.0, "1,650"),
            (10_643.0, "10.6k"),
            (142_830.0, "143k"),
            (999_700.0, "1.00M"),
            (1_142_641.0, "1.14M"),
            (49.8e9, "49.8B"),
            (14.8e12, "14.8T"),
        ] {
            assert_eq!(count(value), expected);
        }
    }
}
