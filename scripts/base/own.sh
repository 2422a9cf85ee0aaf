#!/bin/sh
# Texts or pairs of texts with labels of your own: train base on one language, which is English if it has a training
# file, and evaluate in every language that has a dev file. .venv/bin/python scripts/data/prepare.py own FOLDER writes
# ./data/own. Any flag can be added and wins, such as --train_set ./data/own/train/train.all.tsv. Rate, decay and epochs
# are those that suit the start and the number of rows.
set -eu
. "$(dirname "$0")/../launch.sh"

own base \
    --batch_size 32 --max_seq_len 256 --rates_of_start true --weight_decay 0.0 \
    --validation_steps 1000 --checkpoints ./output/own \
    "$@"
