"""Evaluate or train cross-lingual sentence retrieval, or mine hard negatives. See docs/retrieval.md.

python run_retrieval.py --pairs data/tatoeba --init_pretraining_params checkpoints/best
python run_retrieval.py --do_train true --train_set data/corpus --random_seed 1,2,3 ...
python run_retrieval.py --mine_hard_negatives corpus.txt --train_set pairs.tsv --init_pretraining_params ...
"""

from ernie_m.finetune.retrieval.retrieval_args import RetrievalFlags
from ernie_m.finetune.retrieval.start import run
from ernie_m.utils.args import parse_options
from ernie_m.utils.paddle_settings import prepare


def main() -> None:
    """Run the command run_retrieval.py: sentence retrieval."""
    flags = parse_options(RetrievalFlags, None, __name__)
    if flags.mine_hard_negatives:
        prepare()
        # Imported here, because Paddle reads its CPU settings at import.
        from ernie_m.inference.mine_hard_negatives import mine_hard_negatives

        mine_hard_negatives(flags)
    else:
        run(flags)
