"""Find each sentence's translation among all: Tatoeba, or any bitexts. See docs/retrieval.md.

python run_retrieval.py --pairs data/tatoeba --init_pretraining_params checkpoints/best
python run_retrieval.py --do_train true --train_set data/corpus --random_seed 1,2,3 ...
python run_retrieval.py --mine_negatives corpus.txt --train_set pairs.tsv --init_pretraining_params ...
"""

from utils.environment import run

import sys

from finetune.flags import RetrievalFlags
from training.guard import StopSignal
from utils.command_line import parse_args
from utils.runtime import prepare


def main() -> None:
    flags = parse_args(RetrievalFlags, sys.argv[1:], __doc__)
    with StopSignal(active=flags.do_train) as stop:
        prepare()
        # Paddle reads its CPU settings when it is imported, and the reader process imports this file again.
        if flags.mine_negatives:
            from inference.hard_negatives import mine_negatives

            mine_negatives(flags)
        elif flags.do_train:
            from finetune.bitext_search import train_then_search

            train_then_search(flags, stop)
        else:
            from finetune.bitext_search import search

            search(flags)
    stop.exit_as_asked()


if __name__ == "__main__":
    run(main)
