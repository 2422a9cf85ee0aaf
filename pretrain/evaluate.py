"""Held-out evaluation: how well each objective is solved, and whether the languages share a space."""

import math
from typing import Any

import numpy as np
import paddle

from evaluation.encode import encode
from evaluation.retrieval import accuracy_by_layer
from model.heads import PreTrainingModel
from pretrain.batch import Batch
from pretrain.btmlm import PseudoTokenGenerator
from pretrain.config import PretrainConfig
from pretrain.loss import masked_lm_loss
from pretrain.masking import Vocabulary, generator
from pretrain.objectives import Pair, Text
from pretrain.pseudo import copied_and_repeated, found_in_translation, most_frequent_found, punctuation_ids
from pretrain.reader import Streams, make_objectives
from reader.corpus import Corpus
from reader.packing import Blocks
from reader.tokenization import Tokenizer
from utils import distributed
from utils.errors import UserError

_STEP = (1 << 40) - 1  # a step that no run reaches: held-out masks are drawn apart from all training masks


class Evaluator:
    """The held-out part of a corpus, made into the same batches at every evaluation.

    Args:
        generator: BTMLM's stage 1; None where BTMLM is not active.
    """

    def __init__(
        self,
        config: PretrainConfig,
        corpus: Corpus,
        tokenizer: Tokenizer,
        pseudo_tokens: PseudoTokenGenerator | None,
    ):
        self.config, self.corpus, self.tokenizer, self.pseudo_tokens = (
            config,
            corpus,
            tokenizer,
            pseudo_tokens,
        )
        streams = Streams.of(corpus, config)
        self.languages = streams.languages
        self.number = {language: i for i, language in enumerate(self.languages)}
        self.objectives = make_objectives(config, Vocabulary.of(tokenizer), streams)
        self.mono = {name: text for name, text in corpus.held_out_mono.items() if name in self.number}
        self.pairs = {
            pair: held for pair, held in corpus.held_out_parallel.items() if set(pair) <= set(self.languages)
        }
        if not self.mono and not self.pairs:
            raise UserError(f"{corpus.path} has no held-out part; build it with one, or set run.eval_steps 0")
        pieces = tokenizer.convert_ids_to_tokens(range(tokenizer.vocab_size))
        self.punctuation = punctuation_ids(pieces)

    def run(self, model: PreTrainingModel) -> dict[str, Any]:
        """Evaluate; the streams are shared among the processes, the result is the same on all.

        Returns:
            mmlm: language -> {perplexity, accuracy}; tlm, camlm: "a-b" -> the same; btmlm: "a-b" ->
                {precision,
            frequent_precision, copy_rate, repeat_rate}; retrieval: "a-b" -> accuracy of each layer, mean of
            both
            directions.
        """
        was_training = model.training
        model.eval()
        tasks = [("mmlm", name) for name in self.mono]
        tasks += [(kind, pair) for pair in self.pairs for kind in ("tlm", "camlm", "btmlm", "retrieval")]
        mine: dict[str, dict[str, Any]] = {}
        with paddle.no_grad():
            for kind, stream in tasks[distributed.rank() :: distributed.world_size()]:
                if kind == "btmlm" and self.pseudo_tokens is None:
                    continue
                name = stream if isinstance(stream, str) else "-".join(stream)
                mine.setdefault(kind, {})[name] = getattr(self, f"_{kind}")(model, stream)
        if was_training:
            model.train()
        merged: dict[str, Any] = {}
        for part in distributed.gather(mine):
            for kind, values in part.items():
                merged.setdefault(kind, {}).update(values)
        return {kind: dict(sorted(values.items())) for kind, values in merged.items()}

    def _mmlm(self, model: PreTrainingModel, language: str) -> dict[str, float]:
        blocks = Blocks(
            self.mono[language], self.config.data.max_seq_len - 2, not self.config.data.pack_lines
        )
        count = min(len(blocks), self.config.run.eval_sequences)
        return self._masked(model, "mmlm", [Text(blocks[i], self.number[language]) for i in range(count)])

    def _tlm(self, model: PreTrainingModel, pair: tuple[str, str]) -> dict[str, float]:
        return self._masked(model, "tlm", self._examples(pair))

    def _camlm(self, model: PreTrainingModel, pair: tuple[str, str]) -> dict[str, float]:
        fit = [example for example in self._examples(pair) if self.objectives.serves_camlm(example)]
        return self._masked(model, "camlm", fit)

    def _btmlm(self, model: PreTrainingModel, pair: tuple[str, str]) -> dict[str, float]:
        piece_counts = np.stack([self.corpus.piece_counts(language) for language in self.languages])
        total = found = sought = frequent = copied = repeated = 0
        for first, chunk in self._chunks(self._examples(pair)):
            rngs = [generator(self.config.run.seed, _STEP, first + i) for i in range(len(chunk))]
            second = [example.target.language for example in chunk]
            batch = self.objectives.batch("btmlm", [example.source for example in chunk], rngs, second)
            translations = [example.target.ids for example in chunk]
            pseudo_ids = self.pseudo_tokens.predict(model, batch.stage1)
            hits, looked = found_in_translation(batch.stage1, pseudo_ids, translations, self.punctuation)
            likely, of = most_frequent_found(batch.stage1, translations, piece_counts, self.punctuation)
            copies, repeats = copied_and_repeated(batch.stage1, pseudo_ids)
            total, found, sought = total + len(pseudo_ids), found + hits, sought + looked
            frequent, copied, repeated = (
                frequent + likely / max(of, 1) * looked,
                copied + copies,
                repeated + repeats,
            )
        return {
            "precision": found / max(sought, 1), "frequent_precision": frequent / max(sought, 1),
            "copy_rate": copied / max(total, 1), "repeat_rate": repeated / max(total, 1),
        }  # fmt: skip

    def _retrieval(self, model: PreTrainingModel, pair: tuple[str, str]) -> list[float]:
        held = self.pairs[pair]
        limit = self.config.data.max_seq_len - 2
        cls, sep = [self.tokenizer.cls_id], [self.tokenizer.sep_id]
        count = min(len(held), self.config.run.eval_sequences)
        sides = zip(*([np.concatenate([cls, ids[:limit], sep]) for ids in held[i]] for i in range(count)))
        a, b = (encode(model.ernie_m, list(side)) for side in sides)
        return accuracy_by_layer(a, b).mean(axis=1).tolist()

    def _examples(self, pair: tuple[str, str]) -> list[Pair]:
        """Held-out pairs, every second one the other way round."""
        held = self.pairs[pair]
        examples = []
        for i in range(min(len(held), self.config.run.eval_sequences)):
            sides = [Text(ids, self.number[name]) for ids, name in zip(held[i], pair)]
            examples.append(Pair(*reversed(sides)) if i % 2 else Pair(*sides))
        return examples

    def _masked(self, model: PreTrainingModel, objective: str, examples: list) -> dict[str, float]:
        loss = correct = count = 0.0
        for first, chunk in self._chunks(examples):
            rngs = [generator(self.config.run.seed, _STEP, first + i) for i in range(len(chunk))]
            batch: Batch = self.objectives.batch(objective, chunk, rngs)
            result = masked_lm_loss(model, batch, accuracy=True)
            loss, count = loss + float(result.total), count + batch.masked
            correct += float(result.correct.astype("float64").sum())
        mean = loss / max(count, 1)
        return {"perplexity": math.exp(min(mean, 50.0)), "accuracy": correct / max(count, 1)}

    def _chunks(self, examples: list):
        size = self.config.run.micro_batch_size
        for first in range(0, len(examples), size):
            yield first, examples[first : first + size]


