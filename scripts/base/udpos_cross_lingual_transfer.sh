#!/bin/sh
# Parts of speech (UD 2.5), cross-lingual transfer, base: fine-tune on English, evaluate in every language. The paper has
# no UDPOS: these are XTREME's values, without layer-wise decay. --batch_size is per device. Any flag can be added.
set -eu
. "$(dirname "$0")/../launch.sh"

udpos base 1 \
    --train_set ./data/udpos/train/train.en.tsv --chunk_scheme NONE \
    --batch_size 32 --epoch 10 --max_seq_len 128 \
    --learning_rate 2e-5 --layerwise_lr_decay 1.0 --weight_decay 0.0 \
    --validation_steps 500 --select_on en \
    "$@"
