//! What `/proc` and the memory cgroup tell about processes: start times, descendants, OOM kills, this boot.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

/// When a process started, clock ticks since boot; `None` when it is gone.
pub fn start_time(pid: i32) -> Option<u64> {
    fields(pid)?.get(19)?.parse().ok()
}

/// Identifies this boot of the container: the kernel's boot id and when PID 1 started.
pub fn boot() -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    format!("{}-{}", kernel.trim(), start_time(1).unwrap_or(0))
}

/// Every process below `root`, zombies left out.
pub fn descendants(root: i32) -> Vec<i32> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let Some(fields) = fields(pid) else { continue };
        let (Some(state), Some(parent)) = (
            fields.first(),
            fields.get(1).and_then(|parent| parent.parse().ok()),
        ) else {
            continue;
        };
        if state != "Z" && state != "X" {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut waiting = vec![root];
    while let Some(pid) = waiting.pop() {
        let below = children.remove(&pid).unwrap_or_default();
        found.extend_from_slice(&below);
        waiting.extend(below);
    }
    found
}

/// Fields of `/proc/PID/stat` from the state on; the name before them may hold blanks and brackets.
fn fields(pid: i32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.rfind(')')? + 2;
    Some(
        stat.get(after_name..)?
            .split_whitespace()
            .map(str::to_owned)
            .collect(),
    )
}

/// OOM kills that the memory cgroup has counted; `None` where no counter can be read.
pub fn oom_kills() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    oom_counters(&own)
        .iter()
        .find_map(|path| count_in(&fs::read_to_string(path).ok()?))
}

/// Where the counter may be, best first. In a container the cgroup's root is its own; elsewhere the path is needed.
fn oom_counters(proc_self_cgroup: &str) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for line in proc_self_cgroup.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let path = path.trim_start_matches('/');
        if controllers.is_empty() {
            paths.push(Path::new("/sys/fs/cgroup").join(path).join("memory.events"));
        } else if controllers
            .split(',')
            .any(|controller| controller == "memory")
        {
            paths.push(
                Path::new("/sys/fs/cgroup/memory")
                    .join(path)
                    .join("memory.oom_control"),
            );
        }
    }
    paths.push("/sys/fs/cgroup/memory.events".into());
    paths.push("/sys/fs/cgroup/memory/memory.oom_control".into());
    paths
}

fn count_in(text: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_a_start_time_and_a_dead_one_has_none() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(start_time(own).unwrap() > 0);
        assert_eq!(start_time(i32::MAX), None);
    }

    #[test]
    fn counters_of_both_cgroup_versions_are_found() {
        let paths = oom_counters("4:memory:/docker/x\n2:cpu,cpuacct:/\n0::/docker/x\n");
        assert_eq!(
            paths[..2],
            [
                PathBuf::from("/sys/fs/cgroup/memory/docker/x/memory.oom_control"),
                PathBuf::from("/sys/fs/cgroup/docker/x/memory.events")
            ]
        );
        assert_eq!(count_in("low 0\noom 3\noom_kill 2\n"), Some(2));
        assert_eq!(
            count_in("oom_kill_disable 0\nunder_oom 0\noom_kill 0\n"),
            Some(0)
        );
        assert_eq!(count_in("usage 1\n"), None);
    }
}
