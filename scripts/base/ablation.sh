#!/bin/sh
# The paper's Table 6 at its own size: exp0 is XLM-R itself, exp1 to exp5 go on from it with other objectives
# (configs/pretrain/exp<n>.yaml). Each is fine-tuned on English XNLI and CoNLL with five seeds; their tables come at the
# end. The same command resumes an interrupted run.
#
# Needed: XLM-R base in weights/xlm-roberta-base (docs/pretraining.md), the corpus in data/corpus, XNLI and CoNLL in
# data/xnli and data/conll (docs/data.md). OUTPUT (output/ablation) gets everything. Flags go to pre-training.
set -eu
. "$(dirname "$0")/../launch.sh"
output=${OUTPUT:-output/ablation}

for exp in exp0 exp1 exp2 exp3 exp4 exp5; do
    encoder=$output/$exp/encoder
    if [ "$exp" != exp0 ]; then
        "$python" launch.py ${NPROC:+--nproc_per_node "$NPROC"} --split_log_path "$output/$exp/log" \
            run_pretrain.py --config "configs/pretrain/$exp.yaml" --run.output "$output/$exp" "$@"
    elif [ ! -d "$encoder" ]; then
        "$python" -m ernie_m convert weights/xlm-roberta-base "$encoder" --to ernie-m
    fi
    for task in xnli conll; do
        sh "scripts/base/${task}_cross_lingual_transfer.sh" --random_seed 1,2,3,4,5 --do_test true \
            --ernie_config_path "$encoder/config.json" --init_pretraining_params "$encoder" \
            --vocab_path "$encoder/vocab.txt" --piece_model_path "$encoder/piece.model" \
            --test_save "$output/$exp/$task/test/test.%s.tsv" --checkpoints "$output/$exp/$task"
    done
done
tail -n +1 "$output"/exp?/*/results.txt    # with their names, as there are several
