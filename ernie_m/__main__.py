"""One command for all programs: `ernie-m predict ...` is `ernie-m predict ...` of a checkout.

In the package this file is `ernie_m/__main__.py`. In a checkout `.venv/bin/ernie-m` starts it.
"""

import os
import runpy
import sys
import textwrap
from pathlib import Path
from typing import NoReturn

from ernie_m.utils.errors import pipe_may_close

# Program -> its module, and what it is for.
PROGRAMS = {
    "run_classifier": ("run_classifier", "fine-tune on texts, or pairs of texts, with labels"),
    "run_sequence_labeling": ("run_sequence_labeling", "fine-tune on words with tags"),
    "run_mrc": ("run_mrc", "fine-tune on questions and the texts that answer them"),
    "run_retrieval": ("run_retrieval", "fine-tune on translations, and search them"),
    "run_pretrain": ("run_pretrain", "pre-train on text and sentence pairs"),
    "build_corpus": (
        "ernie_m.pretrain.build_corpus.command",
        "turn text and pairs into a corpus for run_pretrain",
    ),
    "train_vocab": ("ernie_m.data.train_vocab", "train a piece model on text"),
    "show": ("ernie_m.pretrain.pictures.show", "draw what each objective sees of a pair"),
    "launch": ("launch", "start a program as several processes"),
    "train": (
        "ernie_m.commands.train",
        "train a search model on your sentence pairs, with scores before and after",
    ),
    "fit": ("ernie_m.inference.fit", "learn labels from a table of texts, with scores"),
    "predict": ("predict", "classify, tag, answer, fill, search; --serve: a page and a JSON API"),
    "encode_vector": ("encode_vector", "write the vectors of texts"),
    "mine_pairs": ("mine_pairs", "find translations in two texts"),
    "convert": ("convert", "write a model in the format of another library, or a smaller one"),
    "export": ("export", "write a model that predicts by itself: Paddle inference, ONNX, int8"),
    "prepare": ("ernie_m.data.prepare", "bring data sets into the official layout"),
    "get_data": ("ernie_m.data.get_data", "fetch the public data of the recipes"),
    "get_weights": ("ernie_m.data.get_weights", "fetch the released weights"),
}
# Name -> the words that it stands for, and what it is for.
SHORT = {
    "label": (
        ("predict", "--task", "classify", "--input"),
        "label the rows of a table: ernie-m label TABLE --model FOLDER --output LABELLED",
    ),
}
WIDTH = 100  # the characters of a line of --help
IN_CHECKOUT = Path(__file__).name == "command.py"
RECIPES = Path(__file__).parents[IN_CHECKOUT] / "scripts"


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        with pipe_may_close():
            print(usage())
        return
    if sys.argv[1] in SHORT:
        stands_for, _ = SHORT[sys.argv[1]]
        sys.argv[1:2] = stands_for
    program, *words = sys.argv[1:]
    program = program.removesuffix(".py")  # as the recipes have it
    if program == "recipe":
        run_recipe(words)  # does not return
    if program not in PROGRAMS:
        refuse_name("program", program, ["recipe", *SHORT, *PROGRAMS])
    module, _ = PROGRAMS[program]
    del sys.argv[1]
    package = "" if IN_CHECKOUT else f"{__package__}."
    # alter_sys sets sys.argv[0], which --help prints, and sys.modules["__main__"], which a spawned process
    # imports again.
    runpy.run_module(f"{package}{module}", run_name="__main__", alter_sys=True)


def refuse_name(kind: str, name: str, known: list[str]) -> NoReturn:
    """End with a line that gives the known name of this kind that is most like one, or else all of them."""
    from ernie_m.utils.command_line import nearest_key  # not for a name that is known

    nearest = nearest_key(name, known)
    advice = f"did you mean {nearest}?" if nearest else f"there are {', '.join(known)}"
    print(f"error: '{name}' is no {kind}; {advice}", file=sys.stderr)
    sys.exit(2)


def usage() -> str:
    """What `ernie-m --help` prints."""
    purposes = {name: purpose for name, (_, purpose) in PROGRAMS.items()}
    purposes |= {name: purpose for name, (_, purpose) in SHORT.items()}
    purposes["recipe"] = "run a program with the values of a recipe: ernie-m recipe NAME --flag value ..."
    width = max(map(len, purposes)) + 2
    lines = [f"  {name:{width}}{purpose}" for name, purpose in purposes.items()]
    indents = {"initial_indent": "  ", "subsequent_indent": "  "}
    names = textwrap.fill(", ".join(recipes()), WIDTH, break_on_hyphens=False, **indents)
    first = "usage: ernie-m PROGRAM --flag value ..."
    return "\n".join([first, "", *lines, "", "The recipes are", "", names])


def recipes() -> list[str]:
    """The names of the recipes: <size>/<task>_<what it is trained on>."""
    folders = (RECIPES / size for size in ("small", "base", "large"))
    return [f"{folder.name}/{path.stem}" for folder in folders for path in sorted(folder.glob("*.sh"))]


def run_recipe(words: list[str]) -> NoReturn:
    """Let a recipe of `scripts/` take the place of this program; it starts `launch`.

    Data and weights are those of the current folder, or of the checkout.

    Args:
        words: the name of the recipe, and flags.
    """
    name, *flags = words or [""]
    if name == "base/own":
        print("error: recipe base/own: run_classifier --train_set FOLDER takes its place", file=sys.stderr)
        sys.exit(2)
    if name not in recipes():
        refuse_name("recipe", name, recipes())
    if not IN_CHECKOUT:  # scripts/launch.sh starts the programs with this Python, as `python -m ernie_m`
        os.environ["ERNIE_M_PYTHON"] = sys.executable
    os.execvp("sh", ["sh", str(RECIPES / f"{name}.sh"), *flags])


if __name__ == "__main__":
    main()
