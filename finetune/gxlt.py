"""G-XLT of MLQA (Lewis et al., 2020): questions in one language on contexts in another, for every pair."""

import argparse
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.datasets import EvalFile
from finetune.evaluation import evaluate
from finetune.report import AVERAGE, average, in_columns, in_markdown, write_files
from finetune.setup import begin, make_engine, make_model, make_tokenizer, model_config
from finetune.task import Task
from reader.classification import read_languages
from reader.tokenization import Tokenizer
from training import distributed
from utils.args import log_unused
from utils.errors import UserError
from utils.logging import logger

ABSENT = "-"


@dataclass(frozen=True)
class PairTable:
    """Scores of one metric: a row per language of the contexts, a column per language of the questions.

    Args:
        title: what was measured.
        languages: languages of the rows and of the columns.
        scores: (context, question) -> per cent; pairs may be absent.
    """

    title: str
    languages: Sequence[str]
    scores: Mapping[tuple[str, str], float]

    @property
    def xlt(self) -> dict[str, float]:
        """The diagonal, where questions and contexts are in the same language."""
        return {one: self.scores[one, one] for one in self.languages if (one, one) in self.scores}

    def summary(self) -> dict[str, float]:
        """The means over the diagonal ("xlt") and over all pairs ("g-xlt")."""
        means = {"g-xlt": average(self.scores)}
        return {"xlt": average(self.xlt), **means} if self.xlt else means

    def cells(self) -> list[list[str]]:
        """Header, a line per context language with its mean, and the means of the question languages."""
        lines = [["context \\ question", *self.languages, AVERAGE]]
        for context in self.languages:
            lines.append([context, *self._row([(context, question) for question in self.languages])])
        columns = [[(context, question) for context in self.languages] for question in self.languages]
        lines.append([AVERAGE, *(self._row(column)[-1] for column in columns), _shown(average(self.scores))])
        return lines

    def means(self, line_end: str = "") -> str:
        """XLT and G-XLT in two lines."""
        means = self.summary()
        lines = [f"G-XLT, the mean of {len(self.scores)} pairs: {means['g-xlt']:.2f}"]
        if self.xlt:
            xlt = ", ".join(f"{language} {value:.2f}" for language, value in self.xlt.items())
            lines.insert(0, f"XLT, the diagonal: {xlt}; mean {means['xlt']:.2f}")
        return f"{line_end}\n".join(lines)

    def to_json(self) -> dict:
        """The table as a JSON value."""
        scores = {
            context: {
                one: self.scores[context, one] for one in self.languages if (context, one) in self.scores
            }
            for context in self.languages
        }
        return {"mean": self.summary(), "xlt": self.xlt, "scores": scores}

    def _row(self, pairs: list[tuple[str, str]]) -> list[str]:
        known = {pair: self.scores[pair] for pair in pairs if pair in self.scores}
        return [*(_shown(known.get(pair)) for pair in pairs), _shown(average(known) if known else None)]


def _shown(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.2f}"


def evaluate_pairs(
    args: argparse.Namespace, make_task: Callable[[argparse.Namespace, Tokenizer], Task]
) -> None:
    """Score --init_checkpoint on the files of --gxlt_set; write gxlt.{txt,md,json} into --checkpoints.

    Raises:
        UserError: the flags do not go together, no file matches the pattern, or a file is wrong.
    """
    check_flags(args)
    begin(args.use_cuda)
    log_unused(args)
    languages = read_languages(args.lang_map_config)
    pairs = find_pairs(args.gxlt_set, languages)
    tokenizer = make_tokenizer(args)
    task = make_task(args, tokenizer)
    model = make_model(args, task, model_config(args, tokenizer), seed=0)
    engine = make_engine(args, model, total_steps=1, seed=0)
    scores: dict[str, dict[tuple[str, str], float]] = {}
    size = args.predict_batch_size or args.batch_size
    for (context, question), path in pairs.items():  # only one file at a time is in memory
        file = EvalFile(args.gxlt_set, f"{context}-{question}", path, task.read(path, "dev"))
        found = evaluate(task, engine, [file], size, args.in_tokens, epoch=0)[file.pattern][file.language]
        for metric, value in found.items():
            scores.setdefault(metric, {})[context, question] = value
    tables = {
        metric: PairTable(f"{metric}, {args.gxlt_set}", languages, values)
        for metric, values in scores.items()
    }
    logger.info("results\n%s", to_text(tables.values()))
    if distributed.is_main():
        write_tables(tables, Path(args.checkpoints))
    distributed.barrier()


def check_flags(args: argparse.Namespace) -> None:
    """Refuse flags that do not go with --gxlt_set, before any file is read."""
    if args.do_train and "do_train" in args.given:
        raise UserError(
            "--gxlt_set evaluates a trained model: --do_train false --init_checkpoint <checkpoints>/best"
        )
    if not args.init_checkpoint:
        raise UserError("--init_checkpoint is needed with --gxlt_set: the fine-tuned model")
    if not args.lang_map_config:
        raise UserError("--lang_map_config is needed with --gxlt_set: its keys are the languages")
    if args.gxlt_set.count("%s") != 2:
        raise UserError(
            f"--gxlt_set {args.gxlt_set}: %s must stand in it twice, first for the language of the contexts, "
            "then for that of the questions, as in test-context-%s-question-%s.json"
        )


def find_pairs(pattern: str, languages: Sequence[str]) -> dict[tuple[str, str], Path]:
    """(context, question) -> file, for all pairs that have one; the log names the other pairs."""
    paths = {
        (context, question): Path(pattern.replace("%s", context, 1).replace("%s", question, 1))
        for context in languages
        for question in languages
    }
    found = {pair: path for pair, path in paths.items() if path.is_file()}
    if not found:
        raise UserError(f"--gxlt_set {pattern}: no such file for any pair of {', '.join(languages)}")
    if absent := [f"{context}-{question}" for context, question in paths if (context, question) not in found]:
        logger.warning("--gxlt_set %s: no file for %s", pattern, " ".join(absent))
    return found


def to_text(tables: Iterable[PairTable]) -> str:
    """The tables as aligned columns, each with its means below."""
    return "\n\n".join(f"{table.title}\n{in_columns(table.cells())}\n{table.means()}" for table in tables)


def to_markdown(tables: Iterable[PairTable]) -> str:
    """The same in Markdown, with a bold diagonal."""
    blocks = []
    for table in tables:
        lines = table.cells()
        for i in range(1, len(lines) - 1):
            lines[i][i] = f"**{lines[i][i]}**"
        # Two spaces at the end of a line keep the two means apart in Markdown.
        blocks.append(f"**{table.title}**\n\n{in_markdown(lines)}\n\n{table.means('  ')}")
    return "\n\n".join(blocks) + "\n"


def write_tables(tables: Mapping[str, PairTable], folder: Path) -> None:
    """Write gxlt.{txt,md,json} into `folder`."""
    found = [{"title": table.title, "metric": metric, **table.to_json()} for metric, table in tables.items()]
    values = {"tables": found, "command": shlex.join(sys.argv)}
    write_files(folder, "gxlt", to_text(tables.values()), to_markdown(tables.values()), values)
    logger.info("wrote %s", folder / "gxlt.{txt,md,json}")
