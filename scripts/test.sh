#!/usr/bin/env bash
# Set up and run the tests. Arguments go to pytest: ./scripts/test.sh -k scheduler; -m slow runs the long ones.
set -euo pipefail
source "$(dirname "$0")/environment.sh"
exec "$PYTHON" -m pytest "$@"
