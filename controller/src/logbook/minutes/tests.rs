//! Copies that go on, that grow too large, and what a minute is made of.

use super::*;

const SECOND_US: u64 = 1_000_000;

fn sample(second: u64, used: u32, memory: u64) -> SampleInfo {
    let gpu = GpuInfo {
        index: 0,
        name: "RTX".to_owned(),
        utilisation_percent: Some(used),
        memory_used_bytes: Some(memory),
        power_mw: Some(used * 1000),
        throttle_reasons: Some(1 << (second % 3)),
        energy_mj: Some(second),
        ..GpuInfo::default()
    };
    SampleInfo {
        time_us: second * SECOND_US,
        span_s: 0,
        gpus: vec![gpu],
        host: Some(HostInfo {
            cpu_percent: Some(12.34),
            oom_kills: Some(second),
            ..HostInfo::default()
        }),
        processes: Vec::new(),
    }
}

fn minutes(book: &Logbook, attempt: u32) -> Vec<Minute> {
    let mut all = Vec::new();
    book.each_minute("r", attempt, &mut |minute| all.push(minute))
        .unwrap();
    all
}

fn spans(book: &Logbook) -> Vec<(u64, u32)> {
    let all = minutes(book, 1);
    all.iter()
        .map(|minute| (minute.time_us / SECOND_US, minute.span_s))
        .collect()
}

#[test]
fn readings_become_means_peaks_and_the_newest_of_a_minute() {
    let home = tempfile::tempdir().unwrap();
    let book = Logbook::new(home.path());
    let mut copy = book.open_samples("r", 1).unwrap();
    assert!(
        !book.samples_path("r", 1).exists(),
        "nothing is made of nothing"
    );
    copy.add(&[
        sample(60, 0, 5),
        sample(61, 90, 9),
        sample(62, 30, 7),
        sample(120, 1, 1),
    ])
    .unwrap();
    let all = minutes(&book, 1);
    assert_eq!(all.len(), 1, "the second minute is not over: {all:?}");
    assert_eq!((all[0].time_us, all[0].span_s), (62 * SECOND_US, 3));
    let (gpu, host) = (&all[0].gpus[0], all[0].host.as_ref().unwrap());
    for (key, expected) in [
        ("utilisation_percent", 40.0),
        (LEAST_USE, 0.0),
        (MOST_USE, 90.0),
        ("memory_used_bytes", 9.0),
        ("power_mw", 40_000.0),
        ("throttle_reasons", 7.0),
        ("energy_mj", 62.0),
    ] {
        assert_eq!(Minute::number(gpu, key), Some(expected), "{key}");
    }
    assert_eq!(Minute::number(host, "cpu_percent"), Some(12.34));
    assert_eq!(Minute::number(host, "oom_kills"), Some(62.0));
    let read = all[0].sample();
    assert_eq!(read.gpus[0].utilisation_percent, Some(40));
    assert_eq!(read.gpus[0].name, "RTX");
    assert_eq!(read.gpus[0].fan_percent, None);
    assert_eq!(read.host.unwrap().oom_kills, Some(62));
    assert!(minutes(&book, 2).is_empty());
}

#[test]
fn a_copy_goes_on_at_its_last_whole_line_and_gaps_stay_gaps() {
    let home = tempfile::tempdir().unwrap();
    let book = Logbook::new(home.path());
    let reopened = |samples: &[SampleInfo], after: u64| {
        let mut copy = book.open_samples("r", 1).unwrap();
        assert_eq!(copy.last_us(), after * SECOND_US);
        copy.add(samples).unwrap();
    };
    reopened(&[sample(60, 1, 1), sample(119, 1, 1), sample(120, 1, 1)], 0);
    // The minute that was not over is read again.
    reopened(&[sample(119, 9, 9), sample(120, 1, 1)], 119);
    let path = book.samples_path("r", 1);
    let torn = |text: &str| {
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    };
    torn("{\"time_us\": 9000000000, \"sp");
    assert_eq!(spans(&book), [(119, 2)]);
    let mut copy = book.open_samples("r", 1).unwrap();
    assert_eq!(copy.last_us(), 119 * SECOND_US);
    copy.add(&[sample(120, 1, 1), sample(600, 1, 1)]).unwrap();
    copy.settle().unwrap();
    assert_eq!(spans(&book), [(119, 2), (120, 1), (600, 1)]);
    // A heading that was cut short, and a file of others.
    for (text, is_ours) in [("{\"form", true), ("hello\n", false), ("", true)] {
        fs::write(&path, text).unwrap();
        assert_eq!(book.open_samples("r", 1).is_ok(), is_ours, "{text:?}");
    }
    fs::write(
        &path,
        "{\"format\":\"spotter-samples\",\"version\":2,\"span_s\":60}\n",
    )
    .unwrap();
    let newer = book.open_samples("r", 1).unwrap_err().to_string();
    assert!(newer.contains("use the newer spotter"), "{newer}");
}

#[test]
fn a_copy_that_grows_too_large_stands_for_longer_spans() {
    let home = tempfile::tempdir().unwrap();
    let book = Logbook::new(home.path());
    let mut copy = SampleCopy::open(book.samples_path("r", 1), 4_000).unwrap();
    for minute in 1..=200 {
        copy.add(&[sample(minute * 60, (minute % 2 * 100) as u32, minute)])
            .unwrap();
    }
    copy.settle().unwrap();
    let length = fs::metadata(book.samples_path("r", 1)).unwrap().len();
    assert!(length <= 4_000, "{length}");
    let all = minutes(&book, 1);
    assert!((4..20).contains(&all.len()), "{}", all.len());
    assert_eq!(all.last().unwrap().time_us, 200 * 60 * SECOND_US);
    let middle = &all[1].gpus[0];
    assert_eq!(Minute::number(middle, "utilisation_percent"), Some(50.0));
    assert_eq!(Minute::number(middle, MOST_USE), Some(100.0));
    let copy = book.open_samples("r", 1).unwrap();
    assert!(copy.span_s > 60 && copy.span_s.is_multiple_of(60));
    let seconds: u32 = all.iter().map(|minute| minute.span_s).sum();
    assert_eq!(seconds, 200, "every reading counts once");
}
