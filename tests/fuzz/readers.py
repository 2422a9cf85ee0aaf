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

from ernie_m.data.download import unpack
from ernie_m.model.checkpoint import lod_tensors
from ernie_m.model.checkpoint import safetensors as safe
from ernie_m.model.checkpoint.foreign import base, restricted_pickle, sentence_transformers
from ernie_m.model.checkpoint.foreign import torch_files as torch_save
from ernie_m.model.checkpoint.format import read_labels
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.checkpoint.write import ModelFiles
from ernie_m.model.config import ErnieMConfig
from ernie_m.pretrain.build_corpus.build_args import TextOptions
from ernie_m.pretrain.build_corpus.source_files import CorpusSource
from ernie_m.pretrain.build_corpus.text_chunks import read_chunks, read_lines
from ernie_m.pretrain.config import PretrainConfig
from ernie_m.reader.files.classification_tsv import read_classification
from ernie_m.reader.files.conll import read_tagged_words
from ernie_m.reader.files.labeled_tables import open_unlabeled_table, read_labeled_table
from ernie_m.reader.files.official_tags import read_tagged_tsv
from ernie_m.reader.files.pairs import PairRows
from ernie_m.reader.files.row_errors import RowErrors
from ernie_m.reader.files.squad import read_squad
from ernie_m.reader.files.table_options import LabelOptions
from ernie_m.reader.labels import read_label_map, read_languages
from ernie_m.reader.token_offsets import encode_with_offsets
from ernie_m.reader.tokenization import Tokenizer, read_tokenizer_rules
from ernie_m.reader.tokenizer_config import (
    check_tokenizer_type,
    has_official_rules,
    read_added_tokens,
    read_max_length,
)
from ernie_m.reader.tokenizer_json import TOKENIZER_JSON
from ernie_m.reader.write_tokenizer import write_xlm_r
from ernie_m.training.checkpoint import read_state, write_checkpoint
from ernie_m.utils.args import parse_options, read_yaml
from ernie_m.utils.checksums import make_manifest_entry
from ernie_m.utils.files import Folder, read_object
from ernie_m.vectors.language_centering import LanguageCentering
from tests.foreign import fairseq_args, tokenizer_json
from tests.fuzz.damage import WORDS, Edit, edit_json, edit_json_line, edit_pickle, edit_safetensors
from tests.helpers.conll import read_conll
from tests.helpers.files import write_file, write_files
from tests.helpers.torch_files import legacy_bytes, write_torch_file, zip_bytes
from tests.toys import CONFIG, make_ours, sentences, train_piece_model


class Reader(NamedTuple):
    """A reader and its files; `edit` and `words` are those of `damage.corrupted`."""

    file: str  # the name of the corrupt file below the reader's folder
    files: list[str | bytes] | Callable[[Path], list[bytes]]  # valid ones, or what makes them in that folder
    reads: tuple[Callable[[Path], Any], ...]  # ways to read the file at a path; each must return or refuse
    edit: Edit | None = None
    words: tuple[bytes, ...] = ()


LABELS = {"no": 0, "yes": 1, "हाँ": 2}
TAGS = {"B-PER": 0, "I-PER": 1, "B-LOC": 2, "I-LOC": 3, "O": 4}
ANSWERS = [{"text": "Wien", "answer_start": 0}, {"text": "x", "answer_start": 99}]
QUESTIONS = [
    {"id": "q1", "question": "Was?", "answers": ANSWERS[:1]},
    {"id": 7, "question": "?", "answers": ANSWERS},
]
SQUAD = {"data": [{"title": "t", "paragraphs": [{"context": "Wien ist 1 Stadt.", "qas": QUESTIONS}]}]}
YAML = [
    "data:\n  corpus: c\n  max_seq_len: 128\noptimizer: {steps: 10, learning_rate: 1e-4}\nrun: {output: o}\n",
    "a: &x [1, 2]\nb: *x\nc:\n  <<: {d: 2001-01-01}\n  e: !!int 3\n? f\n: |\n  text\n...\n",
]

