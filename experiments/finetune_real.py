"""Fine-tune pre-trained encoders, and their shape from random weights, on real data with equal flags.

    python -m experiments.finetune_real ner --runs output/real15/runs --data "$DATA" --output output/ner-runs

Each run is <output>/<start>-<seed>: trained on English, evaluated in every language. Then tables of mean and
deviation, also as results.md and results.json; the last line is one of JSON. What is finished is not run
again. Further flags (`--epoch 1`) go to every run of the task's entry point. See experiments/starts.py.
"""

import argparse
import json
from pathlib import Path

from experiments import starts
from experiments.real_tasks import SHARED, TASKS, answers_in_context, label_map, make_layout
from experiments.side_by_side import Job, as_line, carry_out
from utils.errors import UserError, run
from utils.files import atomic_file

PAIRS = "mlqa-dev/dev-context-%s-question-%s.json"


def training(args: argparse.Namespace, layout: Path, start: str, seed: int, further: list[str]) -> Job:
    """One start and seed."""
    task, folder = TASKS[args.task], args.output / f"{start}-{seed}"
    model = starts.encoder(args.runs, start, seed)
    flags = SHARED | task.flags | {
        "ernie_config_path": model / "config.json", "vocab_path": model / "vocab.txt",
        "piece_model_path": model / "piece.model", "train_set": layout / task.train,
        "dev_set": layout / task.dev, "test_set": layout / task.dev,
        "test_save": folder / "predictions" / "test.%s.json", "label_map_config": label_map(layout) or "",
        "lang_map_config": args.output / "lang_map.json", "checkpoints": folder, "random_seed": seed,
    }  # fmt: skip
    if start != starts.SCRATCH:
        flags["init_pretraining_params"] = model
    line = [task.program, *as_line(flags), *further]
    return Job(folder.name, line, folder / "results.json", folder / "log")


def pairs_of_languages(args: argparse.Namespace, layout: Path, trained: Job) -> Job:
    """Questions in one language on texts in another, for a model that is trained."""
    folder, own = trained.result.parent, TASKS[args.task].flags
    flags = {
        "do_train": "false", "init_checkpoint": folder / "best", "gxlt_set": layout / PAIRS,
        "lang_map_config": args.output / "pairs_lang_map.json", "checkpoints": folder / "mlqa",
        **{name: own[name] for name in own if name.startswith(("max_", "doc_", "predict_"))},
    }  # fmt: skip
    line, folder = ["run_mrc.py", *as_line(flags)], folder / "mlqa"
    return Job(trained.name + " mlqa", line, folder / "gxlt.json", folder / "log")


def read_tables(path: Path) -> list[dict]:
    """The tables of a finished run."""
    return json.loads(path.read_text(encoding="utf-8"))["tables"]


def tables_of(args: argparse.Namespace, jobs: dict[tuple[str, int], Job]) -> dict[str, starts.Scores]:
    """Title -> start -> seed -> language -> per cent."""
    found: dict[str, dict] = {}
    for (start, seed), job in jobs.items():
        for table in read_tables(job.result):
            metric = table["title"].split(",")[0]
            if metric in TASKS[args.task].metrics:
                scores = table["seeds"][str(seed)]
                row = {language: scores[language] for language in args.languages}
                found.setdefault(f"{TASKS[args.task].title}, {metric}", {}).setdefault(start, {})[seed] = row
        pairs = job.result.parent / "mlqa" / "gxlt.json"
        for table in read_tables(pairs) if pairs.is_file() else ():
            metric = table["metric"]
            found.setdefault(f"MLQA dev, {metric}", {}).setdefault(start, {})[seed] = table["xlt"]
            crossed = {
                f"{context}-{question}": value
                for context, row in table["scores"].items()
                for question, value in row.items()
                if context != question
            }
            if crossed:
                title = f"MLQA dev, text-question, {metric}"
                found.setdefault(title, {}).setdefault(start, {})[seed] = crossed
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("task", choices=TASKS)
    starts.add_arguments(parser)
    args, further = parser.parse_known_args()
    task, layout = TASKS[args.task], args.output / "data"
    wanted, lower = starts.choose_starts(args), starts.is_lower_case(args)
    if not any(path for pattern in task.sources for path in args.data.glob(pattern)):
        raise UserError(
            f"{args.data}: no {' or '.join(task.sources)} there; --data names the folder of real data"
        )
    make_layout(task, args.data, layout, lower, args.output / "text")
    args.languages = starts.languages_of(args, task.languages(layout))
    maps = {"lang_map.json": args.languages}
    if args.task == "qa":
        here = {path.name.split("-")[2] for path in (layout / "mlqa-dev").glob("*.json")}
        maps["pairs_lang_map.json"] = starts.languages_of(
            argparse.Namespace(**{**vars(args), "languages": None}),
            sorted(here, key=lambda x: (x != "en", x)),
        )
    for name, languages in maps.items():
        with atomic_file(args.output / name, "w") as file:
            json.dump({language: number for number, language in enumerate(languages)}, file)

    jobs = {
        (start, seed): training(args, layout, start, seed, further) for seed in args.seeds for start in wanted
    }
    carry_out(list(jobs.values()), args.at_once)
    facts: dict = {"seeds": args.seeds, "lower_case": lower}
    if args.task == "qa":
        carry_out([pairs_of_languages(args, layout, job) for job in jobs.values()], args.at_once)
        checks = [answers_in_context(layout, job.result.parent / "predictions") for job in jobs.values()]
        facts |= {name: sum(check[name] for check in checks) for name in checks[0]}
    starts.report(args.output, args.task, tables_of(args, jobs), **facts)


if __name__ == "__main__":
    run(main)
