#!/bin/sh
# Print what a bug report needs: versions, CPU settings in force, a check of matrix products, GPUs and NCCL.
#
#   sh scripts/doctor.sh
set -eu
cd "$(dirname "$0")/.."
. scripts/env.sh
python=.venv/bin/python
if [ ! -x "$python" ]; then
    echo "there is no .venv (sh scripts/setup.sh makes it); this is what python3 sees:"
    python=python3
fi
exec "$python" scripts/doctor.py
