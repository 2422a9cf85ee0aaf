"""Fine-tuning for retrieval on the parallel text of a corpus (paper, section 4.2 and Table 14)."""

import dataclasses
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from evaluation.encode import encode_layer, sentence_vectors
from evaluation.retrieval import hits
from finetune.flags import RetrievalFlags
from finetune.retrieval.pairs import PairStep, StepPairs
from finetune.trainer import Evaluation
from model.ernie_m import ErnieMModel
from reader.batching import padded_batches
from reader.tokenization import Tokenizer
from training import distributed
from training.engine import Engine
from training.guard import StopSignal
from utils.errors import UserError
from utils.logging import logger

GROUP_TOKENS = 2048  # padded tokens that are encoded at once
_NONE = -1e4  # a logit whose loss and gradient are 0, in float16 too


class RetrievalTraining:
    """`finetune.trainer.Training` of one seed on the parallel text of a corpus.

    Args:
        layer: the layer whose vectors are trained.

    Raises:
        UserError: there is no parallel text, or there are fewer pairs than processes.
    """

    divisible = False  # the loss needs the vectors of every process
    measured = "pairs that beat their negatives: %.1f %%"

    def __init__(
        self, flags: RetrievalFlags, model: ErnieMModel, tokenizer: Tokenizer, layer: int, seed: int
    ):
        world = distributed.world_size()
        if flags.batch_size < world:
            raise UserError(f"--batch_size {flags.batch_size} is below the {world} processes; raise it")
        self.flags, self.model, self.tokenizer, self.layer = flags, model, tokenizer, layer
        self.config = model.config
        self.seed, self.total_steps = seed, flags.max_steps
        # Also before the first step: training has to beat that score.
        self.evaluations = [*range(0, flags.max_steps, flags.validation_steps), flags.max_steps]
        self.pairs = StepPairs(
            tokenizer, flags.train_set, flags.batch_size, flags.max_seq_len, flags.pair_alpha, self.seed,
            distributed.rank(), world,
        )  # fmt: skip
        corpus = self.pairs.open()
        self.held_out = corpus.held_out_parallel
        if not (self.held_out and flags.validation_pairs):
            self.evaluations = []
        self.settings = {"task": "retrieval", "reading": {"layer": layer, "pooling": flags.pooling}}
        self.facts = {
            "name": "ERNIE-M, retrieval", "task": "retrieval", "data": flags.train_set,
            "languages": corpus.languages,
            "initialised_from": flags.init_checkpoint or flags.init_pretraining_params,
        }  # fmt: skip

    def stream(self, position: Any) -> StepPairs:
        return dataclasses.replace(self.pairs, state=position)

    def after(self, work: PairStep) -> dict[str, Any]:
        return work.state

    def place(self, work: PairStep) -> str:
        return ""

    def loss(self, model: ErnieMModel, micro_batch: PairStep) -> tuple[Tensor, dict[str, Tensor | float]]:
        """Return the loss of the whole step, and the percentage of pairs that beat their negatives.

        The vectors of the other processes are constants. Each process computes the same loss and its gradient
        with respect to its own vectors; the engine adds the gradients up.
        """
        own = self._vectors(micro_batch.sentences)  # [2b, H]
        count, world = len(micro_batch.negative), distributed.world_size()
        sides = own.split(2)
        if world > 1:
            parts = [paddle.to_tensor(part).split(2) for part in distributed.gather(own.detach().numpy())]
            parts[distributed.rank()] = sides
            sides = [paddle.concat(side) for side in zip(*parts)]  # [B, H]
        negative = paddle.to_tensor(micro_batch.negative)
        total, won = hardest_negative_bce(*sides, negative, self.flags.scale, self.flags.offset)
        loss = total / count
        if world > 1:  # each process has the whole value, and the engine sums the values
            loss = loss + (loss / world - loss).detach()
        return loss, {"correct": 100.0 * won / world, "count": count / world}

    def _vectors(self, sentences: list[np.ndarray]) -> Tensor:
        """Encode sentences in groups of similar length: [n, H], in the given order."""
        groups, parts = [], []
        for rows, ids in padded_batches(sentences, self.model.config.pad_token_id, GROUP_TOKENS):
            groups.append(rows)
            parts.append(sentence_vectors(self.model, ids, self.layer, self.flags.pooling))
        place = np.argsort(np.concatenate(groups))
        return paddle.index_select(paddle.concat(parts), paddle.to_tensor(place), axis=0)

    def evaluate(self, engine: Engine, stop: StopSignal) -> Evaluation | None:
        """Search the held-out pairs in both directions; the processes share the language pairs."""
        names, rank, world = sorted(self.held_out), distributed.rank(), distributed.world_size()
        mine: dict[str, float] = {}
        for start in range(0, len(names), world):
            if start + rank < len(names):
                pair = names[start + rank]
                with engine.autocast():
                    mine["-".join(pair)] = self._accuracy(self.held_out[pair])
            if stop.anywhere():
                return None
        scores = {name: score for part in distributed.gather(mine) for name, score in part.items()}
        mean = sum(scores.values()) / len(scores)
        shown = ", ".join(f"{name} {score:.1f}" for name, score in sorted(scores.items()))
        logger.info("held-out pairs found at step %d: mean %.2f; %s", engine.steps, mean, shown)
        by_name = {name: {"accuracy": score} for name, score in scores.items()}
        return Evaluation(engine.steps, 0, mean, {"held-out pairs": by_name})

    def _accuracy(self, pairs: Any) -> float:
        """Per cent of up to --validation_pairs pairs that are found, mean of both directions."""
        rows = [pairs[i] for i in range(min(self.flags.validation_pairs, len(pairs)))]
        build, longest = self.tokenizer.build_from_ids, self.flags.max_seq_len
        sides = [[np.asarray(build(row[side].tolist(), None, longest)) for row in rows] for side in (0, 1)]
        how = self.layer, self.flags.pooling
        a, b = (encode_layer(self.model, one, *how, batch_tokens=self.flags.batch_tokens) for one in sides)
        return 50.0 * (hits(a, b).mean() + hits(b, a).mean())


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
        scale, offset: parameters of the logits.

    Returns:
        The sum over the pairs, and the number of pairs that beat both their hardest negatives.
    """
    with paddle.amp.auto_cast(enable=False):  # in half precision many cosines would be equal
        if sources.dtype != paddle.float64:
            sources, translations = sources.astype("float32"), translations.astype("float32")
        sources, translations = F.normalize(sources), F.normalize(translations)
        cosines = paddle.matmul(sources, translations, transpose_y=True)  # [B, B]
    logits = scale * (cosines - offset)
    right = logits.diagonal()  # [B]
    wrong = paddle.where(negative, logits, paddle.full_like(logits, _NONE))
    hardest = [wrong.max(axis=1), wrong.max(axis=0)]  # other translations, other sources
    loss = 2 * F.softplus(-right) + F.softplus(hardest[0]) + F.softplus(hardest[1])
    won = (right > hardest[0]) & (right > hardest[1])
    return loss.sum(), won.astype("int64").sum()
