#!/bin/sh
# The demo.
#
#   sh scripts/demo.sh --quick       an encoder from PyPI: retrieval and a classifier in ten languages, in a minute
#   sh scripts/demo.sh --page        the demo UI in the browser, with the texts and the classifier of --quick
#   sh scripts/demo.sh --pretrain    the paper's objectives on public text: downloads 197 MB, takes half an hour on two
#                                    cores; the same command resumes an interrupted demo
set -eu
cd "$(dirname "$0")/.."
case ${1-} in
    --quick | --page | --pretrain) ;;
    *)
        echo "error: expected sh scripts/demo.sh --quick, --page or --pretrain" >&2
        exit 2
        ;;
esac
demo=$1
shift
sh scripts/setup.sh serve
. scripts/env.sh
case $demo in
    --quick)
        sh scripts/data/get_weights.sh e5-small
        exec .venv/bin/python -m scripts.quick "$@"
        ;;
    --pretrain)
        export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # two trainings run side by side
        exec .venv/bin/python -m scripts.pretrain_demo "$@"
        ;;
esac
texts=
for code in en ru ar zh es de fr tr el hi; do texts="$texts${texts:+,}$code<=output/demo-quick/texts/$code.txt"; done
exec .venv/bin/ernie-m serve --model configs/e5-small,output/demo-quick/topics --corpus "$texts" "$@"
