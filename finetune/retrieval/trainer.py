"""Fine-tuning for retrieval on the parallel text of a corpus (paper, section 4.2 and Table 14)."""

import dataclasses
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import Tensor

from evaluation.encode import encode_layer, sentence_vectors
from evaluation.retrieval import hits
from finetune.retrieval.flags import RetrievalFlags
from finetune.retrieval.loss import hardest_negative_bce
from finetune.retrieval.pairs import PairStep, StepPairs
from finetune.setup import bring_best, warn_of_earlier_steps
from model.checkpoint import keep_last, load_training_state, save_model
from model.ernie_m import ErnieMModel
from reader.features import padded_batches
from reader.tokenization import Tokenizer
from training import distributed
from training.engine import Engine, Step
from training.guard import StopSignal
from training.optimizer import build_optimizer, linear_warmup_decay
from training.precision import Precision
from training.prefetch import prefetch
from utils.config import differences
from utils.errors import UserError
from utils.logging import Progress, Scalars, logger

# A resumed run may have other values of these; all others decide what is learned.
FREE = (
    "init_pretraining_params", "init_checkpoint", "ernie_config_path", "vocab_path", "piece_model_path",
    "use_cuda", "checkpoints", "paper", "xtreme_save", "pairs", "languages", "src_file", "tgt_file",
    "dev_pairs", "score", "neighbours", "batch_tokens", "train_set", "recompute", "skip_steps", "save_steps",
    "keep_checkpoints",
)  # fmt: skip

GROUP_TOKENS = 2048  # padded tokens of a step's sentences that are encoded at once


@dataclass
class Best:
    """The best validation so far."""

    step: int
    accuracy: float


@dataclass
class State:
    """Where a run stands, beside weights and engine."""

    reader: dict[str, Any] | None = None  # of the last step that was done
    best: Best | None = None
    window: dict[str, float] = field(default_factory=dict)  # sums since the last line of the log


