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
    "fit": ("commands.fit", "train a classifier, tagger, QA or regression model on labeled data"),
    "train": ("commands.train", "train an embedding model on sentence pairs"),
    "predict": ("commands.predict", "predict JSON lines or tables with any model"),
    "serve": ("commands.serve", "serve a demo page and an HTTP API"),
    "convert": ("commands.convert", "convert a model between formats, or trim its vocabulary"),
    "export": ("commands.export", "export a model for Paddle Inference or ONNX Runtime"),
    "mine_pairs": ("commands.mine_pairs", "mine sentence pairs from two texts"),
    "build_corpus": ("pretrain.build_corpus.command", "build a pre-training corpus"),
    "train_vocab": ("data.train_vocab", "train a SentencePiece vocabulary"),
    "show_masks": ("pretrain.show_masks", "print the attention masks of an objective"),
    "download": ("commands.download", "download data sets, weights, E5-small or text"),
    "prepare": ("data.prepare", "convert data sets to the official layout"),
}
# Those of the paper, with the official flags.
OFFICIAL = {
    "run_pretrain": ("commands.run_pretrain", "pre-train a model"),
    "run_classifier": ("commands.run_classifier", "fine-tune text classification or regression"),
    "run_sequence_labeling": ("commands.run_sequence_labeling", "fine-tune token classification"),
    "run_mrc": ("commands.run_mrc", "fine-tune question answering"),
    "run_retrieval": ("commands.run_retrieval", "evaluate or train sentence retrieval"),
    "encode_vector": ("commands.encode_vector", "write embeddings to .npy files"),
    "launch": ("commands.launch", "launch a script in several processes"),
}
PROGRAMS = COMMANDS | OFFICIAL
HELP = ("-h", "--help")
WIDTH = 100  # the characters of a line of --help
PACKAGE = Path(__file__).parent


def main() -> None:
    """What the command `ernie-m` does."""
    run(start_program)


def start_program() -> None:
    """Call the `main` of the program that the first word names, with the other words as its arguments."""
    program, *words = sys.argv[1:] or ["--help"]
    program = program.removesuffix(".py")  # as the recipes have it
    if program in HELP:
        say(usage())
    elif program == "recipe":
        run_recipe(words)
    elif program not in PROGRAMS:
        reject_name("command", program, ["recipe", *PROGRAMS])
    else:
        module, _ = PROGRAMS[program]
        sys.argv[:] = [program, *words]
        import_module(f"ernie_m.{module}").main()


def reject_name(kind: str, name: str, known: list[str]) -> NoReturn:
    """End with a line that gives the known name of this kind that is most like one."""
    from ernie_m.utils.args import advice_on

    raise UserError(f"unknown {kind} '{name}'; {advice_on(name, known)}")


def usage() -> str:
    """What `ernie-m --help` prints."""
    recipe = {"recipe": ("", "run a recipe of the paper (ernie-m recipe --help lists them)")}
    parts = {"Your data and models:": COMMANDS, "The paper, with the official flags:": OFFICIAL | recipe}
    width = max(map(len, PROGRAMS)) + 2
    lines = ["usage: ernie-m COMMAND ..., or ernie-m COMMAND --help", ""]
    for title, commands in parts.items():
        lines += [title, *(f"  {name:{width}}{purpose}" for name, (_, purpose) in commands.items()), ""]
    return "\n".join(lines)


def recipe_usage() -> str:
    """What `ernie-m recipe --help` prints."""
    indents = {"initial_indent": "  ", "subsequent_indent": "  "}
    return "\n\n".join(
        [
            "usage: ernie-m recipe NAME [--flag VALUE ...]",
            "Run a recipe of the paper; flags override its values.",
            textwrap.fill(", ".join(recipes()), WIDTH, break_on_hyphens=False, **indents),
        ]
    )


def scripts_folder() -> Path:
    """The folder of the recipes: an installed package has a copy of `scripts/`, a checkout has it beside."""
    return PACKAGE / "scripts" if (PACKAGE / "scripts").is_dir() else PACKAGE.parent / "scripts"


def recipes() -> list[str]:
    """The names of the recipes: <size>/<task>_<what it is trained on>."""
    folders = (scripts_folder() / size for size in ("small", "base", "large"))
    return [f"{folder.name}/{path.stem}" for folder in folders for path in sorted(folder.glob("*.sh"))]


def run_recipe(words: list[str]) -> None:
    """Let a recipe of `scripts/` take the place of this program; it starts `launch`.

    Data and weights are those of the checkout, or, for an installed package, of the current folder.

    Args:
        words: the name of the recipe, and flags.
    """
    name, *flags = words or [""]
    if name in HELP:
        say(recipe_usage())
        return
    if name not in recipes():
        reject_name("recipe", name, recipes())
    folder = scripts_folder()
    if folder.parent == PACKAGE:  # an installed package: scripts/launch.sh starts `python -m ernie_m` with it
        os.environ["ERNIE_M_PYTHON"] = sys.executable
    os.execvp("sh", ["sh", str(folder / f"{name}.sh"), *flags])


if __name__ == "__main__":
    main()
