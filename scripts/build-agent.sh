#!/usr/bin/env bash
# Builds the static agent with the NVML probe inside, by whichever route this machine allows, and prints its path as the
# last line on stdout (everything else goes to stderr). Safe to run twice; quick when nothing changed.
#
# The probe is built first, for glibc 2.17, so that it loads NVIDIA's library on any image; then the agent for musl, so that
# it starts on any box. zig is C compiler and linker for both. Where the musl standard library comes from is tried in this
# order: installed, `rustup target add`, the toolchain's own sources, Debian's rustc-web with rust-web-src.
#
#   SPOTTER_AGENT_MODE=std|src|distro   forces one of those routes
#   SPOTTER_AGENT_TARGET_DIR=DIR        default target/static; cargo keeps a built std only while this path stays the same
#
# Arguments go to cargo: `--example save` builds that beside the agent, in the same way (for scripts/bench.sh).
set -euo pipefail
cd "$(dirname "$0")/.."

agent_target=x86_64-unknown-linux-musl
probe_target=x86_64-unknown-linux-gnu
glibc=2.17
zig_version=0.17.1
zigbuild_version=0.24.0
# Outside target/: it is 440 MB and moving it would rebuild everything, since its path is part of cargo's fingerprints.
tools=${XDG_CACHE_HOME:-$HOME/.cache}/spotter/zig-$zig_version-zigbuild-$zigbuild_version
target_dir=${SPOTTER_AGENT_TARGET_DIR:-target/static}
kept=target/$agent_target/release/spotter-agent

say() { printf 'build-agent: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

sysroot() { "$1" --print sysroot 2>/dev/null; }
has_std() { command -v "$1" >/dev/null && compgen -G "$(sysroot "$1")/lib/rustlib/$2/lib/libstd-*.rlib" >/dev/null; }
has_src() { command -v "$1" >/dev/null && [ -f "$(sysroot "$1")/lib/rustlib/src/rust/library/std/Cargo.toml" ]; }

# Prints std, src or distro.
choose_mode() {
    case ${SPOTTER_AGENT_MODE:-} in
        std | src | distro) echo "$SPOTTER_AGENT_MODE"; return ;;
        '') ;;
        *) fail "SPOTTER_AGENT_MODE is '$SPOTTER_AGENT_MODE', not std, src or distro" ;;
    esac
    if has_std rustc $agent_target; then echo std; return; fi
    if command -v rustup >/dev/null; then
        say "asking rustup for $agent_target (at most 180 s)"
        if timeout 180 rustup target add $agent_target >&2 && has_std rustc $agent_target; then echo std; return; fi
        say "rustup cannot provide $agent_target"
    fi
    if has_src rustc; then echo src; return; fi
    if has_src /usr/bin/rustc; then echo distro; return; fi
    if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
        say "installing Debian's rustc-web, rust-web-src and cargo-web (about 640 MB on disk)"
        install_distro >&2 || say "apt-get cannot provide them"
        if has_src /usr/bin/rustc; then echo distro; return; fi
    fi
    fail "no musl standard library: run 'rustup target add $agent_target', or as root on Debian 'apt-get install rustc-web rust-web-src cargo-web'"
}

install_distro() {
    local packages=(rustc-web rust-web-src cargo-web)
    apt-get install -y --no-install-recommends "${packages[@]}" && return
    apt-get update && apt-get install -y --no-install-recommends "${packages[@]}"
}

# Puts zig and cargo-zigbuild of the pinned versions first on PATH. A venv cannot be moved into place when it is whole, so
# a stamp says that it is.
use_zig() {
    mkdir -p "$(dirname "$tools")"
    exec 9>"$tools.lock"
    flock 9
    if [ ! -e "$tools/.complete" ]; then
        say "fetching zig $zig_version and cargo-zigbuild $zigbuild_version into $tools (about 440 MB)"
        command -v python3 >/dev/null || fail "python3 with venv is needed to fetch zig"
        python3 -m venv --clear "$tools" >&2 || fail "python3 cannot make a venv (Debian: apt-get install python3-venv)"
        "$tools/bin/pip" install --quiet --disable-pip-version-check "ziglang==$zig_version" \
            "cargo-zigbuild==$zigbuild_version" >&2 || fail "zig and cargo-zigbuild could not be fetched"
        touch "$tools/.complete"
    fi
    exec 9>&-
    export PATH=$tools/bin:$PATH
}

# One cargo at a time in the target directory, also from two shells.
zigbuild() { cargo-zigbuild zigbuild --locked --profile agent --target-dir "$target_dir" "$@" >&2; }

mode=$(choose_mode)
use_zig
# The caller's flags would change the fingerprints, or the linking.
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_TARGET CARGO_TARGET_DIR CARGO_BUILD_RUSTFLAGS RUSTC_WRAPPER

# With panic=abort nothing unwinds, and a stripped program has no names to print in a backtrace: the tables would be 0.7 MB
# of nothing. rustc's own switch for them has no effect under fat LTO (the prebuilt std brings debug information along,
# and that brings tables for everything), so the linker drops them. A panic still names its file and line.
mkdir -p "$target_dir"
tables=$(realpath "$target_dir")/no-unwind-tables.ld
cat >"$tables.new" <<'END'
SECTIONS { /DISCARD/ : { *(.eh_frame) *(.eh_frame_hdr) *(.gcc_except_table*) } } INSERT AFTER .text;
END
if cmp -s "$tables.new" "$tables"; then rm "$tables.new"; else mv "$tables.new" "$tables"; fi
flags="-C link-arg=-Wl,-T,$tables"
agent_flags=$flags
agent_args=()
agent_env=()
case $mode in
    std) ;;
    src | distro)
        # cargo needs the nightly flag; zig brings its own C runtime, so rustc must not look for one beside its std.
        agent_args=(-Zbuild-std=std,panic_abort)
        agent_flags="$flags -C link-self-contained=no"
        agent_env=(RUSTC_BOOTSTRAP=1)
        if [ "$mode" = distro ]; then agent_env+=(RUSTC=/usr/bin/rustc CARGO=/usr/bin/cargo); fi
        ;;
esac
agent_env+=("RUSTFLAGS=$agent_flags")
say "mode $mode, $(rustc --version 2>/dev/null || /usr/bin/rustc --version), target directory $target_dir"

# The glibc target's std comes with every toolchain on this architecture; the distribution's own serves where rustup's
# compiler is missing.
say "building the probe for glibc $glibc"
RUSTFLAGS=$flags zigbuild -p nvml-probe --bin nvml-probe --target "$probe_target.$glibc"
probe=$(realpath "$target_dir/$probe_target/agent/nvml-probe")

say "building the agent"
# Alone, so that the features of other packages (the probe's NVML bindings) are not unified into it.
(
    export "SPOTTER_PROBE_BIN=$probe" "${agent_env[@]}"
    zigbuild -p spotter-agent --bin spotter-agent "$@" --target $agent_target "${agent_args[@]}"
)
built=$target_dir/$agent_target/agent/spotter-agent

# Examples bring features of their own, and an agent built beside them has these too: it is not the one that boxes get.
if [ $# -gt 0 ]; then
    say "built $* beside an agent that is not kept"
    realpath "$built"
    exit 0
fi
if ! cmp -s "$built" "$kept"; then
    mkdir -p "$(dirname "$kept")"
    cp "$built" "$kept.new"
    mv "$kept.new" "$kept"
fi
say "agent $(stat -c %s "$kept") bytes, probe inside $(stat -c %s "$probe") bytes"
realpath "$kept"
