"""The official name of `ernie-m launch`."""

from ernie_m.utils.first_import import run

from ernie_m.commands.launch import main

if __name__ == "__main__":
    run(main)
