"""The command run_retrieval.py: search bitexts with the vectors of a model, or train it first."""

import gc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import paddle

from ernie_m.finetune import score_tables
from ernie_m.finetune.command import log_and_write_report, pace_of, run_folder, set_up
from ernie_m.finetune.flags import RetrievalFlags
from ernie_m.finetune.open_model import OpenedModel, open_model, settle, settle_vectors
from ernie_m.finetune.paper import AVERAGE, average, figures
from ernie_m.finetune.retrieval.steps_of_bitexts import warn_if_found_by_any
from ernie_m.finetune.retrieval.task import Retrieval, layer_of, make_encoder
from ernie_m.model.checkpoint.open import Checkpoint, open_checkpoint
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.conventions import NEITHER, Reading, TextKind, kinds_of_pair
from ernie_m.model.device import summary
from ernie_m.model.encoder import ErnieMModel
from ernie_m.model.layers import use_bfloat16
from ernie_m.model.tasks import RETRIEVAL
from ernie_m.reader.coverage import warn_if_unsuited
from ernie_m.reader.files.aligned_lines import Bitext, pair_of, read_bitexts, sentences_by_language
from ernie_m.tokenizer.tokenizer import Tokenizer
from ernie_m.training import distributed
from ernie_m.training.precision import in_words, is_bf16_on_cpu
from ernie_m.training.run import Trainer
from ernie_m.training.run_folder import BEST, RunFolder
from ernie_m.training.stop_requests import StopSignal
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import atomic_file, write_json
from ernie_m.utils.logging import Progress, logger
from ernie_m.utils.text_tables import in_columns
from ernie_m.vectors.centring import MEANS_POOLING, LanguageMeans
from ernie_m.vectors.encode import PaddleEncoder
from ernie_m.vectors.hits import accuracy_by_layer, choose_on_half, found_by_margin
from ernie_m.vectors.nearest import Matches, load_faiss, search_both

DIRECTIONS = ("en -> xx", "xx -> en")
CHOSEN = "chosen, odd pairs"  # the even pairs choose the layer, and the odd ones score it
T = TypeVar("T")
# Texts and what they are -> their vectors at the layer that is searched, [N, H]; with --layer sweep at each,
# [L + 1, N, H].
Encode = Callable[[Sequence[str], TextKind], np.ndarray]


class SearchResult(NamedTuple):
    """What a search with the vectors of one layer finds.

    Attributes:
        layer: its number.
        trained: what the model of a seed finds: measure -> language -> matches. The measures are "cosine"
            and "margin" and, with language means, "centred" and "centred margin".
        untrained: the same of a model with random weights; empty if that was not searched.
    """

    layer: int
    trained: dict[str, dict[str, Matches]]
    untrained: dict[str, dict[str, Matches]]


class Sweep(NamedTuple):
    """What a search with the vectors of every layer finds.

    Attributes:
        rows: row -> language -> per cent, mean of both directions.
        layers: for the rows that choose a layer: row -> language -> the number of the layer.
    """

    rows: dict[str, dict[str, float]]
    layers: dict[str, dict[str, int]]


class Inputs(NamedTuple):
    """What the command reads before it trains or searches.

    Attributes:
        flags: settled, as the weights say.
        bitexts: the read files of --pairs.
        sentences: language -> its sentences of --centre_on; empty: the means beside the weights are taken.
        starts: seed -> the weights that it starts from; None: random ones.
        opened: the model of the first seed.
    """

    flags: RetrievalFlags
    bitexts: list[Bitext]
    sentences: dict[str, list[str]]
    starts: dict[int, Checkpoint | None]
    opened: OpenedModel


def search(flags: RetrievalFlags) -> None:
    """Search with the weights of each seed, without training.

    Raises:
        UserError: as `read_inputs`.
    """
    inputs = read_inputs(flags)
    flags = inputs.flags
    cpu_bf16 = is_bf16_on_cpu(flags.amp)
    if flags.amp != "none" and not cpu_bf16:
        logger.warning("--amp %s has no effect: a search computes in %s here", flags.amp, flags.dtype)
    results = {}
    for seed in flags.seeds:
        opened, model = model_of_seed(inputs, seed)
        logger.info("%s", summary(in_words(flags.dtype, cpu_bf16), distributed.world_size()))
        results[seed] = search_seed(inputs, seed, model, opened.tokenizer, opened.reading, opened.checkpoint)
        del model  # before the next one is made
    report_seeds(flags, results)


