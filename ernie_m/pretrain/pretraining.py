"""Pretraining as a task of the training loop: model, data, loss, evaluation and saved files."""

import dataclasses
import functools
import hashlib
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import paddle
from paddle import Tensor

from ernie_m.model.checkpoint.load import load_weights
from ernie_m.model.checkpoint.open import TRAINED_LENGTH, Checkpoint, open_checkpoint
from ernie_m.model.checkpoint.write import ModelFiles, collect_model_files
from ernie_m.model.ernie import ErnieMConfig
from ernie_m.model.lm_head import PreTrainingModel
from ernie_m.model.optimization import Schedule, build_optimizer, linear_warmup_decay
from ernie_m.model.pipeline_config import ERNIE_M_RULES, PIPELINE, PipelineConfig, get_stored_pipeline_config
from ernie_m.pretrain.batches import StepBatches, read_steps
from ernie_m.pretrain.btmlm_pseudo_tokens import PseudoTokenGenerator, make_pseudo_token_generator
from ernie_m.pretrain.config import BASE, RANDOM, OptimizerConfig, PretrainConfig
from ernie_m.pretrain.corpus_selection import TrainingData, drop_unsupported_objectives, open_corpus
from ernie_m.pretrain.evaluate import Evaluator
from ernie_m.pretrain.initial_weights import initialize_model, open_initial_checkpoint, set_token_frequencies
from ernie_m.pretrain.log_lines import format_evaluation, format_record, make_record
from ernie_m.pretrain.loss import DeviceBatch, compute_batch_loss, list_sum_names, to_device
from ernie_m.pretrain.masking import Vocabulary
from ernie_m.pretrain.objectives import get_objective_class
from ernie_m.pretrain.run_length import RunPlan, plan_run
from ernie_m.reader.corpus import verify_corpus
from ernie_m.training import distributed
from ernie_m.training.engine import Engine
from ernie_m.training.log import Evaluation, Interval
from ernie_m.training.precision import Precision
from ernie_m.training.stop_requests import ShutdownHandler
from ernie_m.training.trainer import Trainable
from ernie_m.utils.args import get_result_options
from ernie_m.utils.errors import get_command_line
from ernie_m.utils.logging import logger
from ernie_m.utils.user_code import translate_user_errors

_NOT_IN_ENCODER = ("lm_head.", "language_embeddings.")
# Advice if MMLM has learned little after the head warm-up.
_AFTER_HEAD_WARMUP = (
    "The encoder is trained from now on. Train the head longer (init.lm_head_warmup_steps) or "
    "faster (init.lm_head_learning_rate); if that does not help, as with an embedding model, "
    "set init.lm_head_warmup_steps 0"
)


def format_plateau_advice(config: PretrainConfig) -> str:
    """Return what a run with this configuration could change, if MMLM has learned little."""
    is_open = {
        "Train on more tokens (optimizer.tokens), or with a smaller vocabulary": True,
        "Initialize the word embeddings from a static model (init.word_embeddings)": (
            config.init.encoder == RANDOM and not config.init.word_embeddings
        ),
        "Start with mmlm alone (objectives.later_mixing_ratios, as in configs/pretrain/own.yaml)": (
            len(config.objectives.names) > 1 and not config.objectives.later_mixing_ratios
        ),
    }
    return ". ".join(way for way in is_open if is_open[way])


