"""Fine-tune the models of experiments.pretrain_real, and their shape from random weights, with equal flags.

    python -m experiments.finetune_real --runs output/real4/runs --data output/real4/xnli \\
        --languages en de fr --output output/real4/xnli-runs

Each run is <output>/<start>-<seed>: the model of a seed is fine-tuned with that seed on
<data>/train/train.en.tsv, and dev/dev.<language>.tsv is scored at the epoch that is best in English. Then a
table, also as results.md and results.json. What is finished is not run again. Further flags (`--epoch 1`) go
to every run of run_classifier.py.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from experiments.pretrain_real import STRATEGIES
from experiments.side_by_side import Job, carry_out
from utils.errors import UserError, run
from utils.files import atomic_file

SCRATCH = "scratch"
FLAGS = {
    "epoch": 2, "batch_size": 32, "learning_rate": 5e-4, "lr_schedule_style": "paddlenlp",
    "layerwise_lr_decay": 1.0, "weight_decay": 0.01, "warmup_proportion": 0.1, "max_seq_len": 64,
    "num_labels": 3, "predict_batch_size": 128, "skip_steps": 100,
    "validation_steps": 1_000_000, "save_steps": 1_000_000, "select_on": "en",
    "do_train": "true", "do_val": "true", "do_test": "false",
}  # fmt: skip


def job(args: argparse.Namespace, start: str, seed: int, further: list[str]) -> Job:
    """One start and seed. Random weights have the shape and the vocabulary of the full strategy's model."""
    model = args.runs / f"{'full' if start == SCRATCH else start}-{seed}" / "encoder"
    if not (model / "model.safetensors").is_file():
        raise UserError(f"{model}: no finished pre-training run there; run experiments.pretrain_real first")
    folder = args.output / f"{start}-{seed}"
    languages = args.output / "lang_map.json"
    flags = FLAGS | {
        "ernie_config_path": model / "config.json", "vocab_path": model / "vocab.txt",
        "piece_model_path": model / "piece.model", "train_set": args.data / "train/train.en.tsv",
        "dev_set": args.data / "dev/dev.%s.tsv", "label_map_config": args.data / "label_map.json",
        "lang_map_config": languages, "checkpoints": folder, "random_seed": seed,
    }  # fmt: skip
    if start != SCRATCH:
        flags["init_pretraining_params"] = model
    command = [
        "run_classifier.py",
        *(str(part) for flag in flags.items() for part in ("--" + flag[0], flag[1])),
    ]
    return Job(folder.name, [*command, *further], folder / "results.json")


def accuracies(folder: Path) -> dict[str, float]:
    """language -> per cent of a finished run."""
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))["tables"][0]["mean"]


def table(results: dict[str, list[dict[str, float]]], languages: list[str]) -> str:
    """A row per start: the mean over the seeds and each seed's value, in Markdown."""
    lines = [
        f"| start | {' | '.join(languages)} | mean without en |",
        "|---|" + "---:|" * (len(languages) + 1),
    ]
    for start, runs in results.items():
        columns = [[scores[language] for scores in runs] for language in languages]
        others = [values for language, values in zip(languages, columns) if language != "en"]
        columns.append(np.mean(others, axis=0).tolist())
        cells = [f"{np.mean(values):.1f} ({', '.join(f'{v:.1f}' for v in values)})" for values in columns]
        lines.append(f"| {start} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--runs", required=True, type=Path, help="output folder of experiments.pretrain_real")
    add("--data", required=True, type=Path, help="folder written by scripts/data/prepare_xnli.py")
    add("--output", required=True, type=Path)
    add("--languages", nargs="+", default=["en", "de", "fr"])
    add("--starts", nargs="+", default=[SCRATCH, *STRATEGIES], choices=[SCRATCH, *STRATEGIES])
    add("--seeds", nargs="+", type=int, default=[1, 2])
    add("--at_once", type=int, default=2)
    args, further = parser.parse_known_args()
    jobs = {(start, seed): job(args, start, seed, further) for start in args.starts for seed in args.seeds}
    args.output.mkdir(parents=True, exist_ok=True)
    with atomic_file(args.output / "lang_map.json", "w") as file:
        json.dump({language: language for language in args.languages}, file)
    carry_out(list(jobs.values()), args.at_once)
    results = {
        start: [accuracies(jobs[start, seed].result.parent) for seed in args.seeds] for start in args.starts
    }
    print(table(results, args.languages))
    for name, text in (("results.md", table(results, args.languages)), ("results.json", json.dumps(results))):
        with atomic_file(args.output / name, "w") as file:
            file.write(text + "\n")


if __name__ == "__main__":
    run(main)
