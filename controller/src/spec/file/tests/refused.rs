//! What is wrong in a run file is named with its place.

use super::*;

#[test]
fn an_unknown_key_is_named_with_its_place_and_the_nearest_one() {
    check_error(
        &format!("{SMALL}chekpoints: {{}}\n"),
        "run.yaml:4:1: unknown key `chekpoints`, did you mean `checkpoints`?",
    );
    check_error(
        &FULL.replace("every: 10m", "evry: 10m"),
        "run.yaml:25:3: unknown key `evry`, did you mean `every`?",
    );
    // Keys of later versions are not known to this one.
    check_error(
        &format!("{SMALL}data: []\n"),
        "run.yaml:4:1: unknown key `data`; the keys here are name, workdir, resources, needs, model, image, image_size, image_login, ports, docker_options, template, volume, onstart, envs, setup, \
         smoke, run, resume, progress, checkpoints, validate, recover, limits, results, on_done, notify",
    );
}

#[test]
fn a_bad_value_is_named_with_its_place() {
    let cases = [
        (
            "disk: 500GB",
            "disk: 500MB",
            "6:9: a size looks like 500GB or 1TB",
        ),
        (
            "H100 SXM:4",
            "any:4",
            "5:17: a run is written for one GPU, as in \"RTX 4090:1\"; compare several with `spotter plan --gpus \"RTX 4090,H100 SXM\"`",
        ),
        (
            "H100 SXM:4",
            "H100 SXM:0",
            "5:17: the number of GPUs is from 1 to 64, as in \"H100 SXM:1\"",
        ),
        (
            "rental: interruptible",
            "rental: spot",
            "7:11: expected on-demand or interruptible or reserved",
        ),
        (
            "reliability>0.95",
            "relability>0.95",
            "8:11: unknown field `relability`, did you mean `reliability`? (character 1)",
        ),
        (
            "max_price: 9.00",
            "max_price: cheap",
            "9:14: an amount is in dollars, such as 9.00 or $9, above 0 and up to 1000000",
        ),
        (
            "headroom: 15%",
            "headroom: much",
            "10:19: a share looks like 15% or 0.15",
        ),
        (
            "name: flightmind-d24",
            "name: a/b",
            "2:7: a name has 1 to 63 letters, digits, `-`, `_` or `.`, and begins with a letter or digit",
        ),
        (
            "EPOCHS: 3",
            "1EPOCH: 3",
            "15:3: a variable has letters, digits and `_`, and does not begin with a digit",
        ),
        (
            "EPOCHS: 3",
            "SPOTTER_RUN: x",
            "15:3: variables that begin with SPOTTER_ are set by spotter",
        ),
        (
            "last: 3",
            "last: 1",
            "26:16: a whole number from 2 to 100000 is expected: the one before the last is needed when the last turns \
             out to be damaged",
        ),
        (
            "dir: ./out/checkpoints",
            "dir: ../out",
            "23:8: the path must not leave the working directory on the box",
        ),
        (
            "every: 10m",
            "every: 10",
            "25:10: a time span looks like 90s, 10m, 72h or 2d",
        ),
        (
            "policy: here",
            "policy: there",
            "36:19: expected elsewhere or here or price or ask or never",
        ),
        (
            "bring_up: 30m",
            "bring_up: 5s",
            "37:20: the limit is at least 10s",
        ),
        (
            "storage_days: 3",
            "storage_days: 7d",
            "37:52: days are from 0 to 365, such as 7",
        ),
        (
            "fetch: [checkpoints/final.pt, logs]",
            "fetch: [/etc]",
            "38:19: the path is relative to the working directory on the box",
        ),
        (
            "fetch: [checkpoints/final.pt, logs]",
            "fetch: []",
            "38:18: the list is empty: name what to fetch, or leave `results` out",
        ),
        (
            "fetch: [checkpoints/final.pt, logs]",
            "fetch: out",
            "38:11: expected a list of paths, as in [out/final.pt, logs]",
        ),
        (
            "to: ./brought",
            "to: /",
            "38:52: files are not fetched to the root of this machine",
        ),
        (
            "timeout: 5m",
            "timeout: 5",
            "18:68: a time span looks like 90s, 10m, 72h or 2d",
        ),
        (
            "credentials: session",
            "credentials: mine",
            "31:16: expected auto or session or keys or presigned",
        ),
        (
            "credentials: session",
            "credentials: presigned",
            "32:9: no keys go to the box with `credentials: presigned`: leave `role` out",
        ),
        (
            "role: arn:aws:iam::123456789012:role/train",
            "role: train",
            "32:9: a role looks like arn:aws:iam::123456789012:role/train",
        ),
        (
            "metric: val_loss",
            "metric: mAP50",
            "26:54: say which are better: `mode: min` keeps those with the least of it, `mode: max` those with the most",
        ),
        (
            "metric: val_loss, count: 2",
            "metric: mAP50, mode: best",
            "26:67: expected min or max",
        ),
        (
            "metric: val_loss",
            "metric: a=b",
            "26:54: `a=b` names no value in a log: letters, digits, `_`, `/`, `.`, `-` and spaces, at most 64, with a letter in it",
        ),
        (
            "on_stale: stop",
            "on_stale: panic",
            "34:13: expected alert or stop",
        ),
        (
            "on_done: stop",
            "on_done: nothing",
            "39:10: expected destroy or stop or keep",
        ),
        (
            "workdir: .",
            "workdir: ~/code",
            "3:10: `~` is not expanded: write the whole path, or one relative to this file",
        ),
        (
            "max: $8.5",
            "max: $9.5",
            "10:29: the highest bid of $9.500/h is above `max_price` of $9.000/h, which is all in",
        ),
    ];
    for (from, to, expected) in cases {
        assert!(FULL.contains(from), "{from}");
        check_error(&FULL.replace(from, to), &format!("run.yaml:{expected}"));
    }
}

