# Sourced by the other scripts: their words, the repository's root, the environment, and $PYTHON to run things with.
source "$(dirname "${BASH_SOURCE[0]}")/words.sh"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
./scripts/setup.sh || return
if [ "${VENV:-.venv}" = none ]; then PYTHON="${PYTHON:-python3}"; else PYTHON="${VENV:-.venv}/bin/python"; fi
export PYTHONUNBUFFERED=1
unset PYTHONDONTWRITEBYTECODE           # where packages came without bytecode, every start would compile torch anew

# Run a command that Ctrl-C or SIGTERM to this script stops too, and wait for its end; its status, and 143 if stopped.
stopped=""
run() {
    local child code=0
    "$@" & child=$!
    trap 'stopped=yes; kill -TERM "$child" 2>/dev/null' INT TERM
    wait "$child" || code=$?
    while kill -0 "$child" 2>/dev/null; do code=0; wait "$child" || code=$?; done
    trap - INT TERM
    [ -z "$stopped" ] || code=143
    return "$code"
}
