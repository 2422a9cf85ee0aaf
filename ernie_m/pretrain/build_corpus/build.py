"""Runs the stages of a corpus build, continues an interrupted one, and writes the manifest at the end."""

import itertools
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ernie_m.pretrain.build_corpus.duplicates import find_duplicates, number_of_parts, part_file
from ernie_m.pretrain.build_corpus.held_out import hold_out
from ernie_m.pretrain.build_corpus.inputs import TextSource
from ernie_m.pretrain.build_corpus.options import BuildOptions
from ernie_m.pretrain.build_corpus.stages import (
    DROPPED,
    HELD_OUT_TEXT,
    UnitResult,
    group_units,
    id_dtype,
    pieces_file,
    scan_unit,
    tokenize_unit,
    tokenizer_of,
    write_array,
    write_shard,
)
from ernie_m.pretrain.build_corpus.text_units import Unit, read_units
from ernie_m.pretrain.build_corpus.work_folder import SCAN, TOKENS, VOCABULARY_FILES, WORK, StreamWork
from ernie_m.pretrain.build_corpus.workers import LocalWorkers
from ernie_m.reader.corpus import FORMAT, SPLITS, checksum_of
from ernie_m.tokenizer.tokenizer import Tokenizer
from ernie_m.utils.checksums import MANIFEST, describe, is_whole, write_digest
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import atomic_file, clear_leftovers, read_json, write_json
from ernie_m.utils.logging import Progress

_READERS = 4  # sources read at a time; one can supply about twenty workers
_LARGEST_HELD_OUT = 0.05  # share of a stream

SourceKey = tuple[int, int]  # the number of a stream, and that of a source in it


