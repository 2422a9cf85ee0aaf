"""Make the pages of the website in a folder: copies of the documentation, and a reference made from the code.

python scripts/site/make_pages.py build/pages

No library is needed but those of the package, and no Paddle.
"""

import ast
import inspect
import os
import re
import shutil
import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from ernie_m.__main__ import ALL_COMMANDS, COMMANDS, OFFICIAL, format_recipe_usage
from ernie_m.commands.download import KINDS
from ernie_m.reader.tokenizer_json import XLM_R_NAMES
from ernie_m.reader.vocabulary import derive_vocab
from ernie_m.utils import args

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"\]\(([^)#\s]+)")
PAGE = re.compile(r"\bdocs/(\w+\.md)")
PROSE = re.compile(r"^(?! {4}).+", re.MULTILINE)  # lines that are not code
FLAG = re.compile(r"--\w[\w.\\]*\w")  # escaped
CODE = {".py": "python", ".sh": "sh", ".yaml": "yaml", ".tsv": "text"}  # ending -> language of the block
PICTURES = (".png", ".svg")
# A page of the Python reference -> its title, a sentence, and the names on it.
PYTHON = {
    "load": (
        "Load and use models",
        "",
        [
            "ernie_m.load", "ernie_m.Model", "ernie_m.UserError", "ernie_m.api.EncodeOptions",
            "ernie_m.api.SearchOptions", "ernie_m.api.IndexOptions", "ernie_m.api.Engine", "ernie_m.api.Amp",
            "ernie_m.api.SupervisedTask", "ernie_m.api.FitTask", "ernie_m.api.Layer",
            "ernie_m.model.pipeline_config.Pooling",
        ],
    ),
    "predictions": (
        "Predictions",
        "What the methods of `Model` return.",
        [
            "ernie_m.inference.tasks.ClassificationPrediction", "ernie_m.inference.tasks.ZeroShotPrediction",
            "ernie_m.inference.tasks.TaggingPrediction", "ernie_m.inference.tasks.Entity",
            "ernie_m.inference.tasks.AnswerPrediction", "ernie_m.inference.tasks.AnswerCandidate",
            "ernie_m.inference.tasks.RankedText", "ernie_m.inference.tasks.SearchHit",
            "ernie_m.inference.tasks.TokenPrediction", "ernie_m.inference.tasks.Caveats",
        ],
    ),
    "paddle": (
        "The network in Paddle",
        "",
        [
            "ernie_m.model.ernie.ErnieMModel", "ernie_m.model.ernie.EncoderOutput",
            "ernie_m.model.packed_batch.PackedBatch", "ernie_m.model.packed_layout.PackedLayout",
            "ernie_m.model.device_transfer.upload", "ernie_m.model.config.ErnieMConfig",
        ],
    ),
    "tokenizer": (
        "Tokenizer",
        "",
        ["ernie_m.reader.tokenization.Tokenizer", "ernie_m.reader.token_offsets.encode_with_offsets"],
    ),
    "objective": (
        "Objectives",
        "What a [new objective](../../docs/objectives.md#a-new-objective) needs.",
        [
            "ernie_m.pretrain.objective.Objective", "ernie_m.pretrain.masking.Masking",
            "ernie_m.pretrain.masking.Text", "ernie_m.pretrain.masking.Pair",
            "ernie_m.pretrain.packing.MaskedExample", "ernie_m.pretrain.packing.MaskedSequence",
            "ernie_m.pretrain.evaluate.Evaluator",
        ],
    ),
    "metrics": ("Metrics", "", ["ernie_m.finetune.metrics", "ernie_m.finetune.custom_metric"]),
}  # fmt: skip
# A section of the page of files -> the module whose docstring lists them.
FILES = {
    "A model": "ernie_m/model/checkpoint/write.py",
    "A run of pre-training": "ernie_m/pretrain/run.py",
    "A run of fine-tuning": "ernie_m/training/output_dir.py",
    "A checkpoint": "ernie_m/training/checkpoint.py",
    "metrics.jsonl": "ernie_m/training/log.py",
    "A corpus": "ernie_m/reader/corpus.py",
    "An exported model": "ernie_m/inference/export.py",
}
KEYS = (
    "`--config FILE` reads options from a YAML file, whose keys are the options without `--`: the line "
    "`optimizer.steps: 100`, or the section `optimizer:` with the line `steps: 100`. Later files override "
    "earlier ones, and the command line overrides all files. Commands with `--flag` in their usage read none."
)
SUBWORDS = 250_000  # of the SentencePiece model of XLM-R and ERNIE-M


