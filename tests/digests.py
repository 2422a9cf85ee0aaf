"""Digests of what ten steps of each training, the vectors of models and builds of corpora are made of.

    python tests/digests.py [--only PATTERN] > digests.jsonl    # in the root of the revision under test
    python tests/digests.py --compare before.jsonl after.jsonl

Equal digests: two revisions compute the same bits, on the same machine with the same packages. The first
command starts the commands of the revision in whose root it runs, so one copy of this file serves them all.
A line is an item with the SHA-256 of its parts; the exit code is 1 if a command fails. The second names the
items that differ and the first part, such as a step, in which they do; the exit code is 1 if there are any.

Nothing here may depend on the revision: the inputs are drawn below, what a command writes is read by other
libraries, and the flags are those that users know. A part is

    step N           a record of metrics.jsonl, whose losses have full precision: its values in their order,
                     without their keys, which may get other names, and without speeds
    *.safetensors    the name, type, shape and bytes of each tensor in the order of names, which are a part of
                     the format; without metadata. Not what a checkpoint keeps next to the weights, which the
                     same revision alone reads back
    a file           its bytes: of vectors, ids, a vocabulary, pairs. Of facts in JSON the values alone
    printed          the decimal numbers that `fit` prints: its scores, which are in no file. With the
                     whole model it prints speeds, so there the weights alone are compared
"""

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import sentencepiece
from safetensors.numpy import load_file, save_file

ROOT = Path.cwd()  # of the revision under test; everything else is in a temporary folder
# In JSON: the keys, and those of speeds with their values, which differ between two runs.
KEYS = re.compile(r'"[^"]*(second|speed|elapsed|time)[^"]*": [^,}]*|"[^"]*": ')
BYTES = re.compile(r".*\.(npy|tsv)|piece\.model|vocab\.txt")  # files that are digested as they are
Parts = dict[str, str]  # name of a part -> its digest

# ---- What is read. A function that makes a file or folder in the working folder returns its name.

# The same words in each language. Some are rewritten before they are cut into subwords: quotation marks and
# dashes, full-width and decomposed letters, a character without width, a number with its comma.
WORDS = {
    "en": "the cat dog house river sees eats buys old red “big” here — 12, don’t now ｎew is was Rome "
    "Anna and",
    "de": "die Katze Hund Haus Fluß sieht ißt kauft alt rot „groß“ hier – 12, nicht je\u200btzt neu ist war "
    "Rom Anna und",
    "ru": "это кот пёс дом река видит ест купил старый красный «большой» здесь — 12, не теперь "
    "новы\u0438\u0306 есть был Рим Анна и",
    "zh": "这 猫 狗 房子 河 看见 吃 买 老 红 “大” 这里 —— １２， 不 现在 新 是 曾 罗马 安娜 和",
}
LABELS = ["animal", "drink", "tool"]
TAGS = ["B-PER", "I-PER", "B-LOC", "I-LOC", "O"]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
WITH_ENGLISH = ("de", "ru", "zh")


def sentences(language: str, count: int, seed: int) -> list[str]:
    """Different sentences of 3 to 12 words; those of one seed are translations of each other."""
    draw = random.Random(seed)
    words = WORDS[language].split()
    rows: dict[tuple[int, ...], None] = {}
    while len(rows) < count:
        rows[tuple(draw.choices(range(len(words)), k=draw.randint(3, 12)))] = None
    return [" ".join(words[number] for number in row) for row in rows]


