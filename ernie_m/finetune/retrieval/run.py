"""The command run_retrieval.py: read the inputs, train each seed, and evaluate bitext retrieval."""

import gc
from collections.abc import Mapping
from functools import cache

from ernie_m.finetune.retrieval.bitext_evaluation import BitextEvaluation, list_languages
from ernie_m.finetune.retrieval.contrastive_training import RetrievalTraining
from ernie_m.finetune.retrieval.encoder import make_encoder
from ernie_m.finetune.retrieval.retrieval_args import RetrievalFlags
from ernie_m.finetune.run_setup import make_loop_config, open_output_dir, set_up_command
from ernie_m.model.checkpoint.open import Checkpoint, open_checkpoint
from ernie_m.model.ernie import ErnieMModel
from ernie_m.model.open_model import OpenedModel, apply_embedding_defaults, apply_model_defaults, open_model
from ernie_m.reader.files.aligned_lines import read_bitexts, read_sentences_by_language
from ernie_m.training import distributed
from ernie_m.training.best_checkpoint import BEST, is_finished, read_selected
from ernie_m.training.device_summary import format_device_summary
from ernie_m.training.output_dir import OutputDir
from ernie_m.training.precision import describe_precision, is_bf16_on_cpu
from ernie_m.training.stop_requests import ShutdownHandler
from ernie_m.training.trainer import Trainer
from ernie_m.utils.errors import UserError
from ernie_m.utils.logging import logger
from ernie_m.vectors.nearest import load_faiss


def run_retrieval(flags: RetrievalFlags, stop: ShutdownHandler) -> None:
    """Run the command: evaluate bitext retrieval; with --do_train, train first.

    After a stop request, return early; the same command resumes training.

    Raises:
        UserError: --batch_size is below the number of processes, faiss is not installed, a file is missing or
            invalid, a flag is invalid, a bitext is too short for --layer sweep, or a checkpoint was not
            fine-tuned for the task of --init_task.
    """
    # Join the other processes. What would only fail after training is looked for now.
    set_up_command(flags)
    world_size = distributed.world_size()
    if flags.do_train and flags.batch_size < world_size:
        raise UserError(
            f"--batch_size {flags.batch_size} is below the number of processes, {world_size}. Increase it"
        )
    load_faiss()

    # Read the test bitexts, and the sentences whose mean is subtracted, which must cover their languages.
    languages = flags.languages.split(",") if flags.languages else []  # none: all
    bitexts = read_bitexts(flags.pairs, languages, flags) if flags.pairs else []
    short = [bitext.language for bitext in bitexts if len(bitext.sentences) < 2]
    if flags.layer == "sweep" and short:
        raise UserError(
            f"--layer sweep: {', '.join(short)}: selecting a layer requires two pairs. Set --layer N"
        )
    sentences = {}
    if flags.center_on:
        sentences = read_sentences_by_language(flags.center_on, list_languages(bitexts))

    # Open the checkpoint of each seed. The first one provides the settings that no flag gives.
    open_once = cache(open_checkpoint)  # seeds may share a checkpoint
    paths = {seed: flags.get_initial_checkpoint(seed) for seed in flags.seeds}
    initial_checkpoints = {seed: open_once(path) if path else None for seed, path in paths.items()}
    check_initial_task(flags, initial_checkpoints)
    opened = open_model(initial_checkpoints[flags.seeds[0]], *flags.model_file_paths)
    is_resumed = flags.do_train and flags.init_checkpoint  # then the flags are those of the initial run
    flags = apply_model_defaults(flags, opened) if is_resumed else apply_embedding_defaults(flags, opened)

    # Check the texts with the tokenizer and the prompts of the model, then train, or evaluate as it is.
    evaluation = BitextEvaluation(flags, opened, bitexts, sentences)
    if flags.do_train:
        training = RetrievalTraining(flags, opened, initial_checkpoints)
        train_seeds(training, evaluation, stop)
    else:
        evaluate_seeds(evaluation, opened, initial_checkpoints)


