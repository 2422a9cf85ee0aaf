"""What a corpus is built from and how. `--config file.yaml`, then `--key value`."""

import os
from dataclasses import dataclass, field
from typing import Any, Literal

from pretrain.corpus.inputs import Source, Stream, expand, parse_notation
from utils.errors import UserError

_NOTATION_FLAGS = ("--mono", "--parallel")


@dataclass
class BuildOptions:
    """A build of a corpus.

    Args:
        output: folder for the corpus; a build that was stopped goes on there.
        mono: text of one language, "language<=path"; may be given many times. In YAML: language: path or
            list.
        parallel: pairs, "a-b<=path"; may be given many times. In YAML: a-b: path, or list of paths and [path,
            path].
        piece_model_path: the sentencepiece model.
        vocab_path: vocab.txt; null derives the vocabulary from the piece model.
        documents: line: each line is a document; blank: documents stand between blank lines, a sentence a
            line.
        tsv_columns: the two columns of .tsv files that hold the pair, from 1; empty: files have exactly two
            columns.
        score_column: the column of .tsv files with a pair's score (WikiMatrix: 1), from 1; 0: there is none.
        min_score: leave out pairs of .tsv files with a lower score.
        skip_bad_utf8: leave out lines that are not UTF-8; false: stop at the first one.
        deduplicate: of equal lines of a language (equal pairs of a pair of languages) keep the first.
        near_duplicates: of documents (of pairs) with about this similarity or more keep the first, such as
            0.8; 0: keep all. MinHash over runs of 5 characters.
        min_tokens: leave out lines, or pairs with a side, of fewer tokens.
        max_tokens: the same for more tokens; 0: no limit. Readers cut long lines, so none is needed.
        max_ratio: leave out pairs whose longer side has more than so many times the tokens of the other; 0:
            no limit.
        held_out: documents or pairs of each language and pair to set apart, about; never more than a
            twentieth. 0: none.
        unit_mib: text given to a worker at a time, in MiB.
        shard_mib: largest shard, in MiB of ids.
        engine: local: processes on this machine; ray: a Ray cluster. The corpus has the same bytes.
        ray_address: host:port of a cluster's head, or auto; null: a cluster of this machine for this build.
        workers: processes, or units at a time on the cluster; 0: one per core.
        overwrite: delete the corpus or unfinished build that is in the output folder.
    """

    output: str = ""
    mono: dict[str, Any] = field(default_factory=dict)
    parallel: dict[str, Any] = field(default_factory=dict)
    piece_model_path: str = ""
    vocab_path: str | None = None
    documents: Literal["line", "blank"] = "line"
    tsv_columns: list[int] = field(default_factory=list)
    score_column: int = 0
    min_score: float = 0.0
    skip_bad_utf8: bool = False
    deduplicate: bool = False
    near_duplicates: float = 0.0
    min_tokens: int = 1
    max_tokens: int = 0
    max_ratio: float = 0.0
    held_out: int = 1000
    unit_mib: float = 4.0
    shard_mib: float = 256.0
    engine: Literal["local", "ray"] = "local"
    ray_address: str | None = None
    workers: int = 0
    overwrite: bool = False

    def __post_init__(self):
        if not self.output:
            raise UserError("no folder for the corpus; give --output")
        if not self.piece_model_path:
            raise UserError("no piece model; give --piece_model_path (scripts/data/train_vocab.sh makes one)")
        self.piece_model_path = expand(self.piece_model_path)
        self.vocab_path = self.vocab_path and expand(self.vocab_path)
        if self.tsv_columns and (len(self.tsv_columns) != 2 or min(self.tsv_columns) < 1):
            raise UserError(
                f"tsv_columns: {self.tsv_columns} is not two column numbers from 1, such as [1, 2]"
            )
        if self.score_column and not self.tsv_columns:
            raise UserError("score_column: name the columns of the pair too, as in --tsv_columns '[2, 3]'")
        if self.min_score and not self.score_column:
            raise UserError("min_score: give --score_column, the column that holds the score")
        if self.near_duplicates and not 0.5 <= self.near_duplicates <= 0.95:
            raise UserError(
                f"near_duplicates: {self.near_duplicates} is neither 0 (keep them) nor within 0.5 and 0.95"
            )
        if self.ray_address and self.engine != "ray":
            raise UserError("ray_address: given without --engine ray")
        for name in ("held_out", "max_tokens", "min_tokens", "max_ratio", "score_column", "workers"):
            if getattr(self, name) < 0:
                raise UserError(f"{name}: {getattr(self, name)} is negative")
        if not 0 < self.unit_mib <= 32:
            raise UserError(
                f"unit_mib: {self.unit_mib} is not within 0 and 32: workers hold a unit in memory"
            )
        if not 0 < self.shard_mib <= 4096:
            raise UserError(f"shard_mib: {self.shard_mib} is not within 0 and 4096")


def gather_notation(arguments: list[str]) -> list[str]:
    """Join all `--mono x --mono y` of a command line into one mapping, which is what `BuildOptions` takes.

    Raises:
        UserError: a flag without its value, or a value that is not `language<=path`.
    """
    rest: list[str] = []
    entries: dict[str, list[str]] = {flag: [] for flag in _NOTATION_FLAGS}
    words = iter(arguments)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag not in entries or (equals and value.startswith("{")):
            rest.append(word)
            continue
        value = value if equals else next(words, "")
        if value.startswith("{"):  # a mapping already
            rest += [flag, value]
        else:
            entries[flag].append(value)
    for flag, values in entries.items():
        if values:
            import json

            rest += [flag, json.dumps(parse_notation(values))]
    return rest


def plan_of(options: BuildOptions, streams: list[Stream], vocabulary: dict[str, Any]) -> dict[str, Any]:
    """All that decides the bytes of the corpus, for the manifest."""
    irrelevant = {"output", "mono", "parallel", "piece_model_path", "vocab_path", "overwrite"}
    irrelevant |= {"engine", "ray_address", "workers"}
    return {
        "vocabulary": vocabulary,
        "options": {key: value for key, value in vars(options).items() if key not in irrelevant},
        "inputs": {
            stream.folder: {_describe(source): size_of(source) for source in stream.sources}
            for stream in streams
        },
    }


def size_of(source: Source) -> int:
    """Bytes of a source's files."""
    return sum(_stat(path).st_size for path in source.paths)


def modification_times(streams: list[Stream]) -> dict[str, int]:
    """When each file was last written to, in ns: a build does not go on with changed files."""
    return {
        path: _stat(path).st_mtime_ns
        for stream in streams
        for source in stream.sources
        for path in source.paths
    }


def _describe(source: Source) -> str:
    return f"{'-'.join(source.languages)}<={','.join(source.paths)}"


def _stat(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
