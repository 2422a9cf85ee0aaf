"""The demo behind scripts/demo.sh: sample set, vocabulary, fine-tuning on English, a table and a picture.

The encoder starts from random weights, so what it learns of English stays with English: languages that share
no words with it score about 33 %, the share of each label. docs/demo.md says more.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from utils.errors import UserError, run

OUTPUT = Path("output/demo")
HYPOTHESES = 9_000  # of the training set, with three premises each
# Narrow and shallow, for a few minutes on a CPU; the family's 0.02 is too small a start at this width.
SHAPE = {
    "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 8, "max_position_embeddings": 66,
    "initializer_range": 0.12, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
FINE_TUNING = {
    "epoch": 4, "batch_size": 32, "learning_rate": 1e-3, "lr_schedule_style": "paddlenlp",
    "layerwise_lr_decay": 1.0, "weight_decay": 0.01, "warmup_proportion": 0.1, "max_seq_len": 64,
    "num_labels": 3, "predict_batch_size": 200, "skip_steps": 100,
    "validation_steps": 100_000, "save_steps": 100_000,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1, help="of the sample set and the weights")
    options = parser.parse_args()
    started = time.monotonic()
    make_sample(options.seed)
    accuracy = fine_tune(options.seed)
    print(f"\npicture: {draw(accuracy)}")
    seconds = round(time.monotonic() - started, 1)
    print(json.dumps({"accuracy": accuracy, "seconds": seconds}))


def make_sample(seed: int) -> None:
    """output/demo/sample: text, sentence pairs, inference pairs, and a vocabulary of them."""
    step("sample set and vocabulary")
    call(
        "-m", "scripts.sample.write", "--out", OUTPUT / "sample", "--seed", seed, "--hypotheses", HYPOTHESES
    )  # fmt: skip


def fine_tune(seed: int) -> dict[str, float]:
    """Train on English and test every language, with the command a user would type: language -> per cent."""
    step("fine-tuning on English, testing every language")
    sample, folder = OUTPUT / "sample", OUTPUT / "scratch"
    vocabulary = (sample / "vocab.txt").read_text(encoding="utf-8").splitlines()
    config = OUTPUT / "ernie_config.json"
    config.write_text(json.dumps({"vocab_size": len(vocabulary), **SHAPE}, indent=2) + "\n", encoding="utf-8")
    flags = FINE_TUNING | {
        "ernie_config_path": config,
        "vocab_path": sample / "vocab.txt", "piece_model_path": sample / "piece.model",
        "train_set": sample / "xnli/train/train.en.tsv", "dev_set": sample / "xnli/test/test.%s.tsv",
        "label_map_config": sample / "xnli/label_map.json", "lang_map_config": sample / "xnli/lang_map.json",
        "do_train": "true", "do_val": "true", "do_test": "false", "checkpoints": folder, "random_seed": seed,
    }  # fmt: skip
    call("run_classifier.py", *(part for flag, value in flags.items() for part in (f"--{flag}", value)))
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return {language: round(score, 2) for language, score in results["tables"][0]["mean"].items()}


def draw(accuracy: dict[str, float]) -> Path:
    """A bar per language, and the line of chance."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    scores = {language: score for language, score in accuracy.items() if language not in ("avg", "gap")}
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.bar_label(axis.bar(list(scores), list(scores.values()), color="#4477aa"), fmt="%.0f", fontsize=8)
    axis.axhline(100 / 3, color="#cc6677", linewidth=1, label="chance")
    axis.set_title("From random weights, fine-tuned on English only")
    axis.set(ylabel="accuracy, per cent", ylim=(0, 105))
    axis.legend(fontsize=8)
    path = OUTPUT / "accuracy.png"
    figure.savefig(path, dpi=120)
    return path


def step(what: str) -> None:
    print(f"\ndemo: {what}", flush=True)


def call(*command: object) -> None:
    """Run a command of the project with this Python, its output shown.

    Raises:
        UserError: it failed; its own message stands above.
    """
    if subprocess.run([sys.executable, *map(str, command)], check=False).returncode:
        raise UserError(f"the demo stopped at {command[0]}; its message stands above")


if __name__ == "__main__":
    run(main)
