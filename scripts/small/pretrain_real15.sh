#!/bin/sh
# Real text in the 15 XNLI languages: the full strategy and MMLM alone, once each, for the same number of tokens and with a
# vocabulary of 32,000 pieces; then retrieval of translations.
#
#   DATA=/where/the/data/is sh scripts/small/pretrain_real15.sh
#
# DATA as for pretrain_real.sh, with vocab/xnli15-32k.model. OUTPUT (output/real15) gets the corpus, the runs and
# retrieval.json. What is finished is not done again. Further flags go to every run.
set -eu
cd "$(dirname "$0")/../.."
. scripts/real.sh

sh scripts/data/real_corpus.sh xnli-15 "$output" "$DATA/vocab/xnli15-32k.model"
"$python" -m experiments.pretrain_real --config configs/pretrain/real15.yaml --corpus "$output/corpus" \
    --output "$output/runs" --strategies full mmlm --seeds 1 "$@"
"$python" -m experiments.retrieval_real --runs "$output/runs" --pairs "$DATA/retrieval/tatoeba-style-dev"
