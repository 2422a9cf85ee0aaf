#!/bin/sh
# Compare released ernie-m-base weights with the numbers in PaddleNLP's tests; prints each beside the other.
#
#   sh scripts/verify_weights.sh configs/base      the folder with params/, params/ itself, or a checkpoint of ours
#
# Ends with 0 if all agree, 1 if not, 2 if there are no such weights.
set -eu
case "${1-}" in
    "" | /* | -*) ;;
    *) path=$PWD/$1; shift; set -- "$path" "$@" ;;
esac
cd "$(dirname "$0")/.."
sh scripts/setup.sh
. scripts/env.sh
exec .venv/bin/python -m scripts.verify_weights "$@"
