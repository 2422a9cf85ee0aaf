"""Retrieval from pre-trained encoders and from random weights, before and after fine-tuning on parallel text.

    python -m experiments.retrieval_tuned --runs output/real15/runs --data "$DATA" --output output/tuned

Fine-tuning is that of run_retrieval.py (hardest-negative binary cross-entropy) on DATA/pretrain/parallel.
The searched pairs are DATA/retrieval/tatoeba-style-dev. The layer of each model is chosen on pairs of the
parallel text that are held out. The tables are printed and written as results.md and results.json; the last
line is JSON. Finished runs are not run again. Further flags go to every fine-tuning. See
experiments/starts.py.
"""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

from experiments.starts import SCRATCH, Comparison, Scores, comparison_parser
from scripts.jobs import Job, as_line, carry_out
from utils.errors import UserError, run
from utils.files import atomic_file

DEV_PAIRS = 200  # of each language, and at most a tenth of its parallel text
FLAGS = {
    "do_train": "true", "layer": "top", "batch_size": 64, "learning_rate": 1e-3,
    "lr_schedule_style": "paddlenlp", "weight_decay": 0.01, "max_seq_len": 64, "validation_steps": 1000,
    "validation_pairs": 200, "save_steps": 1_000_000, "skip_steps": 100, "keep_checkpoints": 1,
}  # fmt: skip


