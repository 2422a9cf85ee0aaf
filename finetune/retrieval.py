"""Fine-tuning for sentence retrieval on the parallel text of a corpus (paper, section 4.2 and Table 14)."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from evaluation.encode import SentenceBatch, encode_layer, sentence_vectors
from evaluation.pooling import layer_number
from evaluation.retrieval import hits
from finetune.flags import RetrievalFlags
from finetune.identity import digest_of_files, identity_of
from finetune.sentence_pairs import PairStep, StepPairs
from finetune.setup import (
    files_of_checkpoint,
    make_encoder,
    make_engine,
    make_tokenizer,
    model_config,
    open_step,
)
from finetune.task import official_line, share
from model.checkpoint.folder import ModelFiles
from model.checkpoint.read import Checkpoint
from model.device import Uploadable, upload
from model.ernie_m import ErnieMModel
from reader.batching import padded_batches
from reader.corpus import MANIFEST, Corpus
from training import distributed
from training.engine import Engine
from training.guard import StopSignal
from training.meter import Interval
from training.run_folder import has_state
from training.task import Evaluation, Task
from utils.errors import UserError
from utils.logging import logger

GROUP_TOKENS = 2048  # padded tokens that are encoded at once in training
_NONE = -1e4  # a logit whose loss and gradient are 0, in float16 too


@dataclasses.dataclass(frozen=True)
class PairBatch(Uploadable):
    """The pairs of a step on the device.

    Attributes:
        groups: all sentences, in groups of similar length.
        order: int64 [2b], the place of each sentence in the groups: b sources, then b translations.
        negative: [B, B], whether source i and translation j may be a negative.
    """

    groups: list[SentenceBatch]
    order: Tensor
    negative: Tensor


class Retrieval(Task):
    """Hardest-negative training of sentence vectors; held-out pairs select the best step.

    Args:
        starts: seed -> the weights that it starts from; None: random ones.

    Raises:
        UserError: there is no such corpus or no parallel text in it, no layer of that number, or fewer pairs
            in a batch than processes.
    """

    divisible = False  # the loss needs the vectors of every process
    memory_advice = "lower --batch_size or --max_seq_len, or add --recompute true"

    def __init__(self, flags: RetrievalFlags, starts: Mapping[int, Checkpoint | None]):
        if flags.init_checkpoint and not has_state(Path(flags.init_checkpoint)):
            raise UserError(f"{flags.init_checkpoint}: no training_state there to resume from")
        world_size = distributed.world_size()
        if flags.batch_size < world_size:
            raise UserError(f"--batch_size {flags.batch_size} is below the {world_size} processes; raise it")
        self.flags = flags
        self.starts = starts
        first_start = starts[flags.seeds[0]]
        self.tokenizer = make_tokenizer(flags, first_start)
        self.config = model_config(flags, first_start, self.tokenizer)
        self.layer = layer_of(flags, self.config.num_hidden_layers)
        self.corpus = Corpus(flags.train_set, self.tokenizer.digest)
        train_set = digest_of_files([self.corpus.path / MANIFEST])
        self.identity = identity_of(
            flags, "retrieval", starts.values(), self.config, self.tokenizer, train_set=train_set
        )

    def begin(self, seed: int, checkpoint: Path | None) -> Engine:
        flags = self.flags.of_seed(seed)
        self.seed = seed
        self.pairs = StepPairs(
            self.tokenizer,
            flags.train_set,
            flags.batch_size,
            flags.max_seq_len,
            flags.pair_alpha,
            seed,
            distributed.rank(),
            distributed.world_size(),
        )
        self.held_out = self.pairs.open().held_out_parallel
        self.total_steps = flags.max_steps
        self.evaluations: Sequence[int] = []
        if self.held_out and flags.validation_pairs:
            # Also before the first step: training has to beat that score.
            self.evaluations = [*range(0, flags.max_steps, flags.validation_steps), flags.max_steps]
        weights = open_step(checkpoint, self.starts[seed])
        model = make_encoder(self.config, weights, flags.dtype, seed)
        model.use_recompute(flags.recompute)
        return make_engine(flags, model, flags.max_steps, seed)

    def batches(self, position: dict[str, Any] | None) -> StepPairs:
        return dataclasses.replace(self.pairs, position=position)

    def send(self, model: ErnieMModel, data: PairStep) -> list[PairBatch]:
        """Send the sentences of a step in groups of similar length."""
        pad_id = model.config.pad_token_id
        groups = []
        rows: list[int] = []
        for numbers, ids in padded_batches(data.sentences, pad_id, GROUP_TOKENS):  # ids [B, T]
            groups.append(SentenceBatch.of(ids, pad_id, self.flags.pooling))
            rows += numbers
        return [upload(PairBatch(groups, np.argsort(rows), data.negative))]

    def loss(self, model: ErnieMModel, batch: PairBatch) -> tuple[Tensor, dict[str, Tensor | float]]:
        """Return the loss of the whole step, and the percentage of pairs that beat their negatives.

        The vectors of the other processes are constants. Each process computes the same loss and its gradient
        with respect to its own vectors; the engine adds the gradients up.
        """
        world_size = distributed.world_size()
        negative = batch.negative.astype("bool")  # [B, B]
        groups = [sentence_vectors(model, group, self.layer) for group in batch.groups]
        vectors = paddle.index_select(paddle.concat(groups), batch.order, axis=0)  # [2b, H]
        sources, translations = vectors.split(2)  # [b, H]
        if world_size > 1:
            everywhere = distributed.gather(vectors.detach().numpy())  # of each process [2b, H]
            parts = [paddle.to_tensor(array).split(2) for array in everywhere]
            parts[distributed.rank()] = [sources, translations]  # these have a gradient
            sources = paddle.concat([source for source, _ in parts])  # [B, H]
            translations = paddle.concat([translation for _, translation in parts])  # [B, H]
        total, correct = hardest_negative_bce(
            sources, translations, negative, self.flags.scale, self.flags.offset
        )
        count = len(negative)
        loss = total / count
        if world_size > 1:
            # The engine sums values and gradients over the processes. Each process has the value of the whole
            # step, so its value is divided by their number; its gradient is a part, which stays as it is.
            loss = loss + (loss / world_size - loss).detach()
        return loss, {"correct": 100.0 * correct / world_size, "count": count / world_size}

    def evaluate(self, engine: Engine, stop: StopSignal) -> Evaluation | None:
        """Search the held-out pairs in both directions; the processes share the language pairs."""
        pairs = sorted(self.held_out)
        world_size = distributed.world_size()
        own_scores: dict[str, float] = {}
        for first in range(0, len(pairs), world_size):
            number = first + distributed.rank()
            if number < len(pairs):
                pair = pairs[number]
                with engine.autocast():
                    own_scores["-".join(pair)] = self._accuracy(engine.model, self.held_out[pair])
            if stop.anywhere():  # every process asks equally often
                return None
        scores: dict[str, float] = {}
        for part in distributed.gather(own_scores):
            scores |= part
        mean = sum(scores.values()) / len(scores)
        listed = ", ".join(f"{name} {score:.1f}" for name, score in sorted(scores.items()))
        logger.info("held-out pairs found at step %d: mean %.2f; %s", engine.steps, mean, listed)
        by_name = {name: {"accuracy": score} for name, score in scores.items()}
        return Evaluation(engine.steps, 0, mean, {"held-out pairs": by_name})

    def _accuracy(self, model: ErnieMModel, pairs: Any) -> float:
        """Per cent of up to --validation_pairs pairs that are found, mean of both directions."""
        count = min(self.flags.validation_pairs, len(pairs))
        source_ids, translation_ids = zip(*(pairs[number] for number in range(count)))

        def vectors(ids: Sequence[np.ndarray]) -> np.ndarray:
            sentences = self.tokenizer.sentences(ids, self.flags.max_seq_len)
            return encode_layer(model, sentences, self.layer, self.flags.pooling)  # [count, H]

        sources = vectors(source_ids)
        translations = vectors(translation_ids)
        return float(50.0 * (hits(sources, translations).mean() + hits(translations, sources).mean()))

    def line(self, interval: Interval) -> str:
        measure = f"pairs that beat their negatives: {share(interval):.1f} %"
        return official_line(interval, self.total_steps, measure)

    def files(
        self, engine: Engine, masters: Mapping[str, Tensor], evaluation: Evaluation | None
    ) -> ModelFiles:
        flags = self.flags.of_seed(self.seed)
        settings = {"task": "retrieval", "reading": {"layer": self.layer, "pooling": flags.pooling}}
        facts = {
            "name": "ERNIE-M, retrieval",
            "task": "retrieval",
            "data": flags.train_set,
            "languages": self.corpus.languages,
            "initialised_from": flags.init_checkpoint or flags.init_pretraining_params,
        }
        return files_of_checkpoint(self, engine, masters, evaluation, settings, facts)


def layer_of(flags: RetrievalFlags, layers: int) -> int:
    """The layer that is trained and searched."""
    return layers if flags.pooling == "pooled" else layer_number(flags.layer, layers)


def hardest_negative_bce(
    sources: Tensor, translations: Tensor, negative: Tensor, scale: float, offset: float
) -> tuple[Tensor, Tensor]:
    """The loss of Wang et al. (2019b) for matching pairs, with the in-batch negatives of VSE++.

    The probability that a pair is a translation is m = sigmoid(scale x (cosine - offset)). The loss of a pair
    is

        - 2 log m(pair) - log(1 - m(source, its hardest other translation))
                        - log(1 - m(its hardest other source, translation))

    The paper does not say how m depends on the two vectors; here it is the cosine, as in the search.

    Args:
        sources, translations: [B, H]; row i of one translates row i of the other.
        negative: [B, B] bool, whether source i and translation j may be a negative.

    Returns:
        The sum over the pairs, and the number of pairs that beat both their hardest negatives.
    """
    with paddle.amp.auto_cast(enable=False):  # in half precision many cosines would be equal
        if sources.dtype != paddle.float64:
            sources = sources.astype("float32")
            translations = translations.astype("float32")
        cosines = paddle.matmul(F.normalize(sources), F.normalize(translations), transpose_y=True)  # [B, B]
    logits = scale * (cosines - offset)
    of_pairs = logits.diagonal()  # [B]
    of_negatives = paddle.where(negative, logits, paddle.full_like(logits, _NONE))  # [B, B]
    hardest_translation = of_negatives.max(axis=1)  # [B], for each source
    hardest_source = of_negatives.max(axis=0)  # [B], for each translation
    # - log sigmoid(x) is softplus(-x), and - log(1 - sigmoid(x)) is softplus(x).
    loss = 2 * F.softplus(-of_pairs) + F.softplus(hardest_translation) + F.softplus(hardest_source)
    is_correct = (of_pairs > hardest_translation) & (of_pairs > hardest_source)
    return loss.sum(), is_correct.astype("int64").sum()