class Pretraining(Trainable[PreTrainingModel, StepBatches]):
    """Pretraining with a mix of objectives, as a task of `Trainer`.

    Raises:
        UserError: the corpus is unfinished or corrupt, or lacks text that the config requires.
    """

    divisible = True
    memory_advice = "lower run.micro_batch_tokens, or set run.recompute true"

    def __init__(self, config: PretrainConfig):
        # The corpus, and the configuration completed from the corpus and the initial weights.
        corpus, self.tokenizer = open_corpus(config.data)
        if config.data.verify:
            distributed.run_on_main(lambda: verify_corpus(config.data.corpus))
        self.config = drop_unsupported_objectives(config, corpus)
        # A resumed run compares the shape, so it is needed before the weights are loaded.
        if None in dataclasses.astuple(self.config.model):
            shape = (
                self.initial_checkpoint.config.to_dict()
                if self.initial_checkpoint and self.initial_checkpoint.config
                else BASE
            )
            self.config = dataclasses.replace(self.config, model=self.config.model.fill_missing(shape))

        # Training data, length of the run, and evaluation.
        self.text = TrainingData.from_corpus(corpus, Vocabulary.from_tokenizer(self.tokenizer), self.config)
        self.plan = plan_run(self.config, self.text)
        self.total_steps = self.plan.steps
        self.pseudo_token_generator = make_pseudo_token_generator(self.text)
        self.evaluator = Evaluator(self.text, self.tokenizer, self.pseudo_token_generator, self.config.run)
        self.evaluation_steps = self.evaluator.choose_steps(self.plan.steps, self.plan.head_steps)

        # The fingerprint of the run.
        code = self.config.objectives.code
        digests = {Path(path).name: hashlib.sha256(content).hexdigest() for path, content in code.items()}
        digests |= {"corpus": corpus.digest, "vocabulary": self.tokenizer.digest}
        self.fingerprint = get_result_options(self.config) | {"digests": digests}
        # Runs with equal values sample the same examples in the same order; `initialize_model` warns of that.
        self.corpus_and_seed = {"corpus": corpus.digest, "seed": self.config.run.seed}

    @functools.cached_property
    def initial_checkpoint(self) -> Checkpoint | None:
        """Return the opened checkpoint of `init.encoder`; None: random weights."""
        encoder = self.config.init.encoder
        return None if encoder == RANDOM else open_initial_checkpoint(encoder, self.tokenizer)

    def begin(self, seed: int, checkpoint: Path | None) -> Engine[PreTrainingModel]:
        """Make model and optimizer, and load the initial weights, or the checkpoint to resume from."""
        saved = None if checkpoint is None else open_checkpoint(checkpoint)
        engine = self._make_engine(seed, saved or self.initial_checkpoint)
        if saved is None:
            self._initialize(engine.model)
        else:
            load_weights(engine.model, saved, optional=())  # all weights are required
            self.trained_length = saved.settings.get(TRAINED_LENGTH)
            self.pipeline_config = saved.pipeline_config
        return engine

    def _make_engine(self, seed: int, weights: Checkpoint | None) -> Engine[PreTrainingModel]:
        """Make a randomly initialized model and its optimizer.

        Args:
            weights: checkpoint whose config provides values that `model` has no key for, such as the
                layer-norm epsilon.
        """
        run = self.config.run
        optimizer = self.config.optimizer
        paddle.set_default_dtype(run.dtype)
        paddle.seed(seed)
        # Settings that `model` has no key for, such as the layer-norm epsilon, come from the weights.
        shape = weights.config.to_dict() if weights and weights.config else {}
        shape |= dataclasses.asdict(self.config.model)
        shape |= {"vocab_size": self.tokenizer.vocab_size, "pad_token_id": self.tokenizer.pad_id}
        model = PreTrainingModel(ErnieMConfig.from_dict(shape), self.text.languages)
        model.ernie_m.set_recompute(run.recompute)
        adamw = build_optimizer(
            model,
            optimizer.learning_rate,
            make_learning_rate_schedule(self.plan, self.config.init.lm_head_learning_rate, optimizer),
            weight_decay=optimizer.weight_decay,
            betas=(optimizer.beta1, optimizer.beta2),
            eps=optimizer.epsilon,
            embedding_lr_ratio=optimizer.embedding_lr_ratio,
        )
        return Engine(
            model,
            adamw,
            seed=seed,
            clip_norm=optimizer.clip_norm,
            precision=Precision(run.amp, run.amp_level, option=f"{run.prefix}amp"),
            sharding_stage=run.sharding_stage,
            max_bad_steps=run.max_bad_steps,
            sums=list_sum_names(),
        )

    def _initialize(self, model: PreTrainingModel) -> None:
        """Load the initial weights of the config section `init` into the model of a new run."""
        start = self.initial_checkpoint
        text_rules = self.config.data.text_rules
        initialize_model(model, self.config.init, start, self.tokenizer, self.corpus_and_seed, text_rules)
        self.pipeline_config = make_pipeline_config(start, self.tokenizer.text_rules)
        self.trained_length = self.config.data.max_seq_len
        if start is not None:
            length_before = start.settings.get(TRAINED_LENGTH)
            # Weights without a recorded maximum length may have been trained on longer inputs.
            self.trained_length = max(length_before, self.trained_length) if length_before else None
            if self.config.init.lm_head == RANDOM:
                set_token_frequencies(model.lm_head, self.text.count_subwords().sum(axis=0))

    def make_batch_iterator(self, position: dict[str, Any] | None) -> Callable[[], Iterator[StepBatches]]:
        """Return the function that the reader process calls to iterate over the steps."""
        return functools.partial(
            read_steps,
            self.config,
            self.text.setting.vocabulary,
            self.plan.phases,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            position=position,
        )

    def copy_to_device(self, model: PreTrainingModel, data: StepBatches) -> list[DeviceBatch]:
        """Copy the micro-batches of a step to the device, and freeze the encoder during the head warm-up."""
        if self.plan.head_steps:
            steps_before = data.position["step"] - 1  # the position is after the step
            # The head shares the embedding matrix, which is one of the parameters.
            for parameter in model.ernie_m.parameters():
                parameter.stop_gradient = steps_before < self.plan.head_steps
        return copy_step_to_device(data)

    def loss(
        self, model: PreTrainingModel, micro_batch: DeviceBatch
    ) -> tuple[Tensor, dict[str, Tensor | float]]:
        with translate_user_errors(self.config.objectives.path):
            return compute_objectives_loss(model, self.pseudo_token_generator, micro_batch)

    def evaluate(self, engine: Engine[PreTrainingModel], stop: ShutdownHandler) -> Evaluation | None:
        """Evaluate on held-out text, and log the scores; None: the evaluation was stopped."""
        scores = self.evaluator.run(engine, stop)
        if scores is None:
            return None
        for line in format_evaluation(scores):
            logger.info("%s", line)
        advice = None
        if engine.steps == self.plan.steps > 1:  # a run of one step only writes the initial weights
            advice = format_plateau_advice(self.config)
        elif engine.steps == self.plan.head_steps:
            advice = _AFTER_HEAD_WARMUP
        for name in self.config.objectives.names if advice else ():
            warning = get_objective_class(name).find_plateau(list(scores.get(name, {}).values()), advice)
            if warning is not None:
                logger.warning("%s", warning)
        # Pre-training has no epochs, and its last step is its result.
        return Evaluation(engine.steps, epoch=0, selected_by=None, scores=scores)

    def log_interval(self, interval: Interval) -> dict[str, Any]:
        record = make_record(interval)
        line = format_record(record, self.plan.steps, interval.remaining, self.plan.tokens_per_epoch)
        logger.info("%s", line)
        return record

    def collect_files(
        self,
        engine: Engine[PreTrainingModel],
        master_weights: Mapping[str, Tensor],
        evaluation: Evaluation | None = None,
    ) -> ModelFiles:
        """Collect the files of the model with its head, for checkpoints and continued pretraining."""
        objectives = self.config.objectives
        # Prediction of masked tokens requires these options.
        pipeline_config = self.pipeline_config.adapt_for_task(
            language_embedding=self.config.model.language_embedding,
            camlm_context=objectives.camlm_context,
            pseudo_proportion=objectives.pseudo_proportion,
            pseudo_positions=objectives.pseudo_positions,
        )
        settings = {
            "languages": self.text.languages,
            PIPELINE: get_stored_pipeline_config(pipeline_config),
            "drawn": self.corpus_and_seed,
        }
        return self._collect_model_files(engine, master_weights, settings)

    def collect_encoder_files(
        self, engine: Engine[PreTrainingModel], master_weights: Mapping[str, Tensor]
    ) -> ModelFiles:
        """Collect the files of the encoder, for fine-tuning."""
        settings = {
            "architecture": "ErnieMModel",
            PIPELINE: get_stored_pipeline_config(self.pipeline_config.adapt_for_task()),
        }
        return self._collect_model_files(engine, master_weights, settings, _NOT_IN_ENCODER)

    def _collect_model_files(
        self,
        engine: Engine[PreTrainingModel],
        master_weights: Mapping[str, Tensor],
        settings: Mapping[str, Any],
        omitted_prefixes: tuple[str, ...] = (),
    ) -> ModelFiles:
        """Collect the files of the model.

        Args:
            master_weights: `parameter.name` -> float32 master weight.
            settings: keys of config.json besides the model config.
            omitted_prefixes: name prefixes of weights to omit.
        """
        if self.trained_length is not None:
            settings = {**settings, TRAINED_LENGTH: self.trained_length}
        facts = {
            "name": "ERNIE-M, pre-trained",
            "languages": self.text.languages,
            "data": self.config.data.corpus,
            "initialized_from": self.config.init.encoder,
            "steps": engine.steps,
            "seed": self.config.run.seed,
            "command": shlex.join(get_command_line()),
        }
        return collect_model_files(
            engine.model,
            engine.model.ernie_m.config,
            tokenizer=self.tokenizer.files,
            settings=settings,
            card_facts=facts,
            omitted_prefixes=omitted_prefixes,
            master_weights=master_weights,
        )


