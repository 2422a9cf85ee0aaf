"""Every reader of files that this project did not write itself, with valid files to damage."""

import functools
import gzip
import io
import itertools
import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from finetune.tagging import read_conll
from inference.requests import open_input, read_requests, reading_of
from model.checkpoint.formats import configs, fluid, pickles
from model.checkpoint.formats import safetensors as safe
from model.checkpoint.formats import torch as torch_file
from model.checkpoint.manifest import write_manifest
from model.checkpoint.read import read_weights
from model.checkpoint.training_state import load_training_state, save_training_state
from model.config import ErnieMConfig
from pretrain.config import PretrainConfig
from pretrain.corpus.inputs import TextSource
from pretrain.corpus.text import TextFormat, read_lines, read_units
from reader.classification import read_classification, read_label_map, read_languages
from reader.squad import read_squad
from reader.tagging import read_tagged
from reader.tokenization import Tokenizer
from reader.tokenizer_files import write_xlm_r
from tests.fuzz.damage import OPCODES, Edit, edit_json, edit_json_line, edit_pickle, edit_safetensors
from tests.helpers.small_corpus import sentences, train_pieces
from tests.helpers.toy_models import CONFIG, fairseq_args, make_ours
from tests.helpers.xlm_r_layout import legacy_bytes, write_torch_file, zip_bytes
from utils.config import load_config, read_yaml
from utils.errors import UserError


class Reader(NamedTuple):
    """A reader and its files.

    file: the name of the damaged file below the reader's folder.
    files: valid files, or what makes them, and what lies beside the file, in that folder.
    reads: ways to read the file at a path; each must return or refuse.
    edit, words: of `damage.damaged`.
    """

    file: str
    files: list[str | bytes] | Callable[[Path], list[bytes]]
    reads: tuple[Callable[[Path], Any], ...]
    edit: Edit | None = None
    words: tuple[bytes, ...] = ()


READERS: dict[str, Reader] = {}


def add(name: str, file: str, files, *reads: Callable[[Path], Any], edit=None, words=()) -> None:
    READERS[name] = Reader(file, files, reads, edit, words)


# --- files of tasks and of prediction

LABELS = {"no": 0, "yes": 1, "हाँ": 2}
TAGS = {"B-PER": 0, "I-PER": 1, "B-LOC": 2, "I-LOC": 3, "O": 4}
ANSWERS = [{"text": "Wien", "answer_start": 0}, {"text": "x", "answer_start": 99}]
SQUAD = {"data": [{"title": "t", "paragraphs": [{"context": "Wien ist 1 Stadt.", "qas": [
    {"id": "q1", "question": "Was?", "answers": ANSWERS[:1]}, {"id": 7, "question": "?", "answers": ANSWERS}
]}]}]}  # fmt: skip


def read_all_requests(path: Path) -> None:
    stream, name = open_input(str(path))
    with stream:
        for place, request in itertools.chain.from_iterable(read_requests(stream, name)):
            if isinstance(request, UserError):
                raise UserError(f"{place}: {request}")


# fmt: off
add("classification", "dev.tsv",
    ["text_a\ttext_b\tlabel\nA man.\tA person.\tyes\n", "label\tqid\ttext_a\r\n1\t7\tx\r\n\r\n"],
    lambda path: list(read_classification(path, label_map=LABELS)),
    lambda path: list(read_classification(path, num_labels=3)),
    lambda path: list(read_classification(path, labels=False)))
add("label_map", "label_map.json", ['{"no": 0, "yes": 1}', '\n{"en": 0,\n "fr": 1}\n'],
    read_label_map, lambda path: read_label_map(path, 2), read_languages, edit=edit_json)
add("tagged", "train.tsv", ["text_a\tlabel\nAnna\x02in\tB-PER\x02O\nx\tO\n", "label\ttext_a\r\nO\ta\n"],
    lambda path: [one.words for one in read_tagged(path, TAGS)],
    lambda path: read_tagged(path, TAGS, labels=False), words=(b"\x02", b"I-LOC", b"B-PER", b"O"))
add("conll", "x.conll", ["Anna B-PER O\nin O O\n\nWien B-LOC O\n", "a\tO\n\n\n"], read_conll,
    words=(b" ", b"\t", b"\n\n", b"-DOCSTART- ", b"B-", b"\xef\xbb\xbf"))
add("squad", "dev.json", [json.dumps(SQUAD), "\ufeff" + json.dumps(SQUAD, indent=1)],
    read_squad, lambda path: read_squad(path, "dev"), lambda path: read_squad(path, "test"),
    edit=edit_json, words=(b"\\ud800", b'"answers": []', b'"answer_start": -1'))
