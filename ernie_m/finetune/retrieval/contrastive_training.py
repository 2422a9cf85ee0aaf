"""Contrastive training of sentence embeddings: retrieval (paper, section 4.2, Table 14) or custom pairs."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor
from paddle.autograd import PyLayer

from ernie_m.finetune.finetuning_task import compute_accuracy
from ernie_m.finetune.retrieval.encoder import make_encoder, resolve_layer
from ernie_m.finetune.retrieval.pair_batches import PairBatches, PairStep
from ernie_m.finetune.retrieval.retrieval_args import RetrievalFlags
from ernie_m.finetune.retrieval.training_pairs import open_training_pairs
from ernie_m.finetune.run_setup import (
    MultiSeedTraining,
    find_resumed_step,
    format_official_line,
    make_engine,
    make_fingerprint,
    open_resumed_checkpoint,
)
from ernie_m.model.checkpoint.check_weights import list_unused_parts
from ernie_m.model.checkpoint.open import Checkpoint
from ernie_m.model.checkpoint.write import ModelFiles
from ernie_m.model.device_transfer import upload
from ernie_m.model.ernie import ErnieMModel
from ernie_m.model.open_model import OpenedModel
from ernie_m.model.pipeline_config import (
    PIPELINE,
    get_stored_pipeline_config,
)
from ernie_m.model.tasks import SEARCH, get_stored_name
from ernie_m.reader.batching import iter_padded_batches
from ernie_m.reader.equal_texts import hash_token_ids
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.training import distributed
from ernie_m.training.engine import Engine
from ernie_m.training.log import Evaluation, Interval
from ernie_m.training.stop_requests import ShutdownHandler
from ernie_m.training.trainer import EvaluationSteps
from ernie_m.utils.errors import UserError
from ernie_m.utils.logging import ON_CONSOLE, logger
from ernie_m.vectors.encode import PaddleEncoder, SentenceBatch, compute_sentence_embeddings
from ernie_m.vectors.pooling import is_mean_of_tokens
from ernie_m.vectors.retrieval_accuracy import find_hits, log_repeated_texts
from ernie_m.vectors.static_embeddings_in_paddle import FlatTokens

_SMOOTH = 1e-3  # a of `init_static_embeddings`
GROUP_TOKENS = 2048  # padded tokens per forward pass in training


@dataclasses.dataclass(frozen=True)
class PairBatch:
    """The pairs of a step on the device.

    Attributes:
        groups: all sentences, grouped by similar length.
        order: int64 [2b + n], the index in the concatenated groups of each sentence: of b sources, b
            translations, and n hard negatives.
        negative: [B, C], whether candidate j is a negative of source i; see `PairStep`.
        pair_count: b.
    """

    groups: list[SentenceBatch | FlatTokens]
    order: Tensor
    negative: Tensor
    pair_count: int


class RetrievalTraining(MultiSeedTraining):
    """Contrastive training of sentence embeddings on pairs; validation pairs select the best checkpoint.

    Args:
        opened: the model of the first seed, with the tokenizer and configuration of all seeds.
        initial_checkpoints: seed -> initial checkpoint; None: random weights.

    Raises:
        UserError: the corpus or file is missing or has no pairs, or --layer is out of range.
    """

    divisible = False  # the loss requires the embeddings of every process
    memory_advice = "lower --batch_size or --max_seq_len, or add --recompute true"

    def __init__(
        self, flags: RetrievalFlags, opened: OpenedModel, initial_checkpoints: Mapping[int, Checkpoint | None]
    ):
        if flags.init_checkpoint and not find_resumed_step(flags):
            raise UserError(f"{flags.init_checkpoint}: missing training_state to resume from")
        self.flags = flags
        self.initial_checkpoints = initial_checkpoints
        self.tokenizer = opened.tokenizer
        self.config = opened.config
        self.layer = resolve_layer(flags, self.config.num_hidden_layers)
        self.train_pairs = open_training_pairs(flags, opened)
        # The prompts decide the embeddings: say which ones apply. Both sides of translations have the same.
        if opened.pipeline_config.prompts:
            logger.info(
                "%s: prompts: query %r, document %r (also stored for retrieval)",
                flags.train_set,
                *self.train_pairs.prompts,
            )
        self.fingerprint = make_fingerprint(
            flags,
            get_stored_name(SEARCH),
            initial_checkpoints.values(),
            self.config,
            self.tokenizer,
            prompts=list(self.train_pairs.prompts),
            train_set=self.train_pairs.digest,
        )

    def begin(self, seed: int, checkpoint: Path | None) -> Engine:
        """Split the pairs, choose the evaluation steps, and build the model and optimizer of a seed."""
        flags = self.flags
        self.seed = seed
        self._progress = ""  # loss and remaining time of the seed's last `log_line`

        # Divide the pairs. Equal validation texts are hits wherever they stand, so their number is logged.
        self.batches, self.held_out = self.train_pairs.split(seed)
        for languages, pairs in self.held_out.items():
            if flags.validation_pairs and len(pairs):
                log_repeated_texts("-".join(languages), self._prepare_validation_inputs(pairs)[1])

        # Without validation pairs no step can be selected.
        self.total_steps = flags.max_steps
        self.evaluation_steps = EvaluationSteps()
        if self.held_out and flags.validation_pairs:
            # Also before the first step, because training has to improve on that score.
            regular = range(0, flags.max_steps, flags.validation_steps)
            self.evaluation_steps = EvaluationSteps(regular, frozenset([flags.max_steps]))
        elif flags.validation_pairs:
            logger.warning(
                "%s: too few pairs for validation, so the last checkpoint is the result. Provide ten or "
                "more, or set --validation_pairs 0",
                flags.train_set,
            )

        # Load the weights. Those of a new static model are scaled by how much a token tells.
        weights = open_resumed_checkpoint(checkpoint, self.initial_checkpoints[seed])
        model = make_encoder(self.config, weights, flags.dtype, seed, flags.pooling, is_trained=True)
        if weights is None and self.config.is_static:
            init_static_embeddings(model.embeddings.word_embeddings.weight, self.tokenizer)
        model.set_recompute(flags.recompute)
        return make_engine(flags, model, total_steps=flags.max_steps, seed=seed)

    def make_batch_iterator(self, position: dict[str, Any] | None) -> PairBatches:
        """Return the training batches from a saved position on; None: from the first."""
        return dataclasses.replace(self.batches, position=position)

    def copy_to_device(self, model: ErnieMModel, data: PairStep) -> list[PairBatch]:
        """Send the sentences of a step to the device, grouped by length; for a static model in one group."""
        if is_mean_of_tokens(model.config, self.flags.pooling):
            tokens = FlatTokens.from_sentences(data.sentences)
            order = np.arange(len(data.sentences))
            return [upload(PairBatch([tokens], order, data.negative, data.pair_count))]
        pad_id = model.config.pad_token_id
        groups = []
        numbers_in_groups: list[int] = []  # the index of each sentence, in the order of the groups
        for numbers, ids in iter_padded_batches(data.sentences, pad_id, GROUP_TOKENS):  # ids [B, T]
            groups.append(SentenceBatch.from_padded(ids, pad_id, self.flags.pooling))
            numbers_in_groups += numbers
        order = np.argsort(numbers_in_groups)  # the index of each sentence in the groups
        return [upload(PairBatch(groups, order, data.negative, data.pair_count))]

    def loss(self, model: ErnieMModel, batch: PairBatch) -> tuple[Tensor, dict[str, Tensor | float]]:
        """Compute the contrastive loss of the whole step, and the counts for the in-batch accuracy.

        The embeddings of other processes are gathered without gradients. Each process computes the same loss,
        and its gradient with respect to the process's embeddings; the engine sums the gradients.
        """
        # Embed the sentences in groups of similar length, which need little padding, and restore their order.
        world_size = distributed.world_size()
        vectors_of_groups = [compute_sentence_embeddings(model, group, self.layer) for group in batch.groups]
        vectors = paddle.gather(paddle.concat(vectors_of_groups), batch.order)  # [2b + n, H]
        local_part = split_pairs(vectors, batch.pair_count)  # sources, translations, hard negatives

        # The negatives of a pair are those of the whole step, however many processes share it.
        parts = [local_part]  # of all processes
        if world_size > 1:
            # For each process: its embeddings and its number of pairs.
            gathered = distributed.all_gather_rows(vectors.detach(), batch.pair_count)
            parts = [split_pairs(rows, pair_count) for rows, pair_count in gathered]
            parts[distributed.rank()] = local_part  # the part with a gradient

        # Translations come before hard negatives, so that candidate i is the translation of source i.
        sources, *of_candidates = zip(*parts)
        candidates = [part for kind in of_candidates for part in kind if len(part)]
        sources = paddle.concat([*sources])  # [B, H]
        # The candidates are [C, H].
        total, correct = self._compute_total_loss(sources, paddle.concat(candidates), batch)
        count = len(batch.negative)  # B
        loss = total / count
        if world_size > 1:
            # The engine sums values and gradients over the processes. Each process has the loss of the whole
            # step, so its value is divided by their number; its gradient is a part of the sum and stays as it
            # is.
            loss = loss + (loss / world_size - loss).detach()
        # The engine also sums these values. `log_line` logs percent.
        return loss, {"correct": 100.0 * correct / world_size, "count": count / world_size}

    def _compute_total_loss(
        self, sources: Tensor, candidates: Tensor, batch: PairBatch
    ) -> tuple[Tensor, Tensor]:
        """Compute the summed loss of the step by --loss, and the number of correctly ranked pairs.

        Args:
            sources, candidates: embeddings of all processes, [B, H] and [C, H]; see `hardest_negative_bce`.
        """
        flags = self.flags
        negative = batch.negative.astype("bool")  # [B, C]; `upload` sends bools as int64
        if flags.loss == "in_batch_softmax":
            return in_batch_softmax_loss(sources, candidates, negative, flags.scale, flags.symmetric)
        return hardest_negative_bce(sources, candidates, negative, flags.scale, flags.offset)

    def evaluate(self, engine: Engine, stop: ShutdownHandler) -> Evaluation | None:
        """Compute the accuracy@1 on the validation pairs, averaged over both directions.

        The language pairs are divided among the processes.

        Returns:
            None after a stop request.
        """
        names = sorted(self.held_out)
        world_size = distributed.world_size()
        process_scores: dict[str, float] = {}
        for first in range(0, len(names), world_size):
            # One language pair per process; some processes may have none in the last round.
            number = first + distributed.rank()
            if number < len(names):
                languages = names[number]
                with engine.autocast():
                    process_scores["-".join(languages)] = self._compute_accuracy(
                        engine.model, self.held_out[languages]
                    )
            if stop.is_set_on_any_process():  # every process calls it equally often
                return None

        # Language pairs count equally, whatever their size. The mean selects the best step.
        scores = dict(distributed.gather_items(process_scores.items()))
        mean = sum(scores.values()) / len(scores)
        each = "".join(f", {name} {score:.2f}" for name, score in sorted(scores.items()) if len(scores) > 1)
        line = "validation accuracy@1: %.2f (step %d)%s%s"
        logger.info(line, mean, engine.steps, each, self._progress, extra=ON_CONSOLE)
        by_name = {name: {"accuracy": score} for name, score in scores.items()}
        return Evaluation(engine.steps, epoch=0, selected_by=mean, scores={"held-out pairs": by_name})

    def _compute_accuracy(self, model: ErnieMModel, pairs: Sequence) -> float:
        """Compute the accuracy@1 on validation pairs in percent, averaged over both directions.

        Args:
            pairs: (source ids, translation ids), of which --validation_pairs are used.
        """
        encoder = PaddleEncoder(model, self.flags.pooling, self.layer)
        sides, keys = self._prepare_validation_inputs(pairs)
        sources, translations = map(encoder.encode, sides)  # [count, H] each
        is_found = [find_hits(sources, translations, keys), find_hits(translations, sources, keys)]
        return float(100.0 * np.mean(is_found))

    def _prepare_validation_inputs(self, pairs: Sequence) -> tuple[list[list[np.ndarray]], np.ndarray]:
        """Return the model inputs of N validation sources and translations, and their keys, [2, N].

        Args:
            pairs: (source ids, translation ids), of which up to --validation_pairs are used.
        """
        count = min(self.flags.validation_pairs, len(pairs))
        ids_of_sides = zip(*(pairs[number] for number in range(count)))
        sides = [self.tokenizer.build_sentence_inputs(ids, self.flags.max_seq_len) for ids in ids_of_sides]
        return sides, np.stack([hash_token_ids(side) for side in sides])

    def log_line(self, interval: Interval) -> str:
        """Return the log line of an interval, with the in-batch accuracy."""
        per_cent = compute_accuracy(interval.sums)  # `loss` counts each correct pair as 100
        line = format_official_line(interval, self.total_steps, f"in-batch accuracy: {per_cent:.1f} %")
        self._progress = f", {line.split(', ')[1]}, {interval.remaining} left"
        return line

    def collect_files(
        self, engine: Engine, master_weights: Mapping[str, Tensor], evaluation: Evaluation | None
    ) -> ModelFiles:
        """Return the files of the model, with its pipeline settings and its model card."""
        flags = self.flags
        pipeline_config = dataclasses.replace(
            self.train_pairs.pipeline_config, layer=self.layer, pooling=flags.pooling
        )
        settings = {"task": get_stored_name(SEARCH), PIPELINE: get_stored_pipeline_config(pipeline_config)}
        facts = {
            "name": "ERNIE-M, retrieval",
            "task": get_stored_name(SEARCH),
            "data": flags.train_set,
            "languages": self.train_pairs.languages,
            "initialized_from": flags.get_initial_checkpoint(self.seed),
        }
        left_out = list_unused_parts(self.initial_checkpoints[self.seed], flags.pooling == "pooler")
        return self.collect_model_files(engine, master_weights, evaluation, settings, facts, left_out)


@paddle.no_grad()
def init_static_embeddings(table: Tensor, tokenizer: Tokenizer) -> None:
    """Initialize the word embeddings of a static model by scaling random embeddings [V, H] in place.

    The embedding of a token is multiplied by a / (a + p), where p is the probability of the token in the
    unigram model (smooth inverse frequency; Arora et al., 2017), because frequent tokens carry little
    information. The embeddings of [CLS] and [SEP] are 0, so that a text without tokens has a zero embedding
    in every format of the model.
    """
    tokens = tokenizer.convert_ids_to_tokens(range(tokenizer.vocab_size))
    model = tokenizer.processor
    log_probabilities = np.array(model.GetScore(model.PieceToId(tokens)))  # 0 for other tokens
    factors = _SMOOTH / (_SMOOTH + np.exp(log_probabilities))  # [V]
    factors[[tokenizer.cls_id, tokenizer.sep_id]] = 0.0
    table.set_value(table * paddle.to_tensor(factors[:, None]).astype(table.dtype))


def split_pairs(vectors: Tensor, pair_count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split embeddings [2b + n, H] into those of b = `pair_count` sources, b translations and n negatives."""
    return vectors[:pair_count], vectors[pair_count : 2 * pair_count], vectors[2 * pair_count :]


