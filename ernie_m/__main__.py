"""The command line: `ernie-m COMMAND ...`, or `python -m ernie_m COMMAND ...`."""

from ernie_m.utils.first_import import run

import os
import sys
import textwrap
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from ernie_m.utils import __version__
from ernie_m.utils.errors import UserError, say

# Command -> the module in this package whose `main` runs it, and its description.
COMMANDS = {
    "fit": ("commands.fit", "train a classifier, tagger, QA or regression model on labeled data"),
    "train": ("commands.train", "train an embedding model on sentence pairs"),
    "predict": ("commands.predict", "predict JSON lines or tables with any model"),
    "serve": ("commands.serve", "serve a demo page and an HTTP API"),
    "convert": ("commands.convert", "convert a model between formats, or trim its vocabulary"),
    "export": ("commands.export", "export a model for Paddle Inference or ONNX Runtime"),
    "mine_pairs": ("commands.mine_pairs", "mine sentence pairs from two texts"),
    "mine_hard_negatives": ("commands.mine_hard_negatives", "mine hard negatives for sentence pairs"),
    "build_corpus": ("pretrain.build_corpus.command", "build a pre-training corpus"),
    "train_vocab": ("data.train_vocab", "train a SentencePiece vocabulary"),
    "show_masks": ("pretrain.show_masks", "print the attention masks of an objective"),
    "download": ("commands.download", "download data sets, weights, E5-small or text"),
    "prepare": ("data.prepare", "convert data sets to the official layout"),
}
# The commands of the paper, with the official flags.
OFFICIAL = {
    "run_pretrain": ("commands.run_pretrain", "pre-train a model"),
    "run_classifier": ("commands.run_classifier", "fine-tune text classification or regression"),
    "run_sequence_labeling": ("commands.run_sequence_labeling", "fine-tune token classification"),
    "run_mrc": ("commands.run_mrc", "fine-tune question answering"),
    "run_retrieval": ("commands.run_retrieval", "evaluate or train sentence retrieval"),
    "encode_vector": ("commands.encode_vector", "write embeddings to .npy files"),
    "launch": ("commands.launch", "launch a script in several processes"),
}
ALL_COMMANDS = COMMANDS | OFFICIAL
HELP = ("-h", "--help")
WIDTH = 100  # maximum length of a line of --help in characters
PACKAGE = Path(__file__).parent


def main() -> None:
    """Run `ernie-m`, the entry point of the package."""
    run(run_command)


def run_command() -> None:
    """Run the command that the first argument names, with the other arguments.

    Raises:
        UserError: the command is unknown, or raises it.
    """
    command, *words = sys.argv[1:] or ["--help"]
    command = command.removesuffix(".py")  # as in the recipes
    if command in HELP:
        say(format_usage())
    elif command == "--version":
        say(f"ERNIE-M {__version__}")
    elif command == "recipe":
        run_recipe(words)
    elif command not in ALL_COMMANDS:
        reject_unknown_name("command", command, ["recipe", *ALL_COMMANDS])
    else:
        module, _ = ALL_COMMANDS[command]
        sys.argv[:] = [command, *words]
        import_module(f"ernie_m.{module}").main()


def reject_unknown_name(kind: str, name: str, known_names: list[str]) -> NoReturn:
    """Raise the error for an unknown name, with the most similar known name.

    Args:
        kind: the kind of name, such as "command".
        known_names: the known names.

    Raises:
        UserError: always.
    """
    from ernie_m.utils.args import suggest_name

    raise UserError(f"unknown {kind} '{name}'; {suggest_name(name, known_names)}")


def format_usage() -> str:
    """Return the text of `ernie-m --help`."""
    recipe = {"recipe": ("", "run a recipe of the paper (ernie-m recipe --help lists them)")}
    parts = {"Your data and models:": COMMANDS, "The paper, with the official flags:": OFFICIAL | recipe}
    width = max(map(len, ALL_COMMANDS)) + 2
    lines = ["usage: ernie-m COMMAND ..., ernie-m COMMAND --help, or ernie-m --version", ""]
    for title, commands in parts.items():
        lines += [title, *(f"  {name:{width}}{purpose}" for name, (_, purpose) in commands.items()), ""]
    return "\n".join(lines)


def format_recipe_usage() -> str:
    """Return the text of `ernie-m recipe --help`."""
    indents = {"initial_indent": "  ", "subsequent_indent": "  "}
    return "\n\n".join(
        [
            "usage: ernie-m recipe NAME [--flag VALUE ...]",
            "Run a recipe of the paper; flags override its values.",
            textwrap.fill(", ".join(list_recipes()), WIDTH, break_on_hyphens=False, **indents),
        ]
    )


def get_scripts_folder() -> Path:
    """Return the directory scripts/ with the recipes: in an installed package, or in the checkout."""
    return PACKAGE / "scripts" if (PACKAGE / "scripts").is_dir() else PACKAGE.parent / "scripts"


def list_recipes() -> list[str]:
    """List the names of the recipes, <size>/<task>_<training data>."""
    folders = (get_scripts_folder() / size for size in ("small", "base", "large"))
    return [f"{folder.name}/{path.stem}" for folder in folders for path in sorted(folder.glob("*.sh"))]


def run_recipe(arguments: list[str]) -> None:
    """Replace this process with a recipe of `scripts/`, which starts `launch`.

    Data and weights are read from the checkout, or, in an installed package, from the current directory.

    Args:
        arguments: the name of the recipe, and flags that override its values.

    Raises:
        UserError: the recipe is unknown.
    """
    name, *flags = arguments or [""]
    if name in HELP:
        say(format_recipe_usage())
        return
    if name not in list_recipes():
        reject_unknown_name("recipe", name, list_recipes())
    folder = get_scripts_folder()
    if folder.parent == PACKAGE:  # an installed package: scripts/launch.sh starts `python -m ernie_m` with it
        os.environ["ERNIE_M_PYTHON"] = sys.executable
    os.execvp("sh", ["sh", str(folder / f"{name}.sh"), *flags])


if __name__ == "__main__":
    main()
