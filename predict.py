"""Predict with a model: JSON lines in, JSON lines out, or a page in the browser. See docs/predict.md.

echo '{"text": "A man eats."}' | python predict.py --task classify --model checkpoints/best
python predict.py --task encode --model exported --engine onnx-int8 --input texts.jsonl --output vectors.jsonl
python predict.py --serve --model checkpoints/best,pretrained
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from utils.environment import run
from utils.config import check_ranges, load_config, within
from utils.errors import UserError, pipe_may_close

AT_ONCE = 1024  # requests that are answered together


@dataclass
class PredictFlags:
    """What to predict, and with which model.

    Args:
        model: a checkpoint of any supported format, or a folder that export.py wrote; with --serve several,
            separated by commas
        task: classify (or classification), tag (tagging), answer (question_answering), encode (encoding),
            search, fill or translate-probe
        input: a file of JSON lines; "-": standard input
        output: a file; "-": standard output
        on_error: on a request that cannot be answered: stop, or skip it with a line on standard error
        engine: auto, dygraph (checkpoints), paddle, onnx or onnx-int8 (exported folders)
        threads: number of threads; 0 is one for each core
        batch_tokens: padded tokens in one pass
        max_seq_len: longest input (tag, answer: window) in tokens; default: for windows as in training, else
            what the model can read
        top_k: number of candidates (answer, fill, translate-probe) or sentences (search)
        pooling: for encode and search: mean over the tokens, specials (mean with [CLS] and [SEP]), or pooled;
            default: as in training for retrieval, else mean
        layer: for encode and search: a number, middle or top; default: as exported, or as in training for
            retrieval, else top
        corpus: for search: a text file, a sentence a line; or several with their languages, as in
            "de<=de.txt,fr<=fr.txt"
        ernie_config_path: ernie_config.json, if it is not beside the weights
        vocab_path: vocab.txt, if it is not beside the weights
        piece_model_path: sentencepiece model, if it is not beside the weights
        label_map_config: names of the labels: {"label": id}
        use_cuda: run a checkpoint on a GPU if there is one
        serve: serve a page for the browser and a JSON API, instead of --task
        host: address of --serve; only this machine can reach 127.0.0.1
        port: port of --serve
    """

    model: str
    task: Literal[
        "classify", "tag", "answer", "encode", "search", "fill", "translate-probe",
        "classification", "tagging", "question_answering", "encoding",
    ] | None = None  # fmt: skip
    input: str = "-"
    output: str = "-"
    on_error: Literal["stop", "skip"] = "stop"
    engine: Literal["auto", "dygraph", "paddle", "onnx", "onnx-int8"] = "auto"
    threads: int = within("[0, )", 0)
    batch_tokens: int = within("[1, )", 4096)
    max_seq_len: int | None = None
    top_k: int = within("[1, )", 5)
    pooling: Literal["mean", "specials", "pooled"] | None = None
    layer: str | None = None
    corpus: str | None = None
    ernie_config_path: str | None = None
    vocab_path: str | None = None
    piece_model_path: str | None = None
    label_map_config: str | None = None
    use_cuda: bool = True
    serve: bool = False
    host: str = "127.0.0.1"
    port: int = within("[1, 65535]", 8000)

    def __post_init__(self) -> None:
        if (self.task is None) != self.serve:
            raise UserError("give --task TASK or --serve, one of them")
        check_ranges(self)
        if self.output != "-" and self.output == self.input:
            raise UserError(f"--output {self.output}: it is the input")


def main() -> None:
    flags = load_config(PredictFlags, plain(sys.argv[1:]), __doc__)
    # Imported here, so that a process that only loads this file stays light.
    from inference.loading import Files, load
    from inference.tasks import TaskOptions, make

    files = Files(flags.ernie_config_path, flags.vocab_path, flags.piece_model_path, flags.label_map_config)
    options = TaskOptions(
        flags.max_seq_len, flags.batch_tokens, flags.top_k, flags.pooling, flags.layer, flags.corpus
    )
    folders = flags.model.split(",") if flags.serve else [flags.model]
    models = [
        load(folder, engine=flags.engine, task=flags.task, threads=flags.threads, files=files,
             use_cuda=flags.use_cuda)
        for folder in folders
    ]  # fmt: skip
    if flags.serve:
        from inference.serve import serve

        serve(models, options, flags.host, flags.port)
    else:
        task = make(flags.task, models[0], options)
        with pipe_may_close():
            answer_all(task, flags.input, flags.output, flags.on_error == "skip")


def plain(arguments: list[str]) -> list[str]:
    """Expand `--serve` without a value to `--serve=true`."""
    following = [*arguments[1:], "--"]
    alone = [a == "--serve" and after.startswith("--") for a, after in zip(arguments, following)]
    return [f"{a}=true" if b else a for a, b in zip(arguments, alone)]


def answer_all(task, source: str, target: str, skip: bool = False) -> None:
    """Answer the requests of a stream in their order; an "id" is copied to the answer.

    Args:
        source: a file of requests; "-": standard input.
        target: a file; "-": standard output. Until every request is answered, the answers are in
            `<target>.part`, which stays after a mistake or an interruption.
        skip: report wrong requests and go on.
    """
    from contextlib import nullcontext
    from itertools import islice

    from inference.requests import open_input, read_requests
    from utils.files import unwritable_is_a_user_error
    from utils.logging import Progress

    sys.stdout.reconfigure(encoding="utf-8")  # whatever the locale
    stream, name = open_input(source)
    part = Path(f"{target}.part")
    with stream, unwritable_is_a_user_error(part):
        shown = None
        if target == "-":
            writing = nullcontext(sys.stdout)
        else:
            part.parent.mkdir(parents=True, exist_ok=True)
            writing = open(part, "w", encoding="utf-8")  # noqa: SIM115 - closed below
            if stream.seekable():
                shown = Progress(sum(1 for _ in stream), "predicting", unit="requests")
                stream.seek(0)
        with writing as out:
            for arrived in read_requests(stream, name):
                requests = iter(arrived)
                while some := list(islice(requests, AT_ONCE)):
                    _answer(task, some, out, skip)
                    if shown:
                        shown.update(len(some))
        if shown:
            shown.close()
        if target != "-":
            part.replace(target)


def _answer(task, requests: list[tuple[str, dict | UserError]], out, skip: bool) -> None:
    asked, ids, wrong = [], [], None
    for place, request in requests:
        try:
            if isinstance(request, UserError):
                raise request
            asked.append(task.parse(request))
            ids.append({"id": request["id"]} if "id" in request else {})
        except UserError as error:
            wrong = UserError(f"{place}: {error}")
            if not skip:
                break
            print(f"skipped: {wrong}", file=sys.stderr, flush=True)
    for with_id, answer in zip(ids, task.answer(asked) if asked else ()):
        out.write(json.dumps({**with_id, **answer}, ensure_ascii=False) + "\n")
    out.flush()
    if wrong and not skip:
        raise wrong


if __name__ == "__main__":
    run(main)
