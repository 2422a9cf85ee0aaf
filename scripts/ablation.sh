#!/bin/sh
# The paper's Table 6: which objectives help.
#
#   sh scripts/ablation.sh --scale quick    small encoders on public text: MMLM, and MMLM + BTMLM + CAMLM, one seed
#   sh scripts/ablation.sh --scale night    the same with all five rows, three seeds, and three times the tokens
#   sh scripts/ablation.sh --scale paper    the paper's size
#
# The same command resumes an interrupted run.
#
# quick and night download 197 MB, and train as many models at a time as there are cores. Later they need no network.
#
# paper needs XLM-R base in weights/xlm-roberta-base (docs/pretraining.md), the corpus in data/corpus, and XNLI and CoNLL
# in data/xnli and data/conll (docs/data.md). exp0 is XLM-R itself; exp1 to exp5 go on from it with other objectives
# (configs/pretrain/exp<n>.yaml). Each is fine-tuned on English XNLI and CoNLL with five seeds; their tables come at the
# end. OUTPUT (output/ablation) gets everything. Further flags go to pre-training.
set -eu
cd "$(dirname "$0")/.."
case "${1-} ${2-}" in
    "--scale quick" | "--scale night")
        sh scripts/setup.sh
        . scripts/env.sh
        export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # a training on each core
        exec .venv/bin/python -m scripts.ablation "$@"
        ;;
    "--scale paper") shift 2 ;;
    *)
        echo "error: expected sh scripts/ablation.sh --scale quick, night or paper" >&2
        exit 2
        ;;
esac
if [ ! -x .venv/bin/python ]; then
    echo "error: missing .venv. Run sh scripts/setup.sh, on GPUs sh scripts/setup.sh gpu" >&2
    exit 2
fi
. scripts/env.sh
output=${OUTPUT:-output/ablation}

for exp in exp0 exp1 exp2 exp3 exp4 exp5; do
    encoder=$output/$exp/encoder
    if [ "$exp" != exp0 ]; then
        .venv/bin/python launch.py ${NPROC:+--nproc_per_node "$NPROC"} --split_log_path "$output/$exp/log" \
            run_pretrain.py --config "configs/pretrain/$exp.yaml" --run.output "$output/$exp" "$@"
    elif [ ! -d "$encoder" ]; then
        .venv/bin/python -m ernie_m convert weights/xlm-roberta-base "$encoder" --to ernie-m
    fi
    for task in xnli conll; do
        sh "scripts/base/${task}_cross_lingual_transfer.sh" --random_seed 1,2,3,4,5 --do_test true \
            --ernie_config_path "$encoder/config.json" --init_pretraining_params "$encoder" \
            --vocab_path "$encoder/vocab.txt" --piece_model_path "$encoder/piece.model" \
            --test_save "$output/$exp/$task/test/test.%s.tsv" --checkpoints "$output/$exp/$task"
    done
done
tail -n +1 "$output"/exp?/*/results.txt    # with their names, as there are several