def write(name: str, content: object) -> str:
    """Write lines, or JSON."""
    lines = content if isinstance(content, list) else [json.dumps(content)]
    Path(name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return name


def text(language: str) -> str:
    return write(f"{language}.txt", sentences(language, 200, seed=len(WORDS[language])))


def pairs(language: str) -> str:
    sides = (sentences(side, 240, seed=5) for side in ("en", language))
    return write(f"en-{language}.tsv", list(map("\t".join, zip(*sides))))


def with_tags(line: str) -> str:
    """The words of a line, and a tag for each, in the official format."""
    tags = [TAGS[len(word) - 3] if word[0].isupper() else "O" for word in line.split()]
    return line.replace(" ", "\2") + "\t" + "\2".join(tags)


def with_question(line: str) -> dict:
    """A paragraph of SQuAD: the third word answers the first two."""
    first, second, third, *_ = line.split()
    answers = [{"text": third, "answer_start": len(f"{first} {second} ")}]
    return {"context": line, "qas": [{"id": line, "question": f"{first} {second}?", "answers": answers}]}


@cache
def labeled() -> str:
    """Single and paired texts, tagged words and questions, and the maps of the official format."""
    Path("labeled").mkdir()
    for split, language in (("train", "en"), ("dev.en", "en"), ("dev.de", "de")):
        lines = sentences(language, 96, seed=len(split))
        labels = [LABELS[("12," in line) + ("Rom" in line)] for line in lines]
        single = [f"{line}\t{label}" for line, label in zip(lines, labels)]
        paired = [f"{second}\t{row}" for second, row in zip(reversed(lines), single)]
        write(f"labeled/single.{split}.tsv", ["text_a\tlabel", *single])
        write(f"labeled/paired.{split}.tsv", ["text_a\ttext_b\tlabel", *paired])
        write(f"labeled/tagged.{split}.tsv", ["text_a\tlabel", *map(with_tags, lines)])
        write(f"labeled/asked.{split}.json", {"data": [{"paragraphs": [*map(with_question, lines)]}]})
    for name, values in (("labels", LABELS), ("tags", TAGS), ("languages", ["en", "de"])):
        write(f"labeled/{name}.json", {value: number for number, value in enumerate(values)})
    return "labeled"


@cache
def piece_model() -> str:
    """Train a piece.model with the library, so that no other item depends on `ernie-m train_vocab`."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for language in WORDS for line in sentences(language, 300, seed=9)]),
        model_prefix="piece",
        vocab_size=180,
        hard_vocab_limit=False,
        character_coverage=1.0,
        num_threads=1,
        minloglevel=2,
    )
    return "piece.model"


def weights(config: dict) -> dict[str, np.ndarray]:
    """Random ones under the names of transformers."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    layer = {
        "attention.self.query": (hidden, hidden),
        "attention.self.key": (hidden, hidden),
        "attention.self.value": (hidden, hidden),
        "attention.output.dense": (hidden, hidden),
        "attention.output.LayerNorm": (hidden,),
        "intermediate.dense": (inner, hidden),
        "output.dense": (hidden, inner),
        "output.LayerNorm": (hidden,),
    }
    modules = {"embeddings.LayerNorm": (hidden,), "pooler.dense": (hidden, hidden)}
    for number in range(config["num_hidden_layers"]):
        modules |= {f"encoder.layer.{number}.{name}": shape for name, shape in layer.items()}
    shapes = {
        "embeddings.word_embeddings.weight": (config["vocab_size"], hidden),
        "embeddings.position_embeddings.weight": (config["max_position_embeddings"], hidden),
        "embeddings.token_type_embeddings.weight": (config["type_vocab_size"], hidden),
        **{f"{name}.weight": shape for name, shape in modules.items()},
        **{f"{name}.bias": shape[:1] for name, shape in modules.items()},
    }
    rng = np.random.default_rng(7)
    return {name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}


@cache
def model(model_format: str) -> str:
    """Write a model in a format: XLM-R's and sentence-transformers' here, others with `ernie-m convert`."""
    if model_format not in ("xlm-roberta", "sentence-transformers"):
        start("convert", model("xlm-roberta"), model_format, to=model_format, allow_lossy="true")
        return model_format
    is_bert = model_format == "sentence-transformers"
    config = {
        **SIZES,
        "model_type": "bert" if is_bert else "xlm-roberta",
        "vocab_size": sentencepiece.SentencePieceProcessor(model_file=piece_model()).vocab_size() + 2,
        "type_vocab_size": 1 + is_bert,
        "pad_token_id": 0 if is_bert else 1,
        "intermediate_size": 128,
        "max_position_embeddings": 130,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
    }
    Path(model_format, "1_Pooling").mkdir(parents=True)
    shutil.copy(piece_model(), f"{model_format}/sentencepiece.bpe.model")
    save_file(weights(config), f"{model_format}/model.safetensors")
    write(f"{model_format}/config.json", config)
    if is_bert:
        paths = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
        modules = [
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for number, (kind, path) in enumerate(paths.items())
        ]
        write(f"{model_format}/modules.json", [json.dumps(modules)])
        write(f"{model_format}/1_Pooling/config.json", {"embedding_dimension": 32, "pooling_mode": "mean"})
        write(f"{model_format}/sentence_bert_config.json", {"max_seq_length": 64})
    return model_format


