"""The demo behind scripts/demo.sh: what ERNIE-M's pre-training is for, in minutes, on a generated sample set.

Three encoders of one shape learn a task from English alone and are tested on every language. One starts
from random weights, one from pre-training on monolingual text (MMLM), and one from pre-training with the
recommended mix (MMLM, BTMLM and CAMLM) on the same number of tokens. docs/demo.md says more.
"""

from ernie_m.utils.first_import import run

import json
import shlex
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ernie_m.utils.errors import UserError
from ernie_m.utils.files import read_json, write_json
from ernie_m.utils.load_config import load_config
from ernie_m.utils.logging import setup_console
from ernie_m.utils.options import option
from ernie_m.utils.text_tables import in_columns
from ernie_m.utils.yaml_files import read_yaml
from scripts.jobs import Job, as_line, carry_out_chains
from scripts.sample.scenes import CODES
from scripts.sample.write import write_sample

CONFIG = Path("configs/pretrain/sample.yaml")
OUTPUT = Path("output/demo")
SAMPLE = OUTPUT / "sample"
CORPUS = OUTPUT / "corpus"
LOGS = OUTPUT / "logs"
SHAPE = OUTPUT / "ernie_config.json"  # the shape of the encoders
SEED = OUTPUT / "seed.json"  # the demo's seed, with which it goes on
PICTURE = OUTPUT / "demo.svg"  # written last, so a finished demo has it
SAMPLE_SET = {"documents": 3000, "pairs": 8000, "hypotheses": 9000}
# Start -> flags of its pre-training. CONFIG has the mix of objectives that docs/pretraining.md recommends.
PRE_TRAINING = {
    "mmlm": {"objectives.shares": '{"mmlm": 100}'},
    "camlm": {},
}
# A row of the paper's Table 6 -> its objectives, as in configs/pretrain/exp<n>.yaml. Row exp0 is the start,
# here random weights.
TABLE_6 = {
    "exp1": "mmlm",
    "exp2": "mmlm,tlm",
    "exp3": "mmlm,camlm",
    "exp4": "mmlm,btmlm,camlm",
    "exp5": "mmlm,btmlm,camlm,tlm",
}
# The page offers a sentence of each of the first five languages of its corpus, so several scripts come first.
# English stands before all of these.
CORPUS_LANGUAGES = ("ru", "ar", "zh", "es", "de", "fr", "tr", "el", "hi")
# Start -> the colour of its bars, which stand in this order.
COLOURS = {"scratch": "#bbbbbb", "mmlm": "#ccbb44", "camlm": "#4477aa"}
CHANCE = "#cc6677"
FONT = 'font-family="sans-serif" font-size="13" text-anchor="middle" style="background: white"'
FINE_TUNING = {
    "epoch": 2,
    "batch_size": 32,
    "max_seq_len": 64,
    "num_labels": 3,
    "learning_rate": 2e-3,
    "lr_schedule_style": "paddlenlp",
    "layerwise_lr_decay": 0.5,
    "weight_decay": 0.01,
    "warmup_proportion": 0.1,
    "do_train": "true",
    "do_val": "true",
    "do_test": "false",
    "predict_batch_size": 200,
    "validation_steps": 100_000,  # more than there are: only the last step is evaluated and saved
    "save_steps": 100_000,
    "skip_steps": 500,
}

# How the translations are searched -> the row of sweep.json. Random weights have no means to centre on, so
# they have the first row only.
SEARCHES = {
    "retrieval": "chosen, odd pairs",
    "retrieval_centred": "centred, chosen, odd pairs",
    "retrieval_centred_margin": "centred margin, chosen, odd pairs",
}

Rows = Mapping[str, Mapping[str, float]]  # start -> language -> per cent


@dataclass
class DemoFlags:
    """What is made."""

    seed: int = 1
    """The seed of the sample set, the weights and the order."""

    overwrite: bool = option(False, bare=True)
    """Delete an earlier demo, and begin again."""

    table6: bool = option(False, bare=True)
    """Pre-train with the five mixes of the paper's Table 6 instead, on the same sample set."""


