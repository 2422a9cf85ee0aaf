"""What a model answers: a file each. `make` imports the one that is asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from inference.loading import Loaded
from model.task_names import CLASSIFICATION, ENCODING, QUESTION_ANSWERING, TAGGING, task_named
from reader.bitext import BATCH_TOKENS
from utils.errors import UserError

TASKS = ("classify", "tag", "answer", "encode", "search", "fill", "translate-probe")  # on command lines
ANSWER_WINDOW = 384  # tokens


class Answerer(Protocol):
    """Requests are parsed one by one and answered many at once."""

    def parse(self, request: dict) -> Any:
        """What is asked. UserError: the request lacks a key, or a value is not what it must be."""

    def answer(self, asked: list[Any]) -> list[dict]:
        """An answer for each."""


@dataclass(frozen=True)
class TaskOptions:
    """What a task can be told.

    Args:
        max_seq_len: longest input (tag, answer: window) in tokens; None: as in training, where the folder
            says so, else what the model takes (answer: at most 384, the official recipe's).
        batch_tokens: padded tokens in one pass.
        top_k: most candidates (answer, fill, translate-probe) or sentences (search).
        pooling: "mean", "specials" or "pooled" (encode, search); None: as in training, else "mean".
        layer: a number, "middle" or "top" (encode, search); None: what an exported folder has, else as in
            training, else the top.
        corpus: search: a text file, a sentence a line.
    """

    max_seq_len: int | None = None
    batch_tokens: int = BATCH_TOKENS
    top_k: int = 5
    pooling: str | None = None
    layer: str | None = None
    corpus: str | None = None


def make(task: str, model: Loaded, options: TaskOptions = TaskOptions()) -> Answerer:
    """What answers on a model; `task`: of `TASKS`, or a name of `model.task_names`.

    Raises:
        UserError: the model is not for it, or an option is out of range.
    """
    task = task_named(task)
    usual = min(ANSWER_WINDOW, model.longest) if task == QUESTION_ANSWERING else model.longest
    if task in (TAGGING, QUESTION_ANSWERING):  # they read windows, cut as in training
        usual = model.reading.get("max_seq_len", usual)
    longest = model.limit(options.max_seq_len, usual)
    limits = longest, options.batch_tokens
    if task == CLASSIFICATION:
        from inference.tasks.classify import Classify

        return Classify(model, *limits)
    if task == TAGGING:
        from inference.tasks.tag import Tag

        return Tag(model, *limits)
    if task == QUESTION_ANSWERING:
        from inference.tasks.answer import AnswerQuestions

        return AnswerQuestions(model, *limits, options.top_k)
    if task in (ENCODING, "search"):
        from inference.tasks.encode import Encode, Search

        encode = Encode(model, *limits, options.pooling, options.layer)
        return encode if task == ENCODING else Search(encode, read_corpus(options.corpus), options.top_k)
    if model.engine_name != "dygraph":
        raise UserError(
            f"{model.folder}: --task {task} needs a checkpoint with the masked-LM head and the language "
            "table (the folder that run_pretrain.py leaves), not an exported folder"
        )
    # The head's classes are Paddle layers: only here, where Paddle is loaded anyway.
    from inference.tasks.words import Fill, Probe

    return (Fill if task == "fill" else Probe)(model, longest, options.top_k)


def read_corpus(path: str | None) -> list[str]:
    """The lines that are searched.

    Raises:
        UserError: no file given, or it cannot be read.
    """
    from reader.bitext import Sentences

    if path is None:
        raise UserError("--corpus is needed with --task search: a text file, a sentence a line")
    return Sentences(Path(path)).texts()
