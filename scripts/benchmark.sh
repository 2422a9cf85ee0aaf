#!/bin/sh
# Measure everything side by side with its peers and write docs/performance.md. Hours, on a machine with nothing else
# to do; interrupted, the same command goes on.
#
#   sh scripts/benchmark.sh                     every row but those that download
#   sh scripts/benchmark.sh --rows mlm,search   these alone; --rows clone: from git clone to the first step
#   sh scripts/benchmark.sh --again             finished rows, too
#   sh scripts/benchmark.sh --quick             tiny shapes, to see that every row runs
#   DATA=folder sh scripts/benchmark.sh         with the row that takes real text
#
# The peers' environments are made first: sh scripts/setup.sh parity, sh scripts/setup.sh latest.
set -eu
cd "$(dirname "$0")/.."
sh scripts/setup.sh
sh scripts/setup.sh parity
sh scripts/setup.sh latest
exec .venv/bin/python benchmarks/suite.py "$@"
