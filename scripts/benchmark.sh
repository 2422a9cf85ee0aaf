#!/bin/sh
# Measure ours side by side with its peers and write docs/performance.md. Hours, on a machine with nothing else to do.
#
#   sh scripts/benchmark.sh                       every row
#   sh scripts/benchmark.sh --rows mlm,encoding   these rows; the others of the page keep what was measured before
#   DATA=folder sh scripts/benchmark.sh           the rows "finetune_real" and "finetune_real_16" take real pairs from DATA
#
# The environments of the peers are made first: sh scripts/setup.sh parity, sh scripts/setup.sh latest.
set -eu
cd "$(dirname "$0")/.."
sh scripts/setup.sh export
sh scripts/setup.sh parity
sh scripts/setup.sh latest
.venv/bin/python benchmarks/page.py "$@"
