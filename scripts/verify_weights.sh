#!/bin/sh
# Check released weights: names, shapes, finite values; for base also the values of PaddleNLP's tests.
#
#   sh scripts/verify_weights.sh configs/base/params      (or large), as get_weights.sh writes it, or another checkpoint
#   sh scripts/verify_weights.sh PaddlePaddle/ernie-m-base    a name on the hub
#
# Exit code 0 if all values agree, 1 if one differs, 2 if these are not the complete weights of base or large.
set -eu
if [ -e "${1-}" ]; then # not a name on the hub
    path=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
    shift
    set -- "$path" "$@"
fi
cd "$(dirname "$0")/.."
sh scripts/setup.sh
. scripts/env.sh
exec .venv/bin/python -m scripts.verify_weights "$@"
