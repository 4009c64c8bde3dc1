#!/usr/bin/env bash
# Prints what the agent and its probe cost: memory and CPU over a minute, idle, with 8 fake GPUs, at 1 Hz and at 10 Hz.
#
#   scripts/measure-agent.sh [AGENT] [SECONDS] [HZ...]
#
# AGENT defaults to the static one. CPU comes from the scheduler's own nanoseconds (/proc/PID/task/*/schedstat), because a
# hundredth of a second is coarser than what is measured. The fake reads its scenario once, so that the figure is the
# probe's and not the fake's. One tab-separated line per process and rate: name, hz, rss_kib, rss_anon_kib, pss_kib, cpu_percent.
set -euo pipefail
cd "$(dirname "$0")/.."

agent=${1:-target/x86_64-unknown-linux-musl/release/spotter-agent}
seconds=${2:-60}
rates=("${@:3}")
[ ${#rates[@]} -gt 0 ] || rates=(1 10)
[ -x "$agent" ] || { echo "measure-agent: no agent at $agent; run scripts/build-agent.sh" >&2; exit 1; }
cargo build --quiet --release -p fake-nvml >&2
library=$PWD/target/release/libfake_nvml.so

home=$(mktemp -d /tmp/spotter-measure.XXXXXX)
daemon=
finish() {
    if [ -n "$daemon" ]; then kill "$daemon" 2>/dev/null || true; wait "$daemon" 2>/dev/null || true; fi
    rm -rf "$home"
}
trap finish EXIT

cat >"$home/scenario" <<'END'
sys count 8
* util.gpu 97
* mem.used_mib 61234
* power_w 612
* temp 63
* clock.sm 1755
* clock.mem 2619
* throttle 4
END
printf 'NVML_LIB=%s\0FAKE_NVML_SCENARIO=%s\0FAKE_NVML_FREEZE=1\0' "$library" "$home/scenario" >"$home/container.env"

printf 'process\thz\trss_kib\trss_anon_kib\tpss_kib\tcpu_percent\n'
# A task may end between the listing and the reading; then its time is lost, not the measurement.
cpu_ns() { cat /proc/"$1"/task/*/schedstat 2>/dev/null | awk '{sum += $1} END {printf "%.0f", sum}'; }
status() { awk -v key="$2:" '$1 == key {print $2}' "/proc/$1/$3"; }

measure() {
    local hz=$1 probe=
    SPOTTER_SAMPLES_PER_S=$hz "$agent" --home "$home" daemon >/dev/null 2>&1 </dev/null &
    daemon=$!
    for _ in $(seq 100); do
        probe=$(pgrep -P "$daemon" -x nvml-probe || true)
        [ -n "$probe" ] && break
        sleep 0.1
    done
    [ -n "$probe" ] || { echo "measure-agent: the agent started no probe" >&2; exit 1; }
    sleep 3 # start-up is not what is measured

    local before_agent before_probe after_agent after_probe started ended
    before_agent=$(cpu_ns "$daemon") before_probe=$(cpu_ns "$probe") started=$(date +%s%N)
    sleep "$seconds"
    after_agent=$(cpu_ns "$daemon") after_probe=$(cpu_ns "$probe") ended=$(date +%s%N)
    row agent "$daemon" "$before_agent" "$after_agent"
    row probe "$probe" "$before_probe" "$after_probe"
    kill "$daemon" && wait "$daemon" || true
    daemon=
}

row() {
    awk -v name="$1" -v hz="$hz" -v rss="$(status "$2" VmRSS status)" -v anon="$(status "$2" RssAnon status)" \
        -v pss="$(status "$2" Pss smaps_rollup)" -v used=$(($4 - $3)) -v wall=$((ended - started)) \
        'BEGIN {printf "%s\t%d\t%d\t%d\t%d\t%.4f\n", name, hz, rss, anon, pss, 100 * used / wall}'
}

for rate in "${rates[@]}"; do measure "$rate"; done
