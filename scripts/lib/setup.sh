# Shared by scripts/quickstart and scripts/test: installs what is missing. Source it from the repository's root.
# Every step looks first and does nothing when there is nothing to do, so that a second run takes seconds.

set -euo pipefail

PYTHON_PACKAGES_STAMP=.venv/.installed

say() { printf '\033[1m==> %s\033[0m\n' "$*"; }

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

require_root() {
    [ "$(id -u)" -eq 0 ] || die "cube makes namespaces, mounts and cgroups, which needs root. Run: sudo $0"
    [ "$(uname -s)" = Linux ] || die "cube runs on Linux; this is $(uname -s)."
}

# system_packages PROGRAM:PACKAGE… installs the packages whose program is not there.
system_packages() {
    local pair missing=()
    for pair in "$@"; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null ||
        die "these packages are missing and there is no apt-get to install them: ${missing[*]}"
    say "Installing system packages: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q >/dev/null || die "apt-get update failed; are the package sources reachable?"
    apt-get install -q -y --no-install-recommends "${missing[@]}" >/dev/null
}

# The interpreter itself, not a version manager's wrapper around it.
find_python() {
    local candidate
    for candidate in python3.13 python3.12 python3.11 python3; do
        command -v "$candidate" >/dev/null || continue
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return 0
        fi
    done
    return 1
}

# python_packages LOCK… makes .venv and installs exactly what the lock files say, checked by hash.
python_packages() {
    local wanted python
    wanted=$(cat pyproject.toml "$@" | sha256sum)
    if [ -x .venv/bin/python ] && [ "$(cat $PYTHON_PACKAGES_STAMP 2>/dev/null)" = "$wanted" ]; then
        return 0
    fi
    if ! python=$(find_python); then
        system_packages no-such-program:python3-venv no-such-program:python3
        python=$(find_python) || die "Python 3.11 or later is needed, with its venv module."
    fi
    say "Installing Python packages into .venv"
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    local lock arguments=()
    for lock in "$@"; do arguments+=(--requirement "$lock"); done
    .venv/bin/python -m pip install --quiet --require-hashes "${arguments[@]}"
    .venv/bin/python -m pip install --quiet --require-hashes --requirement requirements-build.lock
    .venv/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
    printf '%s' "$wanted" >$PYTHON_PACKAGES_STAMP
}

cube_init() {
    make --quiet --directory native/cube-init
    make --quiet --directory native/vmm-guard
}
