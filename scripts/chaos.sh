#!/bin/sh
# Strikes small trainings with random faults, gives the same command again, and compares the end with that of a run that
# nothing struck. docs/reliability.md.
#
#   sh scripts/chaos.sh                        50 rounds
#   sh scripts/chaos.sh --rounds 8 --seed 2    fewer, others
#
# Ends with 0 if every round was identical, 1 if not; with 130 after Ctrl-C, which leaves nothing behind.
set -eu
cd "$(dirname "$0")/.."
sh scripts/setup.sh
. scripts/env.sh
exec .venv/bin/python -m tests.chaos "$@"
