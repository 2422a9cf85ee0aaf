"""Run a study of configs/experiments: train its models, fine-tune and measure them, and write its tables.

    DATA=/where/the/data/is python -m experiments.run table6 --dry    what it would do, and in how many hours
    DATA=/where/the/data/is python -m experiments.run table6
    DATA=/where/the/data/is python -m experiments.run table6 --models exp0 exp4 --seeds 1    # only these

Two runs at a time have a core each. A model is finished when docs/results/<study>/<model>-<seed>.json is
there; the same command continues a stopped study. Weights are kept in --output.
"""

from utils.environment import run

import argparse
import os
from pathlib import Path

from experiments import tables
from experiments.plan import StudyPlan, minutes
from experiments.real_data import prepare_corpus, prepare_ner, prepare_xnli
from experiments.study import Study
from scripts.jobs import Job, carry_out_chains
from utils.errors import UserError


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    study = Study.read(args.study)
    check(args, study)
    plan = StudyPlan(
        study,
        output=args.output,
        data=Path(os.environ["DATA"]),
        results=tables.RESULTS,
        seeds=args.seeds,
        models=args.models,
    )
    if not args.dry:
        prepare_data(plan)
    chains = plan.chains()
    print_plan(chains, args.at_once)
    if not args.dry:
        carry_out_chains(chains, args.at_once)
        tables.write(study, tables.RESULTS, tables.IMAGES)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("study", help="a file of configs/experiments, without .yaml")
    parser.add_argument("--dry", action="store_true", help="only say what would be done")
    parser.add_argument("--output", type=Path, default=Path("output/experiments"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[], help="these instead of the study's")
    parser.add_argument("--models", nargs="+", default=[], help="only these")
    parser.add_argument("--at_once", type=int, default=2, help="runs side by side, on a core each (2)")
    return parser.parse_args(arguments)


def check(args: argparse.Namespace, study: Study) -> None:
    """Raise a UserError if --at_once is below 1, a model is not in the study, or DATA is not set."""
    if args.at_once < 1:
        raise UserError("--at_once must be 1 or more")
    for name in args.models:
        if name not in study.models:
            raise UserError(f"--models: {name} is not one of {', '.join(study.models)} ({study.name}.yaml)")
    if not os.environ.get("DATA"):
        raise UserError("DATA is not set; set it to the folder of real data")


def print_plan(chains: list[list[Job]], at_once: int) -> None:
    """Print the unfinished jobs of each chain, and about how long they take."""
    total_minutes = 0.0
    for chain in chains:
        jobs = [job for job in chain if not job.finished()]
        chain_minutes = sum(minutes(job) for job in jobs)
        print(f"{chain_minutes:6.1f} minutes: {', '.join(job.name for job in jobs)}")
        total_minutes += chain_minutes
    hours = total_minutes / 60 / at_once
    print(f"{len(chains)} runs, about {hours:.1f} hours with {at_once} at a time", flush=True)


def prepare_data(plan: StudyPlan) -> None:
    """Make the corpus and the files of the study's tasks, where they are missing."""
    prepare_corpus(plan.study.corpus, plan.data, plan.output / plan.study.corpus)
    for task, prepare in (("xnli", prepare_xnli), ("ner", prepare_ner)):
        # label_map.json is written last.
        finished = (plan.layout / task / "label_map.json").is_file()
        if task in plan.study.measures and not finished:
            prepare(plan.data, plan.layout / task, plan.corpus)


if __name__ == "__main__":
    run(main)
