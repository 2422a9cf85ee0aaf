#!/bin/sh
# Check in some minutes that kernels, precision, training and several processes are right on this device.
#
#   sh scripts/gpu_check.sh [--quick]
#
# One line for each check, JSON last; exit code 1 if a check failed. Without a GPU it says what it skips.
set -eu
cd "$(dirname "$0")/.."
. scripts/env.sh
python=python3
if [ -x .venv/bin/python ]; then
    python=.venv/bin/python
    sh scripts/setup.sh test
fi
exec "$python" scripts/gpu_check.py "$@"
