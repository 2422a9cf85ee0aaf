"""The options of a corpus build: `--config file.yaml`, then `--key value`."""

from dataclasses import dataclass, field
from typing import Any, Literal

from pretrain.corpus.inputs import Stream, expand, file_status
from pretrain.corpus.text import TextFormat
from utils.config import check_ranges, within
from utils.errors import UserError

# These options do not change the bytes of a corpus.
_NOT_IN_PLAN = {
    "output", "mono", "parallel", "piece_model_path", "vocab_path", "overwrite", "engine", "ray_address",
    "workers",
}  # fmt: skip


@dataclass
class BuildOptions:
    """The options of a corpus build.

    Args:
        output: folder for the corpus. A stopped build continues there.
        mono: text of one language, "language<=path"; may be repeated. In YAML: language: path or list.
        parallel: sentence pairs, "a-b<=path"; may be repeated. In YAML: a-b: path, or list of paths and
            [path, path].
        piece_model_path: the sentencepiece model.
        vocab_path: vocab.txt; null derives the vocabulary from the piece model.
        documents: line: each line is a document; blank: blank lines separate documents, each line is a
            sentence.
        tsv_columns: the two columns of .tsv files that hold the pair, from 1; empty: files have exactly two
            columns.
        score_column: the column of .tsv files with a pair's score (WikiMatrix: 1), from 1; 0: no scores.
        min_score: leave out pairs of .tsv files with a lower score.
        deduplicate: keep only the first of equal lines of a language, and of equal pairs.
        max_ratio: leave out pairs whose longer side has more than this many times the tokens of the shorter
            side; 0: no limit.
        held_out: about how many documents or pairs to set apart per language and pair, at most 5 %; 0: none.
        unit_mib: text given to a worker at a time, in MiB.
        shard_mib: largest shard, in MiB of ids.
        engine: local: processes on this machine; ray: a Ray cluster. Both write the same bytes.
        ray_address: host:port of a cluster's head, or auto; null: start a cluster on this machine for this
            build.
        workers: processes, or units at a time on the cluster; 0: one per core.
        overwrite: delete the corpus or unfinished build in the output folder.
    """

    output: str = ""
    mono: dict[str, Any] = field(default_factory=dict)
    parallel: dict[str, Any] = field(default_factory=dict)
    piece_model_path: str = ""
    vocab_path: str | None = None
    documents: Literal["line", "blank"] = "line"
    tsv_columns: list[int] = field(default_factory=list)
    score_column: int = within("[0, )", 0)
    min_score: float = 0.0
    deduplicate: bool = False
    max_ratio: float = within("[0, )", 0.0)
    held_out: int = within("[0, )", 1000)
    unit_mib: float = within("(0, 32]", 4.0)  # a worker holds a unit in memory
    shard_mib: float = within("(0, 4096]", 256.0)
    engine: Literal["local", "ray"] = "local"
    ray_address: str | None = None
    workers: int = within("[0, )", 0)
    overwrite: bool = False

    def __post_init__(self):
        check_ranges(self)
        if not self.output:
            raise UserError("no folder for the corpus; give --output")
        if not self.piece_model_path:
            raise UserError("no piece model; give --piece_model_path (scripts/data/train_vocab.sh makes one)")
        self.piece_model_path = expand(self.piece_model_path)
        self.vocab_path = self.vocab_path and expand(self.vocab_path)
        if self.tsv_columns and (len({*self.tsv_columns}) != 2 or min(self.tsv_columns) < 1):
            raise UserError(
                f"tsv_columns: {self.tsv_columns} is not two different column numbers from 1, such as [1, 2]"
            )
        if self.score_column and not self.tsv_columns:
            raise UserError("score_column: name the columns of the pair too, as in --tsv_columns '[2, 3]'")
        if self.min_score and not self.score_column:
            raise UserError("min_score: give --score_column, the column that holds the score")
        if self.ray_address and self.engine != "ray":
            raise UserError("ray_address: given without --engine ray")

    @property
    def text_format(self) -> TextFormat:
        return TextFormat(self.documents, self.tsv_columns, self.score_column, self.min_score)


def plan_of(options: BuildOptions, streams: list[Stream], vocabulary: dict[str, Any]) -> dict[str, Any]:
    """Everything that decides the bytes of the corpus, for the manifest."""

    def sizes(stream: Stream) -> dict[str, int]:
        labels = [f"{'-'.join(one.languages)}<={','.join(one.paths)}" for one in stream.sources]
        return {label: source.size for label, source in zip(labels, stream.sources)}

    return {
        "vocabulary": vocabulary,
        "options": {key: value for key, value in vars(options).items() if key not in _NOT_IN_PLAN},
        "inputs": {stream.folder: sizes(stream) for stream in streams},
    }


def modification_times(streams: list[Stream]) -> dict[str, int]:
    """When each file was last written, in ns. A build does not continue with changed files."""
    paths = [path for stream in streams for source in stream.sources for path in source.paths]
    return {path: file_status(path).st_mtime_ns for path in paths}
