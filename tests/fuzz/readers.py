"""Every reader of files that this project did not write itself, with valid files to damage."""

import functools
import gzip
import io
import itertools
import json
import lzma
import pickle
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from finetune.supervised import read_record
from finetune.tagging import read_conll
from model.checkpoint.formats import configs, fluid
from model.checkpoint.formats import paddle as paddle_file
from model.checkpoint.formats import safetensors as safe
from model.checkpoint.formats import torch as torch_file
from model.checkpoint.read import read_weights
from model.checkpoint.training_state import load_training_state, save_training_state
from model.config import ErnieMConfig
from predict import read_requests
from pretrain.config import PretrainConfig
from pretrain.corpus.inputs import TextSource
from pretrain.corpus.options import BuildOptions
from pretrain.corpus.text import TextFormat, read_lines, read_units
from pretrain.run_folder import cut_back
from reader.classification import read_classification, read_label_map, read_languages
from reader.corpus import Blocks, Corpus
from reader.question_answering import read_squad
from reader.tagging import read_tagged
from reader.tokenization import Tokenizer
from reader.tokenizer_files import write_xlm_r
from tests.fuzz.damage import OPCODES, Edit, edit_json, edit_json_line, edit_pickle, edit_safetensors
from tests.helpers.official_layout import make_official_weights, official_config
from tests.helpers.small_corpus import build, sentences, train_pieces, write_lines
from tests.helpers.toy_models import CONFIG, fairseq_args, make_ours
from tests.helpers.xlm_r_layout import legacy_bytes, write_torch_file, zip_bytes
from utils.config import load_config, read_yaml
from utils.files import sha256_of


class Reader(NamedTuple):
    """A reader and its files.

    file: the name of the damaged file below the reader's folder.
    files: makes what lies beside the file in that folder, and returns valid files.
    reads: ways to read the file at a path; each must return or refuse.
    edit, words: of `damage.damaged`.
    """

    file: str
    files: Callable[[Path], list[bytes]]
    reads: tuple[Callable[[Path], Any], ...]
    edit: Edit | None = None
    words: tuple[bytes, ...] = ()


LABELS = {"no": 0, "yes": 1, "हाँ": 2}
TAGS = {"B-PER": 0, "I-PER": 1, "B-LOC": 2, "I-LOC": 3, "O": 4}
ANSWERS = [{"text": "Wien", "answer_start": 0}, {"text": "x", "answer_start": 99}]
SQUAD = {"data": [{"title": "t", "paragraphs": [{"context": "Wien ist 1 Stadt.", "qas": [
    {"id": "q1", "question": "Was?", "answers": ANSWERS[:1]}, {"id": 7, "question": "?", "answers": ANSWERS}
]}]}]}  # fmt: skip
YAML = (
    "output: out\npiece_model_path: p\nmono:\n  en: [a.txt, b.gz]\nparallel:\n  de-en: x.tsv\nunit_mib: 4",
    "data:\n  corpus: c\n  max_seq_len: 128\noptimizer: {steps: 10, learning_rate: 1e-4}\nrun: {output: o}\n",
    "a: &x [1, 2]\nb: *x\nc:\n  <<: {d: 2001-01-01}\n  e: !!int 3\n? f\n: |\n  text\n...\n",
)
YAML_WORDS = (
    b"config: ", b"\xef\xbb\xbf",
    b"&a ", b"*a", b"<<: ", b"!!float ", b"!!timestamp ", b"!!binary ", b"!!set ", b"!!python/object:x.y ",
    b"? ", b"- ", b": ", b"|\n", b"---\n", b"%YAML 9.9\n", b"2001-99-99", b"1:99:99", b".inf", b"~", b"{a: ",
)  # fmt: skip
JOURNAL = "".join(json.dumps({"step": step, "loss": 2.5, "lr": 1e-4}) + "\n" for step in (1, 2, 3))
RECORD = {"step": 3, "epoch": 1, "selected_by": 0.5, "scores": {"dev": {"en": {"accuracy": 0.5}}}}
TINY = {**CONFIG, "vocab_size": 7, "hidden_size": 4, "num_attention_heads": 2, "num_hidden_layers": 1,
        "intermediate_size": 16, "max_position_embeddings": 6}  # fmt: skip
