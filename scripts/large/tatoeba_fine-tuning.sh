#!/bin/sh
# Tatoeba, large, fine-tuned by hardest negatives (paper, Table 14), then searched. ./data/corpus is the parallel text
# of pre-training as ernie-m build_corpus writes it. Any flag can be added and wins.
set -eu
. "$(dirname "$0")/../launch.sh"

with_weights large tatoeba --do_train true --train_set ./data/corpus --checkpoints ./checkpoints/tatoeba \
    --max_steps 200000 --batch_size 32 \
    --learning_rate 5e-5 --warmup_proportion 0.1 --weight_decay 0.0 --random_seed 1 \
    --paper tatoeba_fine-tuning \
    "$@"
