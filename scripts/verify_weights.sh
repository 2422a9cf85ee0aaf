#!/bin/sh
# Check released weights: names, shapes, finite values; for base also the values of PaddleNLP's tests.
#
#   sh scripts/verify_weights.sh configs/base      (or large) the folder with params/, params/ itself, or a native checkpoint
#
# Exit code 0 if all values agree, 1 if one differs, 2 if these are not the complete weights of base or large.
set -eu
case "${1-}" in
    "" | /* | -*) ;;
    *) path=$PWD/$1; shift; set -- "$path" "$@" ;;
esac
cd "$(dirname "$0")/.."
sh scripts/setup.sh
. scripts/env.sh
exec .venv/bin/python -m scripts.verify_weights "$@"
