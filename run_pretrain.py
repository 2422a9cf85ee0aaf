"""The official name of `ernie-m run_pretrain`."""

from ernie_m.utils.first_import import run

from ernie_m.commands.run_pretrain import main

if __name__ == "__main__":
    run(main)
