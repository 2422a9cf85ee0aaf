#!/bin/sh
# PAN-X, cross-lingual transfer, small: fine-tune on English, evaluate in every language. The paper has no PAN-X: these
# are its values for CoNLL, except that dev is scored every 500 steps. --batch_size is per device. Any flag can be
# added.
set -eu
. "$(dirname "$0")/../launch.sh"

panx small 1 \
    --train_set ./data/panx/train/train.en.tsv \
    --batch_size 8 --epoch 10 --max_seq_len 512 \
    --learning_rate 4e-4 --layerwise_lr_decay 0.8 --weight_decay 0.01 \
    --validation_steps 500 \
    --official_compat false \
    "$@"