add("requests", "x.jsonl", ['{"text": "A [MASK].", "id": 1}\n\n{"text_a": null}'], read_all_requests,
    edit=edit_json_line, words=(b"\\ud83d",))
# fmt: on

# --- configs and vocabularies

YAML = [
    "data:\n  corpus: c\n  max_seq_len: 128\noptimizer: {steps: 10, learning_rate: 1e-4}\nrun: {output: o}\n",
    "a: &x [1, 2]\nb: *x\nc:\n  <<: {d: 2001-01-01}\n  e: !!int 3\n? f\n: |\n  text\n...\n",
]
YAML_WORDS = (
    b"&a ", b"*a", b"<<: ", b"!!float ", b"!!timestamp ", b"!!binary ", b"!!set ", b"? ", b"- ", b": ",
    b"!!python/object:x.y ", b"---\n", b"%YAML 9.9\n", b"2001-99-99", b"1:99:99", b".inf", b"{a: ", b"|\n",
)  # fmt: skip


def vocabularies(folder: Path) -> list[bytes]:
    vocab = Tokenizer(None, train_pieces(folder / "piece.model")).vocab
    plain, numbered = ("".join(form.format(*item) for item in vocab.items()) for form in ("{}\n", "{}\t{}\n"))
    return [plain.encode(), numbered.encode(), b"\xef\xbb\xbf" + plain.encode()]


def read_vocabulary(path: Path) -> None:
    is_model = path.suffix == ".model"
    tokenizer = Tokenizer(None if is_model else path, path if is_model else path.with_name("piece.model"))
    texts = ["", "0,1 ½ \u200bx", "नमस्ते दुनिया", "\ud800x", "e\u0301" * 40, *sentences(3)]
    for text in texts:
        tokenizer.encode_with_offsets(text)
    tokenizer.convert_ids_to_tokens(tokenizer.encode_batch(texts)[0])
    if is_model:
        write_xlm_r(path.parent, tokenizer, 512)


# fmt: off
add("yaml", "run.yaml", YAML, read_yaml, words=YAML_WORDS)
add("training_config", "train.yaml", YAML,
    lambda path: load_config(PretrainConfig, ["--config", str(path)]), words=YAML_WORDS)
add("vocab", "tokens.txt", vocabularies, read_vocabulary, words=(b"[CLS]", b"\t5", b"\t-1", b"\xe2\x96"))
add("piece_model", "own.model", lambda folder: [train_pieces(folder / "x").read_bytes()], read_vocabulary)
# fmt: on

# --- weights

TINY = {**CONFIG, "vocab_size": 7, "hidden_size": 4, "num_attention_heads": 2, "num_hidden_layers": 1,
        "intermediate_size": 16, "max_position_embeddings": 6}  # fmt: skip
NAMES = (b"float32", b"<f4", b"F32", b"BF16", b"collections\nOrderedDict")


def tensors(found: Any) -> None:
    for name in found:
        assert found[name].shape == found.shape(name)


def read_folder(path: Path) -> None:
    tensors(read_weights(path.parent).weights)


def fluid_files(folder: Path) -> list[bytes]:
    for number, array in enumerate((np.arange(6, dtype="f4").reshape(2, 3), np.zeros([0, 5]), np.float64(3))):
        fluid.write(folder / str(number), array)
    return [(folder / str(number)).read_bytes() for number in range(3)]


def model_configs(folder: Path) -> list[bytes]:
    make_ours(folder / "made", "classification", ["a", "b", "c"], config=TINY)
    shutil.copy(folder / "made/model.safetensors", folder)
    ours = json.loads((folder / "made/config.json").read_text())
    ours["reading"] = {"max_seq_len": 128, "layer": 1, "pooling": "mean"}
    nested = {"init_class": "ErnieMForSequenceClassification", "num_classes": 3,
              "init_args": [{**CONFIG, "init_class": "ErnieMModel"}]}  # fmt: skip
    theirs = {**TINY, "architectures": ["ErnieMForSequenceClassification"], "id2label": {"0": "a", "1": "b"}}
    return [json.dumps(value).encode() for value in (ours, nested, theirs)]


def paddle_files(folder: Path) -> list[bytes]:
    nested = {"a": ("name", np.arange(3, dtype=np.uint16)), "n": [1, 2.5, None, {"k": b"x"}]}
    pickles.write_pdparams(folder / "x", {"a": np.ones([2, 3], "f4"), "long": np.zeros([40, 40], "f4")})
    return [pickle.dumps(nested, 4), (folder / "x").read_bytes()]


