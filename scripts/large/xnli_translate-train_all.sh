#!/bin/sh
# XNLI, translate-train-all, large (paper, Table 13): fine-tune on the training set in all languages.
# Official values, for 8 devices; --batch_size is per device. Any flag can be added and wins.
set -eu
. "$(dirname "$0")/../launch.sh"

xnli large 8 \
    --train_set ./data/xnli/train/train.all.tsv \
    --batch_size 16 --epoch 1 --max_seq_len 256 \
    --learning_rate 5e-5 --layerwise_lr_decay 0.8 --weight_decay 0.0 \
    --validation_steps 1000 \
    --paper xnli_translate-train_all \
    "$@"
