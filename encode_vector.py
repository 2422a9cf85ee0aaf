"""The official name of `ernie-m encode_vector`."""

from ernie_m.utils.first_import import run

from ernie_m.commands.encode_vector import main

if __name__ == "__main__":
    run(main)
