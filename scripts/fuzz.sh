#!/bin/sh
# Give every reader of foreign bytes inputs that are wrong in every way; each must be refused in one line. Exit code 1 where
# one is not; what showed it lies in output/fuzz.
#
#   sh scripts/fuzz.sh --minutes 10                      ten minutes for each reader
#   sh scripts/fuzz.sh --minutes 1 --targets squad,vocab --seed 2 --jobs 2
set -eu
cd "$(dirname "$0")/.."
sh scripts/setup.sh
. scripts/env.sh
OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" exec .venv/bin/python -m tests.fuzz "$@"
