"""Answers of a model: JSON lines in, JSON lines out; or a page in the browser. See docs/predict.md.

echo '{"text": "A man eats."}' | python predict.py --task classify --model checkpoints/best
python predict.py --task encode --model exported --engine onnx-int8 --input texts.jsonl --output vectors.jsonl
python predict.py --serve --model checkpoints/best,pretrained
"""

import json
import sys
from dataclasses import dataclass
from typing import Literal

from utils.errors import UserError, pipe_may_close, run


@dataclass
class Flags:
    """What to predict, with which model.

    Args:
        model: a checkpoint of any format that is read, or what export.py wrote; with --serve several, joined
            by commas
        task: classify (or classification), tag (tagging), answer (question_answering), encode (encoding),
            search, fill or translate-probe
        input: a file of JSON lines; "-": standard input
        output: a file; "-": standard output
        engine: auto, dygraph (checkpoints), paddle, onnx or onnx-int8 (exported folders)
        threads: 0: one for each core
        batch_tokens: padded tokens in one pass
        max_seq_len: longest input (tag, answer: window) in tokens; default: of windows that of training, else
            what the model takes
        top_k: candidates of answer, fill and translate-probe, sentences of search
        pooling: of encode and search: mean over the tokens, specials (mean with [CLS] and [SEP]), or pooled;
            default: as in training for retrieval, else mean
        layer: of encode and search: a number, middle or top; default: as exported, or as in training for
            retrieval, else top
        corpus: of search: a text file, a sentence a line
        ernie_config_path: ernie_config.json, where it does not lie beside the weights
        vocab_path: vocab.txt, likewise
        piece_model_path: sentencepiece model, likewise
        label_map_config: names of the labels: {"label": id}
        use_cuda: a checkpoint runs on a GPU where there is one
        serve: a page for the browser and a JSON API, in place of --task
        host: of --serve; 127.0.0.1 can be reached from this machine alone
        port: of --serve
    """

    model: str
    task: Literal[
        "classify", "tag", "answer", "encode", "search", "fill", "translate-probe",
        "classification", "tagging", "question_answering", "encoding",
    ] | None = None  # fmt: skip
    input: str = "-"
    output: str = "-"
    engine: Literal["auto", "dygraph", "paddle", "onnx", "onnx-int8"] = "auto"
    threads: int = 0
    batch_tokens: int = 4096
    max_seq_len: int | None = None
    top_k: int = 5
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
    port: int = 8000

    def __post_init__(self) -> None:
        if (self.task is None) != self.serve:
            raise UserError("give --task TASK or --serve, one of them")
        if not 0 < self.port < 1 << 16:
            raise UserError(f"--port {self.port}: between 1 and 65535")
        for name in ("batch_tokens", "top_k"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)}: it must be at least 1")
        if self.threads < 0:
            raise UserError(f"--threads {self.threads}: it must be 0 (one for each core) or more")
        if self.output != "-" and self.output == self.input:
            raise UserError(f"--output {self.output}: it is the input")


def main() -> None:
    from utils.config import load_config

    flags = load_config(Flags, plain(sys.argv[1:]), __doc__)
    # What a task does not need is not imported: Paddle above all, for ONNX files.
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
            answer_all(task, flags.input, flags.output)


def plain(arguments: list[str]) -> list[str]:
    """`--serve` alone is `--serve true`."""
    following = [*arguments[1:], "--"]
    alone = [a == "--serve" and after.startswith("--") for a, after in zip(arguments, following)]
    return [f"{a}=true" if b else a for a, b in zip(arguments, alone)]


def answer_all(task, source: str, target: str) -> None:
    """Answer the requests of a stream, in their order; an "id" goes along."""
    from contextlib import nullcontext

    from inference.requests import open_input, read_requests
    from utils.files import atomic_file

    sys.stdout.reconfigure(encoding="utf-8")  # whatever the locale
    stream, name = open_input(source)
    writing = nullcontext(sys.stdout) if target == "-" else atomic_file(target, "w")
    with stream, writing as out:
        for requests in read_requests(stream, name):
            asked = []
            for place, request in requests:
                try:
                    asked.append(task.parse(request))
                except UserError as error:
                    raise UserError(f"{place}: {error}") from error
            for (_, request), answer in zip(requests, task.answer(asked)):
                with_id = {"id": request["id"], **answer} if "id" in request else answer
                out.write(json.dumps(with_id, ensure_ascii=False) + "\n")
            out.flush()


if __name__ == "__main__":
    run(main)
