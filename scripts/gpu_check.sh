#!/bin/sh
# Check that attention, the loss, a step in each precision, two processes and an export are right on this device.
#
#   sh scripts/gpu_check.sh
#
# One line for each check, with its result and bound; exit code 1 if one failed. Without a GPU it checks the CPU.
set -eu
cd "$(dirname "$0")/.."
. scripts/env.sh
python=python3
if [ -x .venv/bin/python ]; then
    python=.venv/bin/python
    sh scripts/setup.sh test
fi
exec "$python" scripts/gpu_check.py "$@"