def copy_pages(target: Path) -> None:
    """Copy the documentation and all that it links to; a file of code, a table and a folder become pages."""
    sources = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
    for source in sources:  # grows
        page = target / find_place(source)
        page.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix in PICTURES:
            shutil.copyfile(source, page)
            continue
        text = read_page(source)
        if source.is_dir() or source.suffix == ".md":
            text = LINK.sub(partial(follow_link, source, sources), text)
        if source.stem.endswith("_zh"):
            text = f'<div lang="zh-CN" markdown>\n\n{text}\n</div>\n'
        write(page, text)


def follow_link(source: Path, sources: list[Path], link: re.Match[str]) -> str:
    """Return a link of a page as a link of the website, and add the linked file to `sources`."""
    linked = ((source if source.is_dir() else source.parent) / link[1]).resolve()
    if not linked.exists():
        return link[0]
    if linked not in sources:
        sources.append(linked)
    return f"]({os.path.relpath(find_place(linked), find_place(source).parent)}"


def find_place(source: Path) -> Path:
    """Return the place of a file or folder on the website, in which hidden folders are not hidden."""
    name = str(source.relative_to(ROOT)).removeprefix(".")
    if source.is_dir():
        return Path(name, "files.md")  # README.md would be the page of its section in the navigation
    return Path(name if source.suffix in (".md", *PICTURES) else f"{name}.md")


def read_page(source: Path) -> str:
    """Return a file or folder as Markdown."""
    title = f"# {source.name}\n\n"
    if source.is_dir():
        names = sorted(path.name for path in source.iterdir() if path.suffix in CODE)
        return title + "".join(f"- [{name}]({name})\n" for name in names)
    text = source.read_text(encoding="utf-8")
    if source.suffix == ".md":
        return text
    if source.suffix != ".tsv":
        return f"{title}````{CODE.get(source.suffix, 'text')}\n{text}\n````\n"
    # Lines of comments, then a table.
    notes = [f"{escape(line.removeprefix('# '))}\n\n" for line in text.splitlines() if line.startswith("#")]
    head, *rows = [escape(line).split("\t") for line in text.splitlines() if not line.startswith("#")]
    table = [f"| {' | '.join(row)} |\n" for row in [head, ["---"] * len(head), *rows]]
    return title + "".join([*notes, *table])


def write(path: Path, *lines: str) -> None:
    """Write a page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def escape(text: str) -> str:
    """Escape what Markdown would take for markup."""
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", text).replace("<", "&lt;")


def make_python_pages(folder: Path) -> None:
    """Write the pages of `PYTHON`, whose text mkdocstrings takes from docstrings."""
    for name, (title, sentence, objects) in PYTHON.items():
        write(folder / f"{name}.md", f"# {title}\n", sentence, *(f"\n::: {path}" for path in objects))


class _OptionsFound(Exception):
    """Ends a command when its options are known."""


def find_options(command: str, module: str) -> tuple[type, str]:
    """Return the dataclass of a command's options, and the name of the module that describes the command."""
    sys.argv[:] = [command, "--help"]
    try:
        import_module(f"ernie_m.{module}").main()
    except _OptionsFound as found:
        return found.args[0], found.args[1]
    raise AssertionError(f"{command} has no options")


