"""Held-out evaluation: how well each objective is solved, and whether the languages share a space."""

import math
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import paddle

from evaluation.encode import encode
from evaluation.retrieval import accuracy_by_layer
from model.heads import PreTrainingModel
from pretrain.batch import Stage1
from pretrain.btmlm import PseudoTokenGenerator
from pretrain.config import PretrainConfig
from pretrain.loss import masked_lm_loss, to_device
from pretrain.masking import generator
from pretrain.objectives import Pair, Text
from pretrain.reader import TrainingText, make_objectives
from reader.corpus import Blocks
from reader.tokenization import Tokenizer
from training import distributed
from training.engine import Engine
from training.guard import StopSignal
from utils.errors import UserError
from utils.logging import progress

# Held-out masks use a step that no run reaches, so they differ from training masks and are equal in all runs.
_SEED, _STEP = 0, (1 << 40) - 1
_SAMPLES = 2  # sentences of a pair whose pseudo-tokens are recorded


class Evaluator:
    """The held-out part of a corpus, made into the same batches at every evaluation.

    Args:
        text: what the run trains on.
        pseudo_tokens: BTMLM's stage 1; None where BTMLM is not active.

    Raises:
        UserError: evaluations are asked for, but the corpus has no held-out part.
    """

    def __init__(
        self,
        config: PretrainConfig,
        text: TrainingText,
        tokenizer: Tokenizer,
        pseudo_tokens: PseudoTokenGenerator | None,
    ):
        self.config, self.text, self.tokenizer = config, text, tokenizer
        self.pseudo_tokens, self.stop = pseudo_tokens, None
        self.objectives = make_objectives(config, text)
        self.most, self.room = config.run.eval_sequences, config.data.max_seq_len - 2
        mono, pairs, known = text.corpus.held_out_mono, text.corpus.held_out_parallel, set(text.languages)
        self.mono = {name: held for name, held in mono.items() if name in known}
        self.pairs = {pair: held for pair, held in pairs.items() if set(pair) <= known}
        if config.run.eval_steps and self.most and not self.mono and not self.pairs:
            raise UserError(
                f"{text.corpus.path} has no held-out part; build it with one, or set run.eval_steps 0"
            )

    def steps(self, last: int) -> list[int]:
        """The steps after which a run of `last` steps is evaluated, in ascending order."""
        if not self.most or not (self.mono or self.pairs):
            return []
        every = self.config.run.eval_steps or last
        return [*range(every, last, every), last]

    def run(self, engine: Engine, stop: StopSignal) -> dict[str, Any] | None:
        """Evaluate; the streams are shared among the processes, the result is the same on all.

        Args:
            stop: breaks it off, on all processes alike.

        Returns:
            mmlm: language -> {perplexity, accuracy}; tlm, camlm: "a-b" -> the same; btmlm: "a-b" ->
            {perplexity, perplexity_without, precision, frequent_precision, copy_rate, repeat_rate, samples}:
            perplexity_without is that of the same masked tokens without pseudo-tokens, and samples are
            sentences with their pseudo-tokens; retrieval: "a-b" -> accuracy of each layer, mean of both
            directions. None where it was broken off.
        """
        kinds = ("tlm", "camlm", *(("btmlm",) if self.pseudo_tokens else ()), "retrieval")
        tasks: list[tuple[str, Any]] = [("mmlm", name) for name in self.mono]
        tasks += [(kind, pair) for pair in self.pairs for kind in kinds]
        rank, world_size = distributed.rank(), distributed.world_size()
        found: dict[str, dict[str, Any]] = {}
        model, self.stop = engine.model, stop
        model.eval()
        with paddle.no_grad(), engine.autocast():
            for first in progress(range(0, len(tasks), world_size), "held-out evaluation", unit="streams"):
                if first + rank < len(tasks):
                    kind, stream = tasks[first + rank]
                    name = stream if isinstance(stream, str) else "-".join(stream)
                    if result := getattr(self, f"_{kind}")(model, stream):
                        found.setdefault(kind, {})[name] = result
                if stop.anywhere():
                    return None
        parts = distributed.gather(found)
        merged = {kind: {k: v for part in parts for k, v in part.get(kind, {}).items()} for kind, _ in tasks}
        return {kind: dict(sorted(values.items())) for kind, values in merged.items() if values}

    def _mmlm(self, model: PreTrainingModel, language: str) -> dict[str, float] | None:
        blocks = Blocks(self.mono[language], self.room, not self.config.data.pack_lines)
        number, count = self.text.number[language], min(len(blocks), self.most)
        return self._masked(model, "mmlm", [Text(blocks[i], number) for i in range(count)])

    def _tlm(self, model: PreTrainingModel, pair: tuple[str, str]) -> dict[str, float] | None:
        return self._masked(model, "tlm", self._examples(pair))

    def _camlm(self, model: PreTrainingModel, pair: tuple[str, str]) -> dict[str, float] | None:
        examples = [example for example in self._examples(pair) if self.objectives.serves_camlm(example)]
        return self._masked(model, "camlm", examples)

    def _btmlm(self, model: PreTrainingModel, pair: tuple[str, str]) -> dict[str, Any]:
        """Pseudo-tokens of one side's sentence against the other side, its real translation."""
        samples: list[str] = []
        sums = Counter()
        examples = self._examples(pair)
        sources = [example.source for example in examples]
        for part, rngs in self._chunks("btmlm", sources):
            targets = [example.target for example in examples[part]]
            batch = self.objectives.batch("btmlm", sources[part], rngs, [side.language for side in targets])
            (sent,) = to_device([batch])
            sent, counts = self.pseudo_tokens.fill(model, sent)
            sums.update(counts)
            pseudo_ids = sent.inputs.input_ids.numpy()[batch.stage1.slots]
            sums.update(loss=float(masked_lm_loss(model, sent).total), masked=len(batch.targets))
            for row, source in enumerate(sources[part][: _SAMPLES - len(samples)]):
                of_row = Text(pseudo_ids[batch.stage1.slot_rows == row], targets[row].language)
                samples.append(f"{self._in_words(source)} | {self._in_words(of_row)}")
            translations = [target.ids for target in targets]
            guesses = most_frequent(batch.stage1, self._piece_counts, self._ignored)
            for name, ids in (("found", pseudo_ids), ("likely", guesses)):
                hits, sought = found_in_translation(batch.stage1, ids, translations, self._ignored)
                sums.update({name: hits, f"{name} of": sought})
        # The same tokens are masked, because they come from the same generators.
        lengths = [self.objectives.pseudo_lengths(source)[0] for source in sources]
        alone = [source._replace(ids=source.ids[:n]) for source, n in zip(sources, lengths)]
        without = self._masked(model, "mmlm", alone)
        result = {}
        if without:
            result["perplexity"] = _perplexity(sums["loss"], sums["masked"])
            result["perplexity_without"] = without["perplexity"]
        return result | {
            "precision": sums["found"] / max(sums["found of"], 1),
            "frequent_precision": sums["likely"] / max(sums["likely of"], 1),
            "copy_rate": int(sums["copied"]) / max(sums["pseudo"], 1),
            "repeat_rate": int(sums["repeated"]) / max(sums["pseudo"], 1),
            "samples": samples,
        }

    def _in_words(self, text: Text) -> str:
        return f"{self.text.languages[text.language]}: {self.tokenizer.decode(text.ids)}"

    def _retrieval(self, model: PreTrainingModel, pair: tuple[str, str]) -> list[float]:
        held = self.pairs[pair]
        cls, sep = [self.tokenizer.cls_id], [self.tokenizer.sep_id]
        count = min(len(held), self.most)
        sides = zip(
            *([np.concatenate([cls, ids[: self.room], sep]) for ids in held[i]] for i in range(count))
        )
        a, b = (encode(model.ernie_m, list(side)) for side in sides)
        return accuracy_by_layer(a, b).mean(axis=1).tolist()

    def _examples(self, pair: tuple[str, str]) -> list[Pair]:
        """Held-out pairs, every second one the other way round."""
        held = self.pairs[pair]
        examples = []
        for i in range(min(len(held), self.most)):
            sides = [Text(ids, self.text.number[name]) for ids, name in zip(held[i], pair)]
            examples.append(Pair(*reversed(sides)) if i % 2 else Pair(*sides))
        return examples

    def _masked(self, model: PreTrainingModel, objective: str, examples: list) -> dict[str, float] | None:
        loss = correct = count = 0.0
        for part, rngs in self._chunks(objective, examples):
            batch = self.objectives.batch(objective, examples[part], rngs)
            result = masked_lm_loss(model, *to_device([batch]))
            loss, count = loss + float(result.total), count + len(batch.targets)
            correct += float(result.correct.astype("float64").sum())
        if not count:
            return None
        return {"perplexity": _perplexity(loss, count), "accuracy": correct / count}

    def _chunks(
        self, objective: str, examples: Sequence
    ) -> Iterator[tuple[slice, list[np.random.Generator]]]:
        """Runs of consecutive examples of at most `run.micro_batch_tokens`, and their generators."""
        tokens = np.array([self.objectives.tokens(objective, text) for text in examples], np.int64)
        first = 0
        while first < len(examples) and not self.stop:  # what there is so far is thrown away
            fits = np.searchsorted(np.cumsum(tokens[first:]), self.config.run.micro_batch_tokens, "right")
            last = min(first + int(fits), len(examples))
            yield slice(first, last), [generator(_SEED, _STEP, i) for i in range(first, last)]
            first = last

    @cached_property
    def _piece_counts(self) -> np.ndarray:
        """int64 [languages, V]."""
        return np.stack([self.text.corpus.piece_counts(language) for language in self.text.languages])

    @cached_property
    def _ignored(self) -> np.ndarray:
        """Punctuation and the special ids: a pseudo-token is never [UNK], so a guess may not be."""
        pieces = self.tokenizer.convert_ids_to_tokens(range(self.tokenizer.vocab_size))
        return np.union1d(punctuation_ids(pieces), self.tokenizer.special_ids)


