#!/bin/sh
# Tatoeba, small (paper, section 4.2 and Table 5): the mean of the middle layer of the best XNLI checkpoint, which
# scripts/small/xnli_cross_lingual_transfer.sh leaves in ./checkpoints/best. A model of another size is refused. Any flag
# can be added and wins.
set -eu
. "$(dirname "$0")/../launch.sh"

tatoeba --init_pretraining_params ./checkpoints/best --ernie_config_path ./configs/small/ernie_config.json \
    --init_task classification --layer middle --pooling mean_without_special \
    --checkpoints ./output/tatoeba \
    --paper tatoeba_cross_lingual_transfer \
    "$@"