def stop_at_help(cls: type, module_name: str) -> NoReturn:
    """Take the place of `args.format_help`."""
    raise _OptionsFound(cls, module_name)


def make_command_pages(folder: Path) -> None:
    """Write a page for each command, as `--help` describes it, and a table of all commands."""
    args.format_help = stop_at_help
    modules = {name: module for name, (module, _) in ALL_COMMANDS.items() if name != "download"}
    modules |= {f"download {kind}": f"data.{module}" for kind, module in KINDS.items()}
    for command, module in modules.items():
        cls, module_name = find_options(command, module)
        lines = [f"# {command}\n", "```text", args.format_usage(cls), "```\n"]
        for paragraph in args.read_description(module_name).split("\n\n"):
            is_example = paragraph.split()[0] in ("ernie-m", "python", "sh", "fleetrun")
            lines += ["```sh", paragraph, "```\n"] if is_example else [link_pages(paragraph) + "\n"]
        options = args.describe_options(cls)
        ids = {flag: flag.removeprefix("--").lower() for flag, _, _ in options}
        for flag, kind, meaning in options:
            lines += [f"\n## `{flag}` {{#{ids[flag]}}}\n", f"*{escape(kind)}*\n", link_flags(meaning, ids)]
        write(folder / f"{command.replace(' ', '_')}.md", *lines)
    tables = {"Your data and models": COMMANDS, "The paper, with the official flags": OFFICIAL}
    lines = ["# Commands\n", KEYS]
    for title, commands in tables.items():
        lines += [f"\n## {title}\n", "| command | |", "|---|---|"]
        for name, (_, purpose) in commands.items():
            pages = [f"download {kind}" for kind in KINDS] if name == "download" else [name]
            links = ", ".join(f"[`{page}`]({page.replace(' ', '_')}.md)" for page in pages)
            lines.append(f"| {links} | {purpose} |")
    write(folder / "README.md", *lines, "\n## Recipes\n", "```text", format_recipe_usage(), "```")


def make_files_page(path: Path) -> None:
    """Write the page of the files that commands write, and of the special tokens."""
    lines = ["# Files and special tokens"]
    for title, module in FILES.items():
        docstring = ast.get_docstring(ast.parse((ROOT / module).read_text(encoding="utf-8"))) or ""
        lines += [f"\n## {title}\n", link_pages(docstring, "..")]
    origin = (inspect.getdoc(derive_vocab) or "").split("\n\n")[1]
    lines += ["\n## Special tokens\n", f"{escape(origin)}\n", "| token | id | in XLM-R |", "|---|---|---|"]
    for token, id_ in derive_vocab({}, SUBWORDS).items():
        lines.append(f"| `{token}` | {id_:,} | `{XLM_R_NAMES[token]}` |")
    write(path, *lines)


def link_pages(text: str, root: str = "../..") -> str:
    """Make links of the pages that a description names, and escape placeholders such as <n>.

    Args:
        root: path from the folder of the description's page to that of the website.
    """
    text = PROSE.sub(lambda line: line[0].replace("<", "&lt;"), text)
    return PAGE.sub(rf"[\1]({root}/docs/\1)", text)


def link_flags(text: str, ids: dict[str, str]) -> str:
    """Escape a description, and make links of the pages and of the flags of its command that it names."""

    def link(flag: re.Match[str]) -> str:
        name = flag[0].replace("\\", "")
        return f"[`{name}`](#{ids[name]})" if name in ids else f"`{name}`"

    return FLAG.sub(link, link_pages(escape(text)))


def make_pages(target: Path) -> None:
    """Make all pages in a folder, which is removed first."""
    shutil.rmtree(target, ignore_errors=True)
    copy_pages(target)
    make_python_pages(target / "reference" / "python")
    make_command_pages(target / "reference" / "commands")
    make_files_page(target / "reference" / "files.md")
    shutil.copyfile(Path(__file__).with_name("site.css"), target / "site.css")


if __name__ == "__main__":
    make_pages(Path(sys.argv[1]).absolute())