def make_pipeline_config(encoder: Checkpoint | None, text_rules: str) -> PipelineConfig:
    """Return the pipeline settings of a new run: the initial encoder's, with the corpus's text rules.

    Args:
        encoder: the initial checkpoint; None: random weights.
        text_rules: the text rules of the corpus.
    """
    if encoder is not None and encoder.pipeline_config.text_rules == text_rules:
        return encoder.pipeline_config.adapt_for_task()
    if text_rules == ERNIE_M_RULES:
        return PipelineConfig()
    return PipelineConfig.for_xlm_r().adapt_for_task(text_rules=text_rules)


def copy_step_to_device(data: StepBatches) -> list[DeviceBatch]:
    """Copy the micro-batches of a step to the device, with loss weights. Call this under autocast."""
    # An objective's loss is the mean over its masked tokens in the whole step, so each has the objective's
    # mixing ratio divided by their number. An objective without masked tokens adds nothing.
    weights = {name: share / max(data.counts[name], 1) for name, share in data.share.items()}
    return to_device(data.micro_batches, weights)


def compute_objectives_loss(
    model: PreTrainingModel, pseudo_token_generator: PseudoTokenGenerator, batch: DeviceBatch
) -> tuple[Tensor, dict[str, Tensor | float]]:
    """Generate the pseudo-tokens of a micro-batch, and compute its loss.

    Returns:
        The weighted sum of the losses of all objectives, and the values to sum for the log, by the names of
        `list_sum_names`.
    """
    flops = count_flops(model, batch)
    sums: dict[str, Tensor | float] = {"tokens": batch.inputs.tokens, "flops": flops}
    batch, counts = pseudo_token_generator.fill_placeholders(model, batch)
    total, sums_of_objectives = compute_batch_loss(model, batch)
    return total, sums | counts | sums_of_objectives


