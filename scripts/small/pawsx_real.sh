#!/bin/sh
# PAWS-X from the models of scripts/small/pretrain_real15.sh and from random weights, with equal flags: trained on rows 1 to
# 1,500 of the English file, accuracy on rows 1,501 to 2,000 in every language, mean and deviation.
#
#   DATA=/where/the/data/is sh scripts/small/pawsx_real.sh
#
# DATA is a folder with pawsx/dev-<language>.tsv. OUTPUT (output/real15) holds the models, and gets pawsx-runs/results.md.
# What is finished is not done again. --starts, --seeds, --languages, --case, --at_once; further flags go to every
# run: --epoch 1.
set -eu
cd "$(dirname "$0")/../.."
. scripts/real.sh
compare finetune_real pawsx pawsx "$@"
