"""Second pass: read all text again and cut it into ids; then join the units to shards."""

import shutil
from collections import Counter
from pathlib import Path

from pretrain.corpus.build import Build, over_units
from pretrain.corpus.inputs import Stream
from pretrain.corpus.reading import Unit
from pretrain.corpus.shards import ShardTask, group_units, write_shard
from pretrain.corpus.units import DROPPED, Rules, Tokenized, TokenizeTask, id_dtype, tokenize_unit, written
from pretrain.corpus.work import VOCABULARY_FILES, read_json, unit_path, unit_paths, write_json
from reader.corpus import SPLITS
from utils.errors import UserError
from utils.files import atomic_file
from utils.logging import Progress

_LARGEST_HELD_OUT = 0.05  # share of a stream


def tokenize(build: Build) -> None:
    """Cut every unit into ids; record, per stream, the ids of each unit and what was left out.

    Raises:
        UserError: text that has changed since the scan.
    """
    options = build.options
    model, vocab = _write_vocabulary(build)
    rules = Rules(
        str(vocab),
        str(model),
        options.min_tokens,
        options.max_tokens,
        options.max_ratio,
    )
    streams = {
        number: _OpenStream(build, number)
        for number, stream in enumerate(build.streams)
        if not tokens_record(build, stream).exists()
    }
    chosen = [
        (number, place)
        for number, stream in streams.items()
        for place in range(len(stream.units))
        if not stream.find_written(place)
    ]

    def to_task(unit: Unit) -> TokenizeTask:
        stream = streams[unit.stream]
        return TokenizeTask(
            build.unit_task(unit, "tokens"),
            rules,
            stream.duplicates,
            stream.near_duplicates,
            stream.ordinal(unit),
            stream.held_out_below,
            stream.held_out_side,
        )

    for result in over_units(build, "tokenizing", chosen, tokenize_unit, to_task):
        streams[result.key[0]].results[result.key] = result
    for number, stream in streams.items():
        results = [stream.results[key] for key in sorted(stream.results)]
        dropped = [sum(counts) for counts in zip(*(result.dropped for result in results))]
        write_json(
            tokens_record(build, build.streams[number]),
            {"tokens": [result.tokens for result in results], "dropped": dict(zip(DROPPED, dropped))},
        )


def write_shards(build: Build) -> None:
    """Join the units to shards; a stream's units are deleted when its last shard is written."""
    dtype = id_dtype(build.tokenizer.vocab_size)
    shard_tokens = max(1, int(build.options.shard_mib * (1 << 20)) // dtype.itemsize)
    tasks = []
    for stream in build.streams:
        units = unit_paths(build.work.of(stream, "tokens"), [scan["units"] for scan in build.scans(stream)])
        tokens = read_json(tokens_record(build, stream))["tokens"]
        for place, split in enumerate(SPLITS):
            runs = group_units([counts[place] for counts in tokens], shard_tokens)
            tasks += [
                ShardTask(
                    split,
                    number,
                    units[run],
                    build.work.output,
                    stream.folder,
                    stream.languages,
                    build.work.of(stream, "shards"),
                    build.tokenizer.vocab_size,
                    dtype.str,
                )
                for number, run in enumerate(runs)
            ]
    left = Counter(task.stream for task in tasks)
    shown = Progress(len(tasks), "writing shards", unit="shards")
    for name in build.workers.run(write_shard, tasks):
        shown.update()
        left[name] -= 1
        if left[name] == 0:
            shutil.rmtree(build.work.folder / name / "tokens", ignore_errors=True)
    shown.close()


def tokens_record(build: Build, stream: Stream) -> Path:
    """The record of a stream whose units are all written."""
    return build.work.of(stream, "tokens.json")


def _write_vocabulary(build: Build) -> tuple[Path, Path]:
    """Put the vocabulary beside the text: then the folder is all that training needs, and all workers."""
    model, vocab = (build.work.output / name for name in VOCABULARY_FILES)
    with atomic_file(model) as file:
        file.write(build.tokenizer.piece_model_path.read_bytes())
    build.tokenizer.write_vocab(vocab)
    return model, vocab


class _OpenStream:
    """A stream that is being tokenized: what its units need to know, and their results."""

    def __init__(self, build: Build, number: int):
        self.stream = build.streams[number]
        self.number = number
        self.results: dict[tuple[int, int, int], Tokenized] = {}
        self.units = [scan["units"] for scan in build.scans(self.stream)]
        self.duplicates = build.duplicates(self.stream)
        self.near_duplicates = build.near_duplicates(self.stream)
        self.held_out_below = _held_out_below(build, self.stream)
        self.held_out_side = _deciding_side(build, self.stream)
        self._folder = build.work.of(self.stream, "tokens")

    def find_written(self, place: int) -> bool:
        """Take in the units of a source that are written; whether these are all."""
        keys = [(self.number, place, unit) for unit in range(self.units[place])]
        found = {key: written(unit_path(self._folder, *key[1:]), key) for key in keys}
        self.results |= {key: result for key, result in found.items() if result is not None}
        return None not in found.values()

    def ordinal(self, unit: Unit) -> int:
        """Number of a unit in the stream.

        Raises:
            UserError: the source has not the units that were counted.
        """
        expected = self.units[unit.source]
        if unit.number >= expected or (unit.last and unit.number + 1 < expected):
            raise UserError(
                f"{self.stream.sources[unit.source]}: changed while the corpus was built; start afresh with "
                "--overwrite true"
            )
        return sum(self.units[: unit.source]) + unit.number


def _held_out_below(build: Build, stream: Stream) -> int:
    """The hash below which a document is held out, so that about as many are as the options say."""
    documents = sum(scan["documents"] for scan in build.scans(stream))
    share = min(build.options.held_out / documents, _LARGEST_HELD_OUT)
    return int(share * (1 << 64))


def _deciding_side(build: Build, stream: Stream) -> int:
    """The side of a pair whose text decides whether it is held out: that of the language with most pairs.

    So a sentence that stands in several pairs of languages tends to be held out in all or in none.
    """
    if not stream.is_parallel:
        return 0
    pairs = Counter(language for other in build.streams if other.is_parallel for language in other.languages)
    first, second = stream.languages
    return int(pairs[second] > pairs[first])
