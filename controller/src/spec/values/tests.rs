//! Values of the run file, as they are typed and as they are refused.

use super::*;

#[track_caller]
fn check<T: Clone + PartialEq + std::fmt::Debug>(found: Result<T, String>, expected: Option<T>) {
    assert_eq!(found.clone().ok(), expected, "{found:?}");
}

#[test]
fn sizes() {
    for (text, expected) in [
        ("500GB", Some(500.0)),
        ("500", Some(500.0)),
        ("1TB", Some(1000.0)),
        ("1.5 tb", Some(1500.0)),
        ("1GiB", Some(1.073_741_824)),
        ("0", None),
        ("-5GB", None),
        ("500MB", None),
        ("1e3", None),
        ("big", None),
        ("", None),
    ] {
        check(size_gb(text), expected);
    }
}

#[test]
fn windows_are_kept_in_utc() {
    let window = |from_min, to_min, max_bytes_per_s| {
        Some(UploadWindow {
            from_min,
            to_min,
            max_bytes_per_s,
        })
    };
    for (text, zone_text, expected) in [
        ("22:00-06:00 full", "UTC", window(22 * 60, 6 * 60, None)),
        ("22:00-06:00 full", "+02:00", window(20 * 60, 4 * 60, None)),
        (
            "1:30-24:00  5MB/s",
            "-05:30",
            window(7 * 60, 5 * 60 + 30, Some(5_000_000)),
        ),
        ("00:00-24:00 full", "UTC", None),
        ("22:00-22:00 full", "UTC", None),
        ("25:00-06:00 full", "UTC", None),
        ("22:60-06:00 full", "UTC", None),
        ("22-06 full", "UTC", None),
        ("22:00-06:00", "UTC", None),
        ("22:00-06:00 fast", "UTC", None),
        ("+1:00-06:00 full", "UTC", None),
    ] {
        let ahead_min = zone(zone_text).unwrap();
        check(upload_window(text, ahead_min), expected);
    }
    for (text, expected) in [
        ("UTC", Some(0)),
        ("+14:00", Some(840)),
        ("-00:30", Some(-30)),
        ("+15:00", None),
        ("CET", None),
        ("02:00", None),
        ("", None),
    ] {
        check(zone(text), expected);
    }
}

#[test]
fn rates_and_rules_for_checkpoints() {
    for (text, expected) in [
        ("50MB/s", Some(50_000_000)),
        ("1 MiB/s", Some(1_048_576)),
        ("0.5gb/s", Some(500_000_000)),
        ("50", None),
        ("50MB", None),
        ("1KB/s", None),
        ("fast", None),
    ] {
        check(bytes_per_s(text), expected);
    }
    for (text, expected) in [
        ("marker DONE", Some("marker DONE")),
        ("marker ok/{step}", Some("marker ok/{step}")),
        ("quiet 20s", Some("quiet 20000ms")),
        ("command  test -e x", Some("command test -e x")),
        ("marker /etc/passwd", None),
        ("marker ../x", None),
        ("quiet soon", None),
        ("always", None),
        ("", None),
    ] {
        check(complete_when(text), expected.map(str::to_owned));
    }
}

#[test]
fn a_metrics_name_says_which_are_better_or_the_user_has_to() {
    for (name, expected) in [
        ("val_loss", Some(false)),
        ("eval/Loss", Some(false)),
        ("eval/accuracy", Some(true)),
        ("val acc", Some(true)),
        ("accuracy_error", None),
        ("mAP50", None),
        ("glossary", None),
    ] {
        check(is_better_when_high(name), expected);
    }
    check(metric(" val_loss "), Some("val_loss".to_owned()));
    check(metric("a=b"), None);
}

#[test]
fn durations() {
    let seconds = |s: u64| Some(Duration::from_secs(s));
    for (text, expected) in [
        ("10m", seconds(600)),
        ("72h", seconds(259_200)),
        ("1h30m", seconds(5_400)),
        ("1h 30m", seconds(5_400)),
        ("0.5h", seconds(1_800)),
        ("2d", seconds(172_800)),
        ("90 s", None),
        ("10", None),
        ("-1m", None),
        ("400d", None),
        ("m", None),
        ("", None),
    ] {
        check(duration(text), expected);
    }
    check(duration("1500ms"), Some(Duration::from_millis(1500)));
}

#[test]
fn money_and_shares() {
    check(usd("9.00"), Some(9.0));
    check(usd("$9"), Some(9.0));
    check(usd(" $ 0.5 "), Some(0.5));
    for text in ["0", "-1", "free", "inf", "1e9", "9€"] {
        check(usd(text), None);
    }
    check(percent("15%"), Some(0.15));
    check(percent("0.15"), Some(0.15));
    check(percent("-1%"), None);
    check(percent("2000%"), None);
}

#[test]
fn amounts() {
    check(amount("8.03B"), Some(8.03e9));
    check(amount("956 M"), Some(956e6));
    check(amount("524_288"), Some(524_288.0));
    for text in ["", "0", "-1B", "8G", "many"] {
        check(amount(text), None);
    }
}

#[test]
fn names() {
    for (name, good) in [
        ("flightmind-d24", true),
        ("a", true),
        ("7b.v2_x", true),
        ("", false),
        ("-a", false),
        (".hidden", false),
        ("a/b", false),
        ("größe", false),
    ] {
        assert_eq!(run_name(name).is_ok(), good, "{name}");
    }
    assert!(run_name(&"a".repeat(63)).is_ok());
    assert!(run_name(&"a".repeat(64)).is_err());
    assert!(variable_name("HF_TOKEN").is_ok());
    for name in ["1A", "A-B", "", "SPOTTER_RUN"] {
        assert!(variable_name(name).is_err(), "{name}");
    }
}

#[test]
fn names_of_secrets_are_known() {
    for name in [
        "HF_TOKEN",
        "WANDB_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "password",
        "DB_PASSWORD",
    ] {
        assert!(is_secret_name(name), "{name}");
    }
    for name in ["EPOCHS", "TOKENIZER", "SORT_KEY", "NUM_TOKENS", "TOKENS"] {
        assert!(!is_secret_name(name), "{name}");
    }
}

#[test]
fn paths_stay_inside() {
    check(
        inner_path("./checkpoints//x/"),
        Some("checkpoints/x".to_owned()),
    );
    for path in ["../x", "a/../../b", "/abs", "~/x", ".", "", "a\nb"] {
        check(inner_path(path), None);
    }
}
