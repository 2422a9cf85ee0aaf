"""The demo behind scripts/demo.sh: what ERNIE-M's pre-training is for, in minutes, on a generated sample set.

Three encoders of one shape learn a task from English alone and are tested on every language: one starts from
random weights, one from monolingual text (MMLM), one from the full strategy (MMLM, TLM, CAMLM and BTMLM) on
the same number of tokens. docs/demo.md says more.
"""

import argparse
import json
import shutil
import time
from pathlib import Path

from scripts.demo_jobs import Jobs
from scripts.sample.languages import CODES
from utils.config import read_yaml
from utils.errors import run
from utils.runtime import prepare

OUTPUT = Path("output/demo")
SAMPLE, CORPUS, LOGS = OUTPUT / "sample", OUTPUT / "corpus", OUTPUT / "logs"
CONFIG, SHAPE = Path("configs/pretrain/sample.yaml"), OUTPUT / "ernie_config.json"
SAMPLE_SET = {"documents": 3000, "pairs": 8000, "hypotheses": 9000}
OBJECTIVES = {"mmlm": "[mmlm]", "full": "[mmlm, tlm, camlm, btmlm]"}
STARTS = ("scratch", "mmlm", "full")
FINE_TUNING = {
    "epoch": 2, "batch_size": 32, "learning_rate": 2e-3, "lr_schedule_style": "paddlenlp",
    "layerwise_lr_decay": 0.5, "weight_decay": 0.01, "warmup_proportion": 0.1, "max_seq_len": 64,
    "num_labels": 3, "predict_batch_size": 200, "skip_steps": 500,
    "validation_steps": 100_000, "save_steps": 100_000,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1, help="of the sample set, the weights and the order")
    seed = parser.parse_args().seed
    started = time.monotonic()
    shutil.rmtree(OUTPUT, ignore_errors=True)  # an earlier demo, finished or not

    with Jobs(LOGS) as jobs:
        say("a sample set in ten languages, its vocabulary, a corpus for pre-training")
        make_sample(jobs, seed)
        say(f"pre-training and fine-tuning on English, one core each; all that is said goes to {LOGS}")
        jobs.side_by_side(
            [
                lambda: (pretrain(jobs, "full", seed), fine_tune(jobs, "full", seed)),
                lambda: (pretrain(jobs, "mmlm", seed), fine_tune(jobs, "mmlm", seed)),
                lambda: fine_tune(jobs, "scratch", seed),
            ]
        )
    say("finding translations")
    show(zero_shot(), retrieval(seed), started)


def make_sample(jobs: Jobs, seed: int) -> None:
    """Inference pairs, text, sentence pairs, sentences to retrieve; a vocabulary; a corpus; the shape."""
    jobs.call("sample", "-m", "scripts.sample.write", *flags({"out": SAMPLE, "seed": seed} | SAMPLE_SET))
    text = [("--mono", f"{code}<={SAMPLE}/mono/{code}.txt") for code in CODES]
    text += [("--parallel", f"en-{code}<={SAMPLE}/parallel/en-{code}.tsv") for code in CODES[1:]]
    jobs.call(
        "corpus", "-m", "pretrain.build_corpus", *(part for pair in text for part in pair),
        *flags({
            "output": CORPUS, "documents": "blank", "held_out": 200,
            "vocab_path": SAMPLE / "vocab.txt", "piece_model_path": SAMPLE / "piece.model",
        }),
    )  # fmt: skip
    vocabulary = (SAMPLE / "vocab.txt").read_text(encoding="utf-8").splitlines()
    shape = {"vocab_size": len(vocabulary)} | read_yaml(CONFIG)["model"]
    SHAPE.write_text(json.dumps(shape, indent=2) + "\n", encoding="utf-8")


def pretrain(jobs: Jobs, start: str, seed: int) -> None:
    """A run of run_pretrain.py: the configuration is the same for all but the objectives."""
    changes = {"run.output": OUTPUT / start, "run.seed": seed, "objectives.active": OBJECTIVES[start]}
    jobs.call(f"{start} pre-training", "run_pretrain.py", *flags({"config": CONFIG} | changes))


def fine_tune(jobs: Jobs, start: str, seed: int) -> None:
    """A run of run_classifier.py: English training pairs, test pairs of every language, one set of flags."""
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
    jobs.call(f"{start} fine-tuning", "run_classifier.py", *flags(FINE_TUNING | files))


def zero_shot() -> dict[str, dict[str, float]]:
    """start -> language -> accuracy in per cent, as run_classifier.py reported them."""
    found = {}
    for start in STARTS:
        results = json.loads((OUTPUT / f"{start}-nli" / "results.json").read_text(encoding="utf-8"))
        found[start] = {code: results["tables"][0]["mean"][code] for code in CODES}
    return found


def retrieval(seed: int) -> dict[str, dict[str, float]]:
    """start -> language -> translations found, in per cent."""
    prepare(quiet=True)
    from scripts.demo_report import translations_found  # imports paddle, which needs the line above

    weights = {start: OUTPUT / start / "encoder" if start in OBJECTIVES else None for start in STARTS}
    return {start: translations_found(SAMPLE, SHAPE, seed, weights[start]) for start in STARTS}


def show(zero_shot: dict, retrieval: dict, started: float) -> None:
    """Two tables, a picture, and the means over the languages that are not English as JSON."""
    from scripts.demo_report import draw, mean, table

    print(f"\nzero-shot accuracy, per cent (chance 33.3)\n{table(zero_shot)}")
    print(f"\ntranslations found, per cent\n{table(retrieval)}")
    print(f"\npicture: {draw(zero_shot, retrieval, OUTPUT / 'demo.png')}")
    found = {"zero_shot": zero_shot, "retrieval": retrieval}
    means = {what: {start: mean(row) for start, row in rows.items()} for what, rows in found.items()}
    print(json.dumps(means | {"seconds": round(time.monotonic() - started, 1)}))


def flags(values: dict) -> list[str]:
    """{"seed": 1} -> ["--seed", "1"]."""
    return [part for name, value in values.items() for part in (f"--{name}", str(value))]


def say(what: str) -> None:
    print(f"\ndemo: {what}", flush=True)


if __name__ == "__main__":
    run(main)
