# Sourced by the other scripts: programs that must be there, installed where that is allowed.
# shellcheck shell=bash

say() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }

# need PACKAGE:PROGRAM ... — Debian packages whose program (a name on PATH, a file, or a module of Python) is missing are
# installed when this is root on a system with apt; otherwise one line to paste is printed and the script ends with 2.
need() {
  local missing=() package program patterns pattern
  for pair in "$@"; do
    package=${pair%%:*} program=${pair#*:}
    case $program in
      /*)
        # Distributions differ in where they keep a library: any of these.
        IFS='|' read -ra patterns <<<"$program"
        for pattern in "${patterns[@]}"; do compgen -G "$pattern" && break; done >/dev/null || missing+=("$package")
        ;;
      import\ *) python3 -c "$program" 2>/dev/null || missing+=("$package") ;;
      *) PATH="$PATH:/usr/sbin:/sbin" command -v "$program" >/dev/null || missing+=("$package") ;;
    esac
  done
  [ ${#missing[@]} -eq 0 ] && return
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >/dev/null || {
      say "these packages could not be installed: ${missing[*]}"
      exit 2
    }
    return
  fi
  say "missing: ${missing[*]}. On Debian or Ubuntu paste this, then start again:"
  printf '  sudo apt-get install -y --no-install-recommends %s\n' "${missing[*]}" >&2
  exit 2
}

# need_cargo — Rust itself.
need_cargo() {
  command -v cargo >/dev/null && return
  # rustup puts it there and asks for a new shell, which a script does not have.
  if [ -x "$HOME/.cargo/bin/cargo" ]; then
    export PATH="$HOME/.cargo/bin:$PATH"
    return
  fi
  say "cargo is missing: install Rust with rustup"
  exit 2
}

# venv PACKAGE ... — a Python environment in target/venv with these packages (pip's own spelling), made on first use.
venv() {
  local stamp=target/venv/.installed
  if [ ! -x target/venv/bin/python ]; then
    mkdir -p target
    # By its real path: its programs name it, and `target` may be a link that leads there from several checkouts.
    python3 -m venv "$(realpath target)/venv" || {
      rm -rf "$(realpath target)/venv"
      say "python3 cannot make an environment; on Debian or Ubuntu: sudo apt-get install -y python3-venv"
      exit 2
    }
  fi
  local wanted
  for wanted in "$@"; do
    grep -qxF "$wanted" "$stamp" 2>/dev/null && continue
    target/venv/bin/pip install --quiet --disable-pip-version-check "$wanted" >&2 || {
      say "pip could not install $wanted"
      exit 2
    }
    printf '%s\n' "$wanted" >>"$stamp"
  done
}
