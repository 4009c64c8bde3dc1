//! Sizes, durations, money, percentages and names as people write them (pure). Errors say what a good value looks like.

use std::time::Duration;

use spotter_trainlog::{GROUPS, Progress, ProgressError};

use super::UploadWindow;

/// A size in GB (10^9 bytes, as the market counts): `500GB`, `1TB`, `0.5 TiB`, or a bare number of GB.
pub fn size_gb(text: &str) -> Result<f64, String> {
    const UNITS: [(&str, f64); 7] = [
        ("", 1.0),
        ("gb", 1.0),
        ("g", 1.0),
        ("tb", 1000.0),
        ("t", 1000.0),
        ("gib", 1.073_741_824),
        ("tib", 1_099.511_627_776),
    ];
    let gb = with_unit(text, &UNITS).ok_or("a size looks like 500GB or 1TB")?;
    // The market's own bounds; 64 TB is more than any host has.
    if (1.0..=64_000.0).contains(&gb) {
        Ok(gb)
    } else {
        Err("a size is from 1GB to 64TB".to_owned())
    }
}

/// A rate such as `50MB/s`, in bytes per second.
pub fn bytes_per_s(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, f64); 6] = [
        ("kb/s", 1e3),
        ("mb/s", 1e6),
        ("gb/s", 1e9),
        ("kib/s", 1_024.0),
        ("mib/s", 1_048_576.0),
        ("gib/s", 1_073_741_824.0),
    ];
    let rate = with_unit(text, &UNITS).ok_or("a rate looks like 50MB/s")?;
    // Slower than the slowest link that an upload waits for; faster than any network card.
    if (64e3..=1e12).contains(&rate) {
        Ok(rate as u64)
    } else {
        Err("a rate is from 64KB/s to 1000GB/s".to_owned())
    }
}

/// How far a zone is ahead of UTC, minutes: `+02:00`, `-05:30`, `UTC`. A fixed distance: no summer time is followed.
pub fn zone(text: &str) -> Result<i32, String> {
    const HELP: &str = "a zone is how far its clock is ahead of UTC: +02:00, -05:30 or UTC";
    if matches!(text, "UTC" | "utc" | "Z") {
        return Ok(0);
    }
    let (sign, clock) = match (text.strip_prefix('+'), text.strip_prefix('-')) {
        (Some(clock), _) => (1, clock),
        (_, Some(clock)) => (-1, clock),
        _ => return Err(HELP.to_owned()),
    };
    let minutes = minute_of_day(clock).ok_or(HELP)?;
    // The farthest zone is 14 hours ahead.
    if minutes > 14 * 60 {
        return Err(HELP.to_owned());
    }
    Ok(sign * i32::try_from(minutes).expect("at most a day"))
}

/// A stretch of every day with an upload rate of its own, `22:00-06:00 full` or `09:00-17:00 5MB/s`, in a zone so many minutes
/// ahead of UTC.
pub fn upload_window(text: &str, ahead_min: i32) -> Result<UploadWindow, String> {
    const HELP: &str = "a window looks like `22:00-06:00 full` or `09:00-17:00 5MB/s`";
    let (times, rate) = text.trim().split_once(char::is_whitespace).ok_or(HELP)?;
    let (from, to) = times.split_once('-').ok_or(HELP)?;
    let utc = |clock: &str| {
        let minute = i32::try_from(minute_of_day(clock)?).ok()?;
        u32::try_from((minute - ahead_min).rem_euclid(24 * 60)).ok()
    };
    let (from_min, to_min) = (utc(from).ok_or(HELP)?, utc(to).ok_or(HELP)?);
    if from_min == to_min {
        return Err(format!("the window begins when it ends: {HELP}"));
    }
    let max_bytes_per_s = match rate.trim() {
        "full" => None,
        rate => Some(bytes_per_s(rate).map_err(|err| format!("{err}, or `full`"))?),
    };
    Ok(UploadWindow {
        from_min,
        to_min,
        max_bytes_per_s,
    })
}

/// Minutes of `HH:MM`, up to `24:00`.
fn minute_of_day(clock: &str) -> Option<u32> {
    let (hours, minutes) = clock.split_once(':')?;
    let number = |digits: &str| {
        let plain = (1..=2).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| digits.parse::<u32>().ok()).flatten()
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let of_day = hours * 60 + minutes;
    (minutes < 60 && of_day <= 24 * 60).then_some(of_day)
}

