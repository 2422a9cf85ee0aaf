"""The quick demo of scripts/demo.sh --quick: an embedding model, without any training data.

It evaluates bitext retrieval on 500 sentences in ten languages, and trains a topic classifier on 30 English
sentences, which it tests in nine other languages. Each line of sentences.tsv has one sentence in all
languages; the first six sentences of a topic are for training, the other four for testing.
"""

from ernie_m.utils.first_import import run

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import ernie_m
from ernie_m.api import Model, load
from ernie_m.utils.args import parse_options
from ernie_m.utils.files import atomic_dir
from ernie_m.utils.logging import format_columns
from ernie_m.vectors.retrieval_accuracy import find_nearest

SENTENCES = Path(ernie_m.__file__).parent / "data" / "sentences.tsv"
LEARNED = 6  # training sentences of the ten of each topic
QUESTION = "Wann fährt der nächste Bus zum Flughafen?"  # not among the sentences
FOLDER = Path("output/demo-quick")  # input of the demo UI: texts/ by language, and the classifier topics/


@dataclass
class QuickFlags:
    """Options of the quick demo."""

    model: str = "configs/e5-small"
    """Model directory, or a model name on the Hugging Face Hub."""


def main() -> None:
    flags = parse_options(QuickFlags, None, __name__)
    started = time.monotonic()
    topics, texts = read_sentences()
    model = load(flags.model)
    print(f"\ndemo: {sum(map(len, texts.values()))} sentences in {len(texts)} languages", flush=True)

    print(f"\nnearest sentence in each language to a German question, {QUESTION}")
    for code, sentences in texts.items():
        (hit,) = model.search(QUESTION, sentences, top_k=1)
        print(f"{code}  {hit['score']:.2f}  {hit['text']}")
    found = score_translations({code: model.encode(sentences) for code, sentences in texts.items()})
    print("\naccuracy@1 among the 50 English sentences, %")
    print(format_columns([list(found), [f"{percent:.0f}" for percent in found.values()]]))

    print(f"\ntraining a classifier of {len(set(topics))} topics on 30 English sentences", flush=True)
    with atomic_dir(FOLDER) as folder:
        (folder / "texts").mkdir()
        for code, sentences in texts.items():
            lines = "".join(f"{text}\n" for text in sentences)
            (folder / "texts" / f"{code}.txt").write_text(lines, encoding="utf-8")
        accuracy = score_topics(model, topics, texts, folder / "topics")
    print("topic accuracy on the other 20 of each language, % (chance 20)")
    print(format_columns([list(accuracy), [f"{percent:.0f}" for percent in accuracy.values()]]))

    print("\nNext: sh scripts/demo.sh --page (the same with your sentences, in the browser)")
    result = {
        "translations": average_without_english(found),
        "topics": average_without_english(accuracy),
        "seconds": round(time.monotonic() - started, 1),
    }
    print(json.dumps(result))


def read_sentences() -> tuple[list[str], dict[str, list[str]]]:
    """Read sentences.tsv: the topic of each line, and language -> its sentence of each line."""
    header, *lines = [line.split("\t") for line in SENTENCES.read_text(encoding="utf-8").splitlines()]
    topics = [line[0] for line in lines]
    return topics, {code: [line[column] for line in lines] for column, code in enumerate(header) if column}


def score_topics(
    model: Model, topics: list[str], texts: dict[str, list[str]], output: Path | None = None
) -> dict[str, float]:
    """Train a classifier on the first English sentences of each topic, and test it on the other sentences.

    Args:
        topics: topic of each line.
        texts: language -> its sentence of each line.
        output: output directory of the classifier.

    Returns:
        language -> accuracy in percent.
    """
    is_learned = np.arange(len(topics)) % 10 < LEARNED
    labels = np.array(topics)
    english = [texts["en"][i] for i in np.flatnonzero(is_learned)]
    classifier = model.fit(english, labels[is_learned].tolist(), output)
    accuracy = {}
    for code, sentences in texts.items():
        predictions = classifier.classify([sentences[i] for i in np.flatnonzero(~is_learned)])
        is_right = np.array([prediction["label"] for prediction in predictions]) == labels[~is_learned]
        accuracy[code] = 100 * float(is_right.mean())
    return accuracy


def score_translations(vectors: dict[str, np.ndarray]) -> dict[str, float]:
    """Compute the accuracy@1 in percent of retrieving the English translation: language -> accuracy.

    Args:
        vectors: language -> embeddings [N, H] of the same N sentences.
    """
    return {
        code: 100 * float((find_nearest(foreign, vectors["en"]) == np.arange(len(foreign))).mean())
        for code, foreign in vectors.items()
        if code != "en"
    }


def average_without_english(accuracies: dict[str, float]) -> float:
    """Compute the mean accuracy over all languages except English, rounded to one decimal."""
    return round(float(np.mean([accuracy for code, accuracy in accuracies.items() if code != "en"])), 1)


if __name__ == "__main__":
    run(main)
