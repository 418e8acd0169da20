# Sourced by every other script: repository root, environment, and $PYTHON to run things with.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
./scripts/setup.sh || return
if [ "${VENV:-.venv}" = none ]; then PYTHON="${PYTHON:-python3}"; else PYTHON="${VENV:-.venv}/bin/python"; fi
export PYTHONUNBUFFERED=1
