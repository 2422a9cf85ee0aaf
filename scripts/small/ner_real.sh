#!/bin/sh
# PAN-X from the models of scripts/small/pretrain_real15.sh and from random weights, with equal flags: trained on English,
# entity F1 in every language, mean and deviation.
#
#   DATA=/where/the/data/is sh scripts/small/ner_real.sh
#
# DATA is a folder with ner/panx/train-en.tsv and ner/panx/dev-<language>.tsv. OUTPUT (output/real15) holds the models, and
# gets ner-runs/results.md. What is finished is not done again. --starts, --seeds, --languages, --case, --at_once;
# further flags go to every run: --epoch 1.
set -eu
cd "$(dirname "$0")/../.."
. scripts/real.sh
compare finetune_real ner ner "$@"
