"""The command run_retrieval.py: evaluation of bitext retrieval by a model's embeddings, and training."""

import gc
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import paddle

from ernie_m.finetune.retrieval.contrastive_training import RetrievalTraining
from ernie_m.finetune.retrieval.encoder import Encode, make_encode_function, make_encoder, resolve_layer
from ernie_m.finetune.retrieval.retrieval_args import RetrievalFlags
from ernie_m.finetune.retrieval.search_bitexts import (
    CHOSEN,
    SearchResult,
    report_seeds,
    search_layer,
    search_layers,
    write_predictions,
    write_sweep,
)
from ernie_m.finetune.retrieval.split_pairs import make_text_keys
from ernie_m.finetune.run_setup import make_loop_config, open_output_dir, set_up_command
from ernie_m.model.checkpoint.open import Checkpoint, open_checkpoint
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.device_capabilities import format_device_summary
from ernie_m.model.ernie import ErnieMModel
from ernie_m.model.layers import use_bfloat16
from ernie_m.model.open_model import OpenedModel, apply_embedding_defaults, apply_model_defaults, open_model
from ernie_m.model.pipeline_config import NEITHER, PipelineConfig, get_pair_text_kinds
from ernie_m.reader.batching import Example, TextFeaturizer, warn_if_truncated
from ernie_m.reader.files.aligned_lines import Bitext, read_bitexts, read_sentences_by_language
from ernie_m.reader.labels import find_label_issues
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.training import distributed
from ernie_m.training.output_dir import BEST, OutputDir
from ernie_m.training.precision import describe_precision, is_bf16_on_cpu
from ernie_m.training.stop_requests import ShutdownHandler
from ernie_m.training.trainer import Trainer
from ernie_m.utils.errors import UserError
from ernie_m.utils.logging import logger
from ernie_m.vectors.encode import PaddleEncoder
from ernie_m.vectors.language_centering import MEANS_POOLING, LanguageCentering
from ernie_m.vectors.nearest import load_faiss
from ernie_m.vectors.retrieval_accuracy import log_repeated_texts


class RetrievalInputs(NamedTuple):
    """The inputs of run_retrieval.py.

    Attributes:
        flags: the flags, with defaults from the settings of the checkpoint.
        bitexts: the bitexts of --pairs.
        sentences: language -> its sentences in --center_on; empty: use the language means of the model.
        initial_checkpoints: seed -> initial checkpoint; None: random weights.
        opened: the model of the first seed.
    """

    flags: RetrievalFlags
    bitexts: list[Bitext]
    sentences: dict[str, list[str]]
    initial_checkpoints: dict[int, Checkpoint | None]
    opened: OpenedModel


def evaluate_retrieval(flags: RetrievalFlags) -> None:
    """Evaluate bitext retrieval with the model of each seed, without training.

    Raises:
        UserError: see `read_inputs`.
    """
    inputs = read_inputs(flags)
    flags = inputs.flags
    cpu_bf16 = is_bf16_on_cpu(flags.amp)
    if flags.amp != "none" and not cpu_bf16:
        logger.warning("--amp %s has no effect: retrieval computes in %s", flags.amp, flags.dtype)
    results = {}
    for seed in flags.seeds:
        opened, model = load_model_for_seed(inputs, seed)
        logger.info(
            "%s", format_device_summary(describe_precision(flags.dtype, cpu_bf16), distributed.world_size())
        )
        results[seed] = search_seed(
            inputs, seed, model, opened.tokenizer, opened.pipeline_config, opened.checkpoint
        )
        del model  # before the next one is made
    report_seeds(flags, inputs.opened.config, results, inputs.bitexts)


def train_and_evaluate(flags: RetrievalFlags, stop: ShutdownHandler) -> None:
    """Train each seed, and evaluate bitext retrieval with its best checkpoint.

    After a stop request, return early; the same command resumes training.

    Raises:
        UserError: see `read_inputs`.
    """
    inputs = read_inputs(flags)
    flags = inputs.flags
    task = RetrievalTraining(flags, inputs.opened, inputs.initial_checkpoints)
    trained = task.train_pairs.text_keys
    for bitext in inputs.bitexts:
        for error in find_label_issues(
            bitext.keys.ravel(), (), str, trained_inputs=trained, noun="sentences"
        ):
            logger.warning("%s: %s", bitext.name, error)
    results = {}
    with open_output_dir(flags, task.fingerprint) as folder:
        for seed in flags.seeds:
            seed_folder = folder.make_seed_dir(seed) if len(flags.seeds) > 1 else folder
            model = train_seed(task, seed, seed_folder, stop)
            if model is None:
                return
            results[seed] = search_seed(inputs, seed, model, task.tokenizer, task.pipeline_config)
        report_seeds(flags, inputs.opened.config, results, inputs.bitexts)