/// The user's rule for when a checkpoint is complete, in the form that the agent reads: a silence in milliseconds.
pub fn complete_when(text: &str) -> Result<String, String> {
    const HELP: &str = "expected `marker FILE`, `quiet 20s` or `command ...`";
    let (word, rest) = text.trim().split_once(char::is_whitespace).ok_or(HELP)?;
    let rest = rest.trim();
    match word {
        "marker" => {
            let is_inside = !rest.starts_with('/')
                && rest.split('/').all(|part| !matches!(part, "" | "." | ".."));
            if !is_inside {
                return Err("a marker is a file inside of the checkpoint, or beside it with {name} or {step} in its path".to_owned());
            }
            Ok(format!("marker {rest}"))
        }
        "quiet" => Ok(format!("quiet {}ms", duration(rest)?.as_millis())),
        "command" => Ok(format!("command {rest}")),
        _ => Err(HELP.to_owned()),
    }
}

/// What to do about a contradiction: `alert`, `stop` or `command ...`, as the contract has it.
pub fn on_contradiction(text: &str) -> Result<String, String> {
    let words = text.trim();
    match words.split_once(char::is_whitespace) {
        Some(("command", command)) => Ok(format!("command {}", command.trim())),
        None if matches!(words, "alert" | "stop") => Ok(words.to_owned()),
        _ => Err("expected `alert`, `stop` or `command ...`".to_owned()),
    }
}

/// An expression for the lines of a log that show progress.
pub fn progress(text: &str) -> Result<String, String> {
    match Progress::new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(ProgressError::Malformed(why)) => {
            Err(format!("`{text}` is no regular expression: {why}"))
        }
        Err(err) => Err(format!(
            "`{text}` finds no values: {err}; groups are {}, as in `(?<step>\\d+)`",
            GROUPS.join(", ")
        )),
    }
}

/// A time span: `90s`, `10m`, `72h`, `2d`, or several of them such as `1h30m`. A bare number has no unit and is refused.
pub fn duration(text: &str) -> Result<Duration, String> {
    const HELP: &str = "a time span looks like 90s, 10m, 72h or 2d";
    let mut total = 0.0_f64;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(HELP.to_owned());
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().map_err(|_| HELP.to_owned())?;
        let unit_end = rest[digits..]
            .find(|c: char| !c.is_ascii_alphabetic())
            .map_or(rest.len(), |end| digits + end);
        let seconds = match &rest[digits..unit_end] {
            "ms" => 0.001,
            "s" | "sec" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            _ => return Err(HELP.to_owned()),
        };
        total += number * seconds;
        rest = rest[unit_end..].trim_start();
    }
    // A year; also keeps the number far from what a Duration cannot hold.
    if total > 366.0 * 86_400.0 {
        return Err("a time span is at most a year".to_owned());
    }
    Ok(Duration::from_secs_f64(total))
}

/// Dollars: `9.00`, `$9`, `600`.
pub fn usd(text: &str) -> Result<f64, String> {
    let number = text.trim();
    let number = number.strip_prefix('$').unwrap_or(number).trim();
    match plain_number(number) {
        Some(usd) if usd > 0.0 && usd <= 1e6 => Ok(usd),
        _ => {
            Err("an amount is in dollars, such as 9.00 or $9, above 0 and up to 1000000".to_owned())
        }
    }
}

/// How many: `8.03B`, `49.8B`, `956M`, `512k`, `524288`.
pub fn amount(text: &str) -> Result<f64, String> {
    const UNITS: [(&str, f64); 5] = [("", 1.0), ("k", 1e3), ("m", 1e6), ("b", 1e9), ("t", 1e12)];
    let text = text.replace('_', "");
    match with_unit(&text, &UNITS) {
        // Whole, because 8.03 x 10^9 is not in binary.
        Some(amount) if (1.0..=1e18).contains(&amount) => Ok(amount.round()),
        _ => Err("a number looks like 8.03B, 956M, 512k or 524288".to_owned()),
    }
}