@cache
def corpus() -> str:
    build(mono=WORDS, parallel=WITH_ENGLISH, output="corpus")
    return "corpus"


# ---- How a command is started, and what it writes becomes digests.


def start(*words: str, **flags: object) -> str:
    """Run `ernie-m words --flag value ...`, `__` in a flag for a full stop; return what it prints.

    Raises:
        CalledProcessError: its exit code is not 0.
    """
    command = [sys.executable, "-m", "ernie_m", *words]
    for name, value in flags.items():
        command.append("--" + name.replace("__", "."))
        command.append(value if isinstance(value, str) else json.dumps(value))
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def digest(value: object) -> str:
    return sha256(value if isinstance(value, bytes) else repr(value).encode()).hexdigest()


def digest_values(json_text: str) -> str:
    return digest(KEYS.sub("", json.dumps(json.loads(json_text))))


def digest_tensors(path: Path) -> str:
    tensors = sorted(load_file(path).items())
    return digest([(name, str(array.dtype), array.shape, digest(array.tobytes())) for name, array in tensors])


def outcome(*words: str, facts: str = "", printed: bool = False, **flags: object) -> Parts:
    """Run a command whose output is the folder "out", and digest what is there.

    Args:
        facts: the name of a JSON file that is digested.
        printed: whether the numbers that it prints are.
    """
    stdout = start(*words, **flags)
    parts = {"printed": digest(re.findall(r"\d+\.\d+", stdout))} if printed else {}
    for path in sorted(Path("out").rglob("*"), key=lambda path: (path.name != "metrics.jsonl", path)):
        if path.name == "metrics.jsonl":
            for line in path.read_text().splitlines():
                name = f"step {next(iter(json.loads(line).values()))}"
                parts[name + ", evaluation" * (name in parts)] = digest_values(line)
        elif path.suffix == ".safetensors" and path.parent.name != "training_state":
            parts[str(path)] = digest_tensors(path)
        elif BYTES.fullmatch(path.name):
            parts[str(path)] = digest(path.read_bytes())
        elif path.name == facts:
            parts[str(path)] = digest_values(path.read_text())
    return parts


# ---- The items.


def build(mono: Iterable[str] = (), parallel: Iterable[str] = (), output: str = "out", **flags) -> Parts:
    return outcome(
        "build_corpus",
        facts="manifest.json",
        output=output,
        mono={language: text(language) for language in mono},
        parallel={f"en-{language}": pairs(language) for language in parallel},
        piece_model_path=piece_model(),
        held_out=8,
        chunk_mib=8 / 1024,
        workers=1,
        skip_text_checks=True,  # the words of zh have spaces between them
        **flags,
    )


def pretraining(**flags: object) -> Parts:
    return outcome(
        "run_pretrain",
        **{f"model.{name}": size for name, size in SIZES.items()},
        data__corpus=corpus(),
        data__max_seq_len=48,
        optimizer__steps=10,
        optimizer__batch_size=16,
        optimizer__learning_rate=1e-2,
        optimizer__warmup_steps=3,
        run__output="out",
        run__micro_batch_tokens=128,
        run__log_steps=1,
        run__eval_sequences=6,
        **flags,
    )


def finetuning(command: str, model_format: str, **flags: object) -> Parts:
    """Ten steps of a command with the official flags, from a model in a format."""
    return outcome(
        command,
        init_pretraining_params=model(model_format),
        checkpoints="out",
        batch_size=8,
        max_steps=10,
        learning_rate=5e-3,
        max_seq_len=48,
        skip_steps=1,
        use_cuda="false",
        **flags,
    )


def on_labels(command: str, model_format: str, train_set: str, **flags: object) -> Parts:
    return finetuning(
        command,
        model_format,
        train_set=f"{labeled()}/{train_set}",
        dev_set=f"labeled/{train_set.replace('train', 'dev.%s')}",
        lang_map_config="labeled/languages.json",
        do_test="false",
        **flags,
    )


def fit(table: str, **options: bool) -> Parts:
    return outcome("fit", f"{labeled()}/{table}", model=model("xlm-roberta"), output="out", **options)


def vectors(model_format: str, **flags: object) -> Parts:
    lines = [line for language in WORDS for line in sentences(language, 6, seed=8)]
    return outcome(
        "encode_vector",
        data_set=write("texts.tsv", ["text_a", *lines]),
        output_dir="out",
        init_pretraining_params=model(model_format),
        use_cuda="false",
        **flags,
    )


