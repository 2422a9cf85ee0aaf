"""One command for all programs: `ernie-m COMMAND ...`, or `python -m ernie_m NAME ...`."""

from ernie_m.utils.first_import import run

import os
import sys
import textwrap
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from ernie_m.utils.errors import UserError, say

# Command -> the module whose `main` it is, below this package, and what it is for.
COMMANDS = {
    "fit": ("commands.fit", "learn labels, tags, answers or numbers from a table, with scores"),
    "train": ("commands.train", "train a search model on your sentence pairs, with scores before and after"),
    "predict": ("commands.predict", "classify, tag, answer, embed, search: requests, or the rows of a table"),
    "serve": ("commands.serve", "a page for the browser and an HTTP API"),
    "convert": ("commands.convert", "write a model in the format of another library, or a smaller one"),
    "export": ("commands.export", "write a model that predicts by itself: Paddle inference, ONNX"),
    "mine_pairs": ("commands.mine_pairs", "find translations in two texts"),
    "build_corpus": ("pretrain.build_corpus.command", "turn text and pairs into a corpus for run_pretrain"),
    "train_vocab": ("data.train_vocab", "train a SentencePiece model on text"),
    "show_masks": ("pretrain.show_masks", "print what each objective sees of a pair"),
    "download": ("commands.download", "fetch public data, released weights, E5-small, text"),
    "prepare": ("data.prepare", "bring data sets into the official layout"),
}
# Those of the paper, with the official flags.
OFFICIAL = {
    "run_pretrain": ("commands.run_pretrain", "pre-train on text and sentence pairs"),
    "run_classifier": ("commands.run_classifier", "fine-tune on texts, or pairs of texts, with labels"),
    "run_sequence_labeling": ("commands.run_sequence_labeling", "fine-tune on words with tags"),
    "run_mrc": ("commands.run_mrc", "fine-tune on questions and the texts that answer them"),
    "run_retrieval": ("commands.run_retrieval", "fine-tune on translations, and search them"),
    "encode_vector": ("commands.encode_vector", "write the vectors of texts"),
    "launch": ("commands.launch", "start a program as several processes"),
}
PROGRAMS = COMMANDS | OFFICIAL
WIDTH = 100  # the characters of a line of --help
PACKAGE = Path(__file__).parent


def main() -> None:
    """What the command `ernie-m` does."""
    run(start_program)


def start_program() -> None:
    """Call the `main` of the program that the first word names, with the other words as its arguments."""
    asked = sys.argv[2:3] if sys.argv[1:2] == ["recipe"] else sys.argv[1:2]
    if len(sys.argv) < 2 or asked in (["-h"], ["--help"]):
        say(usage())
        return
    program, *words = sys.argv[1:]
    program = program.removesuffix(".py")  # as the recipes have it
    if program == "recipe":
        run_recipe(words)  # does not return
    if program not in PROGRAMS:
        refuse_name("command", program, ["recipe", *PROGRAMS])
    module, _ = PROGRAMS[program]
    sys.argv[:] = [program, *words]
    import_module(f"ernie_m.{module}").main()


def refuse_name(kind: str, name: str, known: list[str]) -> NoReturn:
    """End with a line that gives the known name of this kind that is most like one."""
    from ernie_m.utils.args import advice_on

    raise UserError(f"'{name}' is no {kind}; {advice_on(name, known)}")


def usage() -> str:
    """What `ernie-m --help` prints."""
    recipe = {"recipe": ("", "run a command with the values of a recipe: ernie-m recipe NAME --flag value")}
    parts = {"Your data and models:": COMMANDS, "The paper, with the official flags:": OFFICIAL | recipe}
    width = max(map(len, PROGRAMS)) + 2
    lines = ["usage: ernie-m COMMAND ..., or ernie-m COMMAND --help", ""]
    for title, commands in parts.items():
        lines += [title, *(f"  {name:{width}}{purpose}" for name, (_, purpose) in commands.items()), ""]
    indents = {"initial_indent": "  ", "subsequent_indent": "  "}
    names = textwrap.fill(", ".join(recipes()), WIDTH, break_on_hyphens=False, **indents)
    return "\n".join([*lines, "The recipes are", "", names])


def scripts_folder() -> Path:
    """The folder of the recipes: an installed package has a copy of `scripts/`, a checkout has it beside."""
    return PACKAGE / "scripts" if (PACKAGE / "scripts").is_dir() else PACKAGE.parent / "scripts"


def recipes() -> list[str]:
    """The names of the recipes: <size>/<task>_<what it is trained on>."""
    folders = (scripts_folder() / size for size in ("small", "base", "large"))
    return [f"{folder.name}/{path.stem}" for folder in folders for path in sorted(folder.glob("*.sh"))]


def run_recipe(words: list[str]) -> NoReturn:
    """Let a recipe of `scripts/` take the place of this program; it starts `launch`.

    Data and weights are those of the checkout, or, for an installed package, of the current folder.

    Args:
        words: the name of the recipe, and flags.
    """
    name, *flags = words or [""]
    if name not in recipes():
        refuse_name("recipe", name, recipes())
    folder = scripts_folder()
    if folder.parent == PACKAGE:  # an installed package: scripts/launch.sh starts `python -m ernie_m` with it
        os.environ["ERNIE_M_PYTHON"] = sys.executable
    os.execvp("sh", ["sh", str(folder / f"{name}.sh"), *flags])


if __name__ == "__main__":
    main()
