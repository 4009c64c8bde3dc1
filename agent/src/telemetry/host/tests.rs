//! The host's figures over made-up trees of /proc and /sys/fs/cgroup.

use super::*;

const GIB: u64 = 1 << 30;

/// A directory tree in the place of /proc and /sys/fs/cgroup.
fn read(files: &[(&str, &str)]) -> HostSample {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    HostReader::of(root.path().join("proc"), root.path().join("cgroup")).read()
}

const MACHINE: [(&str, &str); 3] = [
    (
        "proc/meminfo",
        "MemTotal:       1073741824 kB\nMemFree: 5 kB\nMemAvailable:   536870912 kB\n",
    ),
    (
        "proc/stat",
        "cpu  100 20 30 4000 50 6 7 8 9 10\ncpu0 1 2 3 4\n",
    ),
    (
        "proc/net/dev",
        "Inter-|   Receive\n face |bytes\n    lo: 9 1 0 0 0 0 0 0 9 1 0 0 0 0 0 0\n  eth0:100 1 0 0 0 0 0 0 40 1 0 0 0 0 0 0\n  eth1: 11 1 0 0 0 0 0 0 2 1 0 0 0 0 0 0\n",
    ),
];

#[test]
fn a_container_under_cgroup_v2_has_its_own_limits() {
    let mut files = MACHINE.to_vec();
    files.extend([
        ("proc/self/cgroup", "0::/\n"),
        ("cgroup/cgroup.controllers", "cpu memory\n"),
        ("cgroup/memory.max", "68719476736\n"),
        ("cgroup/memory.current", "10737418240\n"),
        (
            "cgroup/memory.stat",
            "anon 1\ninactive_file 2147483648\nactive_file 5\n",
        ),
        (
            "cgroup/memory.events",
            "low 0\noom 3\noom_kill 2\noom_group_kill 9\n",
        ),
        ("cgroup/cpu.max", "2720000 100000\n"),
        ("cgroup/cpu.stat", "usage_usec 1000000\n"),
    ]);
    let sample = read(&files);
    assert_eq!(sample.memory_limit_bytes, Some(64 * GIB));
    assert_eq!(sample.memory_used_bytes, Some(8 * GIB));
    assert_eq!(sample.oom_kills, Some(2));
    assert_eq!(sample.cpu_limit_cores, Some(27.2));
    assert_eq!(
        (sample.network_rx_bytes, sample.network_tx_bytes),
        (Some(111), Some(42))
    );
    assert_eq!(sample.cpu_percent, None, "a rate needs two readings");
}

#[test]
fn the_tightest_of_nested_limits_counts() {
    let mut files = MACHINE.to_vec();
    files.extend([
        ("proc/self/cgroup", "0::/user/session\n"),
        ("cgroup/cgroup.controllers", ""),
        ("cgroup/user/session/memory.max", "max\n"),
        ("cgroup/user/session/memory.current", "1\n"),
        ("cgroup/user/memory.max", "4294967296\n"),
        ("cgroup/user/memory.current", "1073741824\n"),
        ("cgroup/user/cpu.max", "150000 100000\n"),
        ("cgroup/cpu.max", "max 100000\n"),
    ]);
    let sample = read(&files);
    assert_eq!(
        (sample.memory_used_bytes, sample.memory_limit_bytes),
        (Some(GIB), Some(4 * GIB))
    );
    assert_eq!(sample.cpu_limit_cores, Some(1.5));
}

#[test]
fn cgroup_v1_is_read_where_there_is_no_v2_even_if_its_path_is_only_valid_outside() {
    let mut files = MACHINE.to_vec();
    files.extend([
        (
            "proc/self/cgroup",
            "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n",
        ),
        ("cgroup/memory/memory.limit_in_bytes", "2147483648\n"),
        ("cgroup/memory/memory.usage_in_bytes", "1610612736\n"),
        (
            "cgroup/memory/memory.stat",
            "inactive_file 1\ntotal_inactive_file 536870912\n",
        ),
        (
            "cgroup/memory/memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
        ),
        ("cgroup/cpu/cpu.cfs_quota_us", "400000\n"),
        ("cgroup/cpu/cpu.cfs_period_us", "100000\n"),
    ]);
    let sample = read(&files);
    assert_eq!(
        (sample.memory_used_bytes, sample.memory_limit_bytes),
        (Some(GIB), Some(2 * GIB))
    );
    assert_eq!(
        (sample.cpu_limit_cores, sample.oom_kills),
        (Some(4.0), Some(1))
    );
}