/// A share as a fraction: `15%` is 0.15; a bare number is one already.
pub fn percent(text: &str) -> Result<f64, String> {
    let text = text.trim();
    let fraction = match text.strip_suffix('%') {
        Some(number) => plain_number(number.trim()).map(|percent| percent / 100.0),
        None => plain_number(text),
    };
    match fraction {
        Some(fraction) if (0.0..=10.0).contains(&fraction) => Ok(fraction),
        _ => Err("a share looks like 15% or 0.15".to_owned()),
    }
}

/// A whole number within bounds.
pub fn count(text: &str, bounds: std::ops::RangeInclusive<u32>) -> Result<u32, String> {
    let number = text
        .trim()
        .parse()
        .ok()
        .filter(|number| bounds.contains(number));
    number.ok_or_else(|| {
        format!(
            "a whole number from {} to {} is expected",
            bounds.start(),
            bounds.end()
        )
    })
}

/// The name of a value in a training's log.
pub fn metric(text: &str) -> Result<String, String> {
    let name = text.trim();
    spotter_trainlog::Metric::new(name).map_err(|err| err.to_string())?;
    Ok(name.to_owned())
}

/// Whether more of a value is better, where its name leaves no doubt. The other way round the best would be deleted.
pub fn is_better_when_high(metric: &str) -> Result<bool, String> {
    const LESS: [&str; 7] = ["loss", "perplexity", "ppl", "error", "bpb", "wer", "cer"];
    const MORE: [&str; 5] = ["accuracy", "acc", "f1", "bleu", "reward"];
    let metric = metric.to_ascii_lowercase();
    let has = |known: &[&str]| {
        metric
            .split(|c: char| !c.is_ascii_alphanumeric())
            .any(|word| known.contains(&word))
    };
    match (has(&LESS), has(&MORE)) {
        (true, false) => Ok(false),
        (false, true) => Ok(true),
        _ => Err(
            "say which are better: `mode: min` keeps those with the least of it, `mode: max` those with the most"
                .to_owned(),
        ),
    }
}

/// The name of a run: letters, digits, `-`, `_`, `.`; begins with a letter or digit; at most 63 characters.
pub fn run_name(text: &str) -> Result<(), String> {
    let valid = (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && text.as_bytes()[0].is_ascii_alphanumeric();
    if valid {
        Ok(())
    } else {
        Err("a name has 1 to 63 letters, digits, `-`, `_` or `.`, and begins with a letter or digit"
            .to_owned())
    }
}

/// The name of a variable of the job's environment.
pub fn variable_name(text: &str) -> Result<(), String> {
    let valid = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && text.bytes().next().is_some_and(|b| !b.is_ascii_digit());
    if !valid {
        return Err(
            "a variable has letters, digits and `_`, and does not begin with a digit".to_owned(),
        );
    }
    if text.starts_with("SPOTTER_") {
        return Err("variables that begin with SPOTTER_ are set by spotter".to_owned());
    }
    Ok(())
}

/// Whether a variable's name says that its value is a secret, which has no place in a file.
pub fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    [
        "TOKEN",
        "API_KEY",
        "APIKEY",
        "SECRET",
        "SECRET_KEY",
        "ACCESS_KEY",
        "PASSWORD",
        "PASSWD",
    ]
    .iter()
    .any(|end| name == *end || name.ends_with(&format!("_{end}")))
}

/// A path on the box: relative to the working directory and inside it. Answers it without `./` and doubled slashes.
pub fn inner_path(text: &str) -> Result<String, String> {
    let parts: Vec<&str> = text
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    if text.starts_with('/') || text.starts_with('~') {
        return Err("the path is relative to the working directory on the box".to_owned());
    }
    if parts.contains(&"..") {
        return Err("the path must not leave the working directory on the box".to_owned());
    }
    if parts.is_empty() {
        return Err("the path must name something inside the working directory".to_owned());
    }
    if text.chars().any(char::is_control) {
        return Err("the path holds a control character".to_owned());
    }
    Ok(parts.join("/"))
}

/// A number without sign, exponent or words such as `inf`.
fn plain_number(text: &str) -> Option<f64> {
    let valid = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if valid { text.parse().ok() } else { None }
}

fn with_unit(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let unit = text[end..].trim().to_ascii_lowercase();
    let factor = units.iter().find(|(name, _)| *name == unit)?.1;
    Some(plain_number(&text[..end])? * factor)
}

#[cfg(test)]
mod tests;
