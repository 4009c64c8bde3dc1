//! Numbers and times in few characters (pure).

use crate::ui::text;

/// An age in one unit, or two while minutes matter.
pub fn ago(us: i64) -> String {
    span(us.max(0) as f64 / 1e6)
}

/// Seconds in at most two units, without those that do not matter: `45s`, `3m`, `2h10m`, `3d4h`.
pub fn span(seconds: f64) -> String {
    let seconds = seconds.clamp(0.0, 1e10) as u64;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..3600 => format!("{minutes}m"),
        3600..86_400 => format!("{hours}h{minutes:02}m"),
        _ => format!("{days}d{hours}h"),
    }
}

/// A time of the day, UTC.
pub fn clock(us: i64) -> String {
    text::time(us).get(11..20).unwrap_or("-").to_owned()
}

/// A number with its thousands apart.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number in at most six characters: `0.0123`, `12.5`, `1.25k`, `18.4M`.
pub fn short(number: f64) -> String {
    let size = number.abs();
    let (scaled, unit) = match size {
        size if size >= 1e15 => return format!("{number:.0e}"),
        size if size >= 999_500_000.0 => (number / 1e9, "G"),
        size if size >= 999_500.0 => (number / 1e6, "M"),
        size if size >= 9_999.5 => (number / 1e3, "k"),
        _ => (number, ""),
    };
    let size = scaled.abs();
    match size {
        0.0 => "0".to_owned(),
        size if size < 1e-3 => format!("{scaled:.0e}"),
        size if size < 0.995 => format!("{scaled:.3}{unit}"),
        size if size < 9.995 => format!("{scaled:.2}{unit}"),
        size if size < 99.95 && unit.is_empty() => format!("{scaled:.2}"),
        size if size < 999.5 => format!("{scaled:.1}{unit}"),
        _ => format!("{scaled:.0}{unit}"),
    }
}
