"""What the full strategy costs in comparison with MMLM + TLM: seconds for each token that is trained on.

Both train one base-size model on random sequences of full length, a step of each in turn, with as many
sequences and micro-batches. Pseudo-tokens count as tokens; the pass that makes them does not. The reported
ratio is the median over all alternations. About 10 minutes on 2 cores, 10 GB. The last line is JSON.
"""

import argparse
import itertools
import json
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median, quantiles

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.side_by_side import peak_memory
from pretrain import shares
from pretrain.config import ObjectiveConfig
from pretrain.masking import Vocabulary, generator
from pretrain.objectives import Objectives, Pair, SecondLanguage, Text
from pretrain.reader import StepBatches
from utils.runtime import prepare

LANGUAGES = [f"language {i}" for i in range(15)]
WARM_UP = 2  # the first alternations touch fresh memory
WORDS_OF_ALL = 7  # a language has one in seven of the words of all languages
SIZES = {"layers": 12, "vocab": 250_002, "length": 256, "sequences": 16, "micro": 4, "alternations": 16}
BASE = "mmlm + tlm"
FULL = "full"
STRATEGIES = {BASE: ObjectiveConfig(active=["mmlm", "tlm"]), FULL: ObjectiveConfig()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    seconds = time_alternations(parser.parse_args())
    ratios = [full / base for base, full in zip(seconds[BASE], seconds[FULL])]
    spread = [min(ratios), *quantiles(ratios), max(ratios)]  # with the three quartiles
    result = {
        "ratio": round(median(ratios), 4),
        "alternations": len(ratios),
        "spread": [round(value, 4) for value in spread],
        "tokens_per_second": {name: round(1 / median(times), 1) for name, times in seconds.items()},
        "peak_gb": round(peak_memory() / 1e9, 2),
    }
    print(f"\nfull strategy over MMLM + TLM: {result['ratio']:.3f} times the time (the paper: 1.075)\n")
    print(json.dumps(result))


def random_steps(config: ObjectiveConfig, vocabulary: Vocabulary, args: Namespace) -> Iterator[StepBatches]:
    """Endless steps of a strategy, on random texts, at a time when BTMLM has started."""
    # One sentence pair of each two languages, so that BTMLM draws all languages equally often.
    pairs = {(a, b): 1 for a in range(len(LANGUAGES)) for b in range(a)}
    objectives = Objectives(config, vocabulary, args.length, second_language=SecondLanguage(LANGUAGES, pairs))
    rng = np.random.default_rng(0)

    def text() -> Text:
        ids = rng.choice(vocabulary.ordinary_ids, args.length)  # longer than fits, so it is truncated
        return Text(ids, int(rng.integers(len(LANGUAGES))))

    share = shares.shares(config, step=1, total_steps=1)  # after the last step
    for step in itertools.count():
        batches = []
        number = 0  # of the next example in the step
        for name, count in shares.allocate(share, args.sequences, step).items():
            if name in shares.MONOLINGUAL:
                examples = [text() for _ in range(count)]
            else:
                examples = [Pair(text(), text()) for _ in range(count)]
            for start in range(0, count, args.micro):
                micro_batch = examples[start : start + args.micro]
                generators = []
                for _ in micro_batch:
                    generators.append(generator(seed=0, step=step, index=number))
                    number += 1
                batches.append(objectives.batch(name, micro_batch, generators))
        masked = sum(batch.masked_counts for batch in batches)  # [objectives]
        yield StepBatches(batches, share, masked.tolist(), position={})


def time_alternations(args: Namespace) -> dict[str, list[float]]:
    """Seconds for each trained token of each strategy, one number for each alternation."""
    prepare(quiet=True)
    from model.ernie_m import ErnieMConfig
    from model.heads import PreTrainingModel
    from pretrain.btmlm import PseudoTokenGenerator
    from pretrain.report import SUMS
    from pretrain.task import objectives_loss, send_step
    from training.engine import Engine
    from training.optimizer import build_optimizer

    vocabulary = Vocabulary(cls_id=0, pad_id=1, sep_id=2, unk_id=3, mask_id=4, size=args.vocab)
    steps = {name: random_steps(strategy, vocabulary, args) for name, strategy in STRATEGIES.items()}
    config = ErnieMConfig(
        vocab_size=args.vocab,
        hidden_size=768,
        num_hidden_layers=args.layers,
        num_attention_heads=12,
    )
    model = PreTrainingModel(config, LANGUAGES)
    engine = Engine(model, build_optimizer(model, peak_lr=5e-5), sums=SUMS)
    rng = np.random.default_rng(1)
    # The pieces of each language, from which its pseudo-tokens are chosen.
    count = vocabulary.size // WORDS_OF_ALL
    pieces = [np.sort(rng.choice(vocabulary.ordinary_ids, count, replace=False)) for _ in LANGUAGES]
    pseudo_tokens = PseudoTokenGenerator(pieces, vocabulary.special_ids)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(args.alternations + WARM_UP):
        # The order changes, so that neither strategy always follows the other.
        order = [BASE, FULL] if number % 2 else [FULL, BASE]
        for name in order:
            step_batches = next(steps[name])
            start = time.perf_counter()
            result = engine.step(send_step(step_batches), partial(objectives_loss, model, pseudo_tokens))
            seconds[name].append((time.perf_counter() - start) / result.sums["tokens"])
        speeds = [f"{name} {1 / times[-1]:.0f} tokens/s" for name, times in seconds.items()]
        print(f"alternation {number - WARM_UP + 1}: {', '.join(speeds)}", flush=True)
    return {name: times[WARM_UP:] for name, times in seconds.items()}


if __name__ == "__main__":
    main()
