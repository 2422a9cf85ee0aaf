"""Options of ernie-m build_corpus: `--config file.yaml`, then `--key value`."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from ernie_m.model.pipeline_config import TextRules
from ernie_m.pretrain.build_corpus.source_files import Stream
from ernie_m.reader.files.table_options import TableOptions
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.reader.tokenizer_rules import ERNIE_M
from ernie_m.utils.args import get_result_options, option
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import get_file_version
from ernie_m.utils.value_types import NonNegativeFloat, NonNegativeInt, Range


@dataclass(kw_only=True)
class TextOptions(TableOptions):
    """Options for reading text and sentence pairs, for a corpus or a vocabulary."""

    documents: Literal["line", "blank"] = "line"
    """Document boundaries: each line is a document (line), or blank lines separate documents (blank)."""

    mono: dict[str, Any] = option(default_factory=dict, free=True, needed=True)
    """Monolingual text as language<=path, repeatable; replaces the mapping of --config."""

    parallel: dict[str, Any] = option(default_factory=dict, free=True)
    """Parallel text as language1-language2<=path, repeatable; replaces the mapping of --config."""


@dataclass(kw_only=True)
class BuildOptions(TextOptions):
    """Options of a corpus build. `free` options do not change the bytes of the corpus."""

    output: str = option(free=True)
    """Output directory; an interrupted build resumes there."""

    piece_model_path: str = option(free=True)
    """Path to the SentencePiece model, such as one of ernie-m train_vocab."""

    vocab_path: str | None = option(None, free=True)
    """Path to vocab.txt (default: built from the SentencePiece model)."""

    # Free, because `make_plan` records the rules of the tokenizer.
    text_rules: TextRules = option(ERNIE_M, free=True)
    """Text preprocessing besides SentencePiece, which must match that of the model to train: ERNIE-M's, none
    (XLM-R), or PaddleNLP's."""

    deduplicate: bool = False
    """Whether to remove duplicate lines of each language and duplicate pairs."""

    max_ratio: NonNegativeFloat = 0.0
    """Maximum ratio of the token counts of a pair's sides (0: no limit)."""

    held_out: NonNegativeInt = 1000
    """Approximate number of documents or pairs to hold out per language or language pair, at most 5 % (0:
    none)."""

    chunk_mib: Annotated[float, Range(above=0, at_most=32)] = 4.0  # a worker holds a chunk in memory
    """Amount of text that a worker processes at a time, in MiB."""

    shard_mib: Annotated[float, Range(above=0, at_most=4096)] = 256.0
    """Maximum size of a shard of token ids, in MiB."""

    engine: Literal["local", "ray"] = option("local", free=True)
    """Where workers run: processes on this machine (local), or a Ray cluster (ray)."""

    ray_address: str | None = option(None, free=True)
    """Address host:port of a Ray cluster's head node, or auto (default: a new cluster on this machine)."""

    workers: NonNegativeInt = option(0, free=True)
    """Number of worker processes, or of concurrent Ray tasks (0: one per core)."""

    overwrite: bool = option(False, free=True)
    """Whether to replace an existing corpus in --output."""

    def __post_init__(self):
        if self.ray_address and self.engine != "ray":
            raise UserError("ray_address requires --engine ray")


def make_plan(options: BuildOptions, streams: list[Stream], tokenizer: Tokenizer) -> dict[str, Any]:
    """Collect all settings that determine the bytes of a corpus, for its manifest."""
    vocabulary = {"digest": tokenizer.digest, "size": tokenizer.vocab_size}
    if tokenizer.text_rules != ERNIE_M:  # a corpus without the key has the official rules
        vocabulary["text_rules"] = tokenizer.text_rules
    # Stream -> source -> size in bytes.
    inputs = {stream.folder: {source.label: source.size for source in stream.sources} for stream in streams}
    return {"vocabulary": vocabulary, "options": get_result_options(options), "inputs": inputs}


def get_modification_times(streams: list[Stream]) -> dict[str, int]:
    """Return path -> modification time in ns, of all source files."""
    sources = [source for stream in streams for source in stream.sources]
    return {path: get_file_version(path)[1] for source in sources for path in source.paths}