#[test]
fn an_interruptible_box_without_a_bucket_is_refused_with_the_reason() {
    let expected = "run.yaml:7:11: an interruptible box is taken back without warning: name a bucket with \
                    `checkpoints.to`, so that checkpoints outlive it, or rent on-demand";
    check_error(&FULL.replace("  to: s3://bucket/runs\n", ""), expected);
}

#[test]
fn a_missing_workdir_is_found_before_money_is_spent() {
    let dir = dir();
    let text = FULL.replace("workdir: .", "workdir: none");
    let err = parse(&text, "run.yaml", dir.path())
        .unwrap_err()
        .to_string();
    assert_eq!(
        err,
        format!(
            "run.yaml:3:10: `{}` is no directory",
            dir.path().join("none").display()
        )
    );
}

#[test]
fn a_literal_secret_is_refused_without_showing_it() {
    let text = FULL.replace("HF_TOKEN: null", "HF_TOKEN: hf_verysecret");
    let err = parse(&text, "run.yaml", dir().path())
        .unwrap_err()
        .to_string();
    assert!(
        err.starts_with("run.yaml:14:3: `HF_TOKEN` looks like a secret"),
        "{err}"
    );
    assert!(!err.contains("hf_verysecret"), "{err}");
}

#[test]
fn an_expression_for_progress_is_checked_where_it_stands() {
    let file = |regex: &str| format!("{SMALL}progress: {{regex: '{regex}'}}\n");
    let good = r"it (?<step>\d+)/(?<total>\d+) nll (?<loss>\S+)";
    let spec = parse(&file(good), "run.yaml", dir().path()).unwrap();
    assert_eq!(spec.progress.as_deref(), Some(good));
    for (regex, expected) in [
        ("it (", "4:19: `it (` is no regular expression: "),
        (
            r"it (\d+)",
            r"4:19: `it (\d+)` finds no values: it has no named group; groups are step, total, ",
        ),
        (
            r"it (?<speed>\d+)",
            r"4:19: `it (?<speed>\d+)` finds no values: no value is called `speed`; groups are step, ",
        ),
    ] {
        let err = parse(&file(regex), "run.yaml", dir().path())
            .unwrap_err()
            .to_string();
        assert!(err.starts_with(&format!("run.yaml:{expected}")), "{err}");
    }
}