def main() -> None:
    flags = load_config(DemoFlags, None, __doc__)
    seed = flags.seed
    started = time.monotonic()
    make_room(seed, flags.overwrite, flags.table6)

    print("\ndemo: after Ctrl-C the same command goes on with it", flush=True)
    print("demo: making a sample set in ten languages, its vocabulary, and a corpus", flush=True)
    setup_console()
    make_sample(seed)
    starts = ["scratch", *(TABLE_6 if flags.table6 else PRE_TRAINING)]
    print(f"\ndemo: training {len(starts)} models, two at a time; all output is in {LOGS}", flush=True)
    carry_out_chains([jobs_of(start, seed) for start in reversed(starts)], at_once=2)
    if flags.table6:
        show_table6(time.monotonic() - started)
    else:
        show(time.monotonic() - started)


def make_room(seed: int, overwrite: bool, table6: bool) -> None:
    """Make the folder of the demo, or go on with a demo that was broken off, or with Table 6 after it.

    Raises:
        UserError: there is a finished demo, or one of another seed, and it is not to be deleted.
    """
    if overwrite:
        shutil.rmtree(OUTPUT, ignore_errors=True)
    is_finished = PICTURE.exists() and not table6
    if OUTPUT.exists() and (is_finished or not SEED.exists()):
        raise UserError(
            f"{OUTPUT} holds an earlier demo: sh scripts/demo.sh --overwrite deletes it and begins again; "
            "rename the folder to keep it"
        )
    if SEED.exists() and read_json(SEED) != seed:
        raise UserError(
            f"{OUTPUT} holds a demo of another seed: --seed {read_json(SEED)} goes on with it, --overwrite "
            "deletes it"
        )
    write_json(SEED, seed)
    LOGS.mkdir(parents=True, exist_ok=True)


def job(name: str, program: str, flags: Mapping[str, object], result: Path) -> Job:
    """A job whose complete output goes to LOGS."""
    return Job(name, [program, *as_line(flags)], result, output=LOGS / f"{name.replace(' ', '-')}.log")


def vocabulary() -> dict[str, object]:
    """The flags that name the vocabulary of the sample set."""
    return {"vocab_path": SAMPLE / "vocab.txt", "piece_model_path": SAMPLE / "piece.model"}


def make_sample(seed: int) -> None:
    """Make the sample set with its vocabulary, a corpus of it, and the shape of the encoders."""
    if not SAMPLE.exists():
        write_sample(SAMPLE, seed, **SAMPLE_SET)
    command = ["-m", "ernie_m", "build_corpus"]
    command += as_line({"output": CORPUS, "documents": "blank", "held_out": 200} | vocabulary())
    for code in CODES:
        command += ["--mono", f"{code}<={SAMPLE}/mono/{code}.txt"]
    for code in CODES[1:]:  # all but English
        command += ["--parallel", f"en-{code}<={SAMPLE}/parallel/en-{code}.tsv"]
    carry_out_chains([[Job("corpus", command, output=LOGS / "corpus.log")]], at_once=1)
    vocab_size = len((SAMPLE / "vocab.txt").read_text(encoding="utf-8").splitlines())
    write_json(SHAPE, {"vocab_size": vocab_size} | read_yaml(CONFIG)["model"])


