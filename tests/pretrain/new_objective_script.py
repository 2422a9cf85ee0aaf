"""Trains the objectives of the files in its folder; writes what it did, as JSON.

new_objective_script.py CORPUS OUTPUT
"""

import json
import sys
from pathlib import Path

import numpy as np
import paddle

from ernie_m.model.config import ErnieMConfig
from ernie_m.model.lm_head import PreTrainingModel
from ernie_m.pretrain.btmlm_pseudo_tokens import PseudoTokenGenerator
from ernie_m.pretrain.config import PretrainConfig
from ernie_m.pretrain.corpus_selection import TrainingData, open_corpus
from ernie_m.pretrain.masking import Text, Vocabulary, make_rng
from ernie_m.pretrain.objective_mix import make_phases
from ernie_m.pretrain.pretraining import Pretraining, compute_objectives_loss, copy_step_to_device
from ernie_m.pretrain.run import train
from ernie_m.pretrain.show_masks import format_masks
from ernie_m.training.stop_requests import ShutdownHandler
from tests.helpers.dtypes import default_dtype
from tests.helpers.gradients import take_gradients
from tests.launching import error_of
from tests.pretrain.tiny_run import assert_equal_runs, config, make_reader, pretrain, records

SHARES = {"mmlm": 1, "contrastive": 2}
PATH = {"objectives__path": sorted(path.name for path in Path().glob("*.py"))}
KINDS = ["mmlm", "whole_words", "own_tlm", "own_camlm", "own_btmlm"]
OF_KINDS = PATH | {"objectives__mixing_ratios": dict.fromkeys(KINDS, 1)}
CHANGES = PATH | {
    "objectives__mixing_ratios": SHARES,
    "optimizer__batch_size": 60,
    "run__micro_batch_tokens": 512,
}


def main() -> None:
    corpus, output = map(Path, sys.argv[1:])
    steps = {}
    for processes, budget in ((1, 4096), (1, 512), (2, 512), (3, 512)):
        settings = config(corpus, **CHANGES | {"run__micro_batch_tokens": budget})
        steps[f"{processes} processes, {budget} tokens"] = train_one_step(settings, processes)
    pretrain(corpus, output, **CHANGES, optimizer__steps=20, run__save_steps=20)
    too_small = config(corpus, **CHANGES | {"run__micro_batch_tokens": 511})
    kinds = {**OF_KINDS, "optimizer__steps": 4, "model__num_hidden_layers": 1}
    straight = pretrain(corpus, output / "straight", **kinds)
    pretrain(corpus, output / "stopped", **kinds, run__stop_after_steps=2)
    assert_equal_runs(straight, pretrain(corpus, output / "stopped", **kinds), step=4)
    Path("whole_words.py").write_text(f"{Path('whole_words.py').read_text()}# changed\n")
    results = {
        "changed": error_of(train, config(corpus, output / "stopped", **kinds), ShutdownHandler()),
        "steps": steps,
        "of_kinds": records(straight),
        "words": masked_words(config(corpus, **OF_KINDS)),
        "records": records(output),
        "masks": format_masks(
            ["a b c", "d e", "--objective", "contrastive", "--objectives.path", "contrastive.py"]
        ),
        "refused": error_of(Pretraining, too_small),
    }
    (output / "results.json").write_text(json.dumps(results))


def masked_words(settings: PretrainConfig) -> list[tuple[list[list[bool]], int]]:
    """Return for each word whether each of its subwords is masked, and the number of masked subwords."""
    corpus, tokenizer = open_corpus(settings.data)
    text = TrainingData.from_corpus(corpus, Vocabulary.from_tokenizer(tokenizer), settings)
    objective = text.objectives["whole_words"]
    texts = []
    for number in range(10):
        line = Text(corpus.held_out_mono["de"].read_line(number % 8), 0)
        (sequence,) = objective.mask(line, make_rng(1, 0, number)).sequences
        words: list[list[bool]] = []
        for location, subword in enumerate(
            tokenizer.convert_ids_to_tokens(objective.get_truncated_sides(line)[0]), 1
        ):
            if subword.startswith("▁"):
                words.append([])
            words[-1].append(location in sequence.targets)
        texts.append((words, objective.count_losses(line)))
    return texts


def train_one_step(settings: PretrainConfig, processes: int) -> list[float]:
    """The loss of a step and the norm of its gradient, in float64, added up over all processes."""
    corpus, tokenizer = open_corpus(settings.data)
    text = TrainingData.from_corpus(corpus, Vocabulary.from_tokenizer(tokenizer), settings)
    shape = ErnieMConfig(tokenizer.vocab_size, hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
    loss = 0.0
    with default_dtype("float64"):
        paddle.seed(1)
        model = PreTrainingModel(shape, text.languages).eval()
        for rank in range(processes):
            step = make_reader(
                settings, text, make_phases(settings.objectives, 10), rank, processes
            ).make_step_batches()
            for batch in copy_step_to_device(step):
                of_batch, _ = compute_objectives_loss(model, PseudoTokenGenerator([]), batch)
                of_batch.backward()
                loss += float(of_batch)
    squares = [np.square(gradient).sum() for gradient in take_gradients(model).values()]
    return [loss, float(np.sqrt(sum(squares)))]


if __name__ == "__main__":
    main()