#[test]
fn a_bucket_must_be_one() {
    let text = FULL.replace("s3://bucket/runs", "gs://bucket/runs");
    let err = parse(&text, "run.yaml", dir().path())
        .unwrap_err()
        .to_string();
    assert!(err.starts_with("run.yaml:24:7: "), "{err}");
}

#[test]
fn a_box_without_keys_needs_a_bucket_and_keeps_nothing() {
    let with = |keys: &str| format!("{SMALL}checkpoints: {{credentials: presigned{keys}}}\n");
    let spec = parse(&with(", to: s3://runs"), "run.yaml", dir().path()).unwrap();
    let keys = spec.checkpoints.unwrap().keys;
    assert_eq!((keys.mode, keys.persist), (KeyMode::Presigned, false));
    check_error(
        &with(""),
        "run.yaml:4:28: nothing can be signed without a bucket: set `to`",
    );
    check_error(
        &with(", to: s3://runs, persist: true"),
        "run.yaml:4:63: what is signed for the box stays in its memory with `credentials: presigned`: leave `persist` out",
    );
}

#[test]
fn a_wrong_server_or_schedule_is_refused_at_its_place() {
    let check = |line: &str, expected: &str| {
        let text = format!("{SMALL}checkpoints:\n  to: s3://bucket/runs\n  {line}\n");
        check_error(&text, expected);
    };
    check(
        "server: {endpoint: minio.lab}",
        "run.yaml:6:22: endpoint \"minio.lab\" is not usable: it must begin with http:// or https://, as in https://minio.lab",
    );
    check(
        "server: {style: vhost}",
        "run.yaml:6:19: expected path or virtual",
    );
    check(
        "server: {region: eu/west}",
        "run.yaml:6:20: region \"eu/west\" is not usable: letters, digits and `-` only",
    );
    check(
        "upload: {zone: CET}",
        "run.yaml:6:18: a zone is how far its clock is ahead of UTC: +02:00, -05:30 or UTC",
    );
    check(
        "upload: {schedule: [\"9-17 full\"]}",
        "run.yaml:6:23: a window looks like `22:00-06:00 full` or `09:00-17:00 5MB/s`",
    );
    let dir = dir();
    let text = format!("{SMALL}checkpoints: {{to: s3://bucket/runs, server: {{ca: ca.pem}}}}\n");
    let err = parse(&text, "run.yaml", dir.path())
        .unwrap_err()
        .to_string();
    assert!(
        err.starts_with("run.yaml:4:") && err.contains("ca.pem` cannot be read"),
        "{err}"
    );
    let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    std::fs::write(dir.path().join("ca.pem"), pem).unwrap();
    let spec = parse(&text, "run.yaml", dir.path()).unwrap();
    assert_eq!(
        spec.checkpoints.unwrap().server.ca,
        Some(dir.path().join("ca.pem"))
    );
}

#[test]
fn a_reserved_box_is_rented_on_demand_and_says_what_is_paid_in_advance() {
    let text = |resources: &str, more: &str| {
        format!("name: a\nresources: {{accelerators: RTX 4090, {resources}}}\nrun: x\n{more}")
    };
    let spec = parse(
        &text("rental: reserved, prepay: 40", ""),
        "run.yaml",
        Path::new("/"),
    )
    .unwrap();
    assert_eq!(spec.resources.rental, Rental::OnDemand);
    assert_eq!(spec.resources.prepay_usd, Some(40.0));
    for (resources, more, says) in [
        (
            "rental: reserved",
            "",
            "run.yaml:2:45: a reserved box is paid for in advance",
        ),
        (
            "prepay: 40",
            "",
            "run.yaml:2:45: nothing is paid in advance without",
        ),
        (
            "rental: interruptible, prepay: 40",
            "",
            "run.yaml:2:68: nothing is paid in advance",
        ),
        ("rental: reserved, prepay: lots", "", "run.yaml:2:63: "),
        (
            "rental: reserved, prepay: 40",
            "limits: {budget: 30}\n",
            "run.yaml:2:63: more is paid in advance than `limits.budget` of $30.00",
        ),
    ] {
        let err = parse(&text(resources, more), "run.yaml", Path::new("/")).unwrap_err();
        assert!(err.to_string().starts_with(says), "{err}");
    }
}