def _perplexity(loss: float, count: float) -> float:
    return math.exp(min(loss / max(count, 1), 50.0))


def punctuation_ids(pieces: Sequence[str]) -> np.ndarray:
    """Indices of pieces without a letter, mark or digit."""
    return np.array(
        [i for i, piece in enumerate(pieces) if all(unicodedata.category(c)[0] not in "LMN" for c in piece)],
        dtype=np.int64,
    )


def found_in_translation(
    stage1: Stage1, pseudo_ids: np.ndarray, translations: Sequence[np.ndarray], ignored: np.ndarray
) -> tuple[int, int]:
    """Held-out pairs: pseudo-tokens found in the real translation, and how many were looked for.

    Args:
        pseudo_ids: int64 [S], in the order of `stage1.slots`.
        translations: the real translation of each row's sentence, ids without specials.
        ignored: ids that are not looked for (punctuation, special ids).
    """
    sought = ~np.isin(pseudo_ids, ignored)
    words = [set(translation.tolist()) for translation in translations]
    pairs = zip(pseudo_ids[sought].tolist(), stage1.slot_rows[sought].tolist())
    return sum(token in words[row] for token, row in pairs), int(sought.sum())


def most_frequent(stage1: Stage1, piece_counts: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """What to compare pseudo-tokens with: for a sentence's p slots the p most frequent pieces, int64 [S].

    Args:
        piece_counts: occurrences in each language's text, [languages, V].
        ignored: pieces that are not taken (punctuation, special ids).
    """
    guesses = np.empty_like(stage1.slots)
    for language in np.unique(stage1.slot_languages):
        counts = piece_counts[language].copy()
        counts[ignored] = -1
        ranked = np.argsort(-counts, kind="stable")
        for row in np.unique(stage1.slot_rows[stage1.slot_languages == language]):
            mine = stage1.slot_rows == row
            guesses[mine] = ranked[: mine.sum()]
    return guesses
