"""Texts with labels, questions, requests and configurations."""

import asyncio
import functools
import json
from pathlib import Path
from typing import Any

from finetune.tagging import read_conll
from inference.requests import open_input, read_requests
from pretrain.config import PretrainConfig
from pretrain.corpus.inputs import resolve
from pretrain.corpus.options import BuildOptions
from reader.bitext import read_bitext
from reader.classification import read_classification, read_label_map, read_languages
from reader.question_answering import read_squad
from reader.tagging import read_tagged
from tests.fuzz.attempt import Target, each
from tests.fuzz.edits import json_edit, json_line_edit
from utils.config import load_config, read_yaml
from utils.errors import UserError

LABELS = {"no": 0, "yes": 1, "हाँ": 2}
TAGS = {"B-PER": 0, "I-PER": 1, "B-LOC": 2, "I-LOC": 3, "O": 4}
_HALF = rb"\ud800"


def _of(*seeds: str | bytes):
    """These, with nothing beside them."""
    return lambda folder: [seed if isinstance(seed, bytes) else seed.encode() for seed in seeds]


def _classification(path: Path) -> None:
    each(
        lambda: list(read_classification(path, label_map=LABELS)),
        lambda: list(read_classification(path, num_labels=3)),
        lambda: list(read_classification(path)),
        lambda: list(read_classification(path, labels=False)),
    )


def _tagged(path: Path) -> None:
    each(
        lambda: [one.words for one in read_tagged(path, TAGS)],
        lambda: read_tagged(path, TAGS, scheme="IOB2"),
        lambda: read_tagged(path, TAGS, labels=False),
    )


def _squad_seeds(folder: Path) -> list[bytes]:
    answer = {"text": "Wien", "answer_start": 0}
    questions = [{"id": "q1", "question": "Was?", "answers": [answer]},
                 {"id": 7, "question": "Wo?", "answers": [answer, {"text": "x", "answer_start": 99}]},
                ]  # fmt: skip
    whole = {"version": "1.1", "data": [{"title": "t", "paragraphs": [{"context": "Wien ist 1 Stadt.",
                                                                       "qas": questions}]}]}  # fmt: skip
    return [json.dumps(whole).encode(), b"\xef\xbb\xbf" + json.dumps(whole, indent=1).encode()]


def _bitext_seeds(folder: Path) -> list[bytes]:
    (folder / "de-en.en").write_bytes(b"one\ntwo\n")
    return [b"eins\nzwei\n", "eins\r\nzw\u2028ei".encode(), b"\xef\xbb\xbf\nx\n"]


REQUESTS = (
    '{"text": "A [MASK] eats.", "language": "en"}\n\n{"text_a": "x", "text_b": "y", "id": 1}\n',
    '{"words": ["a", "b"]}\n{"question": "who?", "context": "me"}\n{"text_a": null}',
    '\ufeff{"text": "\\ud83d\\ude00"}\r\n',
)


def _requests(path: Path) -> None:
    stream, name = open_input(str(path))
    with stream:
        for found in read_requests(stream, name):
            for place, request in found:
                for task in _tasks().values():
                    try:
                        task.parse(request)
                    except UserError as error:  # which predict.py says with the place
                        json.dumps(f"{place}: {error}")


@functools.cache
def _tasks() -> dict[str, Any]:
    """What asks a request for its keys, with no model behind it."""
    from inference.tasks.encode import EncodeTexts
    from inference.tasks.finetuned import AnswerQuestions, ClassifyTexts, TagWords

    kinds = {"classify": ClassifyTexts, "tag": TagWords, "answer": AnswerQuestions,
             "search": EncodeTexts}  # fmt: skip
    tasks = {name: object.__new__(kind) for name, kind in kinds.items()}
    for task in tasks.values():
        task.answer = lambda asked: [{"asked": repr(one)} for one in asked]
    return tasks


def _http_seeds(folder: Path) -> list[bytes]:
    """The path, the host, a blank line, the body."""
    bodies = {"classify": '{"text_a": "x", "text_b": "y"}', "tag": '{"text": "Anna in Wien"}',
              "answer": '{"question": "who?", "context": "me"}', "search": '{"text": "x", "top_k": 3}',
             }  # fmt: skip
    seeds = [f"/api/{task}\n127.0.0.1:8000\n\n{body}".encode() for task, body in bodies.items()]
    return [*seeds, b"/api/info\nlocalhost\n\n", b"/api/classify\nelsewhere.example\n\n{}"]


def _http_edit(rng, data: bytes) -> bytes:
    head, _, body = data.partition(b"\n\n")
    return head + b"\n\n" + json_edit(rng, body)


@functools.cache
def _app():
    """The application of `predict.py --serve`, and a loop to run it in."""
    from unittest import mock

    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from inference import serve

    with mock.patch.object(serve, "tasks_of", return_value=_tasks()):
        app = serve.make_app([], None)
    app.add_middleware(serve.BoundedBodies)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(serve.THIS_MACHINE))
    app.build_middleware_stack()
    return app, asyncio.new_event_loop()


