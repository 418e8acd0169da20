# Sourced by the other scripts: their words, the repository's root, the environment, and $PYTHON to run things with.
source "$(dirname "${BASH_SOURCE[0]}")/words.sh"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
./scripts/setup.sh || return
if [ "${VENV:-.venv}" = none ]; then PYTHON="${PYTHON:-python3}"; else PYTHON="${VENV:-.venv}/bin/python"; fi
export PYTHONUNBUFFERED=1
unset PYTHONDONTWRITEBYTECODE           # where packages came without bytecode, every start would compile torch anew

# What would be refused after hours of other work is refused at once: `note COMMAND...` takes down a command that will
# run later, and `check` lets all of them look at their words and do no more, and looks for their data sets. Not asked
# are commands without parse_args or parse_options, which read their words amid their work.
# CHECK_ONLY=1 ends the script there.
noted=()
note() { noted+=("$@" $'\n'); }
check() {
    [ "${#noted[@]}" -eq 0 ] || "$PYTHON" -c "import importlib.util, sys
import data
from engine import command_line

def look(words):
    sys.modules['__main__'].__spec__ = importlib.util.find_spec(words[1]) if words[0] == '-m' else None
    sys.argv = words[1:] if words[0] == '-m' else words
    module = importlib.import_module(sys.argv[0].removesuffix('.py'))
    parse = getattr(module, 'parse_options', None) or getattr(module, 'parse_args', None)
    options = parse and parse()
    return getattr(options[0] if isinstance(options, tuple) else options, 'dataset', None)

def main():
    datasets, words = set(), []
    for word in sys.argv[1:]:
        if word == '\n':
            datasets.add(look(words))
            words = []
        else:
            words.append(word)
    for dataset in datasets - {None}:
        data.find_splits(dataset, data.Form(None, None), {})

command_line.run_script(main)" "${noted[@]}" > /dev/null || return
    noted=()
    [ -z "${CHECK_ONLY:-}" ] || exit 0
}

stage() { printf '\n== %s ==\n' "$*"; }         # announce a part of the work

# The checkpoint last written of those whose names begin so; nothing, and status 1, where there is none.
newest() { compgen -G "$1_[0-9]*ep.pth" | xargs -r -d '\n' ls -t | head -n 1; }

# The same behind a training, which should have left one.
newest_of_training() {
    newest "$1" || { echo "$(basename "$0"): $1: no checkpoint after its training" >&2; return 1; }
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
start() { run "$PYTHON" "$@"; }