def read_inputs(flags: RetrievalFlags) -> RetrievalInputs:
    """Read the bitexts, and open the initial checkpoints.

    Raises:
        UserError: --batch_size is below the number of processes, faiss is not installed, a file is missing or
            invalid, a flag is invalid, a bitext is too short for --layer sweep, or a checkpoint was not
            fine-tuned for the task of --init_task.
    """
    set_up_command(flags)
    world_size = distributed.world_size()
    if flags.do_train and flags.batch_size < world_size:
        raise UserError(
            f"--batch_size {flags.batch_size} is below the number of processes, {world_size}. Increase it"
        )
    load_faiss()
    bitexts = []
    if flags.pairs:
        languages = flags.languages.split(",") if flags.languages else []  # none: all
        bitexts = read_bitexts(flags.pairs, languages, flags)
    short = [bitext.language for bitext in bitexts if len(bitext.sentences) < 2]
    if flags.layer == "sweep" and short:
        raise UserError(
            f"--layer sweep: {', '.join(short)}: selecting a layer requires two pairs. Set --layer N"
        )
    sentences = {}
    if flags.center_on:
        sentences = read_sentences_by_language(flags.center_on, get_languages(bitexts))
    open_once = cache(open_checkpoint)  # seeds may share a checkpoint
    paths = {seed: flags.get_initial_checkpoint(seed) for seed in flags.seeds}
    initial_checkpoints = {seed: open_once(path) if path else None for seed, path in paths.items()}
    opened = open_model(initial_checkpoints[flags.seeds[0]], *flags.model_file_paths)
    is_resumed = flags.do_train and flags.init_checkpoint  # then the flags are those of the initial run
    flags = apply_model_defaults(flags, opened) if is_resumed else apply_embedding_defaults(flags, opened)
    # With --init_checkpoint the seeds start from its checkpoint instead, to which --init_task does not apply.
    if flags.init_task and flags.init_pretraining_params and not flags.init_checkpoint:
        for start in initial_checkpoints.values():
            if start.task != flags.init_task:
                fact = f"were fine-tuned for {start.task}" if start.task else "were not fine-tuned"
                raise UserError(
                    f'{start.path}: weights {fact} (expected --init_task {flags.init_task}; "" accepts any)'
                )
    keys_of = make_text_keys(opened, flags.max_seq_len)
    for number, bitext in enumerate(bitexts):
        # The vocabulary may not cover a bitext, or its pairs may be too easy.
        sides = (bitext.sentences, bitext.translations)
        examples = [
            Example(opened.pipeline_config.get_prompt(kind) + text)
            for kind, texts in zip(get_pair_text_kinds(bitext.are_translations), sides)
            for text in texts
        ]
        warn_if_truncated(bitext.name, examples, TextFeaturizer(opened.tokenizer, flags.max_seq_len))
        keys = np.stack([keys_of(texts) for texts in sides])
        log_repeated_texts(bitext.name, keys)
        bitexts[number] = bitext._replace(keys=keys)
    return RetrievalInputs(flags, bitexts, sentences, initial_checkpoints, opened)


def load_model_for_seed(inputs: RetrievalInputs, seed: int) -> tuple[OpenedModel, ErnieMModel]:
    """Load the model of a seed from its initial checkpoint, and return the opened model and the encoder.

    Raises:
        UserError: the weights are inconsistent, have fewer positions than --max_seq_len, or lack the pooler
            that --pooling requires.
    """
    flags = inputs.flags
    opened = inputs.opened
    start = inputs.initial_checkpoints[seed]
    if start is not opened.checkpoint:  # another checkpoint
        opened = open_model(start, *flags.model_file_paths)
        opened.check_length(flags.max_seq_len)
    return opened, make_encoder(opened.config, start, flags.dtype, seed, flags.pooling)


def train_seed(
    task: RetrievalTraining, seed: int, folder: OutputDir, stop: ShutdownHandler
) -> ErnieMModel | None:
    """Train a seed unless it is finished, and return the model of its best checkpoint.

    Returns:
        None after a stop request.
    """
    if folder.is_finished():
        folder.read_selected()  # rejects a best/ that is not the selected one
    else:
        trainer = Trainer(task, folder, seed, make_loop_config(task.flags))
        if not trainer.run(stop):
            return None
        if trainer.best is None:  # without validation pairs no step is selected
            return trainer.engine.model
        # Free the model and its optimizer state before the next model is made.
        del trainer
        gc.collect()
    best = open_checkpoint(folder.path / BEST)
    return make_encoder(task.config, best, task.flags.dtype, seed, task.flags.pooling)


