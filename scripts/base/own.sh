#!/bin/sh
# Texts or pairs of texts with labels of your own: train base on one language, which is English if it has a training
# file, and evaluate in every language that has a dev file. .venv/bin/python scripts/data/prepare.py own FOLDER writes
# ./data/own. Any flag can be added and wins, such as --train_set ./data/own/train/train.all.tsv. The values are those
# of XNLI.
set -eu
. "$(dirname "$0")/../launch.sh"

own base \
    --batch_size 32 --epoch 5 --max_seq_len 256 \
    --learning_rate 5e-5 --layerwise_lr_decay 0.8 --weight_decay 0.0 \
    --validation_steps 1000 --checkpoints ./output/own \
    "$@"
