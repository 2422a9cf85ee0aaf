#!/bin/sh
# Reproduce a row of the paper's tables from an empty clone: install packages, get and verify the weights, get the data, run
# the recipe, and compare its scores with the paper's.
#
#   sh scripts/reproduce.sh --size base --task xnli    --setting cross_lingual_transfer; seeds 1,2,3,4,5 (tatoeba: 1)
#   sh scripts/reproduce.sh --size large --task pawsx --setting translate-train_all --seeds 1,2,3
#   sh scripts/reproduce.sh --size base --task xnli --accept_unverified
#                                                      go on if verify_weights.sh rejects the weights, and leave out the
#                                                      paper's scores, with which such a run is not comparable
#
# It prints its plan first. Run it again to resume; output/reproduce/done lists the finished steps. Exit code 1: the
# weights are rejected; 2: the paper has no such row, or something must be done by hand.
set -eu
cd "$(dirname "$0")/.."

fail() { echo "error: $*" >&2; exit 2; }

size=base task= setting=cross_lingual_transfer seeds= accept=
while [ $# -gt 0 ]; do
    if [ "$1" = --accept_unverified ]; then accept=yes; shift; continue; fi
    case $1 in --size | --task | --setting | --seeds) ;; *) fail "$1: unknown option; see the head of scripts/reproduce.sh" ;; esac
    [ $# -gt 1 ] || fail "$1: missing value"
    case $1 in --size) size=$2 ;; --task) task=$2 ;; --setting) setting=$2 ;; --seeds) seeds=$2 ;; esac
    shift 2
done
recipe=${task}_$setting

# "SIZE RECIPE" of each row in the paper
rows=$(awk -F'"' '
    /"[a-z]+_[-a-z_]+": \{$/ { recipe = $2 }
    match($0, /"(base|large)": "/) { print substr($0, RSTART + 1, RLENGTH - 5), recipe }' ernie_m/finetune/paper.json | sort -u)
echo "$rows" | grep -qxF -e "$size $recipe" ||
    fail "--size $size --task $task --setting $setting: the paper has no row $size $recipe (rows: $(echo "$rows" | paste -s -d, - | sed 's/,/, /g'))"
case $seeds in *[!0-9,]*) fail "--seeds $seeds: expected integers, separated by commas" ;; esac

xnli= # the run of XNLI's recipe whose model Tatoeba's starts from
data=$task by_hand=
case $recipe in
    mlqa_*) data="mlqa squad" ;;
    tatoeba_cross_lingual_transfer) xnli=xnli_cross_lingual_transfer data="xnli tatoeba" ;;
    tatoeba_fine-tuning)
        [ -e data/corpus/manifest.json ] ||
            fail "data/corpus: put the parallel text of pre-training there, as ernie-m build_corpus writes it (docs/pretraining.md)"
        ;;
    conll_*)
        data=
        [ -e data/conll/lang_map.json ] || by_hand=conll
        ;;
esac
case $task in tatoeba) : "${seeds:=1}" ;; *) : "${seeds:=1,2,3,4,5}" ;; esac # as in the paper
run=$(echo "$seeds" | tr , -)
best=best
case $seeds in *,*) best=seed_%d/best ;; esac
gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU' || :)

# step NAME COMMAND...: in the plan, print the command; then run it, unless it has succeeded before. Without a NAME the
# command itself resumes.
step() {
    name=$1
    shift
    if [ -n "$plan" ]; then echo "  $*"; return; fi
    if [ -n "$name" ] && [ -e "output/reproduce/done/$name" ]; then echo "reproduce: done: $*"; return; fi
    echo "reproduce: $*"
    "$@" || return
    if [ -n "$name" ]; then mkdir -p output/reproduce/done && : >"output/reproduce/done/$name"; fi
}

# reject CODE: after verify_weights.sh, exit with its code, or leave out the paper's scores
reject() {
    if [ "$1" != 1 ] || [ -z "$accept" ]; then
        [ "$1" != 1 ] || echo "error: configs/$size/params: unverified weights; to go on without the paper's scores, add --accept_unverified" >&2
        exit "$1"
    fi
    echo "reproduce: going on with unverified weights (--accept_unverified)"
    unverified=yes
}

steps() {
    step "" sh scripts/setup.sh $([ "$gpus" = 0 ] || echo gpu)
    [ -z "$by_hand" ] || step "" sh scripts/data/get_data.sh "$by_hand" # says what to do, before the weights are downloaded
    step "weights-$size" sh scripts/data/get_weights.sh vocab "$size"
    step "verified-$size" sh scripts/verify_weights.sh "configs/$size/params" || reject $?
    [ -z "$data" ] || step "data-$task" sh scripts/data/get_data.sh $data
    for name in $xnli "$recipe"; do
        set -- --random_seed "$seeds" --checkpoints "output/reproduce/$size/$name/$run"
        if [ "$name" != "${xnli:-$name}" ]; then
            # A training that SIGTERM has stopped ends with 0.
            [ -n "$plan" ] || [ -e "output/reproduce/$size/$xnli/$run/results.txt" ] ||
                fail "output/reproduce/$size/$xnli/$run: the run is unfinished; run the same command to resume it"
            set -- "$@" --init_pretraining_params "output/reproduce/$size/$xnli/$run/$best"
        fi
        if [ -n "$unverified" ]; then set -- "$@" --paper ""; fi
        step "" sh "scripts/$size/$name.sh" "$@"
    done
}

case $size in base) weights=1.1 ;; large) weights=2.2 ;; esac
case $data in *xnli*) download=", 0.5 GB of XNLI" ;; "") download= ;; *) download=", data of unknown size" ;; esac
echo "reproduce: $size $recipe, seeds $seeds, on $([ "$gpus" = 0 ] && echo "the CPU" || echo "$gpus GPU(s)")"
echo "reproduce: downloads 1 GB of packages (for GPUs more), $weights GB of weights$download"
echo "reproduce: not known: the time and memory that a recipe needs on GPUs"
unverified=
plan=yes
steps
plan=
steps
