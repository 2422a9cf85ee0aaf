"""The kinds of texts from few English labels: the share of each language's texts that get the right kind.

    DATA=/where/the/data/is python -m experiments.kinds --model output/a/encoder --languages "[en, fr]"

The kinds are news (NTREX), sentences of Wikipedia (PAN-X), questions (TyDi QA, tested on XQuAD) and premises
(MultiNLI and SNLI, tested on XNLI). No training text, nor its translation, is tested on. The exception is
PAN-X, some of whose sentences are in both parts (17 of 500 in English). A classifier is that of
`model.fit(texts, labels)`; with --rates run_classifier.py is tried beside it.
"""

from utils.environment import run

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from experiments.real_data import data_folder
from experiments.starts import add_figures
from inference.loading import LoadedModel, load
from inference.tasks import TaskOptions, make
from model.tasks import MEAN_OF_TOKENS
from reader.classification import Example
from utils.command_line import load_config
from utils.errors import UserError
from utils.files import read_json, read_text, write_json
from utils.logging import progress
from utils.runtime import prepare
from utils.tables import in_markdown

TESTED = 500  # texts of a kind and language, at most
FIRST_TESTED = 1000  # line of NTREX, whose lines are translations of each other in all languages
STEPS = 300  # of fine-tuning
LARGEST = 1 << 28  # bytes of a file of texts


@dataclass
class KindsFlags:
    """What is compared."""

    model: str
    """An encoder, such as the folder `encoder` of a pre-training."""

    languages: list[str] = field(default_factory=lambda: ["en"])
    """Those of the tests."""

    labels: list[int] = field(default_factory=lambda: [16, 64, 256])
    """The numbers of labelled texts of a kind."""

    seeds: list[int] = field(default_factory=lambda: [1, 2, 3])
    """Each draws other texts to train on."""

    rates: list[float] = field(default_factory=list)
    """Learning rates of run_classifier.py."""

    output: str = "output/kinds"
    """The files that run_classifier.py reads and writes."""

    figures: str = ""
    """A JSON, such as docs/results/head_start/pre-trained-1.json, that gets the outcome of every text."""


def main(arguments: Sequence[str] | None = None) -> None:
    flags = load_config(KindsFlags, arguments, __doc__)
    data = data_folder()
    prepare(quiet=True)
    texts = texts_to_train(data)
    fewest = min(map(len, texts.values()))
    for count in flags.labels:
        if not 1 <= count <= fewest:
            raise UserError(f"--labels {count}: it must be from 1 to {fewest}; a kind has no more texts")
    tests = {language: texts_to_test(data, language) for language in flags.languages}
    loaded = load(flags.model)
    # Measure -> language -> in how many draws each text gets its kind, [N].
    found: dict[str, dict[str, np.ndarray]] = {}
    for count in flags.labels:
        for seed in progress(flags.seeds, f"{count} labels of a kind", unit="draws"):
            labelled = draw(texts, count, np.random.default_rng(seed))
            classifiers = {f"kinds {count}": fitted(loaded, labelled)}
            for rate in flags.rates:
                folder = Path(flags.output, f"{count}-{seed}-{rate}", flags.model.replace("/", "-"))
                tuned = fine_tuned(flags.model, labelled, rate, seed, folder)
                classifiers[f"kinds {count} fine-tuned {rate}"] = tuned
            for measure, classifier in classifiers.items():
                of_measure = found.setdefault(measure, dict.fromkeys(tests, 0))
                for language, rows in tests.items():
                    of_measure[language] = of_measure[language] + is_right(classifier, rows)
    draws = len(flags.seeds)
    measures: dict[str, dict[str, list]] = {measure: {} for measure in found}
    table = [["", *flags.languages]]
    for measure, of_measure in found.items():
        table.append([measure])
        for language, counts in of_measure.items():
            table[-1].append(f"{100 * counts.mean() / draws:.1f}")
            measures[measure][language] = [counts.tolist(), [draws] * len(counts)]
    print(in_markdown(table))
    if flags.figures:
        add_figures(Path(flags.figures), measures)


def texts_to_train(data: Path) -> dict[str, list[str]]:
    """English texts by kind."""
    return {
        "news": news(data, "en")[:FIRST_TESTED],
        "Wikipedia": sentences(data / "ner/panx/train-en.tsv", " "),
        "question": questions(data / "qa/train-en.tydiqa-goldp.json"),
        "premise": premises(data / "nli/train-en.tsv"),
    }


