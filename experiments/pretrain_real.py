"""Train several strategies on one corpus with several seeds, a few runs at a time on one core each.

    python -m experiments.pretrain_real --config configs/pretrain/real4.yaml --corpus DIR --output DIR

Each run is <output>/<strategy>-<seed>. Run the same command again to continue stopped runs; finished ones
are not run again. Further flags (`--optimizer.tokens 1000000`) go to every run.
"""

import argparse
from pathlib import Path

from scripts.jobs import Job, carry_out
from utils.errors import run

STRATEGIES = {"mmlm": ["mmlm"], "mmlm+tlm": ["mmlm", "tlm"], "full": ["mmlm", "tlm", "camlm", "btmlm"]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--at_once", type=int, default=2)
    args, flags = parser.parse_known_args()
    common = ["run_pretrain.py", "--config", args.config, "--data.corpus", args.corpus, *flags]

    def job(strategy: str, seed: int) -> Job:
        output = args.output / f"{strategy}-{seed}"
        active = ", ".join(STRATEGIES[strategy])
        own = ["--run.output", output, "--run.seed", seed, "--objectives.active", f"[{active}]"]
        return Job(output.name, [*common, *own], output / "encoder" / "model.safetensors")

    carry_out([job(strategy, seed) for strategy in args.strategies for seed in args.seeds], args.at_once)


if __name__ == "__main__":
    run(main)
