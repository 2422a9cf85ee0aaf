#!/bin/sh
# A corpus from a folder of real data: the vocabulary first (unless one is given), then the shards.
#
#   DATA=/where/the/data/is sh scripts/data/real_corpus.sh en-de-fr-tr data/en-de-fr-tr               8,000 pieces
#   DATA=/where/the/data/is sh scripts/data/real_corpus.sh xnli-15 data/xnli-15 "$DATA/vocab/xnli15-32k.model"
#
# The first word is a file of configs/corpus/, the second the output folder, the third a piece model. Run again, it goes
# on where it was stopped. VOCAB_SIZE is the number of pieces of a vocabulary made here.
set -eu
if [ $# -lt 2 ] || [ $# -gt 3 ]; then
    echo 'error: usage: real_corpus.sh <name in configs/corpus> <output folder> [piece model]' >&2
    exit 2
fi
root=$(cd "$(dirname "$0")/../.." && pwd)
config=$root/configs/corpus/$1.yaml output=$2 pieces=${3-}
if [ ! -f "$config" ]; then echo "error: $config: no such file" >&2; exit 2; fi
sh "$root/scripts/setup.sh"
export PYTHONPATH="$root"
if [ -z "$pieces" ]; then
    pieces=$output/vocab/piece.model
    if [ ! -f "$pieces" ]; then
        "$root/.venv/bin/python" -m scripts.data.train_vocab --config "$config" --output "$output/vocab" \
            --vocab_size "${VOCAB_SIZE-8000}"
    fi
fi
exec "$root/.venv/bin/python" -m pretrain.build_corpus --config "$config" --output "$output/corpus" \
    --piece_model_path "$pieces" --deduplicate true
