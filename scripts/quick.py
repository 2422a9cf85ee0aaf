"""The quick demo after scripts/demo.sh --quick: a real encoder, with nothing trained beforehand.

It searches 500 sentences in ten languages for translations, and learns five topics from 30 English sentences
in front of you, which it then finds in nine other languages. sentences.tsv has the sentences, one in all
languages on each line; the first six of a topic are learned from, the other four are for the test.
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
from ernie_m.utils.logging import in_columns
from ernie_m.vectors.retrieval_accuracy import nearest

SENTENCES = Path(ernie_m.__file__).parent / "data" / "sentences.tsv"
LEARNED = 6  # so many of the ten sentences of each topic are learned
QUESTION = "Wann fährt der nächste Bus zum Flughafen?"  # is not among the sentences
FOLDER = Path("output/demo-quick")  # what the page reads: texts/ by language, and the classifier topics/


@dataclass
class QuickFlags:
    """What is tried."""

    model: str = "configs/e5-small"
    """A folder, or the name of a model on Hugging Face's hub."""


def main() -> None:
    flags = parse_options(QuickFlags, None, __name__)
    started = time.monotonic()
    topics, texts = read_sentences()
    model = load(flags.model)
    print(f"\ndemo: {sum(map(len, texts.values()))} sentences in {len(texts)} languages", flush=True)

    print(f"\nThe nearest sentences to a question in German, {QUESTION}")
    for code, sentences in texts.items():
        (hit,) = model.search(QUESTION, sentences, top_k=1)
        print(f"{code}  {hit['score']:.2f}  {hit['text']}")
    found = translations_found({code: model.encode(sentences) for code, sentences in texts.items()})
    print("\nsentences whose translation is the nearest of the 50 English ones, per cent")
    print(in_columns([list(found), [f"{share:.0f}" for share in found.values()]]))

    print(f"\nlearning {len(set(topics))} topics from 30 English sentences", flush=True)
    with atomic_dir(FOLDER) as folder:
        (folder / "texts").mkdir()
        for code, sentences in texts.items():
            lines = "".join(f"{text}\n" for text in sentences)
            (folder / "texts" / f"{code}.txt").write_text(lines, encoding="utf-8")
        accuracy = score_topics(model, topics, texts, folder / "topics")
    print("topics of the other 20 of each language, per cent right (chance 20)")
    print(in_columns([list(accuracy), [f"{share:.0f}" for share in accuracy.values()]]))

    print("\ntry sentences of your own in the browser: sh scripts/demo.sh --page")
    result = {
        "translations": mean_of_others(found),
        "topics": mean_of_others(accuracy),
        "seconds": round(time.monotonic() - started, 1),
    }
    print(json.dumps(result))


def read_sentences() -> tuple[list[str], dict[str, list[str]]]:
    """Return the topic of each line, and language -> its sentence in each line."""
    header, *lines = [line.split("\t") for line in SENTENCES.read_text(encoding="utf-8").splitlines()]
    topics = [line[0] for line in lines]
    return topics, {code: [line[place] for line in lines] for place, code in enumerate(header) if place}


def score_topics(
    model: Model, topics: list[str], texts: dict[str, list[str]], output: Path | None = None
) -> dict[str, float]:
    """Learn the topics from the first sentences of each in English, and find those of the others.

    Args:
        texts: language -> its sentence in each line.
        output: a new folder for the classifier.

    Returns:
        language -> percent right.
    """
    is_learned = np.arange(len(topics)) % 10 < LEARNED
    labels = np.array(topics)
    english = [texts["en"][i] for i in np.flatnonzero(is_learned)]
    classifier = model.fit(english, labels[is_learned].tolist(), output)
    accuracy = {}
    for code, sentences in texts.items():
        answers = classifier.classify([sentences[i] for i in np.flatnonzero(~is_learned)])
        is_right = np.array([answer["label"] for answer in answers]) == labels[~is_learned]
        accuracy[code] = 100 * float(is_right.mean())
    return accuracy


def translations_found(vectors: dict[str, np.ndarray]) -> dict[str, float]:
    """For each language but English, how many of its sentences are nearest to their translation, in percent.

    Args:
        vectors: language -> the vectors [N, H] of the same N sentences.
    """
    return {
        code: 100 * float((nearest(foreign, vectors["en"]) == np.arange(len(foreign))).mean())
        for code, foreign in vectors.items()
        if code != "en"
    }


def mean_of_others(shares: dict[str, float]) -> float:
    """Return the mean over the languages that are not English, with one decimal."""
    return round(float(np.mean([share for code, share in shares.items() if code != "en"])), 1)


if __name__ == "__main__":
    run(main)
