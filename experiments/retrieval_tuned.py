"""Retrieval from pre-trained encoders and from random weights, before and after fine-tuning on parallel text.

    python -m experiments.retrieval_tuned --runs output/real15/runs --data "$DATA" --output output/tuned

Fine-tuning is that of run_retrieval.py (hardest-negative binary cross-entropy) on DATA/pretrain/parallel,
searched are the pairs of DATA/retrieval/tatoeba-style-dev. The layer of each model is chosen on pairs of the
parallel text that are held out for it. Then tables, also as results.md and results.json; the last line is one
of JSON. What is finished is not run again. Further flags go to every fine-tuning. See experiments/starts.py.
"""

import argparse
import gzip
import json
from pathlib import Path

from experiments import starts
from experiments.side_by_side import Job, as_line, carry_out
from utils.errors import UserError, run
from utils.files import atomic_file

TUNED = "tuned"
DEV_PAIRS = 200  # of each language, and at most a tenth of its parallel text
FLAGS = {
    "do_train": "true", "layer": "top", "batch_size": 64, "learning_rate": 1e-3,
    "lr_schedule_style": "paddlenlp", "weight_decay": 0.01, "max_seq_len": 64, "validation_steps": 1000,
    "validation_pairs": 200, "save_steps": 1_000_000, "skip_steps": 100, "keep_checkpoints": 1,
}  # fmt: skip