def jobs_of(start: str, seed: int) -> list[Job]:
    """The jobs of a start, one after the other: pre-training, fine-tuning on English, search.

    The pre-trained starts differ in the objectives alone. Random weights have no pre-training.
    """
    chain = []
    model = {"ernie_config_path": SHAPE, "random_seed": seed} | vocabulary()
    objectives = PRE_TRAINING.get(start)
    if start in TABLE_6:  # the mix has no shares, as the paper gives none
        objectives = {"objectives.active": TABLE_6[start], "objectives.shares": "{}"}
    if objectives is not None:
        flags = {"config": CONFIG, "run.output": OUTPUT / start, "run.seed": seed} | objectives
        encoder = OUTPUT / start / "encoder"  # pre-training writes it last
        chain.append(job(f"{start} pre-training", "run_pretrain.py", flags, encoder / "config.json"))
        model["init_pretraining_params"] = encoder
    inference = SAMPLE / "xnli"
    data = {
        "train_set": inference / "train/train.en.tsv",
        "dev_set": inference / "test/test.%s.tsv",  # only the last step is evaluated: nothing is chosen by it
        "label_map_config": inference / "label_map.json",
        "lang_map_config": inference / "lang_map.json",
        "checkpoints": OUTPUT / f"{start}-nli",
    }
    flags = FINE_TUNING | data | model
    chain.append(
        job(f"{start} fine-tuning", "run_classifier.py", flags, data["checkpoints"] / "results.json")
    )
    search = {
        "pairs": SAMPLE / "retrieval",
        "layer": "sweep",
        "untrained": "false",
        "max_seq_len": 64,
        "checkpoints": OUTPUT / f"{start}-retrieval",
    }
    scores = search["checkpoints"] / "sweep.json"
    chain.append(job(f"{start} search", "run_retrieval.py", search | model, scores))
    return chain


def show(seconds: float) -> None:
    """Print tables and, as JSON, the means over the languages that are not English; draw a picture."""
    measures = print_tables(COLOURS)
    draw(measures["zero_shot"], measures["retrieval"], measures["retrieval_centred"], PICTURE)
    print(f"\npicture: {PICTURE}")
    print_page([OUTPUT / "camlm" / "full", OUTPUT / "camlm-nli" / "best"])
    print_json(measures, seconds)


def show_table6(seconds: float) -> None:
    """Print the objectives of each row, the tables and, as JSON, the means as `show` does."""
    print("\nTable 6")
    for row, objectives in TABLE_6.items():
        print(f"{row}: {objectives}")
    print_json(print_tables(["scratch", *TABLE_6]), seconds)


def read_zero_shot(starts: Iterable[str]) -> Rows:
    """The accuracy of each start in each language, after fine-tuning on English."""
    zero_shot: dict[str, dict[str, float]] = {}
    for start in starts:
        (accuracy_table,) = read_json(OUTPUT / f"{start}-nli" / "results.json")["tables"]
        scores = accuracy_table["mean"]  # over the seeds, of which there is one
        zero_shot[start] = {code: scores[code] for code in CODES}
    return zero_shot


def read_searches(starts: Iterable[str]) -> dict[str, Rows]:
    """The translations that each start has found, by the keys of SEARCHES.

    The layer of each search is chosen on one half of the sentences. The other half is reported: the mean of
    both directions.
    """
    searches: dict[str, dict[str, dict[str, float]]] = {search: {} for search in SEARCHES}
    for start in starts:
        sweep = read_json(OUTPUT / f"{start}-retrieval" / "sweep.json")["rows"]
        for search, row in SEARCHES.items():
            if row in sweep:
                searches[search][start] = {code: sweep[row][code] for code in CODES[1:]}
    return searches


def print_tables(starts: Iterable[str]) -> dict[str, Rows]:
    """Print a table of the accuracy of the starts and one of each search; return them by their keys."""
    measures = {"zero_shot": read_zero_shot(starts), **read_searches(starts)}
    print(f"\nzero-shot accuracy, per cent (chance 33.3)\n{table(measures['zero_shot'])}")
    print(f"\ntranslations found, per cent\n{table(measures['retrieval'])}")
    print(f"\ntranslations found with centred vectors, per cent\n{table(measures['retrieval_centred'])}")
    print(f"\nthe same, by margin\n{table(measures['retrieval_centred_margin'])}")
    return measures