def split_pairs(source: Path, language: str, output: Path, lower: bool) -> None:
    """Split the parallel text of a language: text/en-<l>.tsv to train on, dev/<l>-en.{<l>,en} for the layer.

    A pair that shares a sentence with a dev pair is left out of the training text.
    """
    text = gzip.decompress(source.read_bytes()).decode("utf-8")
    lines = (text.lower() if lower else text).removesuffix("\n").split("\n")
    rows = [tuple(line.split("\t")) for line in lines]
    if wrong := next((number for number, row in enumerate(rows, 1) if len(row) != 2), None):
        raise UserError(f"{source}, line {wrong}: not english, tab, {language}")
    dev = rows[: min(DEV_PAIRS, len(rows) // 10)]
    used = {sentence for row in dev for sentence in row}
    contents = {
        output / "text" / f"en-{language}.tsv": ["\t".join(row) for row in rows if used.isdisjoint(row)],
        output / "dev" / f"{language}-en.en": [row[0] for row in dev],
        output / "dev" / f"{language}-en.{language}": [row[1] for row in dev],
    }
    for path, lines in contents.items():
        with atomic_file(path, "w", newline="\n") as file:
            file.writelines(f"{line}\n" for line in lines)


def copy_pairs(source: Path, language: str, output: Path, lower: bool) -> None:
    """Copy the pairs to search, in the case of the encoders."""
    for side in (language, "en"):
        text = (source / f"{language}-en.{side}").read_text(encoding="utf-8")
        with atomic_file(output / "pairs" / f"{language}-en.{side}", "w", newline="\n") as file:
            file.write(text.lower() if lower else text)


def corpus_job(output: Path, languages: Sequence[str], model: Path) -> Job:
    """The training text as a corpus of token ids."""
    folder = output / "corpus"
    command = ["-m", "pretrain.build_corpus", "--output", folder, "--deduplicate", "true", "--workers", 1,
               "--piece_model_path", model / "piece.model", "--vocab_path", model / "vocab.txt"]  # fmt: skip
    for language in languages:
        command += ["--parallel", f"en-{language}<={output / 'text' / f'en-{language}.tsv'}"]
    return Job("corpus", command, folder / "manifest.json")


def start_flags(comparison: Comparison, start: str, seed: int) -> dict[str, object]:
    """The flags that name a start: weights with tokenizer and shape, or random weights of that shape."""
    model = comparison.encoder(start, seed)
    if start != SCRATCH:
        return {"init_pretraining_params": model, "random_seed": seed}
    return {
        "ernie_config_path": model / "config.json", "vocab_path": model / "vocab.txt",
        "piece_model_path": model / "piece.model", "random_seed": seed,
    }  # fmt: skip


def tuning(comparison: Comparison, start: str, seed: int, steps: int, further: Sequence[str]) -> Job:
    """Fine-tuning of one start and seed."""
    folder = comparison.output / f"{start}-{seed}"
    files = {"train_set": comparison.output / "corpus", "max_steps": steps, "checkpoints": folder}
    line = as_line(FLAGS | start_flags(comparison, start, seed) | files)
    result = folder / f"step_{steps}" / "model.safetensors"
    return Job(folder.name, ["run_retrieval.py", *line, *further], result, folder / "log")


def search(output: Path, languages: Sequence[str], name: str, model: dict[str, object]) -> Job:
    """A search with one model, at the layer that is best on the dev pairs."""
    folder = output / "searches" / name
    flags = model | {
        "pairs": output / "pairs", "languages": ",".join(languages), "layer": "dev",
        "dev_pairs": output / "dev", "max_seq_len": FLAGS["max_seq_len"], "checkpoints": folder,
        "untrained": "false",  # the start "scratch" is a row of its own
    }  # fmt: skip
    line = ["run_retrieval.py", *as_line(flags)]
    return Job(f"search {name}", line, folder / "retrieval.json", folder / "log")


def searches_of(
    comparison: Comparison, languages: Sequence[str], tuned: Sequence[str]
) -> dict[tuple[str, int], Job]:
    """(row of the table, seed) -> search. If all seeds start from one encoder, it is searched with once."""
    jobs, output = {}, comparison.output
    for start in comparison.starts:
        for seed in comparison.seeds:
            encoder = comparison.encoder(start, seed).parent.name
            name = f"{start}-{seed}" if start == SCRATCH else encoder
            jobs[start, seed] = search(output, languages, name, start_flags(comparison, start, seed))
    for start in tuned:
        for seed in comparison.seeds:
            best = {"init_pretraining_params": output / f"{start}-{seed}" / "best"}
            jobs[f"{start}, tuned", seed] = search(output, languages, f"{start}-{seed}-tuned", best)
    return jobs


def tables_of(jobs: dict[tuple[str, int], Job], languages: Sequence[str]) -> dict[str, Scores]:
    """Title -> row -> seed -> language -> per cent: the mean of both directions, then English queries."""
    both, queries = {}, {}
    for (row, seed), job in jobs.items():
        tables = json.loads(job.result.read_text(encoding="utf-8"))["tables"]
        forward, backward = (next(iter(table["seeds"].values())) for table in tables)
        both.setdefault(row, {})[seed] = {name: (forward[name] + backward[name]) / 2 for name in languages}
        queries.setdefault(row, {})[seed] = {name: forward[name] for name in languages}
    return {"translations found, both directions": both, "translations found, English queries": queries}


def main() -> None:
    parser = comparison_parser(__doc__)
    parser.add_argument("--tune", nargs="+", help="starts that are fine-tuned; default: all")
    parser.add_argument("--steps", type=int, default=3000, help="of fine-tuning (3000)")
    args, further = parser.parse_known_args()
    comparison = Comparison.from_flags(args)
    tuned = args.tune or comparison.starts
    if absent := sorted(set(tuned) - set(comparison.starts)):
        raise UserError(
            f"--tune: {', '.join(absent)} is not among the starts ({', '.join(comparison.starts)})"
        )
    parallel = comparison.data / "pretrain" / "parallel"
    pairs = comparison.data / "retrieval" / "tatoeba-style-dev"
    there = [path.name[3:-7] for path in sorted(parallel.glob("en-*.tsv.gz"))]
    there = [name for name in there if all((pairs / f"{name}-en.{side}").is_file() for side in (name, "en"))]
    if not there:
        raise UserError(f"{args.data}: no language in both pretrain/parallel and retrieval/tatoeba-style-dev")
    languages = comparison.languages_of(there)
    for language in languages:
        split_pairs(parallel / f"en-{language}.tsv.gz", language, comparison.output, comparison.lower)
        copy_pairs(pairs, language, comparison.output, comparison.lower)

    seeds = comparison.seeds
    carry_out([corpus_job(comparison.output, languages, comparison.encoder(SCRATCH, seeds[0]))], 1)
    tunings = [tuning(comparison, start, seed, args.steps, further) for seed in seeds for start in tuned]
    carry_out(tunings, comparison.at_once)
    searches = searches_of(comparison, languages, tuned)
    carry_out(list({job.name: job for job in searches.values()}.values()), comparison.at_once)
    comparison.report("retrieval", tables_of(searches, languages), steps=args.steps)


if __name__ == "__main__":
    run(main)