def train_then_search(flags: RetrievalFlags, stop: StopSignal) -> None:
    """Train each seed, and search with its best model.

    It returns early if the training is asked to stop; the same command then goes on.

    Raises:
        UserError: as `read_inputs`.
    """
    inputs = read_inputs(flags)
    flags = inputs.flags
    task = Retrieval(flags, inputs.opened, inputs.starts)
    results = {}
    with run_folder(flags, task.identity) as folder:
        for seed in flags.seeds:
            seed_folder = folder.of_seed(seed) if len(flags.seeds) > 1 else folder
            model = train_seed(task, seed, seed_folder, stop)
            if model is None:
                return
            results[seed] = search_seed(inputs, seed, model, task.tokenizer, task.reading)
        report_seeds(flags, results)


def read_inputs(flags: RetrievalFlags) -> Inputs:
    """Read the texts, and open the weights.

    Raises:
        UserError: faiss is not installed, a file is missing or damaged, a flag has another form, a bitext is
            too short for --layer sweep, or weights were not fine-tuned for the task of --init_task.
    """
    set_up(flags)
    load_faiss()
    bitexts = []
    if flags.pairs:
        bitexts = read_bitexts(flags.pairs, flags.languages.split(",") if flags.languages else [])
    short = [bitext.language for bitext in bitexts if len(bitext.sentences) < 2]
    if flags.layer == "sweep" and short:
        raise UserError(f"--layer sweep: {', '.join(short)} has one pair alone; name a layer")
    sentences = {}
    if flags.centre_on:
        sentences = sentences_by_language(flags.centre_on, "--centre_on", languages_of(bitexts))
    # A folder that seeds share is opened once.
    start_of_path: dict[str | None, Checkpoint | None] = {}
    starts = {}
    for seed in flags.seeds:
        flags_of_seed = flags.of_seed(seed)
        path = flags_of_seed.init_checkpoint or flags_of_seed.init_pretraining_params
        if path not in start_of_path:
            start_of_path[path] = open_checkpoint(path) if path else None
        starts[seed] = start_of_path[path]
    opened = open_model(starts[flags.seeds[0]], *_files(flags))
    is_resumed = flags.do_train and flags.init_checkpoint  # then the flags are those of its beginning
    flags = settle(flags, opened) if is_resumed else settle_vectors(flags, opened)
    # With --init_checkpoint the starts are its step folder instead, to which --init_task does not apply.
    if flags.init_task and flags.init_pretraining_params and not flags.init_checkpoint:
        for start in starts.values():
            if start.task != flags.init_task:
                fact = f"were fine-tuned for {start.task}" if start.task else "were not fine-tuned"
                raise UserError(
                    f'{start.path}: its weights {fact}, and --init_task wants {flags.init_task} ("": any)'
                )
    for bitext in bitexts:
        warn_of_bitext(opened.tokenizer, bitext)
    return Inputs(flags, bitexts, sentences, starts, opened)


def model_of_seed(inputs: Inputs, seed: int) -> tuple[OpenedModel, ErnieMModel]:
    """The files of the weights that a seed starts from, and the encoder with them.

    Raises:
        UserError: the weights do not fit together, have no room for --max_seq_len, or lack a pooler that
            --pooling needs.
    """
    flags = inputs.flags
    opened = inputs.opened
    start = inputs.starts[seed]
    if start is not opened.checkpoint:  # the weights of another folder
        opened = open_model(start, *_files(flags))
        opened.check_length(flags.max_seq_len)
    needs_pooler = flags.pooling == "pooled"
    return opened, make_encoder(opened.config, start, flags.dtype, seed, needs_pooler)


def _files(flags: RetrievalFlags) -> tuple[str | None, ...]:
    """The files that the command may name instead of those beside the weights."""
    return flags.ernie_config_path, flags.vocab_path, flags.piece_model_path