def _http(path: Path) -> None:
    head, _, body = path.read_bytes().partition(b"\n\n")
    where, _, host = head.partition(b"\n")
    app, loop = _app()
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": where.decode("latin-1") or "/", "raw_path": where, "query_string": b"", "root_path": "",
        "headers": [(b"host", host.strip()), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8000),
    }  # fmt: skip
    half = len(body) // 2
    parts = iter([{"type": "http.request", "body": body[:half], "more_body": True},
                  {"type": "http.request", "body": body[half:], "more_body": False}])  # fmt: skip
    sent = []

    async def receive() -> dict:
        return next(parts, {"type": "http.disconnect"})

    async def send(message: dict) -> None:
        sent.append(message)

    loop.run_until_complete(app(scope, receive, send))
    status = sent[0]["status"]
    json.loads(b"".join(message.get("body", b"") for message in sent) or b"null")
    assert status < 500, status
    if status >= 400:
        raise UserError(f"{path}: refused with {status}")


YAML = (
    "output: out\npiece_model_path: p.model\nmono:\n  en: [a.txt, b.gz]\n  de: c\nparallel:\n  de-en: x.tsv\n"
    "unit_mib: 4\ndeduplicate: true\ntsv_columns: [1, 2]\n",
    "data:\n  corpus: c\n  max_seq_len: 128\noptimizer:\n  steps: 10\n  learning_rate: 1e-4\n"
    "objectives:\n  active: [mmlm, tlm]\nrun: {output: o, seed: 1}\n",
    "a: &x [1, 2]\nb: *x\nc:\n  <<: {d: 2001-01-01}\n  e: !!int 3\n? f\n: |\n  text\n...\n",
)
YAML_WORDS = (
    *(b"&a ", b"*a", b"<<: ", b"!!int ", b"!!float ", b"!!timestamp ", b"!!binary ", b"!!set ", b"!!omap "),
    *(b"!!python/object:os.system ", b"? ", b"- ", b": ", b"|\n", b">\n", b"---\n", b"...\n", b"%YAML 9.9\n"),
    *(b"2001-99-99", b"0b", b"0x", b"1:99:99", b".inf", b"~", b"{a: ", b"[", b"# ", b"'", b'"'),
)


def _corpus_config_seeds(folder: Path) -> list[bytes]:
    for name in ("a.txt", "b.gz", "c", "x.tsv"):
        (folder / name).write_bytes(b"x\n")
    whole = (
        YAML[0].replace("a.txt, b.gz", f"{folder}/a.txt, {folder}/b.gz").replace("de: c", f"de: {folder}/c")
    )
    return [whole.replace("x.tsv", f"{folder}/x.tsv").encode(), YAML[2].encode()]


def _build_options(path: Path) -> None:
    options = load_config(BuildOptions, ["--config", str(path)])
    try:
        resolve(options.mono, options.parallel)
    except UserError as error:  # it names what the file named
        raise UserError(f"{path}: {error}") from error


TARGETS = {
    "classification": Target(
        "dev.tsv",
        _of(
            "text_a\ttext_b\tlabel\nA man.\tA person.\tyes\nx\ty\tहाँ\n",
            "label\tqid\ttext_a\r\n1\t7\tx\r\n0\t8\ty\r\n\r\n",
            "\ufefftext_a\tlabel\na\t2",
        ),
        _classification,
    ),
    "label_map": Target(
        "label_map.json",
        _of('{"no": 0, "yes": 1}', '\n{"en": 0,\n "fr": 1}\n'),
        lambda path: each(
            lambda: read_label_map(path), lambda: read_label_map(path, 2), lambda: read_languages(path)
        ),
        json_edit,
        (_HALF,),
    ),
    "tagged": Target(
        "train.tsv",
        _of(
            "text_a\tlabel\nAnna\x02in\x02Wien\tB-PER\x02O\x02B-LOC\nx\tO\n",
            "label\ttext_a\r\nI-PER\x02B-PER\ta\x02b\r\n",
        ),
        _tagged,
        words=(b"\x02", b"I-LOC", b"B-PER", b"O"),
    ),
    "conll": Target(
        "test.conll", _of("Anna B-PER O\nin O O\n\nWien B-LOC B-LOC\n", "a\tO\n\n\n"), read_conll
    ),
    "squad": Target(
        "dev.json",
        _squad_seeds,
        lambda path: each(
            lambda: read_squad(path), lambda: read_squad(path, "dev"), lambda: read_squad(path, "test")
        ),
        json_edit,
        (_HALF, b'"answers": []', b'"answer_start": -1'),
    ),
    "bitext": Target(
        "de-en.de", _bitext_seeds, lambda path: read_bitext("de", path, path.with_name("de-en.en"))
    ),
    "requests": Target(
        "requests.jsonl", _of(*REQUESTS), _requests, json_line_edit, (_HALF, b'"text": ', b'"words": ')
    ),
    "http": Target("request", _http_seeds, _http, _http_edit, (_HALF, b"/api/tag", b"\n\n"), slow=True),
    "yaml": Target("run.yaml", _of(*YAML), read_yaml, words=YAML_WORDS),
    "corpus_config": Target("corpus.yaml", _corpus_config_seeds, _build_options, words=YAML_WORDS, slow=True),
    "training_config": Target(
        "train.yaml",
        _of(*YAML[1:]),
        lambda path: load_config(PretrainConfig, ["--config", str(path)]),
        words=YAML_WORDS,
        slow=True,
    ),
}
