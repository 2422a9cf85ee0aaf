#!/bin/sh
# The demo: a sample set is made; encoders from random weights, after MMLM, and after MMLM, BTMLM and CAMLM are
# fine-tuned on its English, and tested on every language.
#
#   sh scripts/demo.sh --quick    one model and its page, three minutes on two cores, after the installation
#   sh scripts/demo.sh            up to twelve minutes; the same command goes on with a demo that was broken off
#   sh scripts/demo.sh --seed 2   another sample set and other weights
#   sh scripts/demo.sh --overwrite    delete an earlier demo in output/demo, and begin again
set -eu
cd "$(dirname "$0")/.."
sh scripts/setup.sh serve
. scripts/env.sh
exec .venv/bin/python -m scripts.demo "$@"