def check_initial_task(flags: RetrievalFlags, initial_checkpoints: Mapping[int, Checkpoint | None]) -> None:
    """Check that the weights of each seed were fine-tuned for the task of --init_task.

    With --init_checkpoint the seeds start from its checkpoint instead, to which --init_task does not apply.

    Raises:
        UserError: a checkpoint was not fine-tuned for the task.
    """
    if not (flags.init_task and flags.init_pretraining_params) or flags.init_checkpoint:
        return
    for start in initial_checkpoints.values():
        if start.task != flags.init_task:
            fact = f"were fine-tuned for {start.task}" if start.task else "were not fine-tuned"
            raise UserError(
                f'{start.path}: weights {fact} (expected --init_task {flags.init_task}; "" accepts any)'
            )


def train_seeds(training: RetrievalTraining, evaluation: BitextEvaluation, stop: ShutdownHandler) -> None:
    """Train each seed, search the bitexts with its best checkpoint, and write the report."""
    flags = training.flags
    evaluation.warn_about_training_texts(training.train_pairs.text_keys)
    with open_output_dir(flags, training.fingerprint) as folder:
        for seed in flags.seeds:
            seed_folder = folder.make_seed_dir(seed) if len(flags.seeds) > 1 else folder
            model = train_seed(training, seed, seed_folder, stop)
            if model is None:  # the report has all seeds or is not written
                return
            evaluation.search(seed, model, training.tokenizer, training.train_pairs.pipeline_config)
            del model  # before the next one is made
        evaluation.report()


def train_seed(
    training: RetrievalTraining, seed: int, folder: OutputDir, stop: ShutdownHandler
) -> ErnieMModel | None:
    """Train a seed unless it is finished, and return the model of its best checkpoint.

    Returns:
        None after a stop request.
    """
    flags = training.flags
    if is_finished(folder.path):
        read_selected(folder.path)  # rejects a best/ that is not the selected one
    else:
        trainer = Trainer(training, folder, seed, make_loop_config(flags))
        if not trainer.run(stop):
            return None
        if trainer.state.best is None:  # without validation pairs no step is selected
            return trainer.engine.model
        # Free the model and its optimizer state before the next model is made.
        del trainer
        gc.collect()
    return make_encoder(
        training.config, open_checkpoint(folder.path / BEST), flags.dtype, seed, flags.pooling
    )


def evaluate_seeds(
    evaluation: BitextEvaluation, opened: OpenedModel, initial_checkpoints: Mapping[int, Checkpoint | None]
) -> None:
    """Search the bitexts with the initial model of each seed, and write the report.

    Args:
        opened: the model of the first seed.
        initial_checkpoints: seed -> initial checkpoint; None: random weights.

    Raises:
        UserError: weights are inconsistent, have fewer positions than --max_seq_len, or lack the pooler that
            --pooling requires.
    """
    flags = evaluation.flags
    cpu_bf16 = is_bf16_on_cpu(flags.amp)
    if flags.amp != "none" and not cpu_bf16:
        logger.warning("--amp %s has no effect: retrieval computes in %s", flags.amp, flags.dtype)
    summary = format_device_summary(describe_precision(flags.dtype, cpu_bf16), distributed.world_size())
    for seed, start in initial_checkpoints.items():
        # A seed with weights of its own may have another vocabulary and another size.
        of_seed = opened
        if start is not opened.checkpoint:
            of_seed = open_model(start, *flags.model_file_paths)
            of_seed.check_length(flags.max_seq_len)
        model = make_encoder(of_seed.config, start, flags.dtype, seed, flags.pooling)
        logger.info("%s", summary)
        evaluation.search(seed, model, of_seed.tokenizer, of_seed.pipeline_config, start)
        del model  # before the next one is made
    evaluation.report()
