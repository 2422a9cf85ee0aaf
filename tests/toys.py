"""What tests of several folders read, open and train on: texts, corpora, models, and tasks with labels.

A noun returns something, `write_...` writes a file, and `make_...` writes a whole folder. Everything is drawn
from seeds. Models as other programs write them are in `tests/foreign.py`, and the commands that train on the
toys in `tests/command_lines.py`.
"""

import json
import random
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import paddle
import sentencepiece
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from ernie_m.finetune import hyperparameters
from ernie_m.model.checkpoint import safetensors
from ernie_m.model.checkpoint.native import NativeFormat
from ernie_m.model.ernie import ErnieMConfig, ErnieMModel
from ernie_m.model.heads import SequenceClassifier, SpanClassifier, TokenClassifier
from ernie_m.model.lm_head import PreTrainingModel
from ernie_m.model.tasks import SUPERVISED_TASKS, TASKS
from ernie_m.pretrain.build_corpus.build_args import BuildOptions
from ernie_m.pretrain.build_corpus.command import build_corpus
from ernie_m.reader.files.official_tags import JOINT
from ernie_m.reader.tokenization import Tokenizer
from tests.helpers.checkpoints import save_model
from tests.helpers.files import write_file, write_files

# Instead of `hyperparameters._AMOUNTS`: trainings of two epochs.
SHORT_AMOUNTS = {task: amount._replace(times=2, least=0) for task, amount in hyperparameters._AMOUNTS.items()}

# ---- Texts, and the subwords of a tokenizer.

_SYLLABLES = [
    consonant + ending for consonant in "bdfgklmnprst" for ending in ("a", "e", "i", "o", "u", "an", "or")
]


def sentences(count: int, seed: int = 0) -> list[str]:
    """Sentences of 1 to 12 made-up words, most of them different."""
    draw = random.Random(seed)
    return [
        " ".join("".join(draw.choices(_SYLLABLES, k=draw.randint(1, 3))) for _ in range(draw.randint(1, 12)))
        for _ in range(count)
    ]


def line_keys(count: int) -> np.ndarray:
    """Keys of pairs without equal texts, [1, count]."""
    return np.arange(count)[np.newaxis]


def write_lines(path: Path, lines: list[str]) -> str:
    """Write lines to a file, whose folder is made if need be, and return its path as text."""
    return str(write_file(path, "".join(f"{line}\n" for line in lines)))


def write_languages(folder: Path, **texts: list[str]) -> str:
    """Write the lines of each language to a file of its name; return these files as a flag names them."""
    paths = {language: write_lines(folder / language, lines) for language, lines in texts.items()}
    return ",".join(f"{language}<={path}" for language, path in paths.items())


def train_piece_model(path: Path, texts: list[str] | None = None, **options) -> Path:
    """Train a SentencePiece model on texts, by default on `sentences`; write it to `path`, which is returned.

    `options`: of sentencepiece's trainer.
    """
    defaults = {"vocab_size": 200, "hard_vocab_limit": False, "character_coverage": 1.0, "num_threads": 1}
    with open(path, "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts or sentences(500, seed=99)),
            model_writer=file,
            minloglevel=2,
            **(defaults | options),
        )
    return path


def write_piece_model(folder: Path, count: int = 1) -> None:
    """Write a SentencePiece model next to weights, by default with one subword, which no test depends on."""
    model = ModelProto()
    kinds = {"<unk>": "UNKNOWN", "<s>": "CONTROL", "</s>": "CONTROL"}
    for name in (*kinds, "▁a", *(f"a{number}" for number in range(1, count))):
        model.pieces.add(piece=name, score=-1.0, type=kinds.get(name, "NORMAL"))
    (folder / "piece.model").write_bytes(model.SerializeToString())


# ---- Corpora for pre-training.


def make_corpus(output: Path, piece_model: Path, **options) -> dict:
    """Build a corpus in this process, by default in units of 8 KiB with nothing held out.

    Returns:
        Its manifest.
    """
    options = {"workers": 1, "chunk_mib": 8 / 1024, "held_out": 0} | options
    return build_corpus(BuildOptions(output=str(output), piece_model_path=str(piece_model), **options))


