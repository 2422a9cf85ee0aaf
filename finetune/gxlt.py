"""G-XLT of MLQA (Lewis et al., 2020): questions in one language on contexts in another, for every pair."""

import itertools
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.evaluation import EvalFile, evaluate
from finetune.flags import FinetuneFlags
from finetune.report import AVERAGE, ShownTable, average, to_text, write_tables
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
class PairTable(ShownTable):
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

    def cells(self, markdown: bool = False) -> list[list[str]]:
        """Header, a line per context language with its mean, and the means of the question languages.

        In Markdown the diagonal is bold.
        """
        lines = [["context \\ question", *self.languages, AVERAGE]]
        for context in self.languages:
            row = {question: self.scores.get((context, question)) for question in self.languages}
            shown = {question: _shown([value]) for question, value in row.items()}
            if markdown:
                shown[context] = f"**{shown[context]}**"
            lines.append([context, *shown.values(), _shown(row.values())])
        columns = [
            [self.scores.get((one, question)) for one in self.languages] for question in self.languages
        ]
        lines.append([AVERAGE, *map(_shown, columns), _shown(self.scores.values())])
        return lines

    def below(self, line_end: str = "") -> str:
        """XLT and G-XLT in two lines."""
        means = self.summary()
        lines = [f"G-XLT, the mean of {len(self.scores)} pairs: {means['g-xlt']:.2f}"]
        if self.xlt:
            xlt = ", ".join(f"{language} {value:.2f}" for language, value in self.xlt.items())
            lines.insert(0, f"XLT, the diagonal: {xlt}; mean {means['xlt']:.2f}")
        return ("\n\n" if line_end else "\n") + f"{line_end}\n".join(lines)

    def to_json(self) -> dict:
        """The table as a JSON value."""
        scores: dict[str, dict[str, float]] = {context: {} for context in self.languages}
        for context, question in itertools.product(self.languages, repeat=2):
            if (context, question) in self.scores:
                scores[context][question] = self.scores[context, question]
        return {"mean": self.summary(), "xlt": self.xlt, "scores": scores}


def _shown(values) -> str:
    """The mean of the values that are not None."""
    known = [value for value in values if value is not None]
    return f"{average(dict(enumerate(known))):.2f}" if known else ABSENT


def evaluate_pairs(flags: FinetuneFlags, make_task: Callable[[FinetuneFlags, Tokenizer], Task]) -> None:
    """Score --init_checkpoint on the files of --gxlt_set; write gxlt.{txt,md,json} into --checkpoints.

    Raises:
        UserError: the flags do not go together, no file matches the pattern, or a file is wrong.
    """
    check_flags(flags)
    begin(flags.use_cuda)
    log_unused(flags)
    languages = read_languages(flags.lang_map_config)
    pairs = find_pairs(flags.gxlt_set, languages)
    tokenizer = make_tokenizer(flags)
    task = make_task(flags, tokenizer)
    model = make_model(flags, task, model_config(flags, tokenizer), seed=0)
    engine = make_engine(flags, model, total_steps=1, seed=0)
    scores: dict[str, dict[tuple[str, str], float]] = {}
    for (context, question), path in pairs.items():  # only one file at a time is in memory
        file = EvalFile(flags.gxlt_set, f"{context}-{question}", path, task.read(path, "dev"))
        found = evaluate(task, engine, [file], flags)[file.pattern][file.language]
        for metric, value in found.items():
            scores.setdefault(metric, {})[context, question] = value
    tables = {
        metric: PairTable(f"{metric}, {flags.gxlt_set}", languages, values)
        for metric, values in scores.items()
    }
    logger.info("results\n%s", to_text(list(tables.values())))
    if distributed.is_main():
        found = [{"title": one.title, "metric": metric, **one.to_json()} for metric, one in tables.items()]
        values = {"tables": found, "command": shlex.join(sys.argv)}
        write_tables(Path(flags.checkpoints), "gxlt", list(tables.values()), values)
    distributed.barrier()


def check_flags(flags: FinetuneFlags) -> None:
    """Refuse flags that do not go with --gxlt_set, before any file is read."""
    if flags.do_train and "do_train" in flags.given:
        raise UserError("--gxlt_set evaluates a trained model: --do_train false --init_checkpoint best")
    if not flags.init_checkpoint:
        raise UserError("--init_checkpoint is needed with --gxlt_set: the fine-tuned model")
    if not flags.lang_map_config:
        raise UserError("--lang_map_config is needed with --gxlt_set: its keys are the languages")
    if flags.gxlt_set.count("%s") != 2:
        raise UserError(f"--gxlt_set {flags.gxlt_set}: %s must be in it twice: context, then question")


def find_pairs(pattern: str, languages: Sequence[str]) -> dict[tuple[str, str], Path]:
    """(context, question) -> file, for all pairs that have one; the log names the other pairs."""
    pairs = list(itertools.product(languages, repeat=2))
    paths = {pair: Path(pattern.replace("%s", pair[0], 1).replace("%s", pair[1], 1)) for pair in pairs}
    found = {pair: path for pair, path in paths.items() if path.is_file()}
    if not found:
        raise UserError(f"--gxlt_set {pattern}: no such file for any pair of {', '.join(languages)}")
    if absent := ["-".join(pair) for pair in pairs if pair not in found]:
        logger.warning("--gxlt_set %s: no file for %s", pattern, " ".join(absent))
    return found
