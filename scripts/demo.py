"""The demo behind scripts/demo.sh: what ERNIE-M's pre-training is for, in minutes, on a generated sample set.

Three encoders of one shape learn a task from English alone and are tested on every language. One starts
from random weights, one from pre-training on monolingual text (MMLM), and one from pre-training with the
full strategy (MMLM, TLM, CAMLM and BTMLM) on the same number of tokens. docs/demo.md says more.
"""

import argparse
import json
import shlex
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import yaml

from scripts.jobs import Job, as_line, carry_out_chains
from scripts.sample.scenes import CODES
from utils.errors import run
from utils.runtime import prepare

OUTPUT = Path("output/demo")
SAMPLE, CORPUS, LOGS = OUTPUT / "sample", OUTPUT / "corpus", OUTPUT / "logs"
CONFIG, SHAPE = Path("configs/pretrain/sample.yaml"), OUTPUT / "ernie_config.json"
SAMPLE_SET = {"documents": 3000, "pairs": 8000, "hypotheses": 9000}
OBJECTIVES = {"mmlm": "[mmlm]", "full": "[mmlm, tlm, camlm, btmlm]"}
COLOURS = {"scratch": "#bbbbbb", "mmlm": "#ccbb44", "full": "#4477aa"}  # of every start, in this order
FINE_TUNING = {
    "epoch": 2, "batch_size": 32, "learning_rate": 2e-3, "lr_schedule_style": "paddlenlp",
    "layerwise_lr_decay": 0.5, "weight_decay": 0.01, "warmup_proportion": 0.1, "max_seq_len": 64,
    "num_labels": 3, "predict_batch_size": 200, "skip_steps": 500,
    "validation_steps": 100_000, "save_steps": 100_000,
}  # fmt: skip

Rows = Mapping[str, Mapping[str, float]]  # start -> language -> per cent


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1, help="of the sample set, the weights and the order")
    seed = parser.parse_args().seed
    started = time.monotonic()
    shutil.rmtree(OUTPUT, ignore_errors=True)  # an earlier demo, finished or not
    LOGS.mkdir(parents=True)

    say("making a sample set in ten languages, its vocabulary, and a corpus for pre-training")
    make_sample(seed)
    say(f"pre-training, and fine-tuning on English, on one core each; the complete output is in {LOGS}")
    chains = [[pretraining(start, seed), fine_tuning(start, seed)] for start in ("full", "mmlm")]
    carry_out_chains([*chains, [fine_tuning("scratch", seed)]], at_once=2)
    say("finding translations")
    show(zero_shot(), retrieval(seed), time.monotonic() - started)


def job(name: str, *command: object) -> Job:
    """A job whose complete output goes to LOGS."""
    return Job(name, command, output=LOGS / f"{name.replace(' ', '-')}.log")


def make_sample(seed: int) -> None:
    """Make the sample set with its vocabulary, a corpus of it, and the shape of the encoders."""
    sample = job("sample", "-m", "scripts.sample.write", *as_line({"out": SAMPLE, "seed": seed} | SAMPLE_SET))
    text = [("--mono", f"{code}<={SAMPLE}/mono/{code}.txt") for code in CODES]
    text += [("--parallel", f"en-{code}<={SAMPLE}/parallel/en-{code}.tsv") for code in CODES[1:]]
    files = {"vocab_path": SAMPLE / "vocab.txt", "piece_model_path": SAMPLE / "piece.model"}
    flags = as_line({"output": CORPUS, "documents": "blank", "held_out": 200} | files)
    corpus = job("corpus", "-m", "pretrain.build_corpus", *(part for pair in text for part in pair), *flags)
    carry_out_chains([[sample, corpus]], at_once=1)
    vocabulary = (SAMPLE / "vocab.txt").read_text(encoding="utf-8").splitlines()
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    shape = {"vocab_size": len(vocabulary)} | config["model"]
    SHAPE.write_text(json.dumps(shape, indent=2) + "\n", encoding="utf-8")


def pretraining(start: str, seed: int) -> Job:
    """A run of run_pretrain.py. Only the objectives differ between the starts."""
    flags = {"run.output": OUTPUT / start, "run.seed": seed, "objectives.active": OBJECTIVES[start]}
    return job(f"{start} pre-training", "run_pretrain.py", *as_line({"config": CONFIG} | flags))


def fine_tuning(start: str, seed: int) -> Job:
    """A run of run_classifier.py on English training pairs, tested on every language, with equal flags."""
    nli = SAMPLE / "xnli"
    files = {
        "ernie_config_path": SHAPE,
        "vocab_path": SAMPLE / "vocab.txt", "piece_model_path": SAMPLE / "piece.model",
        "train_set": nli / "train/train.en.tsv", "dev_set": nli / "test/test.%s.tsv",
        "label_map_config": nli / "label_map.json", "lang_map_config": nli / "lang_map.json",
        "do_train": "true", "do_val": "true", "do_test": "false",
        "checkpoints": OUTPUT / f"{start}-nli", "random_seed": seed,
    }  # fmt: skip
    if start in OBJECTIVES:
        files["init_pretraining_params"] = OUTPUT / start / "encoder"
    return job(f"{start} fine-tuning", "run_classifier.py", *as_line(FINE_TUNING | files))