# The config of a model whose files are small.
TINY = {
    **CONFIG,
    "vocab_size": 7,
    "hidden_size": 4,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "intermediate_size": 16,
    "max_position_embeddings": 6,
}
# Words of files of tensors.
NAMES = (b"float32", b"<f4", b"F32", b"BF16", b"collections\nOrderedDict")
ARRAYS = {"a.weight": np.arange(6, dtype="f4").reshape(2, 3), "b": np.ones(2, "f4")}
TMX = (
    "<tmx><body>\n"
    + "".join(
        f"<tu><tuv xml:lang='EN'><seg>{a}</seg></tuv>"
        f"<tuv xml:lang='de'><seg>{b} <ph>x</ph>&amp;</seg></tuv></tu>\n"
        for a, b in zip(sentences(5, 1), sentences(5, 2))
    )
    + "</body></tmx>"
)
PAIRS = "".join(f"{source}\t{target}\n" for source, target in zip(sentences(30, 1), sentences(30, 2)))
NAMED_PAIRS = f"query\tpositive\n{PAIRS}"
TEXT = "\n".join(sentences(40)) + "\n\nx\n\nनमस्ते दुनिया\r\n"


def vocabularies(folder: Path) -> list[bytes]:
    """Write a SentencePiece model and vocab.txt with tokens alone, with ids, or with a byte order mark."""
    vocab = Tokenizer(None, train_piece_model(folder / "piece.model")).vocab
    bare = "".join(f"{token}\n" for token in vocab)
    numbered = "".join(f"{token}\t{id_}\n" for token, id_ in vocab.items())
    return [bare.encode(), numbered.encode(), b"\xef\xbb\xbf" + bare.encode()]


def read_vocabulary(path: Path) -> None:
    """Open a piece.model, tokenizer.json or vocab.txt next to a model, and tokenize difficult texts."""
    is_model = path.suffix in (".model", ".json")
    if is_model:
        tokenizer = Tokenizer(None, path)
    else:
        tokenizer = Tokenizer(path, path.with_name("piece.model"))
    texts = ["", "0,1 ½ \u200bx", "नमस्ते दुनिया", "\ud800x", "e\u0301" * 40, *sentences(3)]
    for text in texts:
        encode_with_offsets(tokenizer, text)
    tokenizer.convert_ids_to_tokens(tokenizer.encode_batch(texts)[0])
    if is_model:
        write_xlm_r(path.parent, tokenizer, 512)


def read_all_tensors(read: Callable, path: Path) -> None:
    """Read every tensor of a file, which must have the shape that was known before it was read."""
    arrays = read(path)
    for name in arrays:
        assert arrays[name].shape == arrays.shape(name)


def read_folder(path: Path) -> None:
    """Read the checkpoint to which a file belongs."""
    read_all_tensors(lambda folder: open_checkpoint(folder).tensors, path.parent)


def fluid_files(folder: Path) -> list[bytes]:
    """Official files of a matrix, of an array without elements, and of a number."""
    for number, array in enumerate((ARRAYS["a.weight"], np.zeros([0, 5]), np.float64(3))):
        lod_tensors.write(folder / str(number), array)
    return [(folder / str(number)).read_bytes() for number in range(3)]


def model_configs(folder: Path) -> list[bytes]:
    """config.json of ours, of old PaddleNLP and of transformers; and next to them the weights."""
    make_ours(folder / "made", "classification", ["a", "b", "c"], config=TINY)
    shutil.copy(folder / "made/model.safetensors", folder)
    config = json.loads((folder / "made/config.json").read_text())
    paddlenlp = {
        "init_class": "ErnieMForSequenceClassification",
        "num_classes": 3,
        "init_args": [{**CONFIG, "init_class": "ErnieMModel"}],
    }
    transformers = {
        **TINY,
        "architectures": ["ErnieMForSequenceClassification"],
        "id2label": {"0": "a", "1": "b"},
    }
    return [json.dumps(value).encode() for value in (config, paddlenlp, transformers)]


def paddle_files(folder: Path) -> list[bytes]:
    """A .pdparams with containers in containers, and one with an array that is written in several parts."""
    nested = {"a": ("name", np.arange(3, dtype=np.uint16)), "n": [1, 2.5, None, {"k": b"x"}]}
    restricted_pickle.write_pdparams(
        folder / "x", {"a": np.ones([2, 3], "f4"), "long": np.zeros([40, 40], "f4")}
    )
    return [pickle.dumps(nested, 4), (folder / "x").read_bytes()]


