#!/bin/sh
# Faults: small trainings are killed, stopped, starved of disk and damaged at random moments, and go on; their ends are
# compared with those of undisturbed ones, sample by sample and bit by bit. docs/reliability.md.
#
#   sh scripts/chaos.sh                        50 faults
#   sh scripts/chaos.sh --rounds 6 --seed 2    fewer, others
#
# Ends with 0 if nothing was lost and all is as it should be, 1 if not; 130 after Ctrl-C, which leaves nothing behind.
set -eu
cd "$(dirname "$0")/.."
sh scripts/setup.sh
. scripts/env.sh
exec .venv/bin/python -m tests.chaos "$@"
