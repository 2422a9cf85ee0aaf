#!/bin/sh
# XNLI from the models of scripts/small/pretrain_real.sh and from random weights, with equal flags: a table of accuracies per
# language, mean and deviation.
#
#   DATA=/where/the/data/is sh scripts/small/finetune_real.sh
#   DATA=/where/the/data/is OUTPUT=output/real15 sh scripts/small/finetune_real.sh
#
# DATA is a folder with nli/train-en.tsv and nli/xnli-dev-<language>.tsv. OUTPUT (output/real4) holds the models, and gets
# xnli-runs/results.md. What is finished is not done again. --starts, --seeds, --languages, --case, --at_once; further
# flags go to every run: --epoch 1.
set -eu
cd "$(dirname "$0")/../.."
OUTPUT=${OUTPUT:-output/real4}
. scripts/real.sh
compare finetune_real xnli nli "$@"
