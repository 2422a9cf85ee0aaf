"""One optimiser step over the mix of objectives, and the state of a run on disk."""

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Any

import paddle

from model.checkpoint.folder import ModelFiles, model_files
from model.checkpoint.load import load_from
from model.checkpoint.manifest import MANIFEST, check_manifest
from model.checkpoint.read import open_checkpoint
from model.checkpoint.step_folders import keep_last
from model.ernie_m import ErnieMConfig
from model.heads import PreTrainingModel
from pretrain.btmlm import PseudoTokenGenerator, allowed_pieces
from pretrain.config import OBJECTIVES, ObjectiveConfig, PretrainConfig
from pretrain.initialise import initialise
from pretrain.loss import DeviceBatch, masked_lm_loss, to_device
from pretrain.reader import StepBatches, TrainingText
from pretrain.run_folder import CHECKPOINTS, ENCODER, FULL, check_same_run
from reader.tokenization import Tokenizer
from training import distributed
from training.checkpoint import newest_checkpoint, write_checkpoint
from training.engine import Engine, Step
from training.optimizer import Schedule, build_optimizer, linear_warmup_decay
from training.precision import Precision
from utils.errors import UserError
from utils.files import atomic_dir
from utils.logging import logger

# What a step adds up over micro-batches and processes, per objective and in all.
PER_OBJECTIVE = ("loss", "count", "correct")
TOTALS = ("tokens", "pseudo", "copied", "repeated")
SUMS = [f"{objective}.{value}" for objective in OBJECTIVES for value in PER_OBJECTIVE] + list(TOTALS)

_NOT_IN_ENCODER = ("lm_head.", "language_embeddings.")


class Trainer:
    """Model, optimizer and pseudo-token generator of a run.

    Args:
        text: what the run trains on.
        tokenizer: its files are copied into every checkpoint.
        steps: of the run, from its beginning.
    """

    def __init__(self, config: PretrainConfig, text: TrainingText, tokenizer: Tokenizer, steps: int):
        self.config, self.tokenizer, self.languages = config, tokenizer, text.languages
        paddle.set_default_dtype(config.run.dtype)
        paddle.seed(config.run.seed)
        shape = dataclasses.asdict(config.model)
        shape.pop("language_embedding")
        self.model_config = ErnieMConfig(
            vocab_size=tokenizer.vocab_size, pad_token_id=tokenizer.pad_id, **shape
        )
        self.model = PreTrainingModel(self.model_config, self.languages)
        self.model.ernie_m.use_recompute(config.run.recompute)
        optimizer = config.optimizer
        self.engine = Engine(
            self.model,
            build_optimizer(
                self.model,
                optimizer.learning_rate,
                learning_rate(config, steps),
                weight_decay=optimizer.weight_decay,
                betas=(optimizer.beta1, optimizer.beta2),
                eps=optimizer.epsilon,
            ),
            seed=config.run.seed,
            clip_norm=optimizer.clip_norm,
            precision=Precision(config.run.amp, config.run.amp_level, cpu_bf16=config.run.cpu_bf16),
            sharding_stage=config.run.sharding_stage,
            max_bad_steps=config.run.max_bad_steps,
            sums=SUMS,
        )
        self.pseudo_tokens = make_generator(config.objectives, text)
        # Equal for runs that read the same items in the same order.
        self.drawn = {"corpus": text.corpus.digest, "seed": config.run.seed}
        self.identity = {
            "config": dataclasses.asdict(config),
            "digests": {"corpus": text.corpus.digest, "vocabulary": tokenizer.digest},
        }

    def step(self, work: StepBatches, stop: object = None) -> Step | None:
        """As `train_step`. In the first `init.lm_head_warmup_steps` the encoder is frozen."""
        if head_steps := self.config.init.lm_head_warmup_steps:
            for parameter in self.model.ernie_m.parameters():  # the head's word table is among them
                parameter.stop_gradient = self.engine.steps < head_steps
        return train_step(self.engine, self.pseudo_tokens, work, stop)

    def resume_or_initialise(self) -> dict[str, Any]:
        """Go on from the newest checkpoint, or else (and with `run.overwrite`) take the weights of `init`.

        Returns:
            What `save` was given; empty at the beginning of a run.

        Raises:
            UserError: every checkpoint is damaged; the folder holds another run (the message says what
                differs), or a finished model without a checkpoint; or as `initialise`.
        """
        output, anew = Path(self.config.run.output), self.config.run.overwrite
        found = None if anew else newest_checkpoint(output / CHECKPOINTS)
        if found is None:
            if (output / FULL).exists() and not anew:
                raise UserError(
                    f"{output} holds a finished model ({FULL}), but no checkpoint that the run could go on "
                    f"from: put back {CHECKPOINTS}, choose another run.output, or begin anew with "
                    "--run.overwrite true"
                )
            initialise(self.model, self.config.init, self.tokenizer, self.drawn)
            return {}
        folder, state = found
        check_same_run(folder, state, self.identity)
        load_from(self.model, open_checkpoint(folder), optional=())
        self.engine.load_state_dict(state["engine"])
        logger.info("going on from %s", folder)
        return state["run"]

    def save(self, run: dict[str, Any]) -> None:
        """Write the checkpoint `step_N`. Call it on every process. `resume_or_initialise` returns `run`."""
        folder = Path(self.config.run.output, CHECKPOINTS, f"step_{self.engine.steps}")
        state: dict[str, Any] = {"engine": self.engine.state_dict()}
        if distributed.is_main():
            state |= {"run": run, **self.identity}
        # With sharding each process writes its part of the moments; otherwise process 0 has all of them.
        parts = distributed.world_size() if self.engine.is_sharded else 1
        masters = self.engine.masters()
        files = self._files(masters) if distributed.is_main() else None
        write_checkpoint(folder, files, state, distributed.rank(), parts)
        if distributed.is_main():
            keep_last(folder.parent, self.config.run.keep_checkpoints)
        logger.info("saved %s", folder)

    def is_exported(self) -> bool:
        """Whether both finished models are there and whole; call it on every process."""
        try:
            for name in (FULL, ENCODER):
                check_manifest(Path(self.config.run.output, name, MANIFEST))
            whole = True
        except UserError:
            whole = False
        return all(distributed.gather(whole))

    def export(self) -> None:
        """The finished model: `full` to continue from, `encoder` for fine-tuning; on every process."""
        output, masters = Path(self.config.run.output), self.engine.masters()
        if distributed.is_main():
            for folder, leave_out in ((output / FULL, ()), (output / ENCODER, _NOT_IN_ENCODER)):
                files = self._files(masters, leave_out)
                with atomic_dir(folder) as temporary:
                    files.write(temporary)
        distributed.barrier()
        logger.info("for fine-tuning: %s; to continue pre-training: %s", output / ENCODER, output / FULL)

    def _files(self, masters: dict[str, paddle.Tensor], leave_out: tuple[str, ...] = ()) -> ModelFiles:
        objectives = self.config.objectives
        reading = {
            "language_embedding": self.config.model.language_embedding,
            "pseudo_proportion": objectives.pseudo_proportion,
            "pseudo_positions": objectives.pseudo_positions,
        }
        return model_files(
            self.model,
            self.model_config,
            vocab_path=self.tokenizer.vocab_path,
            piece_model_path=self.tokenizer.piece_model_path,
            settings={"architecture": "ErnieMModel"}
            if leave_out
            else {"languages": self.languages, "reading": reading, "drawn": self.drawn},
            facts={
                "name": "ERNIE-M, pre-trained",
                "languages": self.languages,
                "data": self.config.data.corpus,
                "initialised_from": self.config.init.encoder,
                "steps": self.engine.steps,
                "seed": self.config.run.seed,
                "command": shlex.join(["python", *sys.argv]),
            },
            leave_out=leave_out,
            masters=masters,
        )


