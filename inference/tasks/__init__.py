"""The tasks that predict.py, the server and `ernie_m` offer. `make` imports only the module of one task."""

from dataclasses import dataclass
from typing import Any, Protocol

from inference.loading import Loaded
from model.task_names import CLASSIFICATION, ENCODING, QUESTION_ANSWERING, TAGGING, task_named
from reader.bitext import BATCH_TOKENS
from utils.errors import UserError

TASKS = ("classify", "tag", "answer", "encode", "search", "fill", "translate-probe")  # on command lines
ANSWER_WINDOW = 384  # tokens


class Answerer(Protocol):
    """A task: it parses requests one by one and answers many at once."""

    def parse(self, request: dict) -> Any:
        """The content of a request. UserError: a key is missing, or a value is wrong."""

    def answer(self, asked: list[Any]) -> list[dict]:
        """An answer for each."""


@dataclass(frozen=True)
class TaskOptions:
    """The options of all tasks.

    Args:
        max_seq_len: longest input (tag, answer: window) in tokens. None: as recorded in training, else what
            the model can read (answer: at most 384, as in the official recipe).
        batch_tokens: padded tokens in one pass.
        top_k: most candidates (answer, fill, translate-probe) or sentences (search).
        pooling: "mean", "specials" or "pooled" (encode, search); None: as in training, else "mean".
        layer: a number, "middle" or "top" (encode, search); None: the layer of an exported folder, else as in
            training, else the top.
        corpus: for search, a text file with one sentence a line, or language<=file,language<=file.
    """

    max_seq_len: int | None = None
    batch_tokens: int = BATCH_TOKENS
    top_k: int = 5
    pooling: str | None = None
    layer: str | None = None
    corpus: str | None = None


def make(task: str, model: Loaded, options: TaskOptions = TaskOptions()) -> Answerer:
    """The answerer of a task on a model.

    Args:
        task: one of `TASKS`, a name of `model.task_names`, or what only the server offers: align or masks.

    Raises:
        UserError: the model is not for this task, or an option is out of range.
    """
    task = task_named(task)
    usual = min(ANSWER_WINDOW, model.longest) if task == QUESTION_ANSWERING else model.longest
    if task in (TAGGING, QUESTION_ANSWERING):  # they read windows, cut as in training
        usual = model.reading.get("max_seq_len", usual)
    limits = model.limit(options.max_seq_len, usual), options.batch_tokens
    if task in (CLASSIFICATION, TAGGING, QUESTION_ANSWERING):
        from inference.tasks.finetuned import AnswerQuestions, ClassifyTexts, TagWords

        if task == QUESTION_ANSWERING:
            return AnswerQuestions(model, *limits, options.top_k)
        return (ClassifyTexts if task == CLASSIFICATION else TagWords)(model, *limits)
    if task == "masks":
        from inference.tasks.pictures import DrawMasks

        return DrawMasks(model)
    if task in (ENCODING, "search", "align"):
        from inference.tasks.encode import EncodeTexts, SearchCorpus, read_corpus

        encode = EncodeTexts(model, *limits, options.pooling, options.layer)
        if task == ENCODING:
            return encode
        if task == "align":
            from inference.tasks.pictures import CompareTokens

            return CompareTokens(encode)
        if options.corpus is None:
            raise UserError("--corpus is needed with --task search: a text file, a sentence a line")
        return SearchCorpus(encode, read_corpus(options.corpus), options.top_k)
    if model.engine_name != "dygraph":
        raise UserError(
            f"{model.folder}: --task {task} needs a checkpoint with the masked-LM head and the language "
            "table (the folder that run_pretrain.py leaves), not an exported folder"
        )
    from inference.tasks.words import FillMasks, ProbeTranslation

    return (FillMasks if task == "fill" else ProbeTranslation)(model, limits[0], options.top_k)
