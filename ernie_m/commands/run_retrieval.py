"""Evaluate or train cross-lingual sentence retrieval. See docs/retrieval.md.

python run_retrieval.py --pairs data/tatoeba --init_pretraining_params checkpoints/best
python run_retrieval.py --do_train true --train_set data/corpus --random_seed 1,2,3 ...
"""

from ernie_m.finetune.retrieval.retrieval_args import RetrievalFlags
from ernie_m.finetune.retrieval.start import run
from ernie_m.utils.args import parse_options


def main() -> None:
    """Run the command run_retrieval.py: sentence retrieval."""
    run(parse_options(RetrievalFlags, None, __name__))
