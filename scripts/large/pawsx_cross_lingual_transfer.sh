#!/bin/sh
# PAWS-X, cross-lingual transfer, large (paper, Table 13): fine-tune on English, evaluate in every language.
# 64 examples in all, here as 2 devices of 32; --batch_size is per device. Any flag can be added and wins.
set -eu
. "$(dirname "$0")/../launch.sh"

pawsx large 2 \
    --train_set ./data/pawsx/train/train.en.tsv \
    --batch_size 32 --epoch 10 --max_seq_len 256 \
    --learning_rate 5e-5 --layerwise_lr_decay 0.9 --weight_decay 0.01 \
    --validation_steps 500 \
    --paper pawsx_cross_lingual_transfer \
    "$@"
