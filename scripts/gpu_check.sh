#!/bin/sh
# Check in some minutes that kernels, precision, training and several processes are right on this device.
#
#   sh scripts/gpu_check.sh [--quick]
#
# One line for each check, JSON last; exit code 1 if a check failed. Without a GPU it says what it skips.
set -eu
cd "$(dirname "$0")/.."
. scripts/env.sh
python=.venv/bin/python
[ -x "$python" ] || python=python3
exec "$python" scripts/gpu_check.py "$@"