def torch_files(legacy: bool, folder: Path) -> list[bytes]:
    """A state dict as torch saves it, and one with fairseq's flags."""
    write_torch_file(folder / "x", ARRAYS, legacy=legacy)
    in_fairseq = {"wrap": lambda state: {"args": fairseq_args(), "model": state}}
    write_torch_file(folder / "y", ARRAYS, legacy=legacy, **in_fairseq)
    return [(folder / name).read_bytes() for name in "xy"]


def torch_pickles(folder: Path) -> list[bytes]:
    """The pickles in `torch_files`."""
    archives = [zipfile.ZipFile(io.BytesIO(data)) for data in torch_files(False, folder)]
    return [archive.read("modèle/data.pkl") for archive in archives]


def read_torch_pickle(wrap: Callable, path: Path) -> None:
    """Read a corrupt pickle in a file of torch that is otherwise valid, and that `wrap` makes."""
    file = write_file(
        path.with_name("model.bin"), wrap(path.read_bytes(), {"0": ARRAYS["a.weight"], "1": ARRAYS["b"]})
    )
    read_all_tensors(torch_save.read, file)


def safetensors_file(
    arrays: dict[str, np.ndarray], folder: Path, metadata: dict[str, str] | None = None
) -> list[bytes]:
    """A file of arrays."""
    safe.write(folder / "x", arrays, metadata=metadata)
    return [(folder / "x").read_bytes()]


def split_weights(folder: Path) -> list[bytes]:
    """The index of weights in several files. It names one file for all of them, which is next to it."""
    weights = make_ours(folder / "made", config=TINY)
    shutil.copy(folder / "made/config.json", folder)
    (folder / "made/model.safetensors").rename(folder / "model-1.safetensors")
    return [
        json.dumps({"metadata": {}, "weight_map": dict.fromkeys(weights, "model-1.safetensors")}).encode()
    ]


def state_files(file: str, folder: Path) -> list[bytes]:
    """A file of a run's state; and next to it the others."""
    model = ModelFiles({"w": ARRAYS["b"]}, {}, "a card", {})
    values = {"identity": {}, "seed": 1, "engine": {"steps": 7}, "trainer": {"loss": 1.5}}
    write_checkpoint(folder / "made", model, {"moment": ARRAYS["b"]}, values)
    shutil.copytree(folder / "made", folder, dirs_exist_ok=True)
    return [(folder / "training_state" / file).read_bytes()]


def read_training_state(path: Path) -> None:
    """Read a run's state. A corrupt state.json gets a new checksum in the manifest, which would refuse it."""
    if path.name == "state.json":
        manifest = json.loads(path.with_name("manifest.json").read_text())
        manifest["files"]["state.json"] = make_manifest_entry(path)
        path.with_name("manifest.json").write_text(json.dumps(manifest))
    read_state(path.parents[1])


def read_json_requests(path: Path) -> None:
    errors = RowErrors(path)
    list(open_unlabeled_table(path, LabelOptions(), errors, are_requests=True).iter_rows())
    errors.report(print)


def read_text(documents: str, languages: tuple[str, ...], path: Path) -> None:
    """Read a source of texts in units of 512 bytes, at most 2,000 of them."""
    source = CorpusSource((str(path),), languages)
    options = TextOptions(documents=documents)
    for chunk in itertools.islice(read_chunks(source, 512, options), 2000):
        read_lines(chunk, source, languages, options)


def archives(archive_format: str, folder: Path) -> list[bytes]:
    """An archive of a folder that has a file with a long name."""
    write_file(folder / "made" / ("ä" * 100), TEXT)
    return [Path(shutil.make_archive(folder / "made", archive_format, folder / "made")).read_bytes()]