def count_flops(model: PreTrainingModel, batch: DeviceBatch) -> int:
    """Count the floating-point operations of the matrix products of a training step on a micro-batch.

    A weight takes 6 operations for each token: 2 forward, 4 backward. Those of the head count for targets
    alone, and attention counts where the mask has ones. Padding, recomputation and the first stage of BTMLM,
    which has no gradients, do not count.
    """
    config = model.ernie_m.config
    of_layers = sum(weight.size for weight in model.ernie_m.encoder.parameters() if weight.ndim == 2)
    of_head = config.hidden_size * (config.hidden_size + config.vocab_size)
    attention = 2 * config.num_hidden_layers * config.hidden_size * batch.inputs.attended
    return 6 * (of_layers * batch.inputs.tokens + of_head * batch.targets.shape[0] + attention)


def make_learning_rate_schedule(
    plan: RunPlan, head_learning_rate: float, optimizer: OptimizerConfig
) -> Schedule:
    """Return the learning-rate schedule of a run: step -> ratio to `optimizer.learning_rate`.

    Args:
        head_learning_rate: constant learning rate of the head warm-up, after which the schedule of
            `optimizer` starts.
    """
    head_ratio = head_learning_rate / optimizer.learning_rate
    ratio_of_step = linear_warmup_decay(plan.warmup_steps, plan.steps - plan.head_steps, optimizer.schedule)

    def ratio(step: int) -> float:
        return head_ratio if step < plan.head_steps else ratio_of_step(step - plan.head_steps)

    return ratio
