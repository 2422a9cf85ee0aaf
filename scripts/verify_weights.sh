#!/bin/sh
# Check released weights: names, shapes, finite values; base also by the numbers of PaddleNLP's tests.
#
#   sh scripts/verify_weights.sh configs/base      (or large) the folder with params/, params/ itself, or a checkpoint of ours
#
# Ends with 0 if all is right, 1 if a number differs, 2 if these are no weights of base or large, or not all of them.
set -eu
case "${1-}" in
    "" | /* | -*) ;;
    *) path=$PWD/$1; shift; set -- "$path" "$@" ;;
esac
cd "$(dirname "$0")/.."
sh scripts/setup.sh
. scripts/env.sh
exec .venv/bin/python -m scripts.verify_weights "$@"
