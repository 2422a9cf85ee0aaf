"""`python -m pretrain.build_corpus` of a checkout, and `python -m ernie_m.pretrain.build_corpus`."""

from ernie_m.utils.first_import import run

import sys

from ernie_m.pretrain.build_corpus.command import main

if __name__ == "__main__":
    sys.argv[0] = "build_corpus"  # --help names the command
    run(main)
