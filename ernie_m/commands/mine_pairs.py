"""Find pairs of translations in two texts that are not aligned. See docs/mining.md.

ernie-m mine_pairs --source "de<=de.txt" --target "en<=en.txt" --model checkpoints/best --output mined
"""

import sys

from ernie_m.inference.mine_pairs import MiningOptions, mine_pairs
from ernie_m.utils.load_config import load_config
from ernie_m.utils.logging import setup_console


def main() -> None:
    """Mine the texts that the command line names."""
    options = load_config(MiningOptions, sys.argv[1:], __doc__)
    setup_console()
    mine_pairs(options)