NAMES = (b"float32", b"<f4", b"F32", b"BF16", b"collections\nOrderedDict")
PICKLED = (*NAMES, *OPCODES)
TEXT = "\n".join(sentences(40)) + "\n\nx\n\nनमस्ते दुनिया\r\n"
PAIRS = "".join(f"{a}\t{b}\n" for a, b in zip(sentences(30, 1), sentences(30, 2)))
MOST_UNITS = 2000  # a small archive may expand to a thousand times its size


def valid(*files: str | bytes) -> Callable[[Path], list[bytes]]:
    """These files, and nothing beside them."""
    return lambda folder: [file if isinstance(file, bytes) else file.encode() for file in files]


def vocabularies(folder: Path) -> list[bytes]:
    vocab = Tokenizer(None, train_pieces(folder / "piece.model")).vocab
    forms = "{}\n", "{}\t{}\n"
    plain, numbered = ("".join(form.format(*item) for item in vocab.items()).encode() for form in forms)
    return [plain, numbered, b"\xef\xbb\xbf" + plain]


def read_vocabulary(path: Path) -> None:
    is_model = path.suffix == ".model"
    tokenizer = Tokenizer(None if is_model else path, path if is_model else path.with_name("piece.model"))
    texts = ["", "0,1 ½ \u200bx", "नमस्ते दुनिया", "\ud800x", "e\u0301" * 40, *sentences(3)]
    for text in texts:
        tokenizer.encode_with_offsets(text)
    tokenizer.convert_ids_to_tokens(tokenizer.encode_batch(texts)[0])
    if is_model:
        write_xlm_r(path.parent, tokenizer, 512)


def tensors(found: Any) -> None:
    for name in found:
        assert found[name].shape == found.shape(name)


def read_folder(path: Path) -> None:
    tensors(read_weights(path.parent).weights)


def fluid_files(folder: Path) -> list[bytes]:
    arrays = np.arange(6, dtype="f4").reshape(2, 3), np.zeros([0, 5], "i8"), np.float64(3)
    for number, array in enumerate(arrays):
        fluid.write(folder / str(number), array)
    return [(folder / str(number)).read_bytes() for number in range(len(arrays))]


def official_configs(folder: Path) -> list[bytes]:
    make_official_weights(folder, official_config("tiny", vocab_size=7, num_hidden_layers=1), seed=1)
    return [(folder / "ernie_config.json").read_bytes()]


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
    nested = {
        "a": ("name", np.arange(3, dtype=np.uint16)),
        "n": [1, 2.5, None, {"k": b"x"}],
        "s": np.float32(2),
    }
    paddle_file.write(folder / "x", {"a": np.ones([2, 3], "f4"), "long": np.zeros([40, 40], "f4")})
    return [*(pickle.dumps(nested, protocol) for protocol in (2, 4)), (folder / "x").read_bytes()]


def torch_files(folder: Path, legacy: bool) -> list[bytes]:
    arrays = {"a.weight": np.arange(6, dtype="f4").reshape(2, 3), "b": np.ones(2, "f4")}
    write_torch_file(folder / "x", arrays, legacy=legacy)
    in_fairseq = {"wrap": lambda state: {"args": fairseq_args(), "model": state}}
    write_torch_file(folder / "y", arrays, legacy=legacy, **in_fairseq)
    return [(folder / name).read_bytes() for name in "xy"]


def torch_pickles(folder: Path) -> list[bytes]:
    archives = [zipfile.ZipFile(io.BytesIO(data)) for data in torch_files(folder, legacy=False)]
    return [archive.read("archive/data.pkl") for archive in archives]


def read_torch_pickle(path: Path, wrap: Callable) -> None:
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
    first = "embeddings.word_embeddings.weight"
    place = {name: f"model-{1 + (name != first)}.safetensors" for name in made}
    for file in set(place.values()):
        safe.write(folder / file, {name: made[name] for name in made if place[name] == file})
    return [json.dumps({"metadata": {"total_size": 1}, "weight_map": place}).encode()]


# Training states and corpora: whatever the damaged file is, their manifest has its checksum.


def of_state(file: str, edit: Edit) -> Reader:
    def files(folder: Path) -> list[bytes]:
        (folder / "model.safetensors").write_bytes(b"weights")
        state = {"step": 7, "loss": 1.5, "optimizer": {"moment": [np.ones([2, 3], "f4"), np.float32(2)]}}
        save_training_state(folder / "training_state", state, beside=("model.safetensors",))
        return [(folder / "training_state" / file).read_bytes()]

    return Reader(f"training_state/{file}", files, (read_state,), edit)