def split_pairs(source: Path, language: str, output: Path, lower: bool) -> None:
    """DATA's parallel text of a language -> text/en-<l>.tsv to train on, dev/<l>-en.{<l>,en} for the layer.

    A pair that shares a sentence with a dev pair is left out of the training text.
    """
    text = gzip.decompress(source.read_bytes()).decode("utf-8")
    lines = (text.lower() if lower else text).removesuffix("\n").split("\n")
    rows = [tuple(line.split("\t")) for line in lines]
    if wrong := next((number for number, row in enumerate(rows, 1) if len(row) != 2), None):
        raise UserError(f"{source}, line {wrong}: not english, tab, {language}")
    dev = rows[: min(DEV_PAIRS, len(rows) // 10)]
    used = {sentence for row in dev for sentence in row}
    kept = [row for row in rows if used.isdisjoint(row)]
    contents = {
        output / "text" / f"en-{language}.tsv": ["\t".join(row) for row in kept],
        output / "dev" / f"{language}-en.en": [row[0] for row in dev],
        output / "dev" / f"{language}-en.{language}": [row[1] for row in dev],
    }
    for path, lines in contents.items():
        with atomic_file(path, "w", newline="\n") as file:
            file.writelines(f"{line}\n" for line in lines)


def copy_pairs(source: Path, language: str, output: Path, lower: bool) -> None:
    """The pairs to search, in the case of the encoders."""
    for side in (language, "en"):
        text = (source / f"{language}-en.{side}").read_text(encoding="utf-8")
        with atomic_file(output / "pairs" / f"{language}-en.{side}", "w", newline="\n") as file:
            file.write(text.lower() if lower else text)


def corpus_job(args: argparse.Namespace, model: Path) -> Job:
    """The training text as a corpus of token ids."""
    folder = args.output / "corpus"
    command = ["-m", "pretrain.build_corpus", "--output", folder, "--deduplicate", "true", "--workers", 1,
               "--piece_model_path", model / "piece.model", "--vocab_path", model / "vocab.txt"]  # fmt: skip
    for language in args.languages:
        command += ["--parallel", f"en-{language}<={args.output / 'text' / f'en-{language}.tsv'}"]
    return Job("corpus", list(map(str, command)), folder / "manifest.json")


def shape_of(args: argparse.Namespace, start: str, seed: int) -> dict[str, object]:
    """The flags that name a start: weights beside their tokenizer and shape, or random ones of that shape."""
    model = starts.encoder(args.runs, start, seed)
    if start != starts.SCRATCH:
        return {"init_pretraining_params": model, "random_seed": seed}
    return {
        "ernie_config_path": model / "config.json", "vocab_path": model / "vocab.txt",
        "piece_model_path": model / "piece.model", "random_seed": seed,
    }  # fmt: skip


def tuning(args: argparse.Namespace, start: str, seed: int, further: list[str]) -> Job:
    """Fine-tuning of one start and seed."""
    folder = args.output / f"{start}-{seed}"
    flags = FLAGS | shape_of(args, start, seed) | {
        "train_set": args.output / "corpus", "max_steps": args.steps, "checkpoints": folder
    }  # fmt: skip
    result = folder / f"step_{args.steps}" / "model.safetensors"
    return Job(folder.name, ["run_retrieval.py", *as_line(flags), *further], result, folder / "log")


def search(args: argparse.Namespace, name: str, model: dict[str, object]) -> Job:
    """The pairs searched with one model, at the layer that is best on the dev pairs."""
    folder = args.output / "searches" / name
    flags = model | {
        "pairs": args.output / "pairs", "languages": ",".join(args.languages), "layer": "dev",
        "dev_pairs": args.output / "dev", "max_seq_len": FLAGS["max_seq_len"], "checkpoints": folder,
    }  # fmt: skip
    return Job(
        f"search {name}", ["run_retrieval.py", *as_line(flags)], folder / "retrieval.json", folder / "log"
    )


def searches_of(args: argparse.Namespace, wanted: list[str]) -> dict[tuple[str, int], Job]:
    """(row of the table, seed) -> search. An encoder that all seeds start from is searched with once."""
    jobs = {}
    for start in wanted:
        for seed in args.seeds:
            model = starts.encoder(args.runs, start, seed)
            name = f"{start}-{seed}" if start == starts.SCRATCH else model.parent.name
            jobs[start, seed] = search(args, name, shape_of(args, start, seed))
    for start in args.tune:
        for seed in args.seeds:
            best = {"init_pretraining_params": args.output / f"{start}-{seed}" / "best"}
            jobs[f"{start}, {TUNED}", seed] = search(args, f"{start}-{seed}-{TUNED}", best)
    return jobs


def tables_of(jobs: dict[tuple[str, int], Job], languages: list[str]) -> dict[str, starts.Scores]:
    """Title -> row -> seed -> language -> per cent: the mean of both directions, then English queries."""
    both, queries = {}, {}
    for (row, seed), job in jobs.items():
        tables = json.loads(job.result.read_text(encoding="utf-8"))["tables"]
        forward, backward = (next(iter(table["seeds"].values())) for table in tables)
        both.setdefault(row, {})[seed] = {name: (forward[name] + backward[name]) / 2 for name in languages}
        queries.setdefault(row, {})[seed] = {name: forward[name] for name in languages}
    return {"translations found, both directions": both, "translations found, English queries": queries}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    starts.add_arguments(parser)
    parser.add_argument("--tune", nargs="+", help="starts that are fine-tuned; default: all")
    parser.add_argument("--steps", type=int, default=3000, help="of fine-tuning (3000)")
    args, further = parser.parse_known_args()
    wanted, lower = starts.choose_starts(args), starts.is_lower_case(args)
    args.tune = args.tune or wanted
    if absent := sorted(set(args.tune) - set(wanted)):
        raise UserError(f"--tune: {', '.join(absent)} is not among the starts ({', '.join(wanted)})")
    parallel, pairs = args.data / "pretrain" / "parallel", args.data / "retrieval" / "tatoeba-style-dev"
    there = [path.name[3:-7] for path in sorted(parallel.glob("en-*.tsv.gz"))]
    there = [
        language
        for language in there
        if all((pairs / f"{language}-en.{side}").is_file() for side in (language, "en"))
    ]
    if not there:
        raise UserError(f"{args.data}: no language in both pretrain/parallel and retrieval/tatoeba-style-dev")
    args.languages = starts.languages_of(args, there)
    for language in args.languages:
        split_pairs(parallel / f"en-{language}.tsv.gz", language, args.output, lower)
        copy_pairs(pairs, language, args.output, lower)

    carry_out([corpus_job(args, starts.encoder(args.runs, starts.SCRATCH, args.seeds[0]))], 1)
    tunings = [tuning(args, start, seed, further) for seed in args.seeds for start in args.tune]
    carry_out(tunings, args.at_once)
    searches = searches_of(args, wanted)
    carry_out(list({job.name: job for job in searches.values()}.values()), args.at_once)
    tables = tables_of(searches, args.languages)
    starts.report(args.output, "retrieval", tables, seeds=args.seeds, lower_case=lower, steps=args.steps)


if __name__ == "__main__":
    run(main)