@dataclass
class CorpusBuild:
    """A build in progress. `build_corpus` calls its methods in the order in which they stand.

    Args:
        options: the options of the build.
        works: one for each language and each pair, in the order of their numbers.
        workers: run the units.
        tokenizer: cuts the text.
    """

    options: BuildOptions
    works: list[StreamWork]
    workers: LocalWorkers
    tokenizer: Tokenizer

    @property
    def output(self) -> Path:
        """The folder of the corpus, which all works share."""
        return self.works[0].output

    def scan(self) -> None:
        """Read all text: count lines and documents, hash what is compared.

        Raises:
            UserError: bad input, with file and line, or a source without text.
        """
        # Workers read the vocabulary from the corpus, and so does training later.
        model_name, vocab_name = VOCABULARY_FILES
        with atomic_file(self.output / model_name) as file:
            file.write(self.tokenizer.piece_model)
        self.tokenizer.write_vocab(self.output / vocab_name)
        tokenizer_of.cache_clear()  # an earlier build of this process may have had another vocabulary there
        self._run_units(SCAN, "reading", scan_unit)
        pair_counts = Counter()  # language -> number of pairs of languages that it is in
        for work in self.works:
            if work.stream.is_parallel:
                pair_counts.update(work.stream.languages)
        for number, work in enumerate(self.works):
            counts_of_sources = work.counts(SCAN)  # for each source: [lines, documents] of each unit
            counts_of_units = list(itertools.chain.from_iterable(counts_of_sources))
            lines = sum(unit_lines for unit_lines, _ in counts_of_units)
            documents = sum(unit_documents for _, unit_documents in counts_of_units)
            held_out_share = min(self.options.held_out / documents, _LARGEST_HELD_OUT)
            # The language that is in the most pairs decides, so that a sentence in several pairs tends to be
            # held out in all or in none.
            in_pairs = [pair_counts[language] for language in work.stream.languages]
            self.works[number] = replace(
                work,
                units_per_source=[len(counts) for counts in counts_of_sources],
                lines=lines,
                held_out_below=int(held_out_share * (1 << 64)),  # the hashes are spread evenly over 64 bits
                held_out_side=in_pairs.index(max(in_pairs)),
            )

    def find_duplicates(self) -> None:
        """Find the lines that occurred before, in parts that fit in memory."""
        tasks = []
        for work in self.works:
            for part in range(number_of_parts(work)):
                if not is_whole(part_file(work, part)):
                    tasks.append((work, part))
        self._run("finding duplicates", find_duplicates, tasks)

    def tokenize(self) -> None:
        """Find out what is held out, read all text again and cut every unit into ids."""
        self.works = hold_out(self.works)
        self._run_units(TOKENS, "tokenizing", tokenize_unit)

    def write_shards(self) -> None:
        """Join the units to shards."""
        bytes_per_id = id_dtype(self.tokenizer.vocab_size).itemsize
        shard_tokens = max(1, int(self.options.shard_mib * (1 << 20)) // bytes_per_id)
        tasks = []
        for work in self.works:
            paths = work.unit_paths(TOKENS)
            counts_of_units = list(itertools.chain.from_iterable(work.counts(TOKENS)))
            for column, split in enumerate(SPLITS):  # the counts of a unit begin with the ids of each split
                tokens = [counts[column] for counts in counts_of_units]
                for shard, units in enumerate(group_units(tokens, shard_tokens)):  # `units` is a slice
                    tasks.append((work, split, shard, paths[units], self.tokenizer.unk_id))
        self._run("writing shards", write_shard, tasks)

    def finish(self, plan: Mapping[str, Any]) -> dict[str, Any]:
        """Write the piece counts and then the manifest; remove the work folder.

        Returns:
            The manifest.

        Raises:
            UserError: the filters left nothing of a stream.
        """
        manifest: dict[str, Any] = {
            "format": FORMAT,
            **plan,
            "dtype": id_dtype(self.tokenizer.vocab_size).name,
            "mono": {},
            "parallel": {},
            "pieces": {},
            "files": {},
        }
        # Language -> how often each piece occurs in all of its text, [V].
        pieces: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(self.tokenizer.vocab_size, np.int64))
        for work in self.works:
            kind, name = work.stream.folder.split("/")  # "mono/en", "parallel/de-en"
            manifest[kind][name] = _entry(work, manifest["files"], pieces)  # adds to the files and the pieces
        for language, counts in sorted(pieces.items()):
            file = f"pieces/{language}.npy"
            manifest["pieces"][language] = file
            manifest["files"][file] = write_array(self.output / file, counts.dtype, len(counts), [counts])
        for file in VOCABULARY_FILES:
            manifest["files"][file] = describe(self.output / file)
        for name in ("mono", "parallel", "pieces"):
            for folder in {path.parent for path in (self.output / name).rglob("*")}:
                clear_leftovers(folder)  # what killed workers left
        manifest["sha256"] = checksum_of(manifest)
        write_json(self.output / MANIFEST, manifest)
        shutil.rmtree(self.output / WORK, ignore_errors=True)
        return manifest

    def _run(self, description: str, function: Callable, tasks: list[tuple]) -> None:
        """Call a function, which returns nothing, with the arguments of every task."""
        with closing(Progress(len(tasks), description, unit="parts")) as progress:
            for _ in self.workers.run(function, tasks):
                progress.update()

    def _run_units(
        self, stage: str, description: str, function: Callable[[Unit, StreamWork], UnitResult]
    ) -> None:
        """Call `function` on all units of the sources that the stage has not done, and write their counts.

        Raises:
            UserError: bad input, or a source without a line of text.
        """
        total_bytes = 0
        waiting: dict[SourceKey, TextSource] = {}  # the sources that the stage has not done
        for work in self.works:
            for source_number, source in enumerate(work.stream.sources):
                total_bytes += source.size
                if not work.is_done(stage, source_number):
                    waiting[work.number, source_number] = source
        done_bytes = total_bytes - sum(source.size for source in waiting.values())
        # The results of units come in any order. Once those of a source are complete, its counts are written,
        # and a build that is continued does not read it again.
        counts: dict[SourceKey, dict[int, list[int]]] = defaultdict(dict)  # number of a unit -> its counts
        units_of: dict[SourceKey, int] = {}  # a source whose last unit has come -> how many units it has
        progress = Progress(total_bytes, description, initial=done_bytes, unit="bytes")
        with closing(progress):
            for unit, unit_counts in self.workers.run(function, self._unit_tasks(waiting)):
                progress.update(unit.bytes_read)
                key = (unit.stream, unit.source)
                counts[key][unit.number] = unit_counts
                if unit.last:
                    units_of[key] = unit.number + 1
                if len(counts[key]) == units_of.get(key):
                    # The counts of the units in reading order; in the stage SCAN they are [lines, documents].
                    source_counts = [counts_of_unit for _, counts_of_unit in sorted(counts.pop(key).items())]
                    if stage == SCAN and not any(lines for lines, _ in source_counts):
                        languages = " and ".join(waiting[key].languages)
                        raise UserError(f"{waiting[key]}: no text in {languages} in it; leave it out")
                    counts_file = self.works[unit.stream].counts_file(stage, unit.source)
                    write_json(counts_file, source_counts)
                    write_digest(counts_file)

    def _unit_tasks(self, sources: Mapping[SourceKey, TextSource]) -> Iterator[tuple[Unit, StreamWork]]:
        """Each unit of the sources, with the work of its stream."""
        unit_bytes = int(self.options.unit_mib * (1 << 20))
        readers = (
            read_units(stream_number, source_number, source, unit_bytes, self.options)
            for (stream_number, source_number), source in sources.items()
        )
        for unit in _interleave(readers, threads=min(_READERS, self.workers.num_workers)):
            yield unit, self.works[unit.stream]


