#!/bin/sh
# XNLI from the models of scripts/small/pretrain_real.sh and from random weights, with equal flags, 2 seeds: a table of
# accuracies per language.
#
#   DATA=/where/the/data/is sh scripts/small/finetune_real.sh
#
# DATA is a folder with nli/train-en.tsv and nli/xnli-dev-<language>.tsv, which are read in lower case. OUTPUT
# (output/real4) holds the models, and gets xnli-runs/results.md. What is finished is not done again. Further flags go
# to every run: --epoch 1.
set -eu
cd "$(dirname "$0")/../.."
if [ ! -d "${DATA:-}" ]; then
    echo "error: DATA=${DATA:-} is no folder; let it name that of the real data" >&2
    exit 2
fi
sh scripts/setup.sh
. scripts/launch.sh
output=${OUTPUT:-output/real4}

"$python" -m experiments.lower_case nli/train-en.tsv nli/xnli-dev-en.tsv nli/xnli-dev-de.tsv nli/xnli-dev-fr.tsv \
    --output "$output/text"
"$python" scripts/data/prepare_xnli.py "$output/text/nli" --output "$output/xnli"
"$python" -m experiments.finetune_real --runs "$output/runs" --data "$output/xnli" --output "$output/xnli-runs" "$@"
