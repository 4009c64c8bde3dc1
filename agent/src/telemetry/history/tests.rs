//! The history on real files: what comes back, after crashes too, and how much is kept.

use std::fs;

use nvml_probe::Gpu;

use super::super::{GpuSample, HostSample, ProcessSample};
use super::*;

fn sample(second: u64, gpus: u32) -> Sample {
    let gpu = |index| GpuSample {
        name: "NVIDIA H100 80GB HBM3".into(),
        uuid: format!("GPU-{index}").into(),
        reading: Gpu {
            index,
            power_mw: Some(second as u32),
            memory_used_bytes: Some(64_000_000_000),
            ..Gpu::default()
        },
    };
    Sample {
        time_us: second * 1_000_000,
        span_s: 0,
        gpus: (0..gpus).map(gpu).collect(),
        host: Some(HostSample {
            cpu_percent: Some(50.0),
            ..HostSample::default()
        }),
        processes: vec![ProcessSample {
            pid: 7,
            name: "python".into(),
            cpu_percent: 98.5,
            memory_bytes: 1 << 30,
        }],
    }
}

fn seconds(samples: Samples) -> Vec<(u64, u32)> {
    samples
        .map(|sample| (sample.time_us / 1_000_000, sample.span_s))
        .collect()
}

#[test]
fn samples_come_back_as_they_went_in_even_to_the_next_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("history");
    assert_eq!(read(&dir, 0, u64::MAX).count(), 0);
    let lost = GpuSample {
        uuid: "GPU-9".into(),
        reading: Gpu {
            error: 15,
            ..Gpu::default()
        },
        ..GpuSample::default()
    };
    let odd = Sample {
        gpus: vec![lost],
        host: None,
        ..sample(2, 0)
    };
    let put = [sample(1, 8), odd, sample(3, 0), sample(4, 2), sample(5, 2)];
    for sample in &put {
        // Each by a daemon of its own.
        History::new(dir.clone()).push(sample).unwrap();
    }
    assert_eq!(read(&dir, 0, u64::MAX).collect::<Vec<_>>(), put);
    assert_eq!(files(&dir, 0).len(), 1, "daemons go on with one file");
    assert_eq!(
        seconds(read(&dir, 1_000_000, 4_000_000)),
        [(2, 0), (3, 0), (4, 0)],
        "later than the first and not later than the last"
    );
}

#[test]
fn what_a_crash_tore_off_is_left_out_and_written_over() {
    let dir = tempfile::tempdir().unwrap();
    for (tail, what) in [
        (&b"\x20\x00"[..], "half a head"),
        (&b"\x04\x00\x00\x00\x01\x02\x03\x04abcd"[..], "a wrong sum"),
        (
            &b"\xff\xff\xff\xff\x01\x02\x03\x04abcd"[..],
            "a wild length",
        ),
    ] {
        let dir = dir.path().join(what);
        let mut history = History::new(dir.clone());
        history.push(&sample(1, 1)).unwrap();
        drop(history);
        let path = files(&dir, 0).pop().unwrap().path;
        let whole = fs::read(&path).unwrap();
        fs::write(&path, [&whole[..], tail].concat()).unwrap();
        assert_eq!(seconds(read(&dir, 0, u64::MAX)), [(1, 0)], "{what}");
        History::new(dir.clone()).push(&sample(2, 1)).unwrap();
        assert_eq!(seconds(read(&dir, 0, u64::MAX)), [(1, 0), (2, 0)], "{what}");
    }
    let foreign = dir.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("0-00000001-5.samples"), "something else").unwrap();
    fs::write(foreign.join("notes.txt"), "").unwrap();
    assert_eq!(read(&foreign, 0, u64::MAX).count(), 0);
}

#[test]
fn few_samples_tell_of_all_times_the_newest_minute_by_its_readings() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(minutes(dir.path(), 0).count(), 0);
    let mut history = History::new(dir.path().to_owned());
    for second in 1..=330 {
        history.push(&sample(second, 1)).unwrap();
    }
    let told = |after_us| {
        let told = minutes(dir.path(), after_us);
        told.map(|sample| (sample.time_us / 1_000_000, sample.span_s))
            .collect::<Vec<_>>()
    };
    let all = told(0);
    assert_eq!(
        &all[..5],
        [(59, 60), (119, 60), (179, 60), (239, 60), (299, 60)]
    );
    let readings: Vec<(u64, u32)> = (300..=330).map(|second| (second, 0)).collect();
    assert_eq!(&all[5..], readings);
    assert_eq!(told(239_000_000), all[4..]);
}

