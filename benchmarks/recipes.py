"""What the fine-tuning recipes of scripts/base train on: published sizes, measured lengths."""

import math
from typing import NamedTuple


class Recipe(NamedTuple):
    """A script of scripts/base.

    Attributes:
        name: of the script.
        examples: of the training set, as its authors published it; of MLQA windows of SQuAD 1.1; of Tatoeba
            pairs of sentences in all steps.
        length: tokens of an example in the mean. XNLI 37, PAWS-X 58 and windows of questions 191 were counted
            on public samples with a vocabulary of 128,000 pieces; the others are assumed.
        devices: for which the recipe is written.
        batch: --batch_size, for each device.
        max_seq_len: the flag; of Tatoeba, whose examples are two sequences, twice that.
        epochs: of base.
        large_epochs: of large.
    """

    name: str
    examples: int
    length: int
    devices: int
    batch: int
    max_seq_len: int
    epochs: int
    large_epochs: int

    @property
    def total_batch(self) -> int:
        """Examples of a step."""
        return self.devices * self.batch

    @property
    def steps_of_an_epoch(self) -> int:
        """Optimizer steps of one epoch."""
        return math.ceil(self.examples / self.total_batch)


# name, examples, length, devices, batch, max_seq_len, epochs, large_epochs
RECIPES = (
    Recipe("xnli_cross_lingual_transfer", 392_702, 37, 2, 16, 256, 5, 5),
    Recipe("xnli_translate-train_all", 15 * 392_702, 37, 8, 16, 256, 2, 1),
    Recipe("pawsx_cross_lingual_transfer", 49_401, 58, 2, 32, 256, 10, 10),
    Recipe("pawsx_translate-train_all", 7 * 49_401, 58, 2, 32, 256, 2, 2),
    Recipe("mlqa_cross_lingual_transfer", 92_000, 191, 2, 16, 384, 2, 2),
    Recipe("conll_cross_lingual_transfer", 14_041, 20, 1, 8, 512, 10, 10),
    Recipe("conll_finetune_on_all_dataset", 50_322, 20, 1, 8, 512, 10, 10),
    Recipe("panx_cross_lingual_transfer", 20_000, 13, 1, 8, 512, 10, 10),
    Recipe("tatoeba_fine-tuning", 200_000 * 32, 50, 1, 32, 2 * 512, 1, 1),  # 200,000 steps
)
