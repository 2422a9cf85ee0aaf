#!/bin/sh
# XNLI, translate-train-all, base (paper, Table 12): fine-tune on the training set in all languages.
# Official values, for 8 devices; --batch_size is per device. Any flag can be added and wins.
set -eu
. "$(dirname "$0")/../launch.sh"

xnli base 8 \
    --train_set ./data/xnli/train/train.all.tsv \
    --batch_size 16 --epoch 2 --max_seq_len 256 \
    --learning_rate 5e-5 --layerwise_lr_decay 0.8 --weight_decay 0.0 \
    --validation_steps 1000 \
    --paper xnli_translate-train_all \
    "$@"