def make_small_corpus(folder: Path, mono_languages: tuple[str, ...] = ("de", "en", "fr"), **options) -> Path:
    """Build a corpus in `folder/corpus`: text of de, en and fr, pairs of en-de and en-fr.

    Args:
        mono_languages: those with monolingual text.
        options: of `BuildOptions`.

    Returns:
        The folder of the corpus.
    """
    piece_model = train_piece_model(folder / "piece.model")
    lines = {language: sentences(150, seed) for seed, language in enumerate(("de", "en", "fr"))}
    mono = {name: write_lines(folder / f"{name}.txt", lines[name]) for name in mono_languages}
    rows = {
        f"en-{language}": [f"{a}\t{b}" for a, b in zip(lines["en"][:count], lines[language])]
        for language, count in (("de", 120), ("fr", 80))
    }
    parallel = {name: write_lines(folder / f"{name}.tsv", lines) for name, lines in rows.items()}
    make_corpus(folder / "corpus", piece_model, mono=mono, parallel=parallel, **({"held_out": 8} | options))
    return folder / "corpus"


# ---- Folders in our format, whose weights are written here and not by the code under test.

CONFIG = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 40,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-5,
    "pad_token_id": 1,
}
# Head -> its number of outputs.
OUTPUTS = {"classification": 3, "token-classification": 5, "question-answering": 2, "choice": 1}
_ARCHITECTURES = {task: TASKS[task].model_class for task in SUPERVISED_TASKS} | {
    "choice": "SequenceClassifier"
}


def weights(
    head: str | None = None,
    lm_head: bool = False,
    languages: int = 0,
    pooler: bool = True,
    seed: int = 0,
    config: dict = CONFIG,
) -> dict[str, np.ndarray]:
    """Random weights under our names. A few values are -0.0, very small or very large.

    Args:
        head: a key of `OUTPUTS`; None: no head of a task.
        languages: rows of the language embeddings.
    """
    rng = np.random.default_rng(seed)
    sizes = {**config, "num_labels": OUTPUTS.get(head)}
    absent = {"pooler": not pooler, "classifier": head not in OUTPUTS, "lm_head": not lm_head}
    shapes = {
        row.canonical: tuple(sizes[axis] for axis in row.axes)
        for row in NativeFormat().list_tensors(config["num_hidden_layers"])
        if not absent.get(row.canonical.split(".")[0], row.canonical.startswith("language_embeddings"))
    }
    if languages:
        shapes["language_embeddings.weight"] = (languages, sizes["hidden_size"])
    arrays = {}
    for name, shape in shapes.items():
        mean = np.float32("norm" in name and name.endswith(".weight"))  # 1: the scale of a norm
        arrays[name] = (mean + 0.1 * rng.standard_normal(shape)).astype(np.float32)
    positions = arrays["embeddings.position_embeddings.weight"].reshape(-1)
    positions[:4] = np.array([-0.0, 1e-45, 3e38, -1e-30], np.float32)
    return arrays


def make_ours(
    folder: Path,
    head: str | None = None,
    labels: list[str] | None = None,
    config: dict = CONFIG,
    piece_model: Path | None = None,
    **kind,
) -> dict[str, np.ndarray]:
    """Write config.json, model.safetensors and piece.model as `save_model` does, and return the weights.

    Args:
        piece_model: a SentencePiece model with the model's vocabulary. None: the smallest one.
        kind: arguments of `weights`.
    """
    if piece_model is not None:
        config = {**config, "vocab_size": Tokenizer(None, piece_model).vocab_size}
    arrays = weights(head, config=config, **kind)
    settings = {**config, "model_type": "ernie_m", "architecture": _ARCHITECTURES.get(head, "ErnieMModel")}
    settings |= {key: value for key, value in {"head": head, "labels": labels}.items() if value is not None}
    if kind.get("languages"):
        settings |= {"architecture": "PreTrainingModel", "languages": MODEL_LANGUAGES[: kind["languages"]]}
    folder.mkdir(parents=True)
    safetensors.write(folder / "model.safetensors", arrays)
    (folder / "config.json").write_text(json.dumps(settings))
    if piece_model is None:
        write_piece_model(folder)
    else:
        shutil.copy(piece_model, folder / "piece.model")
    return arrays


# ---- Models with random weights and no files.

