#!/bin/sh
# Retrieval of translations by the models of scripts/small/pretrain_real15.sh and by random weights, before and after
# fine-tuning on parallel text: a table per language, mean and deviation.
#
#   DATA=/where/the/data/is sh scripts/small/retrieval_real.sh
#
# DATA is a folder with pretrain/parallel and retrieval/tatoeba-style-dev. OUTPUT (output/real15) holds the models, and gets
# retrieval-runs/results.md. What is finished is not done again. --starts, --tune (those that are fine-tuned; all), --steps
# (3000), --seeds, --languages, --case, --at_once; further flags go to every fine-tuning: --learning_rate 5e-4.
set -eu
cd "$(dirname "$0")/../.."
. scripts/real.sh
compare retrieval_tuned retrieval "$@"
