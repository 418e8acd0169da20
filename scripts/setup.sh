#!/usr/bin/env bash
# Make the virtual environment .venv and install the pinned packages; does nothing where that is done already.
#   PYTHON=python3.12       which Python makes the environment (default python3; 3.11 or later)
#   TORCH_BACKEND=cu126     another build of torch than the default one (cpu, cu126, cu128, ...), chosen by uv
#   VENV=none               use the packages of the Python that is active instead of an environment
set -euo pipefail
words=""
source "$(dirname "$0")/words.sh"
cd "$(dirname "$0")/.."
[ "${VENV:-.venv}" = none ] && exit 0
VENV="${VENV:-.venv}"
BACKEND="${TORCH_BACKEND:-}"

STAMP="$VENV/installed-$(cat pyproject.toml scripts/requirements.lock.txt <(echo "$BACKEND") | sha256sum | cut -c1-16)"
[ -f "$STAMP" ] && exit 0
echo "setting up $VENV (some 5 GB of packages, once)"
[ -x "$VENV/bin/python" ] || "${PYTHON:-python3}" -m venv "$VENV"
"$VENV/bin/python" -m uv --version >/dev/null 2>&1 || "$VENV/bin/python" -m pip install --quiet uv
if [ -n "$BACKEND" ]; then      # the full resolution belongs to the default build of torch
    "$VENV/bin/python" -m uv pip install --quiet --python "$VENV/bin/python" \
        --torch-backend "$BACKEND" -r pyproject.toml --all-extras
else
    "$VENV/bin/python" -m uv pip install --quiet --python "$VENV/bin/python" -r scripts/requirements.lock.txt
fi
rm -f "$VENV"/installed-*       # of another build, which this one has replaced
touch "$STAMP"
