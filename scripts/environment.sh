# Sourced by the other scripts: their words, the repository's root, the environment, and $PYTHON to run things with.
source "$(dirname "${BASH_SOURCE[0]}")/words.sh"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
./scripts/setup.sh || return
if [ "${VENV:-.venv}" = none ]; then PYTHON="${PYTHON:-python3}"; else PYTHON="${VENV:-.venv}/bin/python"; fi
export PYTHONUNBUFFERED=1
unset PYTHONDONTWRITEBYTECODE           # where packages came without bytecode, every start would compile torch anew

# Let a command look at its words and do no more: what would be refused after hours of other work is refused at once.
check() {
    "$PYTHON" -c "import importlib.util, sys
from engine import command_line
sys.argv = sys.argv[1:]
if sys.argv[0] == '-m':
    sys.argv = sys.argv[1:]
    sys.modules['__main__'].__spec__ = importlib.util.find_spec(sys.argv[0])
module = importlib.import_module(sys.argv[0].removesuffix('.py'))
command_line.run_script(getattr(module, 'parse_options', None) or module.parse_args)" "$@" > /dev/null
}

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
