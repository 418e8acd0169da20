# Sourced by every other script: its words, the repository's root, the environment, and $PYTHON to run things with.
# A script may say before which words it takes: words="NAME ...", "any", or "" for none. Then --help or -h prints its
# head comment, and another word is refused, both before an environment is made.
if [ -n "${words+set}" ]; then
    for word in "$@"; do
        case "$word" in --help | -h) sed -n '2,${/^#/!q;s/^# \{0,1\}//p}' "$0"; exit 0 ;; esac
    done
    for word in "$@"; do
        [[ "$words" = any || " $words " = *" $word "* ]] || {
            expected="${words:+some of: $words}"
            echo "$(basename "$0"): found $word, expected ${expected:-no words}; --help says what it does" >&2
            exit 2; }
    done
fi
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