#[test]
fn without_a_limit_the_machine_counts() {
    for cgroup in [
        &[][..],
        &[
            (
                "cgroup/memory/memory.limit_in_bytes",
                "9223372036854771712\n",
            ),
            ("cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
        ],
        &[
            ("cgroup/cgroup.controllers", ""),
            ("cgroup/memory.max", "max\n"),
        ],
    ] {
        let sample = read(&[&MACHINE[..], cgroup].concat());
        assert_eq!(sample.memory_limit_bytes, Some(1024 * GIB), "{cgroup:?}");
        assert_eq!(sample.memory_used_bytes, Some(512 * GIB), "{cgroup:?}");
        assert!(sample.cpu_limit_cores.unwrap() >= 1.0);
        assert_eq!(sample.oom_kills, None);
    }
}

#[test]
fn an_empty_proc_gives_an_empty_sample() {
    let sample = read(&[]);
    assert_eq!(
        HostSample {
            cpu_limit_cores: sample.cpu_limit_cores,
            shm_free_bytes: sample.shm_free_bytes,
            shm_total_bytes: sample.shm_total_bytes,
            ..HostSample::default()
        },
        sample
    );
}

#[test]
fn cpu_use_is_the_difference_between_two_readings() {
    let root = tempfile::tempdir().unwrap();
    let stat = root.path().join("stat");
    let mut reader = HostReader::of(root.path(), root.path().join("none"));
    fs::write(&stat, "cpu  100 0 0 4000\n").unwrap();
    assert_eq!(reader.read().cpu_percent, None);
    // 200 busy ticks are two CPU seconds; the time between the readings is at most this test's.
    fs::write(&stat, "cpu  300 0 0 9000\n").unwrap();
    assert!(reader.read().cpu_percent.unwrap() > 0.0);
    // Counters that went backwards (a migrated container) give no rate.
    fs::write(&stat, "cpu  10 0 0 9000\n").unwrap();
    assert_eq!(reader.read().cpu_percent, None);
}

#[test]
fn the_disk_of_a_directory_that_does_not_exist_yet_is_its_parents() {
    let root = tempfile::tempdir().unwrap();
    let found = disk(&root.path().join("not/yet")).unwrap();
    assert_eq!(found.total_bytes, disk(root.path()).unwrap().total_bytes);
    assert!(found.free_bytes <= found.total_bytes && found.total_bytes > 0);
}

#[test]
fn what_holds_the_box_back_is_counted_under_both_versions_of_cgroups() {
    let mut files = MACHINE.to_vec();
    files.extend([
        ("proc/self/cgroup", "0::/\n"),
        ("cgroup/cgroup.controllers", ""),
        ("cgroup/cpu.stat", "usage_usec 9\nnr_throttled 3\nthrottled_usec 1500\n"),
        ("cgroup/memory.events", "low 0\nhigh 0\nmax 17\noom 1\noom_kill 1\n"),
        (
            "cgroup/cpu.pressure",
            "some avg10=12.50 avg60=1.00 avg300=0.00 total=5\nfull avg10=3.00 avg60=0 avg300=0 total=1\n",
        ),
        ("proc/pressure/io", "some avg10=0.25 avg60=0.00 avg300=0.00 total=5\n"),
    ]);
    let sample = read(&files);
    assert_eq!(
        (sample.cpu_throttled_us, sample.memory_limit_hits),
        (Some(1500), Some(17))
    );
    assert_eq!(
        (sample.cpu_pressure_percent, sample.io_pressure_percent),
        (Some(12.5), Some(0.25))
    );
    assert_eq!(sample.memory_pressure_percent, None);
    assert_eq!(sample.pressure_of_machine, Some(true));
    files.push((
        "cgroup/io.pressure",
        "some avg10=7.50 avg60=0 avg300=0 total=5\n",
    ));
    files.push(("cgroup/io.stat", "8:0 rbytes=1 wbytes=2\n"));
    let own = read(&files);
    let told = (
        own.io_pressure_percent,
        own.pressure_of_machine,
        own.disks_of_machine,
    );
    assert_eq!(told, (Some(7.5), Some(false), Some(false)));

    let mut files = MACHINE.to_vec();
    files.extend([
        ("cgroup/memory/memory.failcnt", "4\n"),
        (
            "cgroup/cpu/cpu.stat",
            "nr_periods 9\nnr_throttled 3\nthrottled_time 2000000\n",
        ),
    ]);
    let sample = read(&files);
    assert_eq!(
        (sample.cpu_throttled_us, sample.memory_limit_hits),
        (Some(2000), Some(4))
    );
}