def train_seed(task: Retrieval, seed: int, folder: RunFolder, stop: StopSignal) -> ErnieMModel | None:
    """Train a seed unless it is finished, and return its best model. None: a process was asked to stop."""
    if folder.is_finished():
        folder.selected()  # refuses a best/ that is not the one that was selected
    else:
        trainer = Trainer(task, folder, seed, pace_of(task.flags))
        if not trainer.run(stop):
            return None
        if trainer.best is None:  # without held-out pairs nothing selects a step
            return trainer.engine.model
        # Free the model and its moments before the next model is made.
        del trainer
        gc.collect()
    return make_encoder(task.config, open_checkpoint(folder.path / BEST), task.flags.dtype, seed)


# Search


def search_seed(
    inputs: Inputs,
    seed: int,
    model: ErnieMModel,
    tokenizer: Tokenizer,
    reading: Reading,
    start: Checkpoint | None = None,
) -> SearchResult | None:
    """Search the bitexts with the model of a seed, and write its predictions.

    Args:
        reading: how it reads.
        start: the weights of the model; None: it was trained here, or is random, so no means are beside it.

    Returns:
        None if there are no bitexts, or if all layers were searched: a sweep has a report of its own.
    """
    flags = inputs.flags
    bitexts = inputs.bitexts
    if not bitexts:
        return None
    folder = Path(flags.checkpoints)
    if len(flags.seeds) > 1:
        folder /= f"seed_{seed}"
    encode = encoder_of(flags, model, tokenizer, reading)
    if inputs.sentences:
        mean_of = {}  # language -> [H], or [L + 1, H]
        for language, texts in inputs.sentences.items():
            vectors = encode(texts, NEITHER)
            mean_of[language] = vectors.mean(axis=-2, dtype=np.float64)  # over the texts
        means = LanguageMeans(list(mean_of), np.stack(list(mean_of.values())))
    else:
        means = means_of_checkpoint(start, flags, model.config, languages_of(bitexts))
    # A model with random weights is searched, too: once, with the first seed, and not if the weights of the
    # seeds are random themselves.
    has_weights = flags.do_train or flags.init_pretraining_params
    encode_at_random = None
    if flags.untrained and has_weights and seed == flags.seeds[0]:
        paddle.seed(seed)
        encode_at_random = encoder_of(flags, ErnieMModel(model.config), tokenizer, reading)
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
    return SearchResult(layer_of(flags, model.config.num_hidden_layers), trained, untrained)


def warn_of_bitext(tokenizer: Tokenizer, bitext: Bitext) -> None:
    """Log a warning if the vocabulary does not suit a bitext, or if any model finds many of its pairs."""
    name = pair_of(bitext.language)
    for texts in (bitext.sentences, bitext.translations):
        warn_if_unsuited(tokenizer, texts, name)
    sides = [tokenizer.encode_batch(texts) for texts in (bitext.sentences, bitext.translations)]
    warn_if_found_by_any(name, *sides)


def encoder_of(flags: RetrievalFlags, model: ErnieMModel, tokenizer: Tokenizer, reading: Reading) -> Encode:
    """A function from texts to their vectors, as the flags say. With --amp bf16 it changes the model.

    Args:
        reading: has the prompts.
    """
    if is_bf16_on_cpu(flags.amp):
        use_bfloat16(model)
    layer = None if flags.layer == "sweep" else layer_of(flags, model.config.num_hidden_layers)
    encoder = PaddleEncoder(model, flags.pooling, layer)

    def encode(texts: Sequence[str], kind: TextKind) -> np.ndarray:
        prompt = reading.prompt(kind)
        ids = tokenizer.encode_batch([prompt + text for text in texts])
        return encoder.vectors(tokenizer.sentences(ids, flags.max_seq_len))

    return encode


def means_of_checkpoint(
    checkpoint: Checkpoint | None, flags: RetrievalFlags, config: ErnieMConfig, languages: list[str]
) -> LanguageMeans | None:
    """The means in the checkpoint's folder at the layer that is searched, with --layer sweep at each layer.

    None if there are none, if they are of another pooling, or if one of the languages is missing.
    """
    if checkpoint is None or checkpoint.language_means_path is None or flags.pooling != MEANS_POOLING:
        return None
    shape = (config.num_hidden_layers + 1, config.hidden_size)
    means = LanguageMeans.read(checkpoint.language_means_path, shape)
    missing = [language for language in languages if language not in means.languages]
    if missing:
        logger.info(
            "%s has no %s: no search has centred vectors; --centre_on takes the means of your own text",
            checkpoint.language_means_path,
            ", ".join(missing),
        )
        return None
    return means if flags.layer == "sweep" else means.at(layer_of(flags, config.num_hidden_layers))


