"""The official name of `ernie-m run_classifier`."""

from ernie_m.utils.first_import import run

from ernie_m.commands.run_classifier import main

if __name__ == "__main__":
    run(main)