WITHOUT_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def small_config(**changes) -> ErnieMConfig:
    """A network of 40 words without dropout, whose weights vary so much that a wrong path shows."""
    sizes = {"vocab_size": 40, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3}
    return ErnieMConfig(**{**sizes, **WITHOUT_DROPOUT, "initializer_range": 0.3, **changes})


# ---- Models with a tokenizer, saved as a training saves them.

LABELS = ["entailment", "neutral", "contradiction"]
TAGS = ["B-PER", "I-PER", "B-LOC", "I-LOC", "O"]
MODEL_LANGUAGES = ["de", "en", "fr"]
LAYERS = 2
HIDDEN_SIZE = 32
LONGEST = 62  # tokens
# Kind of model -> what its config.json also says.
SETTINGS = {
    "classify": {"task": "classification", "labels": LABELS},
    "tag": {"task": "tagging", "labels": TAGS},
    "answer": {"task": "question_answering", "labels": None},
    "encode": {},
    "full": {"languages": MODEL_LANGUAGES},
}


def model_config(vocab_size: int) -> ErnieMConfig:
    """A tiny shape. Weights vary more than usual, so that different inputs have clearly different outputs."""
    return ErnieMConfig(
        vocab_size,
        hidden_size=HIDDEN_SIZE,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        max_position_embeddings=LONGEST + 2,
        initializer_range=0.2,
    )


def model(kind: str, config: ErnieMConfig) -> paddle.nn.Layer:
    """A fresh model, its biases, norms and language table away from their initial values."""
    paddle.seed(7)
    makers = {
        "classify": lambda: SequenceClassifier(config, len(LABELS)),
        "score": lambda: SequenceClassifier(config, 1),
        "tag": lambda: TokenClassifier(config, len(TAGS)),
        "answer": lambda: SpanClassifier(config),
        "encode": lambda: ErnieMModel(config),
        "full": lambda: PreTrainingModel(config, MODEL_LANGUAGES),
    }
    new_model = makers[kind]()
    with paddle.no_grad():
        for name, parameter in new_model.named_parameters():
            if parameter.ndim == 1 or "language_embeddings" in name:
                parameter.set_value(parameter + 0.1 * paddle.randn(parameter.shape))
    return new_model.eval()


def make_model(
    folder: Path, kind: str, piece_model: Path, settings: dict | None = None, **options
) -> paddle.nn.Layer:
    """Write a model with a tokenizer to a folder, and return it.

    Args:
        kind: as of `model`.
        settings: what its config.json also says; None: the kind's own of `SETTINGS`.
        options: further ones of `save_model`.
    """
    config = model_config(Tokenizer(None, piece_model).vocab_size)
    new_model = model(kind, config)
    options["settings"] = SETTINGS[kind] if settings is None else settings
    save_model(folder, new_model, config, piece_model_path=piece_model, **options)
    return new_model


def make_models(folder: Path) -> Path:
    """Write a model of each kind of `SETTINGS` to a folder of its name, and piece.model next to them."""
    piece_model = train_piece_model(folder / "piece.model")
    for kind in SETTINGS:
        make_model(folder / kind, kind, piece_model)
    return folder


# ---- What the three tasks share: files in the official layout, from which small models learn.

TASK_CONFIG = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 514,
    "initializer_range": 0.1,
}


def write_task(
    folder: Path,
    texts: list[str],
    languages: Iterable[str],
    labels: Iterable[str],
    config: dict = TASK_CONFIG,
    **options,
) -> None:
    """Write ernie_config.json, lang_map.json, label_map.json, and a SentencePiece model trained on texts.

    `options`: of sentencepiece's trainer.
    """
    train_piece_model(
        folder / "piece.model", texts, **{"vocab_size": 50, "character_coverage": 0.9995} | options
    )
    for name, values in (("lang_map", languages), ("label_map", labels)):
        (folder / f"{name}.json").write_text(json.dumps({value: i for i, value in enumerate(values)}))
    (folder / "ernie_config.json").write_text(json.dumps(config))


# ---- Classification: the label is the kind of the first sentence's noun.

NOUNS = {"animal": ["cat", "dog", "hen"], "drink": ["tea", "milk", "beer"], "tool": ["saw", "axe", "nail"]}
WORDS = ["the", "a", "old", "new", "red", "big", "is", "was", "here", "there", "now", "then"]
KINDS = {kind: i for i, kind in enumerate(NOUNS)}  # label -> its id
LANGUAGES = ["en", "de", "fr"]


