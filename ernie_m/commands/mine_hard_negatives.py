"""Mine hard negatives for pairs from a text file. See docs/retrieval.md.

ernie-m mine_hard_negatives --train_set pairs.tsv --corpus corpus.txt --model checkpoints/best
"""

from ernie_m.finetune.retrieval.retrieval_args import HardNegativeFlags
from ernie_m.utils.args import parse_options
from ernie_m.utils.logging import setup_console
from ernie_m.utils.paddle_settings import prepare


def main() -> None:
    """Run `ernie-m mine_hard_negatives`."""
    flags = parse_options(HardNegativeFlags, None, __name__)
    setup_console()
    prepare()
    # Imported here, because Paddle reads its CPU settings at import.
    from ernie_m.finetune.retrieval.mine_hard_negatives import mine_hard_negatives

    mine_hard_negatives(flags)
