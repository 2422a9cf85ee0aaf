#!/bin/sh
# The demo.
#
#   sh scripts/demo.sh --quick    a real encoder from PyPI: a search and a classifier in ten languages, in a minute
#   sh scripts/demo.sh --page     the page in the browser, on the texts and the classifier of --quick
#
#   sh scripts/demo.sh            pre-training, up to twelve minutes on two cores: a sample set is made; encoders from random
#                                 weights, after MMLM, and after MMLM, BTMLM and CAMLM are fine-tuned on its English, and
#                                 tested on every language; the same command goes on with a demo that was broken off
#   sh scripts/demo.sh --table6   the same with the five mixes of objectives of the paper's Table 6
#   sh scripts/demo.sh --seed 2   another sample set and other weights
#   sh scripts/demo.sh --overwrite    delete an earlier demo in output/demo, and begin again
set -eu
cd "$(dirname "$0")/.."
sh scripts/setup.sh serve
. scripts/env.sh
case ${1-} in
    --quick)
        shift
        sh scripts/data/get_weights.sh e5-small
        exec .venv/bin/python -m scripts.quick "$@"
        ;;
    --page)
        shift
        texts=
        for code in en ru ar zh es de fr tr el hi; do texts="$texts${texts:+,}$code<=output/demo-quick/texts/$code.txt"; done
        exec .venv/bin/ernie-m predict --serve --model configs/e5-small,output/demo-quick/topics --corpus "$texts" "$@"
        ;;
esac
exec .venv/bin/python -m scripts.demo "$@"
