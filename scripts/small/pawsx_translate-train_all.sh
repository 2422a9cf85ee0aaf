#!/bin/sh
# PAWS-X, translate-train-all, small. The paper gives no values for this size; these are those of large, Table 13:
# fine-tune on the training set in all languages.
# 64 examples in all, here as 2 devices of 32; --batch_size is per device. Any flag can be added and wins.
set -eu
. "$(dirname "$0")/../launch.sh"

pawsx small 2 \
    --train_set ./data/pawsx/train/train.all.tsv \
    --batch_size 32 --epoch 2 --max_seq_len 256 \
    --learning_rate 7e-5 --layerwise_lr_decay 0.9 --weight_decay 0.01 \
    --validation_steps 500 \
    --paper pawsx_translate-train_all \
    "$@"
