#!/bin/sh
# Vectors of XNLI's English test set, large. Official values. Any flag can be added and wins.
set -eu
. "$(dirname "$0")/../launch.sh"

with_weights large encode_vector \
    --data_set ./data/xnli/test/test.en.tsv --output_dir ./output/xnli/test/test.en.tsv \
    --max_seq_len 256 --batch_size 16 \
    "$@"
