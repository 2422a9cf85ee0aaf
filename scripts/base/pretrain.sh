#!/bin/sh
# Pre-training, base (paper, Table 11): from XLM-R, every objective, 150K steps of 2,048 sequences.
# On all GPUs, or on the CPU; NPROC=n sets the number of processes, and the batch stays the same. Any key of the
# configuration can be given and wins: --data.corpus DIR --run.output DIR. The same command resumes an interrupted
# run.
set -eu
. "$(dirname "$0")/../launch.sh"

run_script launch.py ${NPROC:+--nproc_per_node "$NPROC"} --split_log_path log/pretrain-base \
    run_pretrain.py --config configs/pretrain/base.yaml "$@"