@functools.cache
def built_corpus() -> tempfile.TemporaryDirectory:
    """A folder with a corpus; it is removed when the process ends."""
    temporary = tempfile.TemporaryDirectory(prefix="fuzz-corpus-")
    folder = Path(temporary.name)
    lines = [part for line in sentences(30) for part in (line, "")[: 1 + len(line) % 2]]
    mono, parallel = write_lines(folder / "en", lines), write_lines(folder / "x.tsv", [PAIRS[:-1]])
    build(folder / "corpus", train_pieces(folder / "piece.model"), documents="blank", held_out=2,
          shard_mib=0.001, mono={"en": mono}, parallel={"de-en": parallel})  # fmt: skip
    return temporary


def renew_checksum(path: Path, folder: Path) -> None:
    manifest = folder / "manifest.json"
    if path != manifest:
        content = json.loads(manifest.read_text())
        name = str(path.relative_to(folder))
        content["files"][name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        manifest.write_text(json.dumps(content))


def read_state(path: Path) -> None:
    renew_checksum(path, path.parent)
    load_training_state(path.parent)


def read_corpus(path: Path) -> None:
    folder = next(parent for parent in path.parents if parent.name == "corpus")
    renew_checksum(path, folder)
    corpus = Corpus(folder)
    for texts in (*corpus.mono.values(), *corpus.held_out_mono.values()):
        blocks = Blocks(texts, 30)
        [blocks[number] for number in range(len(blocks))]
        [texts.line(number) for number in range(texts.num_lines)]
    for pairs in (*corpus.parallel.values(), *corpus.held_out_parallel.values()):
        [pairs[number] for number in range(len(pairs))]
    [corpus.piece_counts(language) for language in corpus.languages]


def of_corpus(file: str, edit: Edit | None = None) -> Reader:
    def files(folder: Path) -> list[bytes]:
        shutil.copytree(f"{built_corpus().name}/corpus", folder / "corpus", dirs_exist_ok=True)
        return [(folder / "corpus" / file).read_bytes()]

    return Reader(f"corpus/{file}", files, (read_corpus,), edit)


def of_config(file: str, options: type) -> Reader:
    return Reader(
        file, valid(*YAML), (lambda path: load_config(options, ["--config", str(path)]),), words=YAML_WORDS
    )


def of_tensors(
    file: str, files: Callable[[Path], list[bytes]], read: Callable, edit: Edit | None = None,
    words: tuple[bytes, ...] = PICKLED,
) -> Reader:  # fmt: skip
    return Reader(file, files, (lambda path: tensors(read(path)),), edit, words)


def of_text(file: str, files: Callable[[Path], list[bytes]], languages: tuple[str, ...] = ("en",)) -> Reader:
    """A source of texts, read in small units with both values of each option."""

    def read(path: Path, documents: str, columns: tuple[int, ...]) -> None:
        source = TextSource((str(path),), languages)
        units = read_units(0, 0, source, 512, documents == "blank")
        for unit in itertools.islice(units, MOST_UNITS):
            read_lines(unit, source, languages, TextFormat(documents, columns))

    return Reader(
        file, files, (lambda path: read(path, "line", ()), lambda path: read(path, "blank", (2, 1)))
    )


READERS = {
    "classification": Reader(
        "dev.tsv",
        valid("text_a\ttext_b\tlabel\nA man.\tA person.\tyes\n", "label\tqid\ttext_a\r\n1\t7\tx\r\n\r\n"),
        (lambda path: list(read_classification(path, label_map=LABELS)),
         lambda path: list(read_classification(path, num_labels=3)),
         lambda path: list(read_classification(path, labels=False))),
    ),
    "label_map": Reader(
        "label_map.json", valid('{"no": 0, "yes": 1}', '\n{"en": 0,\n "fr": 1}\n'),
        (read_label_map, lambda path: read_label_map(path, 2), read_languages), edit_json,
    ),
    "tagged": Reader(
        "train.tsv", valid("text_a\tlabel\nAnna\x02in\tB-PER\x02O\nx\tO\n", "label\ttext_a\r\nO\ta\n"),
        (lambda path: [one.words for one in read_tagged(path, TAGS)],
         lambda path: read_tagged(path, TAGS, scheme="IOBES"),
         lambda path: read_tagged(path, TAGS, labels=False)),
        words=(b"\x02", b"I-LOC", b"B-PER", b"O"),
    ),
    "conll": Reader(
        "x.conll", valid("Anna B-PER O\nin O O\n\nWien B-LOC O\n", "a\tO\n\n\n"), (read_conll,),
        words=(b" ", b"\t", b"\n\n", b"-DOCSTART- ", b"B-", b"\xef\xbb\xbf"),
    ),
    "squad": Reader(
        "dev.json", valid(json.dumps(SQUAD), "\ufeff" + json.dumps(SQUAD, indent=1)),
        (read_squad, lambda path: read_squad(path, "dev"), lambda path: read_squad(path, "test")),
        edit_json, (b"\\ud800", b'"answers": []', b'"answer_start": -1'),
    ),
    "requests": Reader(
        "x.jsonl", valid('{"text": "A [MASK].", "id": 1}\n\n{"text_a": null}', '{"words": ["\\ud83d"]}\r\n'),
        (lambda path: read_requests(str(path), dict),), edit_json_line,
    ),
    "yaml": Reader("run.yaml", valid(*YAML), (read_yaml,), words=YAML_WORDS),
    "corpus_config": of_config("corpus.yaml", BuildOptions),
    "training_config": of_config("train.yaml", PretrainConfig),
    "vocab": Reader(
        "tokens.txt", vocabularies, (read_vocabulary,),
        words=(b"[CLS]", b"[MASK]", b"\t5", b"\t-1", "▁".encode(), b"\xef\xbb\xbf"),
    ),
    "piece_model": Reader(
        "own.model", lambda folder: [train_pieces(folder / "piece.model").read_bytes()], (read_vocabulary,)
    ),
    "fluid": Reader("fc_0.w_0", fluid_files, (fluid.read,)),
    "official_config": Reader(
        "ernie_config.json", official_configs,
        (lambda path: read_weights(path.parent / "params"), ErnieMConfig.from_json), edit_json,
    ),
    "config": Reader(
        "config.json", model_configs,
        (ErnieMConfig.from_json, read_folder, lambda path: configs.labels_of(configs.read_json(path))),
        edit_json, (b'"init_class"', b'"model_type"'),
    ),
    "pdparams": of_tensors("model.pdparams", paddle_files, paddle_file.read, edit_pickle),
    "torch_zip": of_tensors("model.bin", lambda folder: torch_files(folder, False), torch_file.read),
    "torch_legacy": of_tensors("model.pt", lambda folder: torch_files(folder, True), torch_file.read),
    "torch_pickle": Reader(
        "data.pkl", torch_pickles,
        (lambda path: read_torch_pickle(path, zip_bytes), lambda path: read_torch_pickle(path, legacy_bytes)),
        edit_pickle, NAMES,
    ),
    "safetensors": of_tensors("model.safetensors", safetensors_files, safe.read, edit_safetensors, NAMES),
    "index": Reader("model.safetensors.index.json", split_weights, (read_folder,), edit_json),
    "state_index": of_state("manifest.json", edit_json),
    "state": of_state("state.json", edit_json),
    "state_arrays": of_state("arrays.safetensors", edit_safetensors),
    "journal": Reader("metrics.jsonl", valid(JOURNAL), (lambda path: cut_back(path, 2, -1),), edit_json_line),
    "record": Reader(
        "selected.json", valid(json.dumps(RECORD)), (lambda path: read_record(path.parent),), edit_json
    ),
    "corpus_index": of_corpus("manifest.json", edit_json),
    "corpus_ids": of_corpus("mono/en/train-00000.ids.npy"),
    "corpus_lines": of_corpus("parallel/de-en/train-00000.lines.npy"),
    "corpus_documents": of_corpus("mono/en/train-00000.documents.npy"),
    "corpus_pieces": of_corpus("pieces/en.npy"),
    "text": of_text("en.txt", valid(TEXT, "one line")),
    "text_gz": of_text("en.gz", valid(gzip.compress(TEXT.encode()), gzip.compress(b"x\n" * 9000))),
    "text_xz": of_text("en.xz", valid(lzma.compress(TEXT.encode()), lzma.compress(bytes(9000)))),
    "text_tsv": of_text("x.tsv", valid(PAIRS, "a\tb\r\n\n"), ("de", "en")),
}  # fmt: skip