_EXCLUDED = -1e4  # a logit whose loss and gradient are 0, also in float16


def hardest_negative_bce(
    sources: Tensor, candidates: Tensor, negative: Tensor, scale: float, offset: float
) -> tuple[Tensor, Tensor]:
    """Compute the loss of Wang et al. (2019b) for matching pairs, with the hardest negatives as in VSE++.

    The probability that a pair is a translation is m = sigmoid(scale x (cosine - offset)). The loss of a pair
    is

        - 2 log m(pair) - log(1 - m(source, its hardest negative))
                        - log(1 - m(its hardest other source, translation))

    The paper does not define m as a function of the two embeddings; here it depends on their cosine, as in
    retrieval.

    Args:
        sources: the embeddings of the sources, [B, H].
        candidates: the embeddings of the B translations and of hard negatives, [C, H].
        negative: bool [B, C], whether candidate j is a negative of source i.
        scale, offset: see above.

    Returns:
        The loss summed over the pairs, and the number of pairs that score above all their negatives.
    """
    logits = scale * (_compute_cosines(sources, candidates) - offset)  # [B, C]
    pair_logits = logits.diagonal()  # [B]
    hardest_candidate, hardest_source = _find_hardest_negatives(logits, negative)  # [B] each
    # - log sigmoid(x) is softplus(-x), and - log(1 - sigmoid(x)) is softplus(x).
    loss = 2 * F.softplus(-pair_logits) + F.softplus(hardest_candidate) + F.softplus(hardest_source)
    return loss.sum(), _count_winners(pair_logits, hardest_candidate, hardest_source)


