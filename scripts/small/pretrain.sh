#!/bin/sh
# Pre-training, small (paper, Table 11): from scratch, every objective, 240K steps of 1,024 sequences.
# On all GPUs, or on the CPU; NPROC=n sets the number of processes, and the batch stays the same. Any key of the
# configuration can be given and wins: --data.corpus DIR --run.output DIR. The same command resumes an interrupted
# run.
set -eu
. "$(dirname "$0")/../launch.sh"

run_script launch.py ${NPROC:+--nproc_per_node "$NPROC"} --split_log_path log/pretrain-small \
    run_pretrain.py --config configs/pretrain/small.yaml "$@"
