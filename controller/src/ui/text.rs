//! Money, sizes and times as people read them (pure).

use std::time::Duration;

/// A price per hour: `$0.348/h`; three decimals, because a cent an hour is seven dollars a month.
pub fn usd_per_hour(usd: f64) -> String {
    // What would be shown as nothing, and is not, gets as many places as it takes.
    match usd != 0.0 && usd.abs() < 0.0005 {
        true => format!("${usd:.6}/h"),
        false => format!("${usd:.3}/h"),
    }
}

/// What is known to be charged now, $/h; where that is nothing and a box may be there, what it costs at most.
pub fn now_usd_per_hour(known: f64, at_most: Option<f64>) -> String {
    match at_most.filter(|most| known <= 0.0 && *most > 0.0) {
        Some(most) => format!("up to {}", usd_per_hour(most)),
        None => usd_per_hour(known),
    }
}

/// An amount: `$12.30`; below ten cents with four decimals, so that it is never `$0.00` when it is not.
pub fn usd(usd: f64) -> String {
    if usd != 0.0 && usd.abs() < 0.1 {
        format!("${usd:.4}")
    } else {
        thousands(usd)
    }
}

/// Of a sum of dollars, what to say of the traffic in it that nobody has billed so far; nothing, where there is none.
pub fn unbilled_traffic(usd_of_it: f64) -> String {
    match usd_of_it >= 0.00005 {
        true => format!(" ({} of it traffic, not billed yet)", usd(usd_of_it)),
        false => String::new(),
    }
}

/// Dollars with cents, and a comma every three digits: `$21,135.30`.
fn thousands(usd: f64) -> String {
    let text = format!("{:.2}", usd.abs());
    let (whole, cents) = text.split_once('.').unwrap_or((&text, "00"));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    let sign = if usd < 0.0 { "-" } else { "" };
    format!("${sign}{grouped}.{cents}")
}

/// A size in binary units: `1.5 GiB`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut size = bytes as f64 / 1024.0;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

/// A time span in its two largest units: `3 d 4 h`, `12 min 30 s`, `8 s`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    let pairs = [
        (days, "d", hours, "h"),
        (hours, "h", minutes, "min"),
        (minutes, "min", seconds % 60, "s"),
    ];
    for (large, large_unit, small, small_unit) in pairs {
        if large > 0 {
            return match small {
                0 => format!("{large} {large_unit}"),
                _ => format!("{large} {large_unit} {small} {small_unit}"),
            };
        }
    }
    format!("{seconds} s")
}

/// A point in time, UTC: `2026-11-22 01:03:04Z`.
pub fn time(us: i64) -> String {
    match jiff::Timestamp::from_microsecond(us) {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
        Err(_) => "-".to_owned(),
    }
}

/// The same for machines, RFC 3339 with microseconds; `None` for 0, which means never.
pub fn rfc3339(us: i64) -> Option<String> {
    let time = jiff::Timestamp::from_microsecond(us)
        .ok()
        .filter(|_| us != 0)?;
    Some(time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string())
}

/// A value, or a dash where there is none.
pub fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// A text of others in a table: no more than `most` characters of its first line, cut between two words.
pub fn short(text: &str, most: usize) -> String {
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() <= most && line.len() == text.trim_end().len() {
        return line.to_owned();
    }
    let head: String = line.chars().take(most.saturating_sub(1)).collect();
    let whole = match head.rsplit_once(' ') {
        Some((words, _)) if 2 * words.len() > head.len() => words,
        _ => &head,
    };
    format!("{}…", whole.trim_end_matches([' ', ',', ';', ':']))
}

/// Details of an event: an object as `key=value` words; anything else as JSON.
pub fn detail(detail: &serde_json::Value) -> String {
    let Some(map) = detail.as_object() else {
        return detail.to_string();
    };
    let words = map.iter().map(|(key, value)| match value.as_str() {
        Some(text) => format!("{key}={text}"),
        None => format!("{key}={value}"),
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_words_and_a_short_one_is_whole() {
        for (text, expected) in [
            ("ssh was silent", "ssh was silent"),
            ("", ""),
            ("check `gpus`: NVML cannot be loaded", "check `gpus`: NVML…"),
            ("check `gpus`:\nthe rest", "check `gpus`…"),
            ("abcdefghijklmnopqrstuvwxyz", "abcdefghijklmnopqrs…"),
        ] {
            assert_eq!(short(text, 20), expected);
        }
        let umlauts = short(&"ä".repeat(22), 20);
        assert_eq!(umlauts, format!("{}…", "ä".repeat(19)));
    }

    #[test]
    fn nothing_that_is_known_is_not_told_as_nothing_while_a_box_may_be_there() {
        for (known, at_most, expected) in [
            (0.31, Some(0.4), "$0.310/h"),
            (0.0, Some(0.4), "up to $0.400/h"),
            // A host of one's own, and a box that is gone.
            (0.0, Some(0.0), "$0.000/h"),
            (0.0, None, "$0.000/h"),
            // A price is not shown as none.
            (0.000_001, None, "$0.000001/h"),
        ] {
            assert_eq!(now_usd_per_hour(known, at_most), expected);
        }
    }

    #[test]
    fn money_keeps_the_digits_that_matter() {
        assert_eq!(usd_per_hour(0.34833), "$0.348/h");
        assert_eq!(usd(12.3), "$12.30");
        assert_eq!(usd(0.0123), "$0.0123");
        assert_eq!(usd(0.0), "$0.00");
        assert_eq!(usd(999.999), "$1,000.00");
        assert_eq!(usd(21_135.3), "$21,135.30");
        assert_eq!(usd(1_234_567.0), "$1,234,567.00");
    }

    #[test]
    fn sizes_and_spans_use_the_unit_that_fits() {
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(5 << 30), "5.0 GiB");
        assert_eq!(duration(Duration::from_secs(8)), "8 s");
        assert_eq!(duration(Duration::from_secs(750)), "12 min 30 s");
        assert_eq!(duration(Duration::from_secs(3600)), "1 h");
        assert_eq!(duration(Duration::from_secs(276_000)), "3 d 4 h");
    }

    #[test]
    fn times_are_utc() {
        assert_eq!(time(1_800_000_000_000_000), "2027-01-15 08:00:00Z");
        assert_eq!(
            rfc3339(1_800_000_000_000_001).as_deref(),
            Some("2027-01-15T08:00:00.000001Z")
        );
        assert_eq!(rfc3339(0), None);
    }
}