class LabeledTexts(NamedTuple):
    """A row of classification. The label is one of `KINDS`."""

    qid: str
    text_a: str
    text_b: str
    label: str


def text_with(rng: np.random.Generator, noun: str) -> str:
    """A few words, and the noun at any position among them."""
    words = [str(word) for word in rng.choice(WORDS, rng.integers(2, 6))]
    words.insert(int(rng.integers(0, len(words) + 1)), noun)
    return " ".join(words)


def labeled_texts(count: int, seed: int) -> list[LabeledTexts]:
    """Rows with the qids 100, 101, ... The second text has no noun, so it says nothing of the "
    "label."""
    rng = np.random.default_rng(seed)
    drawn = []
    for i in range(count):
        kind = [*KINDS][int(rng.integers(3))]
        noun = str(rng.choice(NOUNS[kind]))
        drawn.append(LabeledTexts(str(100 + i), text_with(rng, noun), text_with(rng, "and"), kind))
    return drawn


def both_texts(rows: list[LabeledTexts]) -> list[str]:
    """Both texts of each row."""
    return [text for row in rows for text in (row.text_a, row.text_b)]


def write_labeled_texts(path: Path, rows: list[tuple], label: bool = True) -> Path:
    """Write rows (qid, text_a, text_b, label), below a header; with `label=False` without the last column."""
    write_lines(path, ["\t".join(row if label else row[:-1]) for row in [LabeledTexts._fields, *rows]])
    return path


def make_classification(folder: Path, train: int = 96, dev: int = 31) -> Path:
    """Write the whole layout into `folder`: data, vocabulary, config.

    Args:
        train: rows of train.tsv.
        dev: rows of each dev file. A test file, which has no labels, has 2 more, and a heldout file 4 more.
    """
    write_task(folder, both_texts(labeled_texts(400, seed=9)), LANGUAGES, KINDS)
    write_labeled_texts(folder / "train.tsv", labeled_texts(train, seed=1))
    for i, language in enumerate(LANGUAGES):
        write_labeled_texts(folder / f"dev.{language}.tsv", labeled_texts(dev, seed=20 + i))
        write_labeled_texts(folder / f"test.{language}.tsv", labeled_texts(dev + 2, seed=30 + i), label=False)
        write_labeled_texts(folder / f"heldout.{language}.tsv", labeled_texts(dev + 4, seed=40 + i))
    return folder


# ---- Tagging: persons of one or two words, places, and other words.

FIRST_NAMES = ["anna", "bela", "carlo", "dora"]
LAST_NAMES = ["stone", "field", "brook"]
PLACES = ["rome", "oslo", "lima", "bern"]
OTHER_WORDS = ["and", "sees", "near", "the", "old", "in", "now", "walks", "from", "to"]


class TaggedWords(NamedTuple):
    """A sentence."""

    words: list[str]
    tags: list[str]


def _tagged_sentence(rng: np.random.Generator, parts: int) -> TaggedWords:
    """A sentence of `parts` persons, places and other words."""
    row = TaggedWords([], [])

    def add(word: str, tag: str) -> None:
        row.words.append(word)
        row.tags.append(tag)

    # Half of the parts are other words.
    for kind in rng.choice(["person", "location", "word", "word"], parts):
        if kind == "person":
            add(str(rng.choice(FIRST_NAMES)), "B-PER")
            last_name = str(rng.choice(LAST_NAMES))
            if rng.integers(1, 3) == 2:
                add(last_name, "I-PER")
        elif kind == "location":
            add(str(rng.choice(PLACES)), "B-LOC")
        else:
            add(str(rng.choice(OTHER_WORDS)), "O")
        if kind != "word":  # so that no two entities touch
            add("the", "O")
    return row


def tagged_words(count: int, seed: int, parts: tuple[int, int] = (2, 7)) -> list[TaggedWords]:
    """`count` sentences of parts[0] to parts[1] - 1 persons, places and other words."""
    rng = np.random.default_rng(seed)
    return [_tagged_sentence(rng, int(rng.integers(*parts))) for _ in range(count)]


def draw_test_words(language_number: int) -> list[TaggedWords]:
    """The rows of the test file of LANGUAGES[language_number]: 15, then 3 long ones."""
    long_rows = tagged_words(3, seed=40 + language_number, parts=(30, 40))
    return tagged_words(15, seed=30 + language_number) + long_rows


