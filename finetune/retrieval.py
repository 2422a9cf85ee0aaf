"""Sentence retrieval: fine-tune on parallel text if asked to, then search bitexts (paper, section 4.2)."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from evaluation.encode import SentenceBatch, encode, encode_layer, sentence_vectors
from evaluation.pooling import layer_number
from evaluation.retrieval import accuracy_by_layer, choose_on_half, hits
from evaluation.search import Found, search_both
from finetune import report
from finetune.flags import RetrievalFlags
from finetune.run_folder import SELECTED, digest_of_files, has_state
from finetune.sentence_pairs import PairStep, StepPairs
from finetune.setup import make_engine, make_tokenizer, model_config, open_encoder, open_start, open_step
from finetune.trainer import Evaluation, FineTuningRun, FineTuningTrainer, Training
from model.checkpoint.read import Checkpoint, open_checkpoint
from model.device import Uploadable, summary, upload
from model.ernie_m import ErnieMModel
from reader.batching import padded_batches
from reader.bitext import Bitext, read_bitexts
from reader.corpus import MANIFEST, Corpus
from reader.tokenization import Tokenizer
from training import distributed
from training.engine import Engine
from training.guard import StopSignal
from training.precision import in_words, use_cpu_bf16
from utils.errors import UserError
from utils.files import atomic_file, write_json
from utils.logging import Progress, logger
from utils.tables import in_columns

GROUP_TOKENS = 2048  # padded tokens that are encoded at once in training
DIRECTIONS = ("en -> xx", "xx -> en")
CHOSEN = "chosen, odd pairs"  # the even pairs choose the layer, and the odd ones score it
T = TypeVar("T")
_NONE = -1e4  # a logit whose loss and gradient are 0, in float16 too


class Searched(NamedTuple):
    """What the model of one seed finds at one layer, and the same model with random weights."""

    layer: int
    found: dict[str, Found]  # by language
    untrained: dict[str, Found]  # empty: not searched


class RetrievalRun(FineTuningRun):
    """The command run_retrieval.py."""

    def __init__(self, flags: RetrievalFlags):
        super().__init__(flags)
        self.bitexts = []
        if flags.pairs:
            self.bitexts = read_bitexts(flags.pairs, flags.languages.split(",") if flags.languages else [])
            short = [bitext.language for bitext in self.bitexts if len(bitext.sentences) < 2]
            if flags.layer == "sweep" and short:
                raise UserError(f"--layer sweep: {', '.join(short)} has one pair alone; name a layer")
        # Seeds may share their weights, and each folder is opened once.
        self.starts: dict[str | None, Checkpoint | None] = {}
        for of_seed in map(flags.of_seed, self.seeds):
            if of_seed.init_pretraining_params not in self.starts:
                self.starts[of_seed.init_pretraining_params] = open_start(of_seed)
        if flags.init_task and flags.init_pretraining_params and not flags.init_checkpoint:
            for start in self.starts.values():
                check_weights(start, flags.init_task)

    def identity(self) -> dict[str, Any]:
        flags = self.flags
        if flags.init_checkpoint and not has_state(flags.init_checkpoint):
            raise UserError(f"{flags.init_checkpoint}: no training_state there to resume from")
        start = self._start(flags.of_seed(self.seeds[0]))
        tokenizer = make_tokenizer(flags, start)
        config = model_config(flags, start, tokenizer)
        layer_of(flags, config.num_hidden_layers)
        corpus = Corpus(flags.train_set, tokenizer.digest)
        train_set = digest_of_files([corpus.path / MANIFEST])
        starts = filter(None, self.starts.values())
        return self.identity_of("retrieval", starts, config, tokenizer, train_set=train_set)

    def _start(self, of_seed: RetrievalFlags) -> Checkpoint | None:
        return self.starts[of_seed.init_pretraining_params]

    def run_seed(self, seed: int, folder: Path, identity: dict[str, Any]) -> Searched | None:
        """Train if asked to, and search with the best weights; None without bitexts."""
        flags = self.flags.of_seed(seed)
        if flags.do_train:
            model, tokenizer = self._train(flags, seed, folder, identity)
        else:
            model, tokenizer = open_encoder(flags, self._start(flags), flags.dtype, seed)
            precision = in_words(flags.dtype, flags.cpu_bf16)
            logger.info("%s", summary(precision, distributed.world_size()))
        if not self.bitexts:
            return None
        models = [model]
        if flags.untrained and seed == self.seeds[0] and (flags.do_train or flags.init_pretraining_params):
            paddle.seed(seed)
            models.append(ErnieMModel(model.config))
        if flags.cpu_bf16:
            for one in models:
                use_cpu_bf16(one)
        if flags.layer == "sweep":
            rows, *fresh = (self._sweep(one, tokenizer) for one in models)
            rows |= {f"untrained, {CHOSEN}": one[CHOSEN] for one in fresh}
            if distributed.is_main():
                write_sweep(folder, f"retrieval by layer: {flags.pooling}, both directions", rows)
            return None
        layer = layer_of(flags, model.config.num_hidden_layers)
        found, *fresh = (search(flags, one, tokenizer, layer, self.bitexts) for one in models)
        if distributed.is_main():
            write_predictions(folder / "predictions" / "tatoeba", self.bitexts, found)
        return Searched(layer, found, fresh[0] if fresh else {})

    def _sweep(self, model: ErnieMModel, tokenizer: Tokenizer) -> dict[str, dict[str, float]]:
        """Row -> language -> per cent, mean of both directions: each layer, then `choose_on_half`."""

        def of_layers(bitext: Bitext) -> dict[str, float]:
            ids = [token_ids(tokenizer, side, self.flags) for side in (bitext.translations, bitext.sentences)]
            src, tgt = (encode(model, side, specials=self.flags.pooling == "specials") for side in ids)
            rows = {f"layer {i}": mean for i, mean in enumerate(accuracy_by_layer(src, tgt).mean(axis=1))}
            return rows | {CHOSEN: choose_on_half(src, tgt).mean}

        found = shared(self.bitexts, of_layers)
        rows = next(iter(found.values()))
        return {row: {code: 100 * float(cells[row]) for code, cells in found.items()} for row in rows}

    def _train(
        self, flags: RetrievalFlags, seed: int, folder: Path, identity: dict[str, Any]
    ) -> tuple[ErnieMModel, Tokenizer]:
        """Train a seed unless it is finished, and return its best model."""

        def make(step: Path | None) -> tuple[RetrievalTraining, Engine]:
            model, tokenizer = open_encoder(flags, open_step(step, self._start(flags)), flags.dtype, seed)
            model.use_recompute(flags.recompute)
            training = RetrievalTraining(flags, model, tokenizer, seed)
            return training, make_engine(flags, model, flags.max_steps, seed)

        if not (folder / SELECTED).is_file():
            trainer = FineTuningTrainer(make, identity, folder, flags)
            trainer.run()
            if trainer.best is None:
                return trainer.engine.model, trainer.training.tokenizer
        return open_encoder(flags, open_checkpoint(folder / "best"), flags.dtype, seed)

    def report(self, records: dict[int, Searched]) -> tuple[str, list[report.Table], dict[str, Any]]:
        """A table for each direction."""
        flags, tables = self.flags, []
        layers = {str(seed): one.layer for seed, one in records.items()}
        fresh = next(iter(records.values())).untrained
        how = f"{flags.score}, {flags.pooling}, layer {', '.join(map(str, dict.fromkeys(layers.values())))}"
        for side, direction in enumerate(DIRECTIONS):
            rows = {
                seed: {language: one.accuracies()[side] for language, one in record.found.items()}
                for seed, record in records.items()
            }
            untrained = {language: one.accuracies()[side] for language, one in fresh.items()}
            paper = report.figures(flags.paper, direction, list(next(iter(rows.values()))))
            tables.append(report.Table(f"{direction}, {how}", rows, paper, untrained))
        facts = {"task": "retrieval", "pooling": flags.pooling, "score": flags.score, "layers": layers}
        return "retrieval", tables, facts


def layer_of(flags: RetrievalFlags, layers: int) -> int:
    """The layer that is trained and searched."""
    return layers if flags.pooling == "pooled" else layer_number(flags.layer, layers)


def check_weights(checkpoint: Checkpoint, init_task: str) -> None:
    """Refuse weights that were not fine-tuned for --init_task."""
    if checkpoint.task == init_task:
        return
    fact = f"were fine-tuned for {checkpoint.task}" if checkpoint.task else "were not fine-tuned"
    raise UserError(f'{checkpoint.path}: its weights {fact}, and --init_task wants {init_task} ("": any)')


def write_predictions(folder: Path, bitexts: list[Bitext], found: Mapping[str, Found]) -> None:
    """Write <folder>/test-<language>.tsv: for each English sentence the line, from 0, of the other side.

    The English sentences are in alphabetical order, as in the files of XTREME (Hu et al., 2020).
    """
    for bitext in bitexts:
        english = [text.strip() for text in bitext.translations]
        order = sorted(range(len(english)), key=english.__getitem__)
        with atomic_file(folder / f"test-{bitext.language}.tsv", "w", newline="\n") as file:
            file.writelines(f"{found[bitext.language].forward[row]}\n" for row in order)


def write_sweep(folder: Path, title: str, rows: Mapping[str, Mapping[str, float]]) -> None:
    """Log and write sweep.json: row -> language -> per cent."""
    lines = [["", *next(iter(rows.values())), report.AVERAGE]]
    for name, row in rows.items():
        lines.append([name, *(f"{value:.2f}" for value in (*row.values(), report.average(row)))])
    logger.info("%s\n%s", title, in_columns(lines))
    write_json(folder / "sweep.json", {"title": title, "rows": rows})


def search(
    flags: RetrievalFlags, model: ErnieMModel, tokenizer: Tokenizer, layer: int, bitexts: list[Bitext]
) -> dict[str, Found]:
    """Search bitexts: language -> result."""

    def find(bitext: Bitext) -> Found:
        sides = (token_ids(tokenizer, side, flags) for side in (bitext.translations, bitext.sentences))
        return search_both(*(encode_layer(model, side, layer, flags.pooling) for side in sides), flags.score)

    return shared(bitexts, find)


def token_ids(tokenizer: Tokenizer, texts: list[str], flags: RetrievalFlags) -> list[np.ndarray]:
    """[CLS] S [SEP] of each text."""
    return tokenizer.sentences(tokenizer.encode_batch(texts), flags.max_seq_len)


def shared(bitexts: list[Bitext], work: Callable[[Bitext], T]) -> dict[str, T]:
    """language -> result of `work`. The processes share the bitexts, and every process gets all results."""
    mine, found = bitexts[distributed.rank() :: distributed.world_size()], {}
    shown = Progress(sum(len(bitext.sentences) for bitext in mine), "searching", unit="sentences")
    for bitext in mine:
        found[bitext.language] = work(bitext)
        shown.update(len(bitext.sentences))
    shown.close()
    everywhere = {name: one for part in distributed.gather(found) for name, one in part.items()}
    return {bitext.language: everywhere[bitext.language] for bitext in bitexts}


class RetrievalTraining(Training):
    """One seed on the parallel text of a corpus (paper, Table 14).

    UserError: there is no parallel text, or there are fewer pairs than processes.
    """

    divisible = False  # the loss needs the vectors of every process
    measured = "pairs that beat their negatives: %.1f %%"

    def __init__(self, flags: RetrievalFlags, model: ErnieMModel, tokenizer: Tokenizer, seed: int):
        world = distributed.world_size()
        if flags.batch_size < world:
            raise UserError(f"--batch_size {flags.batch_size} is below the {world} processes; raise it")
        self.flags, self.model, self.config, self.tokenizer = flags, model, model.config, tokenizer
        self.layer = layer_of(flags, model.config.num_hidden_layers)
        self.seed, self.total_steps = seed, flags.max_steps
        self.pairs = StepPairs(
            tokenizer, flags.train_set, flags.batch_size, flags.max_seq_len, flags.pair_alpha, seed,
            distributed.rank(), world,
        )  # fmt: skip
        corpus = self.pairs.open()
        self.held_out, self.evaluations = corpus.held_out_parallel, []
        if self.held_out and flags.validation_pairs:
            # Also before the first step: training has to beat that score.
            self.evaluations = [*range(0, flags.max_steps, flags.validation_steps), flags.max_steps]
        self.settings = {"task": "retrieval", "reading": {"layer": self.layer, "pooling": flags.pooling}}
        self.facts = {
            "name": "ERNIE-M, retrieval", "task": "retrieval", "data": flags.train_set,
            "languages": corpus.languages,
            "initialised_from": flags.init_checkpoint or flags.init_pretraining_params,
        }  # fmt: skip

    def stream(self, position: Any) -> StepPairs:
        return dataclasses.replace(self.pairs, state=position)

    def after(self, work: PairStep) -> dict[str, Any]:
        return work.state

    def send(self, model: ErnieMModel, micro_batches: list[PairStep]) -> list["PairBatch"]:
        """Send the sentences of a step in groups of similar length."""
        (step,) = micro_batches
        pad_id = model.config.pad_token_id
        rows, ids = zip(*padded_batches(step.sentences, pad_id, GROUP_TOKENS))
        groups = [SentenceBatch.of(group, pad_id, self.flags.pooling) for group in ids]
        return [upload(PairBatch(groups, np.argsort(np.concatenate(rows)), step.negative))]

    def loss(self, model: ErnieMModel, batch: "PairBatch") -> tuple[Tensor, dict[str, Tensor | float]]:
        """Return the loss of the whole step, and the percentage of pairs that beat their negatives.

        The vectors of the other processes are constants. Each process computes the same loss and its gradient
        with respect to its own vectors; the engine adds the gradients up.
        """
        parts = [sentence_vectors(model, group, self.layer) for group in batch.groups]
        negative = batch.negative.astype("bool")
        own = paddle.index_select(paddle.concat(parts), batch.order, axis=0)  # [2b, H]
        count, world = len(negative), distributed.world_size()
        sides = own.split(2)
        if world > 1:
            parts = [paddle.to_tensor(part).split(2) for part in distributed.gather(own.detach().numpy())]
            parts[distributed.rank()] = sides
            sides = [paddle.concat(side) for side in zip(*parts)]  # [B, H]
        total, won = hardest_negative_bce(*sides, negative, self.flags.scale, self.flags.offset)
        loss = total / count
        if world > 1:  # each process has the whole value, and the engine sums the values
            loss = loss + (loss / world - loss).detach()
        return loss, {"correct": 100.0 * won / world, "count": count / world}

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
        sides = [self.tokenizer.sentences(side, self.flags.max_seq_len) for side in zip(*rows)]
        a, b = (encode_layer(self.model, one, self.layer, self.flags.pooling) for one in sides)
        return float(50.0 * (hits(a, b).mean() + hits(b, a).mean()))


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