def in_batch_softmax_loss(
    sources: Tensor, candidates: Tensor, negative: Tensor, scale: float, symmetric: bool
) -> tuple[Tensor, Tensor]:
    """Compute the cross-entropy of each translation among the source's negatives (Henderson et al., 2017).

    This is MultipleNegativesRankingLoss of sentence-transformers.

    Args:
        sources, candidates, negative: see `hardest_negative_bce`.
        scale: the factor of the cosines in the logits.
        symmetric: whether to average this loss and that of the reverse direction, translation to source, as
            with directions=("query_to_doc", "doc_to_query") and partition_mode="per_direction" in
            sentence-transformers.

    Returns:
        See `hardest_negative_bce`.
    """
    logits = scale * _compute_cosines(sources, candidates)  # [B, C]
    pair_logits = logits.diagonal()  # [B]
    is_translation = paddle.eye(*logits.shape).astype("bool")  # [B, C]: candidate i of source i
    is_in_sum = negative | is_translation  # [B, C]
    summed = paddle.where(is_in_sum, logits, paddle.full_like(logits, _EXCLUDED))
    own = paddle.arange(len(logits))  # the index of each translation among the candidates, and of its source
    loss = F.cross_entropy(summed, own, reduction="sum")
    if symmetric:
        translation_logits = summed[:, : len(logits)]  # [B, B], without given negatives
        loss = (loss + F.cross_entropy(translation_logits.T, own, reduction="sum")) / 2
    hardest_candidate, hardest_source = _find_hardest_negatives(logits, negative)  # [B] each
    return loss, _count_winners(pair_logits, hardest_candidate, hardest_source)