def languages_of(bitexts: list[Bitext]) -> list[str]:
    """English and the other language of each bitext; none without bitexts, because nothing is searched."""
    if not bitexts:
        return []
    return ["en", *(bitext.language for bitext in bitexts)]


def encode_sides(encode: Encode, bitext: Bitext) -> list[np.ndarray]:
    """The vectors of the sentences of a bitext, and of their translations."""
    sides = (bitext.sentences, bitext.translations)
    return [encode(texts, kind) for texts, kind in zip(sides, kinds_of_pair(bitext.are_translations))]


def search_layer(
    encode: Encode, bitexts: list[Bitext], means: LanguageMeans | None = None
) -> dict[str, dict[str, Matches]]:
    """Search bitexts in both directions with the vectors of one layer: measure -> language -> matches.

    Args:
        means: the language means of this layer; None: no search has centred vectors.
    """

    def search_one(bitext: Bitext) -> dict[str, Matches]:
        foreign, english = encode_sides(encode, bitext)  # [N, H] each
        results = {score: search_both(english, foreign, score) for score in ("cosine", "margin")}
        if means is not None:
            english = means.subtract(english, "en")
            foreign = means.subtract(foreign, bitext.language)
            results["centred"] = search_both(english, foreign, "cosine")
            results["centred margin"] = search_both(english, foreign, "margin")
        return results

    return _search_all(bitexts, search_one)


def search_layers(encode: Encode, bitexts: list[Bitext], means: LanguageMeans | None = None) -> Sweep:
    """Search with the vectors of every layer.

    The rows are "layer 0" to "layer L", and `CHOSEN`, which `choose_on_half` computes.

    Args:
        means: the language means of each layer. With them there are two more rows, which have centred
            vectors, by cosine and by margin, each at its own layer.
    """

    def search_one(bitext: Bitext) -> dict[str, tuple[float, int | None]]:
        """Row -> the share of sentences found, and for the rows that choose a layer its number."""
        foreign, english = encode_sides(encode, bitext)  # [L + 1, N, H] each
        accuracies = accuracy_by_layer(english, foreign).mean(axis=1)  # [L + 1], over the two directions
        splits = {CHOSEN: choose_on_half(english, foreign)}
        if means is not None:
            english = means.subtract(english, "en")
            foreign = means.subtract(foreign, bitext.language)
            splits[f"centred, {CHOSEN}"] = choose_on_half(english, foreign)
            splits[f"centred margin, {CHOSEN}"] = choose_on_half(english, foreign, find=found_by_margin)
        results = {f"layer {layer}": (accuracy, None) for layer, accuracy in enumerate(accuracies)}
        return results | {name: (split.accuracy, split.layer) for name, split in splits.items()}

    sweep = Sweep(rows={}, layers={})
    for name, by_language in _search_all(bitexts, search_one).items():
        for language, (accuracy, layer) in by_language.items():
            sweep.rows.setdefault(name, {})[language] = 100 * float(accuracy)
            if layer is not None:
                sweep.layers.setdefault(name, {})[language] = layer
    return sweep


def _search_all(
    bitexts: list[Bitext], search_one: Callable[[Bitext], dict[str, T]]
) -> dict[str, dict[str, T]]:
    """Name -> language -> the value of this name that `search_one` returns for the language's bitext.

    The processes divide the bitexts, and every process gets all results.
    """
    own_bitexts = bitexts[distributed.rank() :: distributed.world_size()]
    own_results = {}  # language -> name -> value
    progress = Progress(sum(len(bitext.sentences) for bitext in own_bitexts), "searching", unit="sentences")
    for bitext in own_bitexts:
        own_results[bitext.language] = search_one(bitext)
        progress.update(len(bitext.sentences))
    progress.close()
    results: dict[str, dict[str, T]] = {}
    for part in distributed.gather(own_results):
        results |= part
    by_name: dict[str, dict[str, T]] = {}
    for bitext in bitexts:  # the languages are in this order, on every process
        for name, value in results[bitext.language].items():
            by_name.setdefault(name, {})[bitext.language] = value
    return by_name


