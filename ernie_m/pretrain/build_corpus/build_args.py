"""The options of a corpus build: `--config file.yaml`, then `--key value`."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from ernie_m.model.preprocessing import TextRules
from ernie_m.pretrain.build_corpus.source_files import Stream, file_status
from ernie_m.reader.files.table_options import TableOptions
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.reader.tokenizer_rules import ERNIE_M
from ernie_m.utils.args import NonNegativeFloat, NonNegativeInt, Range, deciding_options, option
from ernie_m.utils.errors import UserError, command_name


@dataclass(kw_only=True)
class TextOptions(TableOptions):
    """How text and sentence pairs are read, for a corpus or a vocabulary."""

    documents: Literal["line", "blank"] = "line"
    """line: each line is a document; blank: blank lines separate documents, and each line is a sentence."""


@dataclass
class BuildOptions(TextOptions):
    """The options of a corpus build. Those that are `free` do not change the bytes of the corpus."""

    output: str = option("", free=True, needed=True)
    """The folder for the corpus. A stopped build continues there."""

    mono: dict[str, Any] = option(default_factory=dict, free=True, needed=True)
    """Text of one language, "language<=path"; may be repeated. In YAML: language: path, or list of paths.
    On the command line it replaces all languages of --config."""

    parallel: dict[str, Any] = option(default_factory=dict, free=True)
    """Sentence pairs, "a-b<=path"; may be repeated. In YAML: a-b: path, or list of paths and [path, path]."""

    piece_model_path: str = option("", free=True, needed=True)
    """The sentencepiece model."""

    vocab_path: str | None = option(None, free=True)
    """vocab.txt. Default: the vocabulary is made from the piece model."""

    # Free, because `plan_of` names the rules beside the vocabulary.
    text_rules: TextRules = option(ERNIE_M, free=True)
    """What is done to a text beside sentencepiece: the official rules of ERNIE-M, nothing, as in XLM-R, or
    what the ErnieMTokenizer of a library does. A run needs the rules of the model that it starts from."""

    deduplicate: bool = False
    """Whether only the first of equal lines of a language, and of equal pairs, is used."""

    max_ratio: NonNegativeFloat = 0.0
    """Pairs whose longer side has more than this many times the tokens of the shorter side are left out.
    0: no limit."""

    held_out: NonNegativeInt = 1000
    """About how many documents or pairs to set apart per language and pair, at most 5 %. 0: none."""

    unit_mib: Annotated[float, Range(above=0, at_most=32)] = 4.0  # a worker holds a unit in memory
    """The text that a worker gets at a time, in MiB."""

    shard_mib: Annotated[float, Range(above=0, at_most=4096)] = 256.0
    """The largest shard, in MiB of ids."""

    engine: Literal["local", "ray"] = option("local", free=True)
    """local: processes on this machine; ray: a Ray cluster. Both write the same bytes."""

    ray_address: str | None = option(None, free=True)
    """host:port of a cluster's head, or auto. Default: the build starts a cluster on this machine."""

    workers: NonNegativeInt = option(0, free=True)
    """The number of processes, or of units at a time on the cluster. 0: one per core."""

    overwrite: bool = option(False, free=True)
    """Whether to replace the corpus in the output folder."""

    def __post_init__(self):
        if not self.output:
            raise UserError("no folder for the corpus; give --output")
        if not self.piece_model_path:
            raise UserError(f"no --piece_model_path; {command_name()} train_vocab makes a piece model")
        if self.ray_address and self.engine != "ray":
            raise UserError("ray_address: given without --engine ray")


def plan_of(options: BuildOptions, streams: list[Stream], tokenizer: Tokenizer) -> dict[str, Any]:
    """Everything that decides the bytes of the corpus, for the manifest."""
    vocabulary = {"digest": tokenizer.digest, "size": tokenizer.vocab_size}
    if tokenizer.text_rules != ERNIE_M:  # a corpus that names none has the official ones
        vocabulary["text_rules"] = tokenizer.text_rules
    # Stream -> source -> size in bytes.
    inputs = {stream.folder: {source.label: source.size for source in stream.sources} for stream in streams}
    return {"vocabulary": vocabulary, "options": deciding_options(options), "inputs": inputs}


def modification_times(streams: list[Stream]) -> dict[str, int]:
    """When each file was last written, in ns."""
    sources = [source for stream in streams for source in stream.sources]
    return {path: file_status(path).st_mtime_ns for source in sources for path in source.paths}
