"""Mine sentence pairs from two texts that are not aligned. See docs/retrieval.md.

ernie-m mine_pairs --source "de<=de.txt" --target "en<=en.txt" --model checkpoints/best --output mined
"""

from ernie_m.inference.mine_pairs import MiningOptions, mine_pairs
from ernie_m.utils.args import parse_options
from ernie_m.utils.logging import setup_console


def main() -> None:
    """Run `ernie-m mine_pairs`."""
    options = parse_options(MiningOptions, None, __name__)
    setup_console()
    mine_pairs(options)