# Files and report


def write_predictions(folder: Path, bitexts: list[Bitext], results: Mapping[str, Matches]) -> None:
    """Write <folder>/test-<language>.tsv: for each English sentence the line, from 0, of the other side.

    The English sentences are in alphabetical order, as in the files of XTREME (Hu et al., 2020).
    """
    for bitext in bitexts:
        translation_of = results[bitext.language].forward
        with atomic_file(folder / f"test-{bitext.language}.tsv", "w", newline="\n") as file:
            for number in bitext.alphabetical_order():
                file.write(f"{translation_of[number]}\n")


def write_sweep(folder: Path, title: str, sweep: Sweep) -> None:
    """Log and write sweep.json: row -> language -> per cent, and row -> language -> the chosen layer."""
    first_row = next(iter(sweep.rows.values()))  # every row has the same languages
    lines = [["", *first_row, AVERAGE]]
    for name, row in sweep.rows.items():
        percents = [*row.values(), average(row)]
        lines.append([name, *(f"{percent:.2f}" for percent in percents)])
    logger.info("%s\n%s", title, in_columns(lines))
    layer_lines = [["", *first_row]]
    for name, layer_of_language in sweep.layers.items():
        layer_lines.append([name, *map(str, layer_of_language.values())])
    logger.info("layers that the even pairs chose\n%s", in_columns(layer_lines))
    path = folder / "sweep.json"
    write_json(path, {"title": title, "rows": sweep.rows, "layers": sweep.layers})
    logger.info("%s; rows of odd pairs search half of the pairs, so they are higher than the others", path)


def report_seeds(flags: RetrievalFlags, results: Mapping[int, SearchResult | None]) -> None:
    """Write a table for each direction, then one for each measure with the mean of both directions.

    Args:
        results: seed -> its result; None: nothing was searched, or --layer sweep wrote its own report.
    """
    results_found = {seed: result for seed, result in results.items() if result is not None}
    if not results_found:
        return
    layers = {str(seed): result.layer for seed, result in results_found.items()}
    distinct_layers = dict.fromkeys(str(layer) for layer in layers.values())
    kind_of_vectors = f"{flags.pooling}, layer {', '.join(distinct_layers)}"  # for the titles
    first = next(iter(results_found.values()))  # it has the search with random weights, if there was one
    languages = list(first.trained[flags.score])
    tables = []
    for number, direction in enumerate(DIRECTIONS):
        rows = {}
        for seed, result in results_found.items():
            rows[seed] = _accuracies(result.trained[flags.score], direction=number)
        paper = figures(flags.paper, direction, languages)
        untrained = _accuracies(first.untrained.get(flags.score, {}), direction=number)
        title = f"{direction}, {flags.score}, {kind_of_vectors}"
        tables.append(score_tables.Table(title, rows, paper, {"untrained": untrained}))
    measures = dict.fromkeys(measure for result in results_found.values() for measure in result.trained)
    for measure in measures:  # each once, in order
        seeds_without = [str(seed) for seed, result in results_found.items() if measure not in result.trained]
        if seeds_without:
            seeds = ", ".join(seeds_without)
            logger.warning("no table for %s: seed %s has no language means", measure, seeds)
            continue
        rows = {seed: _both_directions(result.trained[measure]) for seed, result in results_found.items()}
        untrained = _both_directions(first.untrained.get(measure, {}))
        title = f"mean of both directions, {measure}, {kind_of_vectors}"
        tables.append(score_tables.Table(title, rows, beside={"untrained": untrained}))
    facts: dict[str, Any] = {
        "task": RETRIEVAL,
        "pooling": flags.pooling,
        "score": flags.score,
        "layers": layers,
    }
    log_and_write_report(flags, "retrieval", tables, facts)


def _accuracies(results: Mapping[str, Matches], direction: int) -> dict[str, float]:
    """language -> per cent found in a direction, which is a place in `DIRECTIONS`."""
    return {language: matches.accuracies()[direction] for language, matches in results.items()}


def _both_directions(results: Mapping[str, Matches]) -> dict[str, float]:
    """language -> per cent found, the mean of both directions."""
    return {language: sum(matches.accuracies()) / 2 for language, matches in results.items()}
