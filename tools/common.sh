# Shared by the scripts beside it; sourced, not run. Needs Python 3.11 or newer, with pip and venv.

export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

say() { printf '== %s\n' "$*" >&2; }

# The first Python of 3.11 or newer; $PYTHON goes first.
find_python() {
    for candidate in ${PYTHON:-} python3 python python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    say 'no Python 3.11 or newer found; install one, or name it in $PYTHON'
    return 1
}

# make_environment REQUIREMENT: .venv, if missing, with this project in it.
make_environment() {
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        say "making .venv"
        "$(find_python)" -m venv .venv
    fi
    say "installing (PyTorch is some gigabytes the first time)"
    # Twice quiet: errors only. A package index may warn about every package that it has not got.
    .venv/bin/python -m pip install --quiet --quiet --editable "$1"
}
