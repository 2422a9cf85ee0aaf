#!/bin/sh
# Kill small trainings and corpus builds at random moments, resume them with the same command, and compare the results
# with those of undisturbed runs. See docs/reliability.md.
#
#   sh scripts/chaos.sh                        40 rounds
#   sh scripts/chaos.sh --rounds 8 --seed 2    fewer rounds, other moments
#
# The exit code is 0 if every round was identical, and 1 if not.
set -eu
cd "$(dirname "$0")/.."
sh scripts/setup.sh test
. scripts/env.sh
exec .venv/bin/python -m tests.chaos "$@"
