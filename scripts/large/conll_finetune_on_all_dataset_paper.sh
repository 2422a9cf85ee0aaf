#!/bin/sh
# conll_finetune_on_all_dataset.sh with the learning rate and the layer-wise decay of the paper's Table 13, which are not
# those of the official script.
set -eu
exec sh "$(dirname "$0")/conll_finetune_on_all_dataset.sh" --learning_rate 3e-4 --layerwise_lr_decay 0.8 "$@"
