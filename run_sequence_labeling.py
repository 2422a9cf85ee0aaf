"""The official name of `ernie-m run_sequence_labeling`."""

from ernie_m.utils.first_import import run

from ernie_m.commands.run_sequence_labeling import main

if __name__ == "__main__":
    run(main)
