"""Find each sentence's translation among all: Tatoeba, or any bitexts. See docs/retrieval.md.

python run_retrieval.py --pairs data/tatoeba --init_pretraining_params checkpoints/best
python run_retrieval.py --do_train true --train_set data/corpus --random_seed 1,2,3 ...
python run_retrieval.py --mine_negatives corpus.txt --train_set pairs.tsv --init_pretraining_params ...
"""

from ernie_m.finetune.retrieval.flags import RetrievalFlags
from ernie_m.training.stop_requests import StopSignal
from ernie_m.utils.options import parse_options
from ernie_m.utils.paddle_settings import prepare


def main() -> None:
    flags = parse_options(RetrievalFlags, None, __name__)
    with StopSignal(active=flags.do_train) as stop:
        prepare()
        # Not at the top, because Paddle reads its CPU settings when it is imported.
        if flags.mine_negatives:
            from ernie_m.inference.hard_negatives import mine_negatives

            mine_negatives(flags)
        elif flags.do_train:
            from ernie_m.finetune.retrieval.command import train_then_search

            train_then_search(flags, stop)
        else:
            from ernie_m.finetune.retrieval.command import search

            search(flags)
    stop.exit_as_asked()
