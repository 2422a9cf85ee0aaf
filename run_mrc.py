"""The official name of `ernie-m run_mrc`."""

from ernie_m.utils.first_import import run

from ernie_m.commands.run_mrc import main

if __name__ == "__main__":
    run(main)
