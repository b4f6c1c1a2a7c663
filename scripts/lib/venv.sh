# Sourced by the scripts beside it: makes .venv in the checkout where it is missing or stale.
#
#   . scripts/lib/venv.sh && fleetline_venv      afterwards .venv/bin comes first in PATH
#
# Needs Python 3.11 or later with its venv module, and nothing else. FLEETLINE_PYTHON names another one.
# shellcheck shell=bash

fleetline_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

fleetline_say() { printf '%s\n' "== $*" >&2; }

fleetline_die() {
    printf '%s\n' "error: $*" >&2
    exit 1
}

# A launcher that exists may still not start (a pyenv shim, say), so each candidate is run.
fleetline_python_fits() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

fleetline_choose_python() {
    local candidate found=""
    if [ -n "${FLEETLINE_PYTHON:-}" ]; then
        fleetline_python_fits "$FLEETLINE_PYTHON" ||
            fleetline_die "FLEETLINE_PYTHON=$FLEETLINE_PYTHON does not start or is older than Python 3.11"
        found=$FLEETLINE_PYTHON
    else
        for candidate in python3.13 python3.12 python3.11 python3; do
            if fleetline_python_fits "$candidate"; then
                found=$candidate
                break
            fi
        done
    fi
    [ -n "$found" ] || fleetline_die "Python 3.11 or later is needed; python3 here is $(python3 -V 2>&1 || true)." \
        "Install it, or name one with FLEETLINE_PYTHON=/path/to/python3"
    "$found" -c 'import venv, ensurepip' >/dev/null 2>&1 ||
        fleetline_die "$found has no venv module; on Debian and Ubuntu: apt-get install python3-venv"
    printf '%s\n' "$found"
}

# What .venv was made from: the two files that name its content, the place, and the interpreter.
fleetline_venv_stamp() {
    "$fleetline_root/.venv/bin/python" - "$fleetline_root" 2>/dev/null <<'PYTHON'
import hashlib, pathlib, sys

root = pathlib.Path(sys.argv[1])
parts = [(root / name).read_bytes() for name in ("pyproject.toml", "constraints.txt")]
print(hashlib.sha256(b"\0".join([*parts, str(root).encode(), sys.version.encode()])).hexdigest())
PYTHON
}

fleetline_venv_fresh() {
    local stamp
    [ -x "$fleetline_root/.venv/bin/python" ] && [ -f "$fleetline_root/.venv/.stamp" ] || return 1
    fleetline_python_fits "$fleetline_root/.venv/bin/python" || return 1
    stamp=$(fleetline_venv_stamp) && [ "$stamp" = "$(cat "$fleetline_root/.venv/.stamp")" ]
}

fleetline_venv_make() {
    local python started=$SECONDS
    cd "$fleetline_root" || return 1
    if ! fleetline_python_fits .venv/bin/python || [ ! -x .venv/bin/pip ]; then
        python=$(fleetline_choose_python) || exit 1
        fleetline_say "making .venv with $("$python" -V)"
        "$python" -m venv --clear .venv || fleetline_die "could not make .venv"
    fi
    fleetline_say "installing the pinned versions of constraints.txt into .venv"
    PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 \
        .venv/bin/python -m pip install -qq --no-input --editable '.[hub,dev,bench]' ||
        fleetline_die "could not install; the Python package index must be reachable. Run this again to go on"
    fleetline_venv_stamp >.venv/.stamp
    fleetline_say ".venv is ready ($((SECONDS - started)) s)"
}

fleetline_venv() {
    if ! fleetline_venv_fresh; then
        # Two scripts started at once take turns where flock is there to arrange it.
        if command -v flock >/dev/null 2>&1; then
            exec 9>"$fleetline_root/.venv.lock"
            flock 9
        fi
        fleetline_venv_fresh || fleetline_venv_make || exit 1
        exec 9>&-
    fi
    export VIRTUAL_ENV=$fleetline_root/.venv
    export PATH=$VIRTUAL_ENV/bin:$PATH
    cd "$fleetline_root" || exit 1
}
