"""Find pairs of translations in two texts that are not aligned. See docs/mining.md.

python mine_pairs.py --source "de<=de.txt" --target "en<=en.txt" --model checkpoints/best --output mined
"""

from utils.environment import run

import sys

from inference.mining import MiningOptions, mine_pairs
from utils.command_line import load_config
from utils.logging import setup_console


def main() -> None:
    """Mine the texts that the command line names."""
    options = load_config(MiningOptions, sys.argv[1:], __doc__)
    setup_console()
    mine_pairs(options)


if __name__ == "__main__":
    run(main)
