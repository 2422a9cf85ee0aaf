"""One optimiser step over the mix of objectives, and the state of a run on disk."""

import dataclasses
from pathlib import Path
from typing import Any

import paddle

from model.checkpoint import keep_last, load_from, load_training_state, newest_complete, save_model
from model.ernie_m import ErnieMConfig
from model.heads import PreTrainingModel
from model.optimization import build_optimizer, linear_warmup_decay
from pretrain.btmlm import PseudoTokenGenerator
from pretrain.config import OBJECTIVES, PretrainConfig
from pretrain.initialise import freeze_encoder, initialise
from pretrain.loss import masked_lm_loss
from pretrain.masking import Vocabulary
from pretrain.pseudo import allowed_pieces
from pretrain.reader import StepBatches, Streams, counts
from reader.corpus import Corpus
from reader.tokenization import Tokenizer
from utils import distributed
from utils.config import differences
from utils.engine import Engine, Step
from utils.errors import UserError
from utils.logging import logger

# What a step adds up over micro-batches and processes, per objective and in all.
PER_OBJECTIVE = ("loss", "count", "correct", "measured")
TOTALS = ("tokens", "pseudo", "copied", "repeated")
SUMS = [f"{objective}.{value}" for objective in OBJECTIVES for value in PER_OBJECTIVE] + list(TOTALS)

_MOST_LOGITS = 1 << 27  # at a time: 512 MB in float32
# May differ between a checkpoint and the run that resumes it: they do not change what is learned.
_FREE = (
    "run.output", "run.micro_batch_size", "run.recompute", "run.sharding_stage", "run.log_steps",
    "run.save_steps",
    "run.keep_checkpoints", "run.eval_steps", "run.eval_sequences", "run.max_bad_steps",
    "run.stop_after_steps",
    "data.verify", "data.corpus", "init.",
)  # fmt: skip