def zero_shot() -> Rows:
    """The accuracies that run_classifier.py reported, in per cent."""
    found = {}
    for start in COLOURS:
        results = json.loads((OUTPUT / f"{start}-nli" / "results.json").read_text(encoding="utf-8"))
        found[start] = {code: results["tables"][0]["mean"][code] for code in CODES}
    return found


def retrieval(seed: int) -> Rows:
    """How often the nearest sentence, by cosine of the means over tokens, is the translation, in per cent.

    The layer is chosen on one half of the sentences. The other half is reported: the mean of both directions.
    """
    prepare(quiet=True)
    import paddle

    from evaluation.encode import encode
    from evaluation.retrieval import choose_on_half
    from model.checkpoint.folder import load_from
    from model.ernie_m import ErnieMConfig, ErnieMModel
    from reader.tokenization import Tokenizer

    tokenizer = Tokenizer.from_folder(SAMPLE)
    found: dict[str, dict[str, float]] = {}
    for start in COLOURS:
        paddle.seed(seed)
        model = ErnieMModel(ErnieMConfig.from_json(SHAPE))
        if start in OBJECTIVES:
            load_from(model, OUTPUT / start / "encoder")

        def vectors(path: Path, model=model) -> np.ndarray:
            ids = tokenizer.encode_batch(path.read_text(encoding="utf-8").splitlines())
            return encode(model, [np.array([tokenizer.cls_id, *line, tokenizer.sep_id]) for line in ids])

        found[start] = {}
        for code in CODES[1:]:
            src, tgt = (vectors(SAMPLE / "retrieval" / f"{code}-en.{side}") for side in (code, "en"))
            found[start][code] = 100 * float(choose_on_half(src, tgt).mean)
    return found


def show(zero_shot: Rows, retrieval: Rows, seconds: float) -> None:
    """Print two tables and, as JSON, the means over the languages that are not English; draw a picture."""
    print(f"\nzero-shot accuracy, per cent (chance 33.3)\n{table(zero_shot)}")
    print(f"\ntranslations found, per cent\n{table(retrieval)}")
    draw(zero_shot, retrieval, OUTPUT / "demo.png")
    print(f"\npicture: {OUTPUT / 'demo.png'}")
    found = {"zero_shot": zero_shot, "retrieval": retrieval}
    means = {what: {start: mean(row) for start, row in rows.items()} for what, rows in found.items()}
    command = shlex.join([".venv/bin/python", "predict.py", "--serve", *page_flags()])
    print(f"\ntry it in the browser, at http://127.0.0.1:8000:\n{command}")
    print(json.dumps(means | {"seconds": round(seconds, 1)}))


def page_flags() -> list[str]:
    """The flags of predict.py --serve: the full strategy's models, and the sentences in ten languages."""
    names = ["de-en.en", *(f"{code}-en.{code}" for code in CODES[1:])]
    corpus = ",".join(f"{code}<={SAMPLE}/retrieval/{name}" for code, name in zip(CODES, names))
    models = f"{OUTPUT / 'full' / 'full'},{OUTPUT / 'full-nli' / 'best'}"
    return ["--model", models, "--corpus", corpus, "--top_k", "10"]


def mean(row: Mapping[str, float]) -> float:
    """The mean over the languages that are not English, with two decimals."""
    return round(float(np.mean([value for code, value in row.items() if code != "en"])), 2)


def table(rows: Rows) -> str:
    """A line for each start, a column for each language, then the mean over those that are not English."""
    from finetune.report import in_columns

    lines = [["", *next(iter(rows.values())), "mean"]]
    for start, row in rows.items():
        lines.append([start, *(f"{value:.1f}" for value in (*row.values(), mean(row)))])
    return in_columns(lines)


def draw(zero_shot: Rows, retrieval: Rows, path: Path) -> None:
    """Draw bars for each language and start, and chance as a line."""
    from matplotlib.figure import Figure  # which needs no display

    figure = Figure(figsize=(9, 6), layout="constrained")
    upper, lower = figure.subplots(2)
    for axis, rows in ((upper, zero_shot), (lower, retrieval)):
        for place, (start, row) in enumerate(rows.items()):
            left = np.arange(len(row)) + (place - 1) * 0.27
            bars = axis.bar(left, list(row.values()), width=0.26, color=COLOURS[start], label=start)
            axis.bar_label(bars, fmt="%.0f", fontsize=7)
        axis.set_xticks(np.arange(len(row)), list(row))
        axis.set(ylabel="per cent", ylim=(0, 108))
    upper.axhline(100 / 3, color="#cc6677", linewidth=1, label="chance")
    upper.set_title("Accuracy after fine-tuning on English only")
    lower.set_title("Translations found, to and from English")
    upper.legend(fontsize=8, ncols=4)
    figure.savefig(path, dpi=120)


def say(what: str) -> None:
    print(f"\ndemo: {what}", flush=True)


if __name__ == "__main__":
    run(main)