#[test]
fn old_times_are_coarser_and_the_files_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let mut history = History::new(dir.path().to_owned());
    // Five hours: two of them by the second, the rest by ten.
    let end = 5 * 3600;
    for second in 1..=end {
        history.push(&sample(second, 1)).unwrap();
    }
    history.close().unwrap();
    let found = seconds(read(dir.path(), 0, u64::MAX));
    assert!(found.is_sorted(), "times rise");
    let of = |span| found.iter().filter(|(_, of)| *of == span).count() as u64;
    assert!((7200..=8100).contains(&of(0)), "{}", of(0));
    assert_eq!(of(10), (end - of(0)).div_ceil(10));
    assert_eq!(of(60), 0, "ten seconds are there for all of it");
    let folded = read(dir.path(), 0, 25_000_000).nth(1).unwrap();
    assert_eq!((folded.time_us, folded.span_s), (19_000_000, 10));
    assert_eq!(folded.gpus[0].power_mw, Some(15), "10 to 19 W, rounded");
    assert!(files(dir.path(), 0).len() <= TIERS[0].files);
    assert_eq!(files(dir.path(), 2).len(), 1);
    let last_minute = found.iter().filter(|(second, _)| *second > end - 60);
    assert_eq!(last_minute.count(), 60);
}

#[test]
fn a_week_of_eight_busy_gpus_fits_in_a_hundred_megabytes() {
    // Readings that come more often than once a second may take some more.
    let bounds = TIERS.iter().map(|tier| tier.files as u64 * MOST_FILE_BYTES);
    let most = TIERS
        .iter()
        .map(|tier| tier.most_files as u64 * MOST_FILE_BYTES);
    assert!(most.sum::<u64>() <= 212 << 20);
    assert!(bounds.sum::<u64>() <= 104 << 20);
    // Held: seven days at least, a day at least, two hours at least.
    let held = |tier: &Tier| (tier.files as u64 - 1) * u64::from(tier.frames * tier.span_s.max(1));
    assert_eq!(TIERS.each_ref().map(held), [7200, 86_400, 7 * 86_400]);
    let dir = tempfile::tempdir().unwrap();
    let mut history = History::new(dir.path().to_owned());
    history.push(&sample(1, 8)).unwrap();
    history.push(&sample(2, 8)).unwrap();
    let path = files(dir.path(), 0).pop().unwrap().path;
    let one = fs::metadata(path).unwrap().len() / 2;
    assert!(one * 1440 < MOST_FILE_BYTES, "{one} bytes a sample");
}

#[test]
fn ten_readings_a_second_are_there_for_two_hours_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut history = History::new(dir.path().to_owned());
    let end_s = 3 * 3600;
    for tenth in 10..=end_s * 10 {
        let mut sample = sample(tenth / 10, 0);
        sample.time_us = tenth * 100_000;
        history.write(0, &sample).unwrap();
    }
    let times: Vec<u64> = read(dir.path(), 0, u64::MAX)
        .map(|sample| sample.time_us)
        .collect();
    assert!(times.is_sorted());
    let held_s = end_s - times[0] / 1_000_000;
    assert!((7200..=8100).contains(&held_s), "{held_s} s");
    assert_eq!(times.len() as u64, held_s * 10 + 1);
    assert!(files(dir.path(), 0).len() <= TIERS[0].files);
}

#[test]
fn files_go_by_age_where_they_hold_little_and_by_count_where_the_clock_jumps() {
    let found = |count: u64, each_s: u64| -> Vec<File> {
        let file = |number| File {
            number,
            from_us: number * each_s * 1_000_000,
            path: PathBuf::new(),
        };
        (0..count).map(file).collect()
    };
    for (name, count, each_s, now_s, expected) in [
        ("a quarter each", 10, 900, 9 * 900, 1),
        ("too few", 9, 900, 8 * 900, 0),
        // Closed by their size: eight GPUs ten times a second.
        ("four minutes each", 20, 240, 19 * 240, 0),
        ("four minutes each for long", 32, 240, 31 * 240, 1),
        ("half a minute each", 37, 30, 36 * 30, 1),
        ("the clock went back", 12, 900, 0, 0),
        ("and stays there", 40, 900, 0, 4),
        ("the clock went on by a year", 12, 900, 31_536_000, 3),
    ] {
        let got = TIERS[0].surplus(&found(count, each_s), now_s * 1_000_000);
        assert_eq!(got, expected, "{name}");
    }
}
