#!/bin/sh
# MLQA, cross-lingual transfer, large (paper, Table 13): fine-tune on English SQuAD, evaluate in every language.
# Official values, for 2 devices; --batch_size is per device. Any flag can be added and wins.
set -eu
. "$(dirname "$0")/../launch.sh"

mlqa large 2 \
    --train_set ./data/mlqa/train/train.en.json \
    --batch_size 16 --epoch 2 --max_seq_len 384 \
    --doc_stride 128 --max_query_length 64 --max_answer_length 100 --n_best_size 20 \
    --learning_rate 8e-5 --layerwise_lr_decay 0.9 --weight_decay 0.0 \
    --validation_steps 100 \
    --paper mlqa_cross_lingual_transfer \
    "$@"
