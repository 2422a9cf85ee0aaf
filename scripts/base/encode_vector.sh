#!/bin/sh
# Vectors of XNLI's English test set, base. Official values. Any flag can be added and wins.
set -eu
. "$(dirname "$0")/../launch.sh"

run_script encode_vector.py \
    --data_set ./data/xnli/test/test.en.tsv --output_dir ./output/xnli/test/test.en.tsv \
    --vocab_path ./configs/vocab.txt --piece_model_path ./configs/piece.model \
    --ernie_config_path ./configs/base/ernie_config.json --init_pretraining_params ./configs/base/params \
    --max_seq_len 256 --batch_size 16 \
    "$@"