def print_page(models: Sequence[Path]) -> None:
    """Print the command of the page, which searches sentences of several languages.

    Args:
        models: the models that the page offers.
    """
    folder = SAMPLE / "retrieval"
    texts = [f"en<={folder}/de-en.en"]
    texts += [f"{code}<={folder}/{code}-en.{code}" for code in CORPUS_LANGUAGES]
    flags = as_line({"model": ",".join(map(str, models)), "corpus": ",".join(texts), "top_k": 10})
    command = shlex.join([".venv/bin/ernie-m", "predict", "--serve", *flags])
    print(f"\ntry it in the browser, at http://127.0.0.1:8000:\n{command}")


def print_json(measures: Mapping[str, Rows], seconds: float) -> None:
    """Print the last line: the mean of each start in each measure, and the seconds."""
    result: dict[str, object] = {}
    for measure, rows in measures.items():
        result[measure] = {start: mean(row) for start, row in rows.items()}
    result["seconds"] = round(seconds, 1)
    print(json.dumps(result))


def mean(row: Mapping[str, float]) -> float:
    """The mean over the languages that are not English, with two decimals."""
    return round(float(np.mean([value for code, value in row.items() if code != "en"])), 2)


def table(rows: Rows) -> str:
    """A line for each start, a column for each language, then the mean over those that are not English."""
    languages = next(iter(rows.values()))  # those of the first start; all have the same
    lines = [["", *languages, "mean"]]
    for start, row in rows.items():
        lines.append([start, *(f"{value:.1f}" for value in (*row.values(), mean(row)))])
    return in_columns(lines)


def draw(zero_shot: Rows, plain: Rows, centred: Rows, path: Path) -> None:
    """Draw bars for each language and start: the accuracy, with chance as a line, and both searches."""
    charts = {
        "Accuracy after fine-tuning on English only, in per cent": zero_shot,
        "Translations found, to and from English, in per cent": plain,
        "Translations found after each vector loses the mean of its language, in per cent": centred,
    }
    shapes = []
    for number, (title, rows) in enumerate(charts.items()):
        bottom = 300 * number + 260  # where the bars end below; they have 2 pixels for each per cent
        place = f'x="40" y="{bottom - 225}"'
        shapes.append(f'<text {place} font-size="16" text-anchor="start">{title}</text>')
        shapes += bars(rows, bottom)
        shapes.append(f'<path d="M40 {bottom}H880" stroke="black"/>')
    for number, (start, colour) in enumerate({**COLOURS, "chance": CHANCE}.items()):
        place = f'x="{560 + 90 * number}" y="35"'
        shapes.append(f'<text {place} fill="{colour}" font-size="14" font-weight="bold">{start}</text>')
    shapes.append(f'<path d="M40 193.3H880" stroke="{CHANCE}"/>')  # a third of 200 pixels above 260
    text = "\n".join(shapes)
    picture = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 890" {FONT}>\n{text}\n</svg>\n'
    path.write_text(picture, encoding="utf-8")


def bars(rows: Rows, bottom: int) -> list[str]:
    """The bars of a chart with their figures, and the languages below them.

    Args:
        bottom: the lower end of the bars, in pixels from above.
    """
    shapes = []
    for number, language in enumerate(next(iter(rows.values()))):  # all starts have the same languages
        middle = 84 * number + 82
        shapes.append(f'<text x="{middle}" y="{bottom + 17}">{language}</text>')
        for place, (start, colour) in enumerate(COLOURS.items()):
            if start in rows:
                value = rows[start][language]
                left = middle - 33 + 22 * place
                top = bottom - 2 * value
                shapes.append(
                    f'<rect x="{left}" y="{top:.1f}" width="21" height="{2 * value:.1f}" fill="{colour}"/>'
                    f'<text x="{left + 10.5}" y="{top - 3:.1f}" font-size="11">{value:.0f}</text>'
                )
    return shapes


if __name__ == "__main__":
    run(main)