def _entry(work: StreamWork, files: dict[str, Any], pieces: dict[str, np.ndarray]) -> dict[str, Any]:
    """A stream's entry in the manifest. Its files are added to `files`, its piece counts to `pieces`.

    Raises:
        UserError: the filters left nothing of it.
    """
    counts_of_units = list(itertools.chain.from_iterable(work.counts(TOKENS)))
    totals = np.sum(counts_of_units, axis=0).tolist()  # the ids of each split, then the dropped lines
    dropped = totals[len(SPLITS) :]  # how many lines were dropped, for each reason
    # Where no training line had held-out text, the manifest is that of earlier versions.
    entry: dict[str, Any] = {
        "dropped": {
            reason: count for reason, count in zip(DROPPED, dropped) if count or reason != HELD_OUT_TEXT
        }
    }
    for split in SPLITS:
        records = [read_json(path) for path in sorted(work.folder("shards").glob(f"{split}-*.json"))]
        entry[split] = _total(records)
        for record in records:
            files |= record["files"]
            if split == "train":
                piece_counts = np.load(pieces_file(work, record["name"]))  # int64 [languages, V]
                for language, counts_of_language in zip(work.stream.languages, piece_counts):
                    pieces[language] += counts_of_language
    if not entry["train"]["shards"]:
        name = "-".join(work.stream.languages)
        fault = f"(left out: {left_out(entry)}); loosen the filters or leave it out"
        if entry["held_out"]["shards"]:
            fault = "because all of it is held out; give more text, or --held_out 0"
        raise UserError(f"{name}: nothing is left of its text {fault}")
    return entry


def left_out(entry: Mapping[str, Any]) -> str:
    """What was left out of a language or pair, and why, from its entry in the manifest."""
    return ", ".join(f"{count:,} {reason}" for reason, count in entry["dropped"].items() if count)


def _interleave(sources: Iterable[Iterator[Unit]], threads: int) -> Iterator[Unit]:
    """The units of many sources, of which `threads` are read at a time.

    Args:
        sources: the units of each source, in order.
    """
    waiting = iter(sources)  # those that no thread has begun to read
    with ThreadPoolExecutor(threads, "reader") as pool:
        # Future of the next unit of a source, or of None at its end -> the source.
        pending: dict[Future, Iterator[Unit]] = {}
        for source in itertools.islice(waiting, threads):
            pending[pool.submit(next, source, None)] = source
        while pending:
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                source = pending.pop(future)
                unit = future.result()
                if unit is None:  # this source has ended: go on with the next one, if there is one
                    source = next(waiting, None)
                if source is not None:
                    # Its next unit is read while the caller works on this one.
                    pending[pool.submit(next, source, None)] = source
                if unit is not None:
                    yield unit


def _total(records: list[dict[str, Any]]) -> dict[str, Any]:
    """The entry of one split in the manifest: its shards and their sums, from the records of the shards."""
    by_language: dict[str, dict[str, int]] = defaultdict(lambda: {"tokens": 0, "unknown": 0})
    for record in records:
        for language, counts in record["by_language"].items():
            for key, count in counts.items():
                by_language[language][key] += count
    keys = ("documents", "lines", "tokens", "unknown")
    total: dict[str, Any] = {key: sum(record[key] for record in records) for key in keys}
    total["by_language"] = dict(by_language)
    total["shards"] = []
    for record in records:
        keys = ("name", "documents", "lines", "tokens", "index")
        total["shards"].append({key: record[key] for key in keys})
    return total