def write_tagged_words(path: Path, rows: list[TaggedWords], label: bool = True) -> Path:
    """Write sentences below a header; with `label=False` without the column of tags."""
    table = [("text_a", "label"), *((JOINT.join(row.words), JOINT.join(row.tags)) for row in rows)]
    write_lines(path, ["\t".join(row if label else row[:-1]) for row in table])
    return path


def make_tagging(folder: Path) -> Path:
    """Write the whole layout for en and de into `folder`: data, vocabulary, config."""
    texts = [" ".join(row.words) for row in tagged_words(300, seed=9)]
    write_task(folder, texts, LANGUAGES[:2], TAGS, vocab_size=44)
    write_tagged_words(folder / "train.tsv", tagged_words(128, seed=1))
    for i, language in enumerate(LANGUAGES[:2]):
        write_tagged_words(folder / f"dev.{language}.tsv", tagged_words(21, seed=20 + i))
        write_tagged_words(folder / f"test.{language}.tsv", draw_test_words(i))
    return folder


# ---- Answering: in which place a person is. The tokenizer normalizes the texts, so an answer must be found
# again in the original text.

PEOPLE = ["anna", "bela", "carl", "dora", "emil"]
# Curly quotes, a character that is dropped, a double space, a full-width letter: the subwords of a place, put
# together, are never the place itself.
ANSWERS = ["“old”  rome", "new\u200b oslo", "ｂig lima", "‘red’ bern", "the  port"]
ANSWERING_CONFIG = {**TASK_CONFIG, **WITHOUT_DROPOUT, "hidden_size": 32}


def squad(paragraphs: int, seed: int, facts: int = 2) -> dict:
    """SQuAD v1.1 JSON of `paragraphs` texts, each with `facts` facts and a question on every fact.

    The texts take the places in turn.
    """
    rng = np.random.default_rng(seed)
    json_paragraphs = []
    for number in range(paragraphs):
        text = ""
        qas = []
        for k, index in enumerate(rng.permutation(len(PEOPLE))[:facts]):
            person = PEOPLE[index]
            location = ANSWERS[(number * facts + k) % len(ANSWERS)]
            text += f"{rng.choice(['and then', 'but now', 'they say that'])} {person} is in "
            answers = [{"text": location, "answer_start": len(text)}]
            id_ = f"{seed}-{number}-{person}"
            qas.append({"id": id_, "question": f"where is {person} ?", "answers": answers})
            text += f"{location} . "
        json_paragraphs.append({"context": text.strip(), "qas": qas})
    return {"version": "1.1", "data": [{"title": "people", "paragraphs": json_paragraphs}]}


def questions(squad_json: dict) -> list[tuple[str, dict]]:
    """(context, entry of "qas") of each question of SQuAD JSON."""
    paragraphs = [paragraph for article in squad_json["data"] for paragraph in article["paragraphs"]]
    return [(paragraph["context"], qa) for paragraph in paragraphs for qa in paragraph["qas"]]


def make_answering(folder: Path) -> Path:
    """Write the whole layout for en and de into `folder`: data, pairs of languages, vocabulary, config.

    The training data are a few questions, many times. dev.en, pair-en-en and pair-de-de are these questions,
    and the other files are new ones.
    """
    texts = [text for text, _ in questions(squad(200, seed=9))]
    options = {"vocab_size": 80, "character_coverage": 1.0, "user_defined_symbols": PEOPLE}
    write_task(folder, texts, LANGUAGES[:2], [], ANSWERING_CONFIG, **options)
    training = squad(3, seed=1)
    files = {
        "train": {"data": training["data"] * 300},
        "dev.en": training,
        "dev.de": squad(3, seed=2),
        "pair-en-en": training,
        "pair-en-de": squad(2, seed=3),
        "pair-de-de": training,
    }
    return write_files(folder, {f"{name}.json": json.dumps(content) for name, content in files.items()})


def bitext(count=150, width=24, noise=1.2, seed=0):
    """Random vectors, [N, H], and noisy copies of them: some copies are nearer to another vector."""
    rng = np.random.default_rng(seed)
    english = rng.normal(size=(count, width)).astype(np.float32)
    return english, english + rng.normal(scale=noise, size=english.shape).astype(np.float32)
