#!/bin/sh
# CoNLL, cross-lingual transfer, base (paper, Table 12): fine-tune on English, evaluate in four languages.
# Official values, for 1 device; --batch_size is per device. Any flag can be added and wins.
set -eu
. "$(dirname "$0")/../launch.sh"

conll base 1 \
    --train_set ./data/conll/train/train.en.tsv \
    --batch_size 8 --epoch 10 --max_seq_len 512 \
    --learning_rate 4e-4 --layerwise_lr_decay 0.8 --weight_decay 0.01 \
    --validation_steps 100 \
    --paper conll_cross_lingual_transfer \
    "$@"
