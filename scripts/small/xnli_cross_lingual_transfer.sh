#!/bin/sh
# XNLI, cross-lingual transfer, small (paper, Table 12): fine-tune on English, evaluate in every language.
# Official values, for 2 devices; --batch_size is per device. Any flag can be added and wins.
set -eu
. "$(dirname "$0")/../launch.sh"

xnli small 2 \
    --train_set ./data/xnli/train/train.en.tsv \
    --batch_size 16 --epoch 5 --max_seq_len 256 \
    --learning_rate 5e-5 --layerwise_lr_decay 0.8 --weight_decay 0.0 \
    --validation_steps 1000 \
    --paper xnli_cross_lingual_transfer \
    "$@"