class RetrievalTrainer:
    """A run of `flags.max_steps` steps, from its first or from where --init_checkpoint was left.

    Args:
        model: with the weights to start from, those of --init_checkpoint where it is given.
        layer: whose vectors are trained.

    Raises:
        UserError: no parallel text, fewer pairs than processes, a checkpoint of a run with other settings.
    """

    def __init__(self, flags: RetrievalFlags, model: ErnieMModel, tokenizer: Tokenizer, layer: int):
        world = distributed.world_size()
        if flags.batch_size < world:
            raise UserError(f"--batch_size {flags.batch_size} is below the {world} processes; raise it")
        self.flags, self.model, self.tokenizer, self.layer = flags, model, tokenizer, layer
        self.folder, self.state = Path(flags.checkpoints), State()
        self.pairs = StepPairs(
            tokenizer, flags.train_set, flags.batch_size, flags.max_seq_len, flags.pair_alpha,
            flags.random_seed, distributed.rank(), world,
        )  # fmt: skip
        self.corpus = self.pairs.open()
        model.recompute = flags.recompute
        schedule = linear_warmup_decay(
            int(flags.max_steps * flags.warmup_proportion), flags.max_steps, flags.lr_schedule_style
        )
        optimizer = build_optimizer(
            model, flags.learning_rate, schedule, flags.weight_decay, flags.layerwise_lr_decay
        )
        precision = Precision(flags.amp)
        self.engine = Engine(model, optimizer, flags.random_seed, precision=precision, sums=("won", "pairs"))
        self.settings = {k: v for k, v in dataclasses.asdict(flags).items() if k not in FREE}
        self.settings |= {"layer": layer, "vocabulary": tokenizer.digest}
        if flags.init_checkpoint:
            self._resume(Path(flags.init_checkpoint))
        else:
            warn_of_earlier_steps(self.folder)

    def train(self) -> Path:
        """Train to the end; the weights of the model are then those of the best validation.

        Returns:
            the folder of those weights.

        Raises:
            KeyboardInterrupt: SIGTERM or Ctrl-C came; a checkpoint was saved first.
        """
        flags, engine = self.flags, self.engine
        self.scalars = Scalars(self.folder / "visualdl")
        self.progress = Progress(flags.max_steps, "training", engine.steps, unit="steps", lines=False)
        pairs = dataclasses.replace(self.pairs, state=self.state.reader)
        with prefetch(pairs) as stream, StopSignal() as stop:
            if not engine.steps:
                self._validate()  # what training has to beat
            while engine.steps < flags.max_steps:
                work = next(stream)
                step = engine.step([work], self._loss)
                self.state.reader = work.state
                self._log(step)
                end, stopped = engine.steps == flags.max_steps, stop.anywhere()
                if end or engine.steps % flags.validation_steps == 0:
                    self._validate()
                if end or stopped or engine.steps % flags.save_steps == 0:
                    self._save_step()
                if stopped and not end:
                    logger.info("stopped; go on with --init_checkpoint %s", engine.last_checkpoint)
                    raise KeyboardInterrupt
        self.progress.close()
        self.scalars.close()
        return self.folder / "best" if self.state.best else self.folder / f"step_{engine.steps}"

    def _loss(self, work: PairStep) -> tuple[Tensor, dict[str, Tensor | float]]:
        """This process's gradient of the whole step's loss.

        The other processes' vectors are constants here. Each process computes the same loss, and its gradient
        by its own vectors; the engine adds the gradients up.
        """
        own = self._vectors(work.sentences)  # [2b, H]
        count, world = len(work.negative), distributed.world_size()
        parts = distributed.gather((work.first, own.detach().numpy())) if world > 1 else []
        before = [vectors for first, vectors in parts if first < work.first]
        after = [vectors for first, vectors in parts if first > work.first]
        sides = []
        for side, vectors in enumerate(own.split(2)):
            others = [[paddle.to_tensor(np.split(v, 2)[side]) for v in part] for part in (before, after)]
            sides.append(paddle.concat([*others[0], vectors, *others[1]]) if world > 1 else vectors)  # [B, H]
        negative = paddle.to_tensor(work.negative)
        total, won = hardest_negative_bce(*sides, negative, self.flags.scale, self.flags.offset)
        loss = total / count
        if world > 1:  # the value is everyone's, and the engine sums the values as well
            loss = loss + (loss / world - loss).detach()
        return loss, {"won": won / world, "pairs": count / world}

    def _vectors(self, sentences: list[np.ndarray]) -> Tensor:
        """[n, H], in the order given; encoded in groups of similar length, to save the pads."""
        groups, parts = [], []
        for rows, ids in padded_batches(sentences, self.model.config.pad_token_id, GROUP_TOKENS):
            groups.append(rows)
            parts.append(sentence_vectors(self.model, ids, self.layer, self.flags.pooling))
        place = np.argsort(np.concatenate(groups))
        return paddle.index_select(paddle.concat(parts), paddle.to_tensor(place), axis=0)

    def _log(self, step: Step) -> None:
        """Add the step to the window; at its end a line with means over the window."""
        window, steps = self.state.window, self.engine.steps
        if not step.skipped:
            for name, value in {"steps": 1, "loss": step.loss, **step.sums}.items():
                window[name] = window.get(name, 0.0) + value
        self.progress.update(1, loss=f"{step.loss:.4f}")
        if steps % self.flags.skip_steps and steps != self.flags.max_steps:
            return
        loss = window.get("loss", 0.0) / max(window.get("steps", 0), 1)
        won = 100.0 * window.get("won", 0.0) / max(window.get("pairs", 0), 1)
        logger.info(
            "step: %d/%d, ave loss: %f, pairs that beat their negatives: %.1f %%, lr: %.3e, grad norm: %.3f, "
            "speed: %.3f steps/s, %s left",
            steps, self.flags.max_steps, loss, won, step.lr, step.grad_norm, self.progress.speed(),
            self.progress.eta(),
        )  # fmt: skip
        curves = {"loss": loss, "won": won, "lr": step.lr, "grad_norm": step.grad_norm}
        self.scalars.add(steps, {f"train/{name}": value for name, value in curves.items()})
        window.clear()

    def _validate(self) -> None:
        """Search the held-out pairs of every language pair, both ways; keep the weights if they are best."""
        held_out, most = self.corpus.held_out_parallel, self.flags.validation_pairs
        if not held_out or not most:
            return
        mine = sorted(held_out)[distributed.rank() :: distributed.world_size()]
        with self.engine.autocast():
            found = {"-".join(pair): self._accuracy(held_out[pair], most) for pair in mine}
        scores = {name: score for part in distributed.gather(found) for name, score in part.items()}
        mean, step = sum(scores.values()) / len(scores), self.engine.steps
        shown = ", ".join(f"{name} {score:.1f}" for name, score in sorted(scores.items()))
        logger.info("held-out pairs found at step %d: mean %.2f; %s", step, mean, shown)
        self.scalars.add(
            step, {f"held_out/{name}": score for name, score in {**scores, "mean": mean}.items()}
        )
        if self.state.best is None or mean > self.state.best.accuracy:
            self.state.best = Best(step, mean)
            self._save(self.folder / "best", None)

    def _accuracy(self, pairs: Any, most: int) -> float:
        """Per cent of up to `most` pairs, mean of both directions."""
        rows = [pairs[i] for i in range(min(most, len(pairs)))]
        build, longest = self.tokenizer.build_from_ids, self.flags.max_seq_len
        sides = [
            encode_layer(
                self.model, [np.asarray(build(row[side].tolist(), None, longest)) for row in rows],
                self.layer, self.flags.pooling, batch_tokens=self.flags.batch_tokens,
            )
            for side in (0, 1)
        ]  # fmt: skip
        return 50.0 * (hits(*sides).mean() + hits(*reversed(sides)).mean())

    def _save_step(self) -> None:
        state = {
            "engine": self.engine.state_dict(),  # on every process
            "run": dataclasses.asdict(self.state),
            "settings": self.settings,
        }
        path = self.folder / f"step_{self.engine.steps}"
        self._save(path, state)
        self.engine.last_checkpoint = str(path)
        if distributed.is_main():
            keep_last(self.folder, self.flags.keep_checkpoints, keep=(path,))
        logger.info("saved %s", path)

    def _save(self, path: Path, training_state: dict | None) -> None:
        flags, best = self.flags, self.state.best
        facts = {
            "name": "ERNIE-M, retrieval", "task": "retrieval", "data": flags.train_set,
            "languages": self.corpus.languages, "initialised_from": flags.init_pretraining_params,
            "steps": self.engine.steps, "seed": flags.random_seed, "command": shlex.join(sys.argv),
        }  # fmt: skip
        if best and best.step == self.engine.steps:
            facts["scores"] = {"accuracy, held-out pairs": {"mean": best.accuracy}}
        if distributed.is_main():
            save_model(
                path, self.model, self.model.config, vocab_path=self.tokenizer.vocab_path,
                piece_model_path=self.tokenizer.piece_model_path, facts=facts,
                extra={"task": "retrieval", "step": self.engine.steps,
                       "reading": {"layer": self.layer, "pooling": flags.pooling}},
                training_state=training_state,
            )  # fmt: skip
        distributed.barrier()

    def _resume(self, path: Path) -> None:
        saved = load_training_state(path / "training_state")
        if other := differences(saved["settings"], self.settings):
            raise UserError(
                f"{path} is of a run with other settings ({'; '.join(other)}); to resume give the same ones, "
                "to start a new run from its weights use --init_pretraining_params"
            )
        self.engine.load_state_dict(saved["engine"])
        self.engine.last_checkpoint = str(path)
        run = saved["run"]
        self.state = State(**{**run, "best": Best(**run["best"]) if run["best"] else None})
        bring_best(self, path.parent / "best")
        logger.info("resumed from %s: step %d of %d", path, self.engine.steps, self.flags.max_steps)
