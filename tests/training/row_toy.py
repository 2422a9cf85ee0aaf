"""A fine-tuning whose batches touch some words, for one process and, in `row_script.py`, for several."""

import numpy as np
import paddle
import paddle.nn.functional as F

from model.batch import TokenBatch
from model.config import ErnieMConfig
from model.device import upload
from model.heads import SequenceClassifier
from model.layout import Layout
from model.word_rows import words_of_step
from training import distributed
from training.engine import Engine
from training.optimizer import build_optimizer

STEPS = 8
WORDS = 90
SEQUENCES = 4
CONFIG = ErnieMConfig(
    vocab_size=WORDS,
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)


class RowToy:
    """A model and its engine. Each step has other words, some of them new.

    A step has SEQUENCES micro-batches, which are divided among the processes. Step 2 has one, so that only
    one process has a gradient.
    """

    def __init__(self, stage: int = 0):
        paddle.set_default_dtype("float64")
        paddle.seed(0)
        self.model = SequenceClassifier(CONFIG, 3)
        optimizer = build_optimizer(self.model, 1e-2, weight_decay=0.1, layerwise_lr_decay=0.5)
        self.engine = Engine(self.model, optimizer, clip_norm=0.05, sharding_stage=stage)
        paddle.set_default_dtype("float32")

    def train(self, first: int, last: int) -> list[float]:
        """Do steps `first` .. `last` - 1, and return the norms of their gradients."""
        norms = []
        for number in range(first, last):
            rng = np.random.default_rng(number)
            count = 1 if number == 2 else SEQUENCES
            examples = []
            for _ in range(count):
                ids = rng.integers(4, 8 + 10 * number, 5)  # the later the step, the more different words
                examples.append((ids, rng.integers(0, 3, 1)))
            of_this_process = examples[distributed.rank() :: distributed.world_size()]
            words = words_of_step([ids for ids, _ in of_this_process])
            micro_batches = []
            for ids, labels in of_this_process:
                batch = TokenBatch.from_packed(ids, Layout([3, 2]), words=words)
                micro_batches.append((upload(batch), labels, count))
            norms.append(self.engine.step(micro_batches, self.loss).grad_norm)
        return norms

    def loss(self, micro_batch):
        """Of the first of two sequences. The words of the second are looked up, and get gradients of 0."""
        batch, labels, count = micro_batch
        logits = self.model(batch)  # [2, 3]
        return F.cross_entropy(logits[:1], paddle.to_tensor(labels)) / count, {}

    def weights(self) -> dict[str, np.ndarray]:
        return {name: tensor.numpy().copy() for name, tensor in self.model.state_dict().items()}