def train_step(
    engine: Engine, pseudo_tokens: PseudoTokenGenerator | None, work: StepBatches, stop: object = None
) -> Step | None:
    """One optimizer step over the mix of objectives; None if a process was asked to stop during it.

    Args:
        engine: of a `PreTrainingModel`; its `sums` are `SUMS`.
        pseudo_tokens: for BTMLM.
        work: this process's part of the step.
        stop: true once this process is asked to stop.
    """
    # Each objective's mean is over all processes and micro-batches.
    weights = [work.share.get(name, 0.0) / max(count, 1) for name, count in zip(OBJECTIVES, work.masked)]
    with engine.autocast():
        sent = to_device(work.micro_batches, weights)

    def loss_of(batch: DeviceBatch) -> tuple[paddle.Tensor, dict[str, Any]]:
        sums: dict[str, Any] = {"tokens": batch.inputs.tokens}
        if batch.stage1 is not None:
            batch, counts = pseudo_tokens.fill(engine.model, batch)
            sums |= counts
        result = masked_lm_loss(engine.model, batch)
        for name, places in batch.targets.by_objective.items():
            sums[f"{name}.loss"] = paddle.gather(result.losses.astype("float64"), places).sum()
            sums[f"{name}.correct"] = paddle.gather(result.correct.astype("float64"), places).sum()
            sums[f"{name}.count"] = places.shape[0]
        return result.total, sums

    return engine.step(sent, loss_of, stop)


def learning_rate(config: PretrainConfig, steps: int) -> Schedule:
    """Step -> share of `optimizer.learning_rate`. While the head is trained alone it has its own rate."""
    optimizer, head_steps = config.optimizer, config.init.lm_head_warmup_steps
    main = linear_warmup_decay(optimizer.warmup_steps, steps - head_steps, optimizer.schedule)
    of_head = config.init.lm_head_learning_rate / optimizer.learning_rate
    return lambda step: of_head if step < head_steps else main(step - head_steps)


def make_generator(config: ObjectiveConfig, text: TrainingText) -> PseudoTokenGenerator | None:
    """BTMLM's stage 1 as the configuration wants it; None where BTMLM is not active."""
    if "btmlm" not in config.active:
        return None
    if "camlm" not in config.active:
        logger.warning(
            "objectives.active has btmlm without camlm: camlm is what teaches the model to produce "
            "pseudo-tokens, so they will be of little use; add camlm"
        )
    allowed = None
    if config.pseudo_pieces == "frequent":
        piece_counts = [text.corpus.piece_counts(language) for language in text.languages]
        allowed = allowed_pieces(piece_counts, config.min_piece_count, text.vocabulary)
    temperature = config.temperature if config.pseudo_choice == "sample" else 0.0
    return PseudoTokenGenerator(allowed, text.vocabulary.special_ids, temperature)