# The files of sentence-transformers.
VECTORS = {
    "modules.json": [
        {"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ],
    "1_Pooling/config.json": {
        "embedding_dimension": CONFIG["hidden_size"],
        "pooling_mode_cls_token": True,
        "pooling_mode": "cls",
    },
    "2_Normalize/config.json": {"module_input_name": "sentence_embedding"},
    "sentence_bert_config.json": {"max_seq_length": 12, "modality_config": {"text": {"method": "forward"}}},
    "config_sentence_transformers.json": {
        "prompts": {"query": "q: "},
        "default_prompt_name": "query",
        "similarity_fn_name": "dot",
    },
}


def write_vectors(folder: Path) -> None:
    write_files(folder, {name: json.dumps(contents) for name, contents in VECTORS.items()})


def pooling_reader(file: str) -> Reader:
    """The reader of a file of sentence-transformers, with the others next to it."""

    def files(folder: Path) -> list[bytes]:
        write_vectors(folder)
        return [json.dumps(VECTORS[file]).encode()]

    def read(path: Path) -> Any:
        folder = path.parent.parent if "/" in file else path.parent
        return sentence_transformers.read_embedding_fields(Folder(folder), ErnieMConfig(**CONFIG))

    return Reader(file, files, (read,), edit=edit_json)


def added_tokens_reader(file: str, contents: Any) -> Reader:
    """The reader of a file of the tokenizer that adds tokens."""

    def read(path: Path) -> Any:
        folder = Folder(path.parent)
        check_tokenizer_type(folder, {}, None)
        rules = TOKENIZER_JSON in folder and has_official_rules(folder)
        return read_added_tokens(folder), read_max_length(folder), rules

    return Reader(file, [json.dumps(contents)], (read,), edit=edit_json)


def archive_reader(archive_format: str) -> Reader:
    """What unpacks a downloaded archive."""
    return Reader(
        f"x.{archive_format}",
        files=functools.partial(archives, archive_format),
        reads=(lambda path: unpack(path, path.with_name("out")),),
        words=(b"././@LongLink", b"L", b"x"),
    )


def text_reader(file: str, files: list[str | bytes], *languages: str) -> Reader:
    """The reader of a source of a corpus, with blank lines as boundaries of documents and without."""
    reads = [functools.partial(read_text, documents, languages) for documents in ("line", "blank")]
    return Reader(file, files, tuple(reads))


def tensor_reader(
    file: str, files: Callable, read: Callable, edit: Edit | None = None, words=NAMES
) -> Reader:
    """The reader of a file of tensors, all of which it reads."""
    return Reader(file, files, (functools.partial(read_all_tensors, read),), edit, words)


def training_state_reader(file: str) -> Reader:
    """The reader of a file of a run's state."""
    return Reader(
        f"training_state/{file}",
        files=functools.partial(state_files, file),
        reads=(read_training_state,),
        edit=edit_json,
    )


READERS = {
    "classification": Reader(
        "dev.tsv",
        files=["text_a\ttext_b\tlabel\nA\tB\tyes\n", "label\tqid\ttext_a\r\n1\t7\tx\r\n\r\n"],
        reads=(
            lambda path: list(read_classification(path, label_map=LABELS)),
            lambda path: list(read_classification(path, num_labels=3)),
            lambda path: list(read_classification(path, labels=False)),
        ),
    ),
    "regression": Reader(
        "dev.tsv",
        files=["text_a\ttext_b\tlabel\nA\tB\t-1.5\n", "label\ttext_a\r\n1e-3\tx\r\n"],
        reads=(lambda path: list(read_classification(path, regression=True)),),
        words=(b"nan", b"1e999"),
    ),
    "own": Reader(
        "train.en.tsv",
        files=[
            "text_a\tlabel\nA\tyes\n",
            "a\tb\tno\nc\td\tyes\r\n",
            "Kommentar\tArt\nA\tx\nB\ty\nC\ty\nD\tx\n",
        ],
        reads=(
            lambda path: read_labeled_table(path, LabelOptions()),
            lambda path: read_labeled_table(path, LabelOptions(text="1", label="2"), multi_label=True),
        ),
    ),
    "own_csv": Reader(
        "train.en.csv",
        files=['label,Text\r\nyes,"A, ""a""\r\nb"\r\n', "a;b;no\n"],
        reads=(lambda path: read_labeled_table(path, LabelOptions()),),
        words=(b'"', b"\0"),
    ),
    "own_gzip": Reader(
        "train.en.tsv.gz",
        files=[gzip.compress(b"A\tyes\n")],
        reads=(lambda path: read_labeled_table(path, LabelOptions(text="1", label="2")),),
    ),
    "zip": archive_reader("zip"),
    "tar": archive_reader("tar"),
    "pairs": Reader(
        "x.tsv",
        files=[NAMED_PAIRS, "negative\tpositive\tquery\r\na\tb\tc\r\n"],
        reads=(lambda path: list(PairRows(path)), lambda path: list(PairRows(f"en-de<={path}"))),
    ),
    "pairs_json": Reader(
        "x.jsonl",
        files=['{"query": "a", "pos": ["b", "c"], "neg": []}\n{"query": "d", "pos": "e"}\n'],
        reads=(lambda path: list(PairRows(path)),),
        edit=edit_json_line,
    ),
    "words_json": Reader(
        "x.jsonl",
        files=['{"tokens": ["a", "b"], "pos_tags": [1, 2], "ner_tags": ["O", "B-X"]}\n'],
        reads=(read_tagged_words,),
        edit=edit_json_line,
    ),
    "words": Reader(
        "x.conllu",
        files=[
            "# text = In\n1-2\tIm" + "\t_" * 8 + "\n1\tIn\tin\tADP" + "\t_" * 6 + "\n",
            "Anna B-PER\nin O\n\nWien B-LOC\n",
            "Anna\x02in\tB-PER\x02O\n",
        ],
        reads=(
            read_tagged_words,
            functools.partial(read_tagged_words, options=LabelOptions(columns="2,1")),
        ),
        words=(b"\x02", b"\t", b"# global.columns = FORM UPOS\n"),
    ),
    "pairs_csv": Reader(
        "x.csv",
        files=['sep=;\r\nid;source;target\r\n1;"a ""b""";c\r\n', NAMED_PAIRS.replace("\t", ",")],
        reads=(lambda path: list(PairRows(path)),),
        words=(b'"', b"\0", b";"),
    ),
    "pairs_gzip": Reader(
        "x.tsv.gz", files=[gzip.compress(NAMED_PAIRS.encode())], reads=(lambda path: list(PairRows(path)),)
    ),
    "tmx": Reader(
        "x.tmx",
        files=[TMX, TMX.encode("utf-16")],
        reads=(
            lambda path: list(PairRows(path)),
            lambda path: list(PairRows(f"de-en<={path}")),
            functools.partial(read_text, "line", ("de", "en")),
        ),
        words=(b"<seg>", b"</tuv>", b"<!ENTITY a 'b'>", b"&a;", b"encoding='utf-16'"),
    ),
    "label_map": Reader(
        "label_map.json",
        files=['{"no": 0, "yes": 1}', '\n{"en": 0,\n "fr": 1}\n'],
        reads=(read_label_map, read_languages),
        edit=edit_json,
    ),
    "tagged": Reader(
        "x.tsv",
        files=["text_a\tlabel\nAnna\x02in\tB-PER\x02O\nx\tO\n", "label\ttext_a\r\nO\ta\n"],
        reads=(
            lambda path: [sentence.words for sentence in read_tagged_tsv(path, TAGS)],
            lambda path: read_tagged_tsv(path, TAGS, labels=False),
            lambda path: read_tagged_tsv(path, TAGS, "NONE"),
        ),
        words=(b"\x02", b"I-LOC"),
    ),
    "conll": Reader(
        "x.conll", files=["Anna B-PER O\nin O O\n\nWien B-LOC O\n", "a\tO\n\n\n"], reads=(read_conll,)
    ),
    "squad": Reader(
        "dev.json",
        files=[json.dumps(SQUAD), "\ufeff" + json.dumps(SQUAD, indent=1)],
        reads=(
            read_squad,
            lambda path: read_squad(path, "dev"),
            lambda path: read_squad(path, "test"),
        ),
        edit=edit_json,
        words=(b"\\ud800", b'"answers": []', b'"answer_start": -1'),
    ),
    "requests": Reader(
        "x.jsonl",
        files=['{"text": "A [MASK].", "id": 1}\n\n{"text": null}'],
        reads=(read_json_requests,),
        edit=edit_json_line,
        words=(b"\\ud83d",),
    ),
    "yaml": Reader("run.yaml", files=YAML, reads=(lambda path: read_yaml(path, ()),), words=WORDS["yaml"]),
    "training_config": Reader(
        "train.yaml",
        files=YAML,
        reads=(lambda path: parse_options(PretrainConfig, ["--config", str(path), "--data.corpus", "c"]),),
        words=WORDS["yaml"],
    ),
    "vocab": Reader(
        "x.txt",
        files=vocabularies,
        reads=(read_vocabulary,),
        words=(b"[CLS]", b"\t5", b"\t-1", b"\xe2"),
    ),
    "piece_model": Reader(
        "own.model",
        files=lambda folder: [train_piece_model(folder / "x").read_bytes()],
        reads=(read_vocabulary,),
    ),
    "tokenizer_json": Reader(
        "own.json",
        files=lambda folder: [
            json.dumps(tokenizer_json(train_piece_model(folder / "x")), ensure_ascii=False)
        ],
        reads=(read_vocabulary,),
        edit=edit_json,
        words=(b'"prepend_scheme"', b"-1e400", b"NaN"),
    ),
    "fluid": Reader("fc_0.w_0", files=fluid_files, reads=(lod_tensors.read,)),
    "config": Reader(
        "config.json",
        files=model_configs,
        reads=(
            ErnieMConfig.from_json,
            read_folder,
            lambda path: read_labels(base.flatten_config(read_object(path)), "id2label", path),
        ),
        edit=edit_json,
        words=(b'"init_class"',),
    ),
    "pdparams": tensor_reader(
        "x.pdparams", paddle_files, restricted_pickle.read_pdparams, edit_pickle, WORDS["pickle"]
    ),
    "torch_zip": tensor_reader("x.bin", functools.partial(torch_files, False), torch_save.read),
    "torch_legacy": tensor_reader("x.pt", functools.partial(torch_files, True), torch_save.read),
    "torch_pickle": Reader(
        "data.pkl",
        files=torch_pickles,
        reads=(
            functools.partial(read_torch_pickle, zip_bytes),
            functools.partial(read_torch_pickle, legacy_bytes),
        ),
        edit=edit_pickle,
        words=NAMES,
    ),
    "safetensors": tensor_reader(
        "x.safetensors",
        functools.partial(
            safetensors_file, ARRAYS | {"none": np.zeros([0, 3], "f8")}, metadata={"format": "pt"}
        ),
        safe.read,
        edit_safetensors,
    ),
    "language_means": Reader(
        "language_means.safetensors",
        files=functools.partial(safetensors_file, dict.fromkeys(("de", "en"), ARRAYS["a.weight"])),
        reads=(functools.partial(LanguageCentering.read, shape=ARRAYS["a.weight"].shape),),
        edit=edit_safetensors,
        words=NAMES,
    ),
    "modules": pooling_reader("modules.json"),
    "pooling": pooling_reader("1_Pooling/config.json"),
    "normalize": pooling_reader("2_Normalize/config.json"),
    "length": pooling_reader("sentence_bert_config.json"),
    "prompts": pooling_reader("config_sentence_transformers.json"),
    "added_tokens": added_tokens_reader("added_tokens.json", {"<e1>": 9, "<mask>": 8}),
    "added_tokens_decoder": added_tokens_reader(
        "tokenizer_config.json", {"added_tokens_decoder": {"9": {"content": "<e1>", "single_word": False}}}
    ),
    "added_tokens_json": added_tokens_reader(
        "tokenizer.json",
        {
            "added_tokens": [{"content": "<e1>", "id": 9}],
            "normalizer": {"type": "NFC"},
            "model": {
                "type": "Unigram",
                "vocab": [[subword, 0.0] for subword in ("<s>", "<pad>", "</s>", "<unk>")],
            },
        },
    ),
    "texts": Reader(
        "config.json",
        files=[
            json.dumps({"pipeline": {"text_rules": "none", "added_tokens": {"<e1>": 9}}}),
        ],
        reads=(lambda path: read_tokenizer_rules(path.parent),),
        edit=edit_json,
    ),
    "texts_of_a_corpus": Reader(
        "manifest.json",
        files=[json.dumps({"vocabulary": {"text_rules": "none"}})],
        reads=(lambda path: read_tokenizer_rules(path.parent),),
        edit=edit_json,
    ),
    "index": Reader(
        "model.safetensors.index.json", files=split_weights, reads=(read_folder,), edit=edit_json
    ),
    "state_index": training_state_reader("manifest.json"),
    "state": training_state_reader("state.json"),
    "text": text_reader("en.txt", [TEXT, "one line"], "en"),
    "text_gz": text_reader("en.gz", [gzip.compress(TEXT.encode()), gzip.compress(b"x\n" * 2000)], "en"),
    "text_tsv": text_reader("x.tsv", [PAIRS, "a\tb\r\n\n"], "de", "en"),
}