def texts_to_test(data: Path, language: str) -> list[tuple[str, str]]:
    """(text, kind) in a language; without questions if XQuAD has none in it."""
    texts = {
        "news": news(data, language)[FIRST_TESTED:],
        "Wikipedia": sentences(data / f"ner/panx/dev-{language}.tsv", "" if language == "zh" else " "),
        "premise": premises(data / f"nli/xnli-dev-{language}.tsv"),
    }
    of_questions = data / f"qa/xquad.{language}.json"
    if of_questions.is_file():
        texts["question"] = questions(of_questions)
    return [(text, kind) for kind, of_kind in texts.items() for text in of_kind[:TESTED]]


def news(data: Path, language: str) -> list[str]:
    return read_text(data / f"pretrain/parallel-multiway/ntrex.{language}", LARGEST).splitlines()


def sentences(file: Path, between_words: str) -> list[str]:
    blocks = read_text(file, LARGEST).strip().split("\n\n")
    return [between_words.join(row.split("\t")[0] for row in block.splitlines()) for block in blocks]


def questions(file: Path) -> list[str]:
    paragraphs = [paragraph for article in read_json(file)["data"] for paragraph in article["paragraphs"]]
    return [question["question"] for paragraph in paragraphs for question in paragraph["qas"]]


def premises(file: Path) -> list[str]:
    """Each once: it stands before several hypotheses."""
    return list(dict.fromkeys(line.split("\t")[0] for line in read_text(file, LARGEST).splitlines()))


def draw(texts: Mapping[str, Sequence[str]], count: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    """As many texts of each kind, with their kinds, in a random order."""
    rows = []
    for kind, of_kind in texts.items():
        rows += [(of_kind[number], kind) for number in rng.choice(len(of_kind), count, replace=False)]
    return [rows[number] for number in rng.permutation(len(rows))]


def fitted(loaded: LoadedModel, labelled: Sequence[tuple[str, str]]) -> LoadedModel:
    """The classifier that `model.fit` makes of the labelled texts."""
    from inference.few_labels import classifier_of  # imports Paddle, which the model prepares for

    texts, kinds = zip(*labelled)
    encode = make("encode", loaded, TaskOptions(pooling=MEAN_OF_TOKENS))
    return classifier_of(loaded, encode.vectors(texts), kinds, encode.layer)


def fine_tuned(
    model: str, labelled: Sequence[tuple[str, str]], rate: float, seed: int, folder: Path
) -> LoadedModel:
    """The classifier that run_classifier.py trains in `STEPS` steps, otherwise as scripts/base/own.sh.

    Raises:
        UserError: the folder exists, or the training fails.
    """
    if folder.exists():
        raise UserError(f"{folder} exists; give another --output, or delete it")
    folder.mkdir(parents=True)
    kinds = sorted({kind for _, kind in labelled})
    write_json(folder / "label_map.json", {kind: number for number, kind in enumerate(kinds)})
    with open(folder / "train.tsv", "w", encoding="utf-8") as file:
        for row in [("text_a", "label"), *labelled]:
            print(*(cell.replace("\t", " ") for cell in row), sep="\t", file=file)
    command = [sys.executable, "run_classifier.py", "--do_val", "false", "--do_test", "false"]
    command += ["--init_pretraining_params", model, "--train_set", str(folder / "train.tsv")]
    command += ["--label_map_config", str(folder / "label_map.json"), "--num_labels", str(len(kinds))]
    command += ["--epoch", str(STEPS), "--max_steps", str(STEPS), "--batch_size", "32"]
    command += ["--learning_rate", str(rate), "--layerwise_lr_decay", "0.8", "--weight_decay", "0"]
    command += ["--random_seed", str(seed), "--checkpoints", str(folder / "run")]
    if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
        raise UserError(f"{folder / 'run'}: the training failed; the lines above say why")
    return load(folder / "run" / f"step_{STEPS}")


def is_right(classifier: LoadedModel, rows: Sequence[tuple[str, str]]) -> np.ndarray:
    """Whether the classifier finds the kind of each text: int [N]."""
    answers = make("classify", classifier, TaskOptions()).answer([Example(text, None) for text, _ in rows])
    return np.array([int(answer["label"] == kind) for answer, (_, kind) in zip(answers, rows)])


if __name__ == "__main__":
    run(main)
