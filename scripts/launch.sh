# Shared by the recipes in scripts/{small,base,large}, which source it.
# NPROC=n sets the number of processes; otherwise one per GPU, or one on the CPU.
# `ernie-m recipe` sets ERNIE_M_PYTHON: then the project is a package of that Python, and files are those of the current
# folder. Otherwise they are those of the checkout.
if [ -z "${ERNIE_M_PYTHON-}" ]; then
    cd "$(dirname "$0")/../.."
    . scripts/env.sh
    python=.venv/bin/python
    if [ ! -x "$python" ]; then
        python=python3
        "$python" -c '
import sys
from importlib.util import find_spec
sys.exit(not all(map(find_spec, ("paddle", "sentencepiece", "yaml"))))' 2>/dev/null || {
            echo "error: missing .venv, and python3 lacks packages of requirements.txt. Run sh scripts/setup.sh" >&2
            exit 2
        }
    fi
fi

# run_script NAME.py FLAGS...: exec a script of the project.
run_script() {
    if [ -n "${ERNIE_M_PYTHON-}" ]; then exec "$ERNIE_M_PYTHON" -m ernie_m "$@"; fi
    exec "$python" "$@"
}

# SIZE DEVICES FLAGS...: flags shared by all recipes of a task. Later flags win.
xnli() { with_labels run_classifier.py xnli 3 "$@"; }
pawsx() { with_labels run_classifier.py pawsx 2 "$@"; }
conll() { with_labels run_sequence_labeling.py conll 9 "$@"; }
panx() { with_labels run_sequence_labeling.py panx 7 "$@"; }
mlqa() { run_finetuning run_mrc.py mlqa json "$@"; }

with_labels() {
    script=$1
    task=$2
    num_labels=$3
    size=$4
    devices=$5
    shift 5
    run_finetuning "$script" "$task" tsv "$size" "$devices" \
        --label_map_config "./data/$task/label_map.json" --num_labels "$num_labels" "$@"
}

# run_finetuning SCRIPT TASK ENDING SIZE DEVICES FLAGS...: on ./data/TASK, whose files are named *.ENDING.
run_finetuning() {
    script=$1
    task=$2
    ending=$3
    size=$4
    devices=$5
    shift 5
    find_start "$@"
    if [ -z "$start" ]; then
        # Small has no released weights. Its initial weights are those in configs/small/params, if you have copied your encoder of
        # scripts/small/pretrain.sh there, otherwise random ones.
        if [ "$size" != small ] || [ -d configs/small/params ]; then
            set -- --init_pretraining_params "./configs/$size/params" "$@"
        fi
        # A custom SentencePiece model does not match the default vocab.txt.
        case " $*" in
            *" --piece_model_path"*) ;;
            *) set -- --vocab_path ./configs/vocab.txt --piece_model_path ./configs/piece.model "$@" ;;
        esac
        set -- --ernie_config_path "./configs/$size/ernie_config.json" "$@"
    fi
    run_script launch.py ${NPROC:+--nproc_per_node "$NPROC"} "$script" --recipe_devices "$devices" \
        --do_train true --do_val true --do_test false \
        --dev_set "./data/$task/dev/dev.%s.$ending,./data/$task/test/test.%s.$ending" \
        --test_set "./data/$task/test/test.%s.$ending" \
        --test_save "./output/$task/test/test.%s.$ending" \
        --lang_map_config "./data/$task/lang_map.json" \
        --checkpoints ./checkpoints \
        --warmup_proportion 0.1 --lr_scheduler linear_warmup_decay \
        --random_seed 1 --save_steps 10000 --skip_steps 10 \
        "$@"
}

# find_start FLAGS...: set start to the given initial weights, a folder or a name on the hub, which have their config and
# tokenizer next to them. "" means random weights.
find_start() {
    start=
    flag=
    for word in "$@"; do
        if [ "$flag" = --init_pretraining_params ]; then start=$word; fi
        flag=$word
    done
}

# with_weights SIZE COMMAND FLAGS...: run a command of this file from the released weights, unless others are given.
with_weights() {
    size=$1
    command=$2
    shift 2
    find_start "$@"
    if [ -z "$start" ]; then
        set -- --init_pretraining_params "./configs/$size/params" \
            --ernie_config_path "./configs/$size/ernie_config.json" \
            --vocab_path ./configs/vocab.txt --piece_model_path ./configs/piece.model "$@"
    fi
    "$command" "$@"
}

encode_vector() { run_script encode_vector.py "$@"; }

# tatoeba FLAGS...: run_retrieval.py. Its --batch_size is the total of all devices, so any number of them is fine.
tatoeba() {
    run_script launch.py ${NPROC:+--nproc_per_node "$NPROC"} run_retrieval.py --pairs ./data/tatoeba "$@"
}