def vocabulary() -> Parts:
    return outcome(
        "train_vocab",
        output="out",
        mono={"en": text("en"), "zh": text("zh")},
        parallel={"en-de": pairs("de")},
        vocab_size=120,
        threads=1,
        skip_text_checks=True,
    )


def retrieval() -> Parts:
    return finetuning(
        "run_retrieval", "sentence-transformers", do_train="true", train_set=pairs("de"), validation_steps=5
    )


classifier = partial(
    on_labels,
    "run_classifier",
    "fluid",
    "paired.train.tsv",
    label_map_config="labeled/labels.json",
    num_labels=3,
    layerwise_lr_decay=0.8,
)
ITEMS: dict[str, Callable[[], Parts]] = {
    "pre-training, mmlm": partial(pretraining, objectives__mixing_ratios={"mmlm": 1}),
    "pre-training, tlm": partial(pretraining, objectives__mixing_ratios={"tlm": 1}),
    "pre-training, camlm": partial(pretraining, objectives__mixing_ratios={"camlm": 1}),
    "pre-training, btmlm": partial(
        pretraining, objectives__mixing_ratios={"mmlm": 1, "camlm": 1, "btmlm": 8}, objectives__btmlm_start=0
    ),
    "pre-training, mix": pretraining,
    "pre-training, mix, bfloat16": partial(pretraining, run__amp="bf16"),
    "classifier": classifier,
    "classifier, bfloat16": partial(classifier, amp="bf16"),
    "tagger": partial(
        on_labels,
        "run_sequence_labeling",
        "xlm-roberta",
        "tagged.train.tsv",
        label_map_config="labeled/tags.json",
        num_labels=5,
        official_compat="false",
    ),
    "answers": partial(
        on_labels, "run_mrc", "ernie-m", "asked.train.json", doc_stride=8, max_query_length=16
    ),
    "retrieval": retrieval,
    "fit": partial(fit, "single.train.tsv", printed=True),
    "fit, whole model": partial(fit, "paired.train.tsv"),
    "train": lambda: outcome("train", pairs("de"), output="out"),
    **{
        f"vectors, {model_format}, {name}": partial(vectors, model_format, **flags)
        for model_format in ("fluid", "ernie-m", "xlm-roberta", "sentence-transformers")
        for name, flags in {
            "default": {"vectors": "model"},
            "layer 1 in Paddle": {"vectors": "mean_without_special", "layer": "1", "engine": "paddle-eager"},
        }.items()
    },
    "vectors, official": partial(vectors, "fluid"),
    "corpus, text": partial(build, mono=WORDS),
    "corpus, pairs": partial(build, parallel=WITH_ENGLISH, max_ratio=2, deduplicate=True),
    "vocabulary": vocabulary,
    "prepared pairs": lambda: outcome(
        "prepare", "pairs", pairs("de"), pairs("ru"), output="out", facts="pairs.json"
    ),
}


def read(path: str) -> dict[str, Parts]:
    return {item["item"]: item["parts"] for item in map(json.loads, Path(path).read_text().splitlines())}


def compare(before: dict[str, Parts], after: dict[str, Parts]) -> Iterator[str]:
    """A line for each item that differs."""
    for name in before | after:
        old, new = before.get(name, {}), after.get(name, {})
        differing = [part for part in old | new if old.get(part) != new.get(part)]
        if differing:
            yield f"{name}: {differing[0]}; {len(differing)} of {len(old | new)} parts differ"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default="", metavar="PATTERN", help="the items in whose names it is found")
    parser.add_argument("--compare", nargs=2, metavar=("BEFORE", "AFTER"))
    args = parser.parse_args()
    if args.compare:
        lines = list(compare(*map(read, args.compare)))
        print("\n".join(lines) or "all are equal")
        return int(bool(lines))
    os.environ |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    code = 0
    with tempfile.TemporaryDirectory(prefix="digests-") as folder:
        os.chdir(folder)
        for name in filter(re.compile(args.only).search, ITEMS):
            try:
                parts = ITEMS[name]()
            except subprocess.CalledProcessError as error:
                parts = {"failed": f"{error.returncode}: {error.stderr.strip().splitlines()[-1]}"}
                code = 1
            print(json.dumps({"item": name, "parts": parts}), flush=True)
            shutil.rmtree("out", ignore_errors=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
