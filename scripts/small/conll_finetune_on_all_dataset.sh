#!/bin/sh
# CoNLL, all languages, small (paper, Table 12): fine-tune on the training sets of all four languages.
# Official values, for 1 device; --batch_size is per device. Any flag can be added and wins.
set -eu
. "$(dirname "$0")/../launch.sh"

conll small 1 \
    --train_set ./data/conll/train/train.all.tsv \
    --batch_size 8 --epoch 10 --max_seq_len 512 \
    --learning_rate 3e-4 --layerwise_lr_decay 0.8 --weight_decay 0.01 \
    --validation_steps 100 \
    --paper conll_finetune_on_all_dataset \
    "$@"