def summary(result: dict[str, Any]) -> list[str]:
    """The result as lines of the log: a mean per objective, and the best layer of retrieval."""
    lines = []
    for kind in ("mmlm", "tlm", "camlm"):
        if result.get(kind):
            values = result[kind].values()
            perplexity = math.exp(np.mean([math.log(v["perplexity"]) for v in values]))
            accuracy = 100 * np.mean([v["accuracy"] for v in values])
            lines.append(
                f"[held-out] {kind}: perplexity {perplexity:.2f} (geometric mean), accuracy {accuracy:.2f}"
            )
    if result.get("btmlm"):
        mean = {key: 100 * np.mean([v[key] for v in result["btmlm"].values()]) for key in
                ("precision", "frequent_precision", "copy_rate", "repeat_rate")}  # fmt: skip
        lines.append(
            f"[held-out] btmlm: pseudo-tokens in the translation {mean['precision']:.2f} % (most frequent "
            f"words {mean['frequent_precision']:.2f} %), copied {mean['copy_rate']:.2f} %, "
            f"repeated {mean['repeat_rate']:.2f} %"
        )
    if result.get("retrieval"):
        layers = np.mean(list(result["retrieval"].values()), axis=0)  # [L + 1]
        shown = " ".join(f"{100 * value:.1f}" for value in layers)
        lines.append(f"[held-out] retrieval by layer: {shown}")
    return lines
