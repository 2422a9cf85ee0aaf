#!/bin/sh
# TyDi QA GoldP, cross-lingual transfer, base: fine-tune on English, evaluate in every language. The paper has no TyDi QA:
# these are XTREME's values, without layer-wise decay; as there, the last step counts, because GoldP's dev files are the
# test. --batch_size is per device. Any flag can be added.
set -eu
. "$(dirname "$0")/../launch.sh"

tydiqa base 1 \
    --train_set ./data/tydiqa/train/train.en.json \
    --dev_set ./data/tydiqa/dev/dev.%s.json --test_set ./data/tydiqa/dev/dev.%s.json --select_on last \
    --batch_size 32 --epoch 3 --max_seq_len 384 --answer_rules squad \
    --doc_stride 128 --max_query_length 64 --max_answer_length 30 --n_best_size 20 \
    --learning_rate 3e-5 --layerwise_lr_decay 1.0 --weight_decay 0.0001 \
    "$@"