class Trainer:
    """Model, optimizer and pseudo-token generator of a run.

    Args:
        config: of the run.
        corpus: opened with the run's vocabulary.
        tokenizer: its files are copied into every checkpoint.
        total_steps: of the schedule.
    """

    def __init__(self, config: PretrainConfig, corpus: Corpus, tokenizer: Tokenizer, total_steps: int):
        self.config, self.tokenizer, self.total_steps = config, tokenizer, total_steps
        streams = Streams.of(corpus, config)
        vocabulary = Vocabulary.of(tokenizer)
        paddle.set_default_dtype(config.run.dtype)
        paddle.seed(config.run.seed)
        shape = dataclasses.asdict(config.model)
        shape.pop("language_embedding")
        self.model_config = ErnieMConfig(
            vocab_size=tokenizer.vocab_size, pad_token_id=tokenizer.pad_id, **shape
        )
        self.model = PreTrainingModel(self.model_config, streams.languages)
        self.model.ernie_m.recompute = config.run.recompute
        optimizer = config.optimizer
        self.engine = Engine(
            self.model,
            build_optimizer(
                self.model,
                optimizer.learning_rate,
                linear_warmup_decay(optimizer.warmup_steps, total_steps, optimizer.schedule),
                weight_decay=optimizer.weight_decay,
                betas=(optimizer.beta1, optimizer.beta2),
                eps=optimizer.epsilon,
                clip_norm=None,  # the engine clips
            ),
            seed=config.run.seed,
            clip_norm=optimizer.clip_norm,
            amp=config.run.amp,
            sharding_stage=config.run.sharding_stage,
            max_bad_steps=config.run.max_bad_steps,
            sums=SUMS,
        )
        self.generator = make_generator(config, corpus, vocabulary, streams.languages)
        self.chunk = max(1, _MOST_LOGITS // tokenizer.vocab_size)
        self.frozen = False

    def initialise(self) -> None:
        """Take the weights that `init` names. Not for a run that resumes."""
        initialise(self.model, self.config.init)

    def step(self, work: StepBatches, accuracy: bool) -> Step:
        """One optimiser step.

        Args:
            work: this process's part of it.
            accuracy: also compare the arg max; it costs the head's product a second time.
        """
        # The mean of each objective is over all processes and micro-batches: its count comes before any
        # backward pass.
        total = dict(zip(OBJECTIVES, distributed.all_sum(counts(work.micro_batches)), strict=True))
        self._freeze(self.engine.steps < self.config.init.lm_head_warmup_steps)

        def loss_of(batch):
            sums = {}
            if batch.stage1 is not None:
                batch, pseudo = self.generator.fill(self.model, batch)
                sums = {"pseudo": pseudo.total, "copied": pseudo.copied, "repeated": pseudo.repeated}
            result = masked_lm_loss(self.model, batch, self.chunk, accuracy)
            name = batch.objective
            sums |= {
                f"{name}.loss": result.total.detach(),
                f"{name}.count": batch.masked,
                "tokens": batch.tokens,
            }
            if accuracy:
                sums |= {
                    f"{name}.correct": result.correct.astype("float64").sum(),
                    f"{name}.measured": batch.masked,
                }
            return result.total * (work.share[name] / max(total[name], 1.0)), sums

        return self.engine.step(work.micro_batches, loss_of)

    def save(
        self, folder: Path, reader_state: dict[str, Any], window: dict[str, Any], facts: dict[str, Any]
    ) -> None:
        """A checkpoint of everything; call it on every process.

        Args:
            folder: `step_N` below the run's checkpoint folder.
            reader_state: of the last step that was taken.
            window: what the next log line has gathered so far.
            facts: for the model card.
        """
        state = self.engine.state_dict()  # collects from all processes
        if distributed.is_main():
            state |= {"reader": reader_state, "window": window, "config": dataclasses.asdict(self.config)}
            self._write(folder, facts, state)
            keep_last(folder.parent, self.config.run.keep_checkpoints)
        distributed.barrier()
        self.engine.last_checkpoint = str(folder)

    def export(self, folder: Path, facts: dict[str, Any], encoder_only: bool) -> None:
        """The model alone; `encoder_only`: for fine-tuning, without head and language embeddings."""
        if distributed.is_main():
            self._write(folder, facts, None, ("lm_head.", "language_embeddings.") if encoder_only else ())
        distributed.barrier()

    def resume(self, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        """Go on from a checkpoint: the reader's state and the log window.

        Raises:
            UserError: the checkpoint belongs to another configuration (the keys are named), or is damaged.
        """
        state = load_training_state(folder / "training_state")
        changed = [
            line
            for line in differences(state["config"], dataclasses.asdict(self.config))
            if not line.startswith(_FREE)
        ]
        if changed:
            raise UserError(
                f"{folder} was made with another configuration ({'; '.join(changed)}): go on with that one, "
                "or choose another run.output"
            )
        load_from(self.model, folder, optional=())
        self.engine.load_state_dict(state)
        self.engine.last_checkpoint = str(folder)
        logger.info("resumed from %s", folder)
        return state["reader"], state["window"]

    def _freeze(self, frozen: bool) -> None:
        if frozen != self.frozen:
            freeze_encoder(self.model, frozen)
            self.frozen = frozen

    def _write(self, folder: Path, facts: dict, state: dict | None, leave_out: tuple[str, ...] = ()) -> None:
        save_model(
            folder,
            self.model,
            self.model_config,
            vocab_path=self.tokenizer.vocab_path,
            piece_model_path=self.tokenizer.piece_model_path,
            extra={} if "language_embeddings." in leave_out else {"languages": self.model.languages},
            facts={"languages": self.model.languages, "steps": self.engine.steps, **facts},
            training_state=state,
            leave_out=leave_out,
        )


def make_generator(
    config: PretrainConfig, corpus: Corpus, vocabulary: Vocabulary, languages: list[str]
) -> PseudoTokenGenerator | None:
    """BTMLM's stage 1 as the configuration wants it; None where BTMLM is not active."""
    objectives = config.objectives
    if "btmlm" not in objectives.active:
        return None
    allowed = None
    if objectives.pseudo_pieces == "frequent":
        piece_counts = [corpus.piece_counts(language) for language in languages]
        allowed = allowed_pieces(piece_counts, objectives.min_piece_count, vocabulary)
    temperature = objectives.temperature if objectives.pseudo_choice == "sample" else 0.0
    return PseudoTokenGenerator(allowed, vocabulary.special_ids, temperature)


def newest_checkpoint(config: PretrainConfig) -> Path | None:
    """The last complete checkpoint of the run's output folder."""
    return newest_complete(Path(config.run.output) / "checkpoints")
