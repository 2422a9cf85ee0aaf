#!/bin/sh
# The demo: a sample set is made, a small encoder is fine-tuned on its English, and every language is tested.
#
#   sh scripts/demo.sh            about two minutes on two cores, after the installation on first use
#   sh scripts/demo.sh --seed 2   another sample set and other weights
set -eu
cd "$(dirname "$0")/.."
sh scripts/setup.sh
. scripts/env.sh
exec .venv/bin/python -m scripts.demo "$@"