def _compute_cosines(sources: Tensor, candidates: Tensor) -> Tensor:
    """Compute the cosine similarity of each source and candidate, [B, C], in float32 or float64.

    In half precision, many cosines would be equal.
    """
    with paddle.amp.auto_cast(enable=False):
        if sources.dtype != paddle.float64:
            sources = sources.astype("float32")
            candidates = candidates.astype("float32")
        return paddle.matmul(_L2Normalize.apply(sources), _L2Normalize.apply(candidates), transpose_y=True)


class _L2Normalize(PyLayer):
    """L2 normalization of rows, [N, H] -> [N, H]; zero rows stay zero.

    Its backward pass is three times as fast on a CPU as that of F.normalize.
    """

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.length = paddle.clip(x.square().sum(axis=1, keepdim=True).sqrt(), 1e-12)  # [N, 1]
        ctx.unit = x / ctx.length
        return ctx.unit

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        along = (gradient * ctx.unit).sum(axis=1, keepdim=True)  # the component that only changes the length
        return (gradient - along * ctx.unit) / ctx.length


def _find_hardest_negatives(logits: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logit of the hardest negative of each source, and of each translation: [B] each."""
    negative_logits = paddle.where(negative, logits, paddle.full_like(logits, _EXCLUDED))  # [B, C]
    translation_logits = negative_logits[:, : len(logits)]  # [B, B], without given negatives
    return negative_logits.max(axis=1), translation_logits.max(axis=0)


def _count_winners(pair_logits: Tensor, hardest_candidate: Tensor, hardest_source: Tensor) -> Tensor:
    """Count the pairs whose logit is above those of all their negatives, int64 [].

    Args:
        pair_logits: the logit of each pair, [B].
        hardest_candidate, hardest_source: from `_find_hardest_negatives`, [B] each.
    """
    is_won = (pair_logits > hardest_candidate) & (pair_logits > hardest_source)
    return is_won.astype("int64").sum()
