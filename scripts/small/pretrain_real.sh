#!/bin/sh
# Real text in en de fr tr, for the same number of tokens: MMLM, MMLM + TLM and the full strategy, 2 seeds; then
# retrieval of translations, tables and curves.
#
#   DATA=/where/the/data/is sh scripts/small/pretrain_real.sh            about 30 minutes a run, two at a time
#
# DATA is a folder with pretrain/mono, pretrain/parallel, pretrain/parallel-multiway and retrieval. OUTPUT (output/real4)
# gets the corpus, lower-cased, the runs and retrieval.json. What is finished is not done again. Further flags go to
# every run: --optimizer.tokens 100000 to try it.
set -eu
cd "$(dirname "$0")/../.."
OUTPUT=${OUTPUT:-output/real4}
. scripts/real.sh

"$python" -m experiments.lower_case --config configs/corpus/en-de-fr-tr.yaml --output "$output/text"
DATA=$output/text sh scripts/data/real_corpus.sh en-de-fr-tr "$output"
"$python" -m experiments.pretrain_real --config configs/pretrain/real4.yaml --corpus "$output/corpus" \
    --output "$output/runs" "$@"
"$python" -m experiments.retrieval_real --runs "$output/runs" --pairs "$DATA/retrieval/tatoeba-style-dev" --lower_case
