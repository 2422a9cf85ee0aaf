#!/bin/sh
# PAN-X from a pre-trained model: fine-tune on English, entity F1 in every language that DATA has, one seed.
#
#   DATA=/where/the/data/is sh scripts/small/ner_real.sh --init_pretraining_params output/real15/runs/full-1/encoder
#
# DATA is a folder with ner/panx/train-en.tsv and ner/panx/dev-<language>.tsv. CASE=lower (the default) reads them in
# lower case, as scripts/small/pretrain_real.sh reads its text; CASE=as-is does not. OUTPUT (output/ner) gets the data
# and checkpoints/results.md. The tokenizer and the shape are those beside the weights. Further flags are passed on.
set -eu
cd "$(dirname "$0")/../.."
if [ ! -d "${DATA:-}" ]; then
    echo "error: DATA=${DATA:-} is no folder; let it name that of the real data" >&2
    exit 2
fi
sh scripts/setup.sh
. scripts/launch.sh
output=${OUTPUT:-output/ner}
lower_case=--lower_case
if [ "${CASE:-lower}" = as-is ]; then lower_case=; fi

"$python" scripts/data/prepare_conll.py "$DATA/ner/panx" --output "$output/panx" $lower_case
launch 1 run_sequence_labeling.py \
    --do_train true --do_val true --do_test false \
    --train_set "$output/panx/train/train.en.tsv" --dev_set "$output/panx/dev/dev.%s.tsv" --select_on en \
    --label_map_config "$output/panx/label_map.json" --num_labels 7 \
    --lang_map_config "$output/panx/lang_map.json" --checkpoints "$output/checkpoints" \
    --batch_size 32 --epoch 3 --max_seq_len 128 --predict_batch_size 128 \
    --learning_rate 5e-4 --layerwise_lr_decay 1.0 --weight_decay 0.01 --warmup_proportion 0.1 \
    --validation_steps 1000000 --save_steps 1000000 --skip_steps 100 --random_seed 1 \
    "$@"