def torch_files(legacy: bool, folder: Path) -> list[bytes]:
    arrays = {"a.weight": np.arange(6, dtype="f4").reshape(2, 3), "b": np.ones(2, "f4")}
    write_torch_file(folder / "x", arrays, legacy=legacy)
    in_fairseq = {"wrap": lambda state: {"args": fairseq_args(), "model": state}}
    write_torch_file(folder / "y", arrays, legacy=legacy, **in_fairseq)
    return [(folder / name).read_bytes() for name in "xy"]


def torch_pickles(folder: Path) -> list[bytes]:
    archives = [zipfile.ZipFile(io.BytesIO(data)) for data in torch_files(False, folder)]
    return [archive.read("archive/data.pkl") for archive in archives]


def read_torch_pickle(wrap: Callable, path: Path) -> None:
    """The damaged pickle in a file that is otherwise valid."""
    file = path.with_name("model.bin")
    file.write_bytes(wrap(path.read_bytes(), {"0": np.arange(6, dtype="f4"), "1": np.ones(2, "f4")}))
    tensors(torch_file.read(file))


def safetensors_files(folder: Path) -> list[bytes]:
    arrays = {"a": np.arange(6, dtype="f4").reshape(2, 3), "b": np.zeros([0, 3], "f8"), "c": np.ones(3, "u1")}
    safe.write(folder / "x", arrays, metadata={"format": "pt"})
    return [(folder / "x").read_bytes()]


def split_weights(folder: Path) -> list[bytes]:
    made = make_ours(folder / "made", config=TINY)
    shutil.copy(folder / "made/config.json", folder)
    (folder / "made/model.safetensors").rename(folder / "model-1.safetensors")
    return [json.dumps({"metadata": {}, "weight_map": dict.fromkeys(made, "model-1.safetensors")}).encode()]


# fmt: off
add("fluid", "fc_0.w_0", fluid_files, fluid.read)
add("config", "config.json", model_configs, ErnieMConfig.from_json, read_folder,
    lambda path: configs.labels_of(configs.read_json(path)),
    lambda path: reading_of(configs.read_json(path), path.parent),
    edit=edit_json, words=(b'"init_class"', b'"model_type"'))
add("pdparams", "x.pdparams", paddle_files, lambda path: tensors(pickles.read_pdparams(path)),
    edit=edit_pickle, words=(*NAMES, *OPCODES))
add("torch_zip", "x.bin", functools.partial(torch_files, False), lambda path: tensors(torch_file.read(path)))
add("torch_legacy", "x.pt", functools.partial(torch_files, True), lambda path: tensors(torch_file.read(path)),
    words=(*NAMES, *OPCODES))
add("torch_pickle", "data.pkl", torch_pickles, functools.partial(read_torch_pickle, zip_bytes),
    functools.partial(read_torch_pickle, legacy_bytes), edit=edit_pickle, words=NAMES)
add("safetensors", "x.safetensors", safetensors_files, lambda path: tensors(safe.read(path)),
    edit=edit_safetensors, words=NAMES)
add("index", "model.safetensors.index.json", split_weights, read_folder, edit=edit_json)
# fmt: on

# --- training states: whatever the damaged file is, their manifest has its checksum


def state_files(file: str, folder: Path) -> list[bytes]:
    state = {"step": 7, "loss": 1.5, "optimizer": {"moment": [np.ones([2, 3], "f4"), np.float32(2)]}}
    save_training_state(folder / "training_state", state)
    return [(folder / "training_state" / file).read_bytes()]


def read_state(path: Path) -> None:
    if path.name == "state.json":
        write_manifest(path.with_name("manifest.json"), ("arrays.safetensors", "state.json"), parts=1)
    load_training_state(path.parent)


for name, file in (("state_index", "manifest.json"), ("state", "state.json")):
    add(name, f"training_state/{file}", functools.partial(state_files, file), read_state, edit=edit_json)

# --- texts of a corpus

PAIRS = "".join(f"{a}\t{b}\n" for a, b in zip(sentences(30, 1), sentences(30, 2)))
TEXT = "\n".join(sentences(40)) + "\n\nx\n\nनमस्ते दुनिया\r\n"


def read_text(documents: str, languages: tuple[str, ...], path: Path) -> None:
    """A source of texts, read in small units."""
    source = TextSource((str(path),), languages)
    for unit in itertools.islice(read_units(0, 0, source, 512, documents == "blank"), 2000):
        read_lines(unit, source, languages, TextFormat(documents))


for name, file, files, languages in (
    ("text", "en.txt", [TEXT, "one line"], ("en",)),
    ("text_gz", "en.gz", [gzip.compress(TEXT.encode()), gzip.compress(b"x\n" * 9000)], ("en",)),
    ("text_tsv", "x.tsv", [PAIRS, "a\tb\r\n\n"], ("de", "en")),
):
    add(name, file, files, *(functools.partial(read_text, form, languages) for form in ("line", "blank")))