def search_seed(
    inputs: RetrievalInputs,
    seed: int,
    model: ErnieMModel,
    tokenizer: Tokenizer,
    pipeline_config: PipelineConfig,
    start: Checkpoint | None = None,
) -> SearchResult | None:
    """Evaluate bitext retrieval with the model of a seed, and write its predictions.

    Args:
        pipeline_config: the pipeline settings of the model.
        start: the checkpoint of the model; None: the model was just trained or is random, so it has no
            language means.

    Returns:
        None without bitexts, or with --layer sweep, which writes its own report.
    """
    flags = inputs.flags
    bitexts = inputs.bitexts
    if not bitexts:
        return None
    folder = Path(flags.checkpoints)
    if len(flags.seeds) > 1:
        folder /= f"seed_{seed}"

    def make_encode(model: ErnieMModel) -> Encode:
        if is_bf16_on_cpu(flags.amp):
            use_bfloat16(model)
        layer = None if flags.layer == "sweep" else resolve_layer(flags, model.config.num_hidden_layers)
        encoder = PaddleEncoder(model, flags.pooling, layer)
        return make_encode_function(encoder, tokenizer, pipeline_config, flags.max_seq_len)

    encode = make_encode(model)
    if inputs.sentences:
        mean_of = {  # language -> the mean over its texts, [H] or [L + 1, H]
            language: encode(texts, NEITHER).mean(axis=-2, dtype=np.float64)
            for language, texts in inputs.sentences.items()
        }
        means = LanguageCentering(list(mean_of), np.stack(list(mean_of.values())))
    else:
        means = load_language_means(start, flags, model.config, get_languages(bitexts))
    # A randomly initialized model is evaluated once, with the first seed, unless the seeds' weights are
    # random themselves.
    has_weights = flags.do_train or flags.init_pretraining_params
    encode_at_random = None
    if flags.untrained and has_weights and seed == flags.seeds[0]:
        paddle.seed(seed)
        encode_at_random = make_encode(ErnieMModel(model.config))
    if flags.layer == "sweep":
        sweep = search_layers(encode, bitexts, means)
        if encode_at_random is not None:
            untrained_sweep = search_layers(encode_at_random, bitexts)
            sweep.rows[f"untrained, {CHOSEN}"] = untrained_sweep.rows[CHOSEN]
            sweep.layers[f"untrained, {CHOSEN}"] = untrained_sweep.layers[CHOSEN]
        if distributed.is_main():
            write_sweep(folder, f"retrieval by layer: {flags.pooling}, both directions", sweep)
        return None
    trained = search_layer(encode, bitexts, means)
    untrained = {} if encode_at_random is None else search_layer(encode_at_random, bitexts)
    if distributed.is_main():
        write_predictions(folder / "predictions" / "tatoeba", bitexts, trained[flags.score])
    return SearchResult(resolve_layer(flags, model.config.num_hidden_layers), trained, untrained)


def load_language_means(
    checkpoint: Checkpoint | None, flags: RetrievalFlags, config: ErnieMConfig, languages: list[str]
) -> LanguageCentering | None:
    """Load the language means of a checkpoint at the evaluated layer, or with --layer sweep at each layer.

    Args:
        languages: the languages whose means are required.

    Returns:
        None if the means are missing, were computed with another pooling, or lack a language.
    """
    if checkpoint is None or checkpoint.language_means_path is None or flags.pooling != MEANS_POOLING:
        return None
    shape = (config.num_hidden_layers + 1, config.hidden_size)
    means = LanguageCentering.read(checkpoint.language_means_path, shape)
    missing = [language for language in languages if language not in means.languages]
    if missing:
        logger.info(
            "%s: no language means for %s; skipping centered scores. To compute means, set --center_on",
            checkpoint.language_means_path,
            ", ".join(missing),
        )
        return None
    return (
        means
        if flags.layer == "sweep"
        else means.select_layer(resolve_layer(flags, config.num_hidden_layers))
    )


def get_languages(bitexts: list[Bitext]) -> list[str]:
    """Return English and the other language of each bitext; [] without bitexts."""
    return ["en", *(bitext.language for bitext in bitexts)] if bitexts else []
