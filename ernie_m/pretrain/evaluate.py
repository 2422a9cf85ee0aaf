"""Evaluation on held-out text: perplexity and accuracy of each objective, and bitext retrieval.

Retrieval accuracy shows whether the languages share an embedding space. This file also computes the mean
embedding of each language, which is stored in the finished models.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import paddle

from ernie_m.model.ernie import ErnieMModel
from ernie_m.model.lm_head import PreTrainingModel
from ernie_m.pretrain.btmlm_pseudo_tokens import PseudoTokenGenerator
from ernie_m.pretrain.config import RunConfig
from ernie_m.pretrain.corpus_selection import TrainingData, make_objectives
from ernie_m.pretrain.loss import compute_batch_loss, to_device
from ernie_m.pretrain.masking import Pair, Text, make_rng
from ernie_m.pretrain.objective import Objective, compute_perplexity
from ernie_m.pretrain.packing import HostBatch, MaskedExample, group_by_tokens, pack
from ernie_m.reader.corpus import Blocks, Corpus, CorpusPairs
from ernie_m.reader.equal_texts import hash_token_ids
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.training import distributed
from ernie_m.training.engine import Engine
from ernie_m.training.stop_requests import ShutdownHandler
from ernie_m.training.trainer import EvaluationSteps
from ernie_m.utils.errors import UserError
from ernie_m.utils.logging import show_progress
from ernie_m.vectors.encode import PaddleEncoder
from ernie_m.vectors.language_centering import LanguageCentering
from ernie_m.vectors.retrieval_accuracy import compute_accuracy_by_layer, log_repeated_texts

# Masks of held-out text are drawn for this seed and step in all runs. No run reaches this step, so
# training masks are never the same.
_SEED = 0
_STEP = (1 << 40) - 1
# These objectives are always evaluated, so that runs can be compared.
_ALWAYS = ("mmlm", "tlm", "camlm")


class Evaluator:
    """Evaluation of a model on the held-out text of a corpus, with the same masks each time.

    Args:
        text: the training data.
        tokenizer: the tokenizer of the corpus.
        pseudo_token_generator: BTMLM's first stage.
        run: settings of the evaluation.

    Attributes:
        mono: language -> held-out text.
        pairs: (a, b) -> held-out pairs.

    Raises:
        UserError: run.eval_steps is set, but the corpus has no held-out text.
    """

    def __init__(
        self,
        text: TrainingData,
        tokenizer: Tokenizer,
        pseudo_token_generator: PseudoTokenGenerator,
        run: RunConfig,
    ):
        self.run_config = run
        self.text = text
        self.tokenizer = tokenizer
        self.pseudo_token_generator = pseudo_token_generator
        self.stop: ShutdownHandler | None = None  # of the current evaluation
        self.objectives = make_objectives(text.setting, {*text.objectives, *_ALWAYS})
        languages = set(text.languages)
        self.mono = {name: stream for name, stream in text.corpus.held_out_mono.items() if name in languages}
        self.pairs = {
            pair: stream for pair, stream in text.corpus.held_out_parallel.items() if set(pair) <= languages
        }
        if run.eval_steps and run.eval_sequences and not self.mono and not self.pairs:
            raise UserError(
                f"{text.corpus.path}: no held-out text. Build the corpus with "
                "--held_out, or set run.eval_steps 0"
            )
        if run.eval_sequences:
            for pair in self.pairs:
                log_repeated_texts("-".join(pair), self._read_sides(pair)[1])

    def choose_steps(self, last_step: int, head_steps: int) -> EvaluationSteps:
        """Return the steps after which a run is evaluated.

        Args:
            last_step: number of steps of the run.
            head_steps: number of initial steps that train only the head, after which the run is also
                evaluated; 0: none.
        """
        if not self.run_config.eval_sequences or not (self.mono or self.pairs):
            return EvaluationSteps()
        every = self.run_config.eval_steps or last_step  # eval_steps 0: only after the last step
        return EvaluationSteps(range(every, last_step, every), frozenset({last_step, head_steps} - {0}))

    def run(self, engine: Engine[PreTrainingModel], stop: ShutdownHandler) -> dict[str, Any] | None:
        """Evaluate the model. Call this on every process; each evaluates a part, and all get the same scores.

        Args:
            stop: a shutdown request on any process stops the evaluation on all processes.

        Returns:
            mmlm: language -> {perplexity, accuracy, frequency_perplexity}; tlm, camlm and custom objectives:
            "a-b" -> {perplexity, accuracy}, or loss instead of perplexity if the objective has its own;
            btmlm: "a-b" -> {perplexity, accuracy, perplexity_without};
            retrieval: "a-b" -> accuracy@1 of each layer, mean of both directions; candidates: "a-b" -> number
            of candidate sentences of retrieval. None: the evaluation was stopped.

            frequency_perplexity is the perplexity of the unigram model of the language's training text.

            perplexity_without is the perplexity of the same masked tokens without pseudo-tokens.
        """
        parts = self._list_parts()
        engine.model.eval()
        self.stop = stop
        rank = distributed.rank()
        world_size = distributed.world_size()
        process_scores: list[tuple[str, str, Any]] = []  # of this process: kind, name, result
        with paddle.no_grad(), engine.autocast():
            # The processes evaluate `world_size` parts at a time, one each. In between, all check whether to
            # stop.
            for first in show_progress(
                range(0, len(parts), world_size), "held-out evaluation", unit="streams"
            ):
                if first + rank < len(parts):  # the last round may have fewer parts than processes
                    kind, languages = parts[first + rank]
                    name = languages if isinstance(languages, str) else "-".join(languages)
                    process_scores.append((kind, name, self._evaluate_part(kind, engine.model, languages)))
                if stop.is_set_on_any_process():
                    return None
        scores: dict[str, dict[str, Any]] = {kind: {} for kind, _ in parts}
        for kind, name, result in distributed.gather_items(process_scores):
            if result:
                scores[kind][name] = result
        if scores.get("retrieval"):
            most = self.run_config.eval_sequences
            counts = {"-".join(pair): min(len(stream), most) for pair, stream in self.pairs.items()}
            scores["candidates"] = counts
        return {kind: dict(sorted(results.items())) for kind, results in scores.items() if results}

    def _list_parts(self) -> list[tuple[str, Any]]:
        """List the parts of an evaluation: (objective or "retrieval", language or language pair)."""
        kinds = {name: one.evaluated_on or one.reads for name, one in self.objectives.items()}
        on_text = [name for name, kind in kinds.items() if kind is Text]
        on_pairs = [*(name for name in kinds if name not in on_text), "retrieval"]
        parts: list[tuple[str, Any]] = [(name, language) for name in on_text for language in self.mono]
        return parts + [(name, pair) for pair in self.pairs for name in on_pairs]

    def _evaluate_part(self, kind: str, model: PreTrainingModel, languages: Any) -> Any:
        """Evaluate one part; None: no token of the text can be predicted.

        Args:
            kind: name of an objective, or "retrieval".
            languages: a language or a language pair.

        Returns:
            The scores of an objective by name, or the retrieval accuracy@1 of each layer.
        """
        if kind == "retrieval":
            sides, keys = self._read_sides(languages)
            src_vectors, tgt_vectors = map(PaddleEncoder(model.ernie_m).encode, sides)  # [L + 1, N, H] each
            accuracy = compute_accuracy_by_layer(src_vectors, tgt_vectors, keys)  # [L + 1, 2]
            return accuracy.mean(axis=1).tolist()  # the mean of both directions
        objective = self.objectives[kind]
        examples: list[Any]
        if isinstance(languages, str):
            examples = self._read_texts(languages)
        else:
            examples = [pair for pair in self._read_pairs(languages) if objective.accepts_pair(pair)]
        return objective.evaluate(examples, model, self)

    def compute_unigram_perplexity(self, texts: Sequence[Text]) -> float:
        """Compute the perplexity of texts of one language under the unigram model of its training text."""
        ids = np.concatenate([text.ids for text in texts])
        language = self.text.languages[texts[0].language]
        subword_counts = np.array(self.text.corpus.count_subwords(language))  # [V]
        unknown = self.text.setting.vocabulary.unk_id
        subword_counts[unknown] = 0  # never masked, so never predicted
        counts = subword_counts + 1.0  # held-out subwords may be absent from the training text
        losses = -np.log(counts[ids[ids != unknown]] / counts.sum())
        return compute_perplexity(losses.mean())

    def _read_sides(self, pair: tuple[str, str]) -> tuple[list[list[np.ndarray]], np.ndarray]:
        """Return the sentences of both sides of the held-out pairs, for retrieval.

        Returns:
            The ids of the sentences of each side, and keys of equal texts, uint64 [2, N].
        """
        longest = self.text.data.max_seq_len
        sides = [
            self.tokenizer.build_sentence_inputs(side, longest)
            for side in zip(*self._take_first(self.pairs[pair]))
        ]
        return sides, np.stack([hash_token_ids(side) for side in sides])

    def _read_texts(self, language: str) -> list[Text]:
        """Return the held-out monolingual examples of a language, packed as in training."""
        number = self.text.languages.index(language)
        return [
            Text(ids, number) for ids in self._take_first(self.text.split_into_examples(self.mono[language]))
        ]

    def _read_pairs(self, pair: tuple[str, str]) -> list[Pair]:
        """Return the held-out examples of a language pair, with sides swapped in every second one."""
        pairs = self._take_first(self.pairs[pair])
        return [self.text.make_pair(pair, sides, reverse=index % 2 == 1) for index, sides in enumerate(pairs)]

    def _take_first(self, items: CorpusPairs | Blocks) -> list[Any]:
        """Return the first `run.eval_sequences` items."""
        return [items[index] for index in range(min(len(items), self.run_config.eval_sequences))]

    def compute_scores(
        self,
        model: PreTrainingModel,
        objective: Objective,
        examples: Sequence[Any],
        mask_example: Callable[..., MaskedExample] | None = None,
    ) -> dict[str, float] | None:
        """Compute the scores of an objective on examples: perplexity, or its own loss, and accuracy.

        Args:
            mask_example: function that masks an example; None: `objective.mask`.

        Returns:
            Score by name; None: no token can be predicted.
        """
        loss = 0.0
        correct = 0.0
        count = 0
        # Each example is masked with its own generator.
        mask_example = mask_example or objective.mask
        masked = [
            mask_example(example, make_rng(_SEED, _STEP, index)) for index, example in enumerate(examples)
        ]
        for batch in self._make_batches(masked, objective.group):
            (device_batch,) = to_device([batch])
            device_batch, _ = self.pseudo_token_generator.fill_placeholders(model, device_batch)
            total, sums = compute_batch_loss(model, device_batch)
            loss += float(total)
            correct += float(sums.get(f"{objective.name}.correct", 0.0))
            count += int(sums.get(f"{objective.name}.count", 0))
        if count == 0:
            return None
        loss /= count
        score = {"loss": loss} if objective.loss else {"perplexity": compute_perplexity(loss)}
        return score | {"accuracy": correct / count}

    def _make_batches(self, masked: Sequence[MaskedExample], group: int) -> Iterator[HostBatch]:
        """Pack masked examples into micro-batches of at most `run.micro_batch_tokens` tokens.

        Args:
            group: number of consecutive examples that must be in the same micro-batch.
        """
        tokens = [sum(len(part.input_ids) for part in example.sequences) for example in masked]
        tokens_of_groups = [sum(tokens[first : first + group]) for first in range(0, len(tokens), group)]
        # `plan_run` checks that every group fits.
        for groups in group_by_tokens(tokens_of_groups, self.run_config.micro_batch_tokens):
            if self.stop:  # `run` discards the incomplete result
                return
            examples = masked[groups.start * group : groups.stop * group]
            yield pack([example._replace(group=n // group) for n, example in enumerate(examples)])


SENTENCES = 300  # per language; more sentences hardly change the means and retrieval


def compute_language_means(
    model: ErnieMModel, text: TrainingData, tokenizer: Tokenizer, max_seq_len: int
) -> dict[str, np.ndarray]:
    """Compute the mean sentence embedding of each language at every layer, from held-out sentences.

    The embedding of a sentence is the mean over its tokens. Languages without held-out text are skipped.

    Args:
        text: the training data.
        max_seq_len: maximum length in tokens; longer sentences are truncated.

    Returns:
        language -> float32 [L + 1, H].
    """
    encoder = PaddleEncoder(model)
    vectors = {}  # language -> [L + 1, N, H]
    for language in text.languages:
        sentences = read_held_out_sentences(text.corpus, language)
        if sentences:
            vectors[language] = encoder.encode(tokenizer.build_sentence_inputs(sentences, max_seq_len))
    means = LanguageCentering.from_embeddings(vectors)
    return dict(zip(means.languages, means.vectors))


def read_held_out_sentences(corpus: Corpus, language: str) -> list[np.ndarray]:
    """Return about `SENTENCES` held-out sentences of a language: ids without special tokens.

    The sentences are sides of sentence pairs, equally many from each language pair. For a language without
    pairs they are lines of monolingual text, which may be whole documents.
    """
    held_out_pairs = {pair: text for pair, text in corpus.held_out_parallel.items() if language in pair}
    sentences = []
    for pair, text in held_out_pairs.items():
        equal_part = -(-SENTENCES // len(held_out_pairs))  # rounded up
        count = min(len(text), equal_part)
        side = pair.index(language)
        sentences += [text[number][side] for number in range(count)]
    if not sentences and language in corpus.held_out_mono:
        lines = corpus.held_out_mono[language]
        sentences = [lines.read_line(number) for number in range(min(lines.num_lines, SENTENCES))]
    return sentences
