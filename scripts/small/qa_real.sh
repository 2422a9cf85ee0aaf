#!/bin/sh
# Questions from the models of scripts/small/pretrain_real15.sh and from random weights, with equal flags: trained on TyDi QA
# GoldP in English, F1 and exact match on XQuAD and on MLQA's development files, all their pairs of languages; whether
# every answer is a part of its text.
#
#   DATA=/where/the/data/is sh scripts/small/qa_real.sh
#
# DATA is a folder with qa/train-en.tydiqa-goldp.json, qa/xquad.<language>.json and qa/mlqa-dev. OUTPUT (output/real15) holds
# the models, and gets qa-runs/results.md. What is finished is not done again. --starts, --seeds, --languages,
# --case, --at_once; further flags go to every run: --epoch 1.
set -eu
cd "$(dirname "$0")/../.."
. scripts/real.sh
compare finetune_real qa qa "$@"
