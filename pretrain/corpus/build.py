"""Runs the stages of a corpus build and continues an interrupted one."""

import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pretrain.corpus.duplicates import KeySets, find_duplicates
from pretrain.corpus.inputs import Stream
from pretrain.corpus.near_duplicates import bands_for
from pretrain.corpus.options import BuildOptions
from pretrain.corpus.passes import (
    SCAN,
    TOKENS,
    StreamScan,
    UnitResult,
    UnitTask,
    id_dtype,
    read_token_counts,
    scan_unit,
    tokenize_unit,
)
from pretrain.corpus.shards import ShardTask, group_units, write_shard
from pretrain.corpus.units import interleave, read_units
from pretrain.corpus.work import (
    VOCABULARY_FILES,
    WorkFolder,
    read_json,
    unit_path,
    unit_paths,
    write_json,
)
from pretrain.corpus.workers import LocalWorkers
from reader.corpus import SPLITS
from reader.tokenization import Tokenizer
from utils.errors import UserError
from utils.files import atomic_file
from utils.logging import Progress

_READERS = 4  # sources read at a time; one can supply about twenty workers
_LARGEST_HELD_OUT = 0.05  # share of a stream


@dataclass
class CorpusBuild:
    """A build in progress. Call `scan`, `find_duplicates`, `tokenize` and `write_shards` in this order.

    Args:
        options: of the build.
        streams: languages and pairs.
        work: the work folder.
        workers: run the units.
        tokenizer: cuts the text.
    """

    options: BuildOptions
    streams: list[Stream]
    work: WorkFolder
    workers: LocalWorkers
    tokenizer: Tokenizer
    scans: list[StreamScan] = field(default_factory=list)  # of each stream; `scan` fills it

    def scan(self) -> None:
        """Read all text: count lines and documents, hash what is needed to find duplicates.

        Raises:
            UserError: bad input, with file and line, or a source without text.
        """
        chosen = [
            (stream, place) for stream, place in self._sources() if not self._records(SCAN, stream, place)
        ]
        self._run_units(SCAN, "reading", chosen, scan_unit)
        self.scans = [self._scan_of(stream) for stream in self.streams]

    def find_duplicates(self) -> None:
        """Find the lines and documents that occurred before, in parts that fit in memory."""
        tasks = [
            (key_sets, key_set, part)
            for scan in self.scans
            for key_sets in (scan.lines, scan.documents)
            if key_sets is not None
            for key_set, part in key_sets.parts()
            if not key_sets.part_file(key_set, part).exists()
        ]
        shown = Progress(len(tasks), "finding duplicates", unit="parts")
        for _ in self.workers.run(find_duplicates, tasks):
            shown.update()
        shown.close()

    def tokenize(self) -> None:
        """Read all text again and cut every unit into ids.

        Raises:
            UserError: the text has changed since the scan.
        """
        # Workers read the vocabulary from the corpus, and so does training later.
        model, vocab = (self.work.output / name for name in VOCABULARY_FILES)
        with atomic_file(model) as file:
            file.write(self.tokenizer.piece_model_path.read_bytes())
        self.tokenizer.write_vocab(vocab)
        chosen = []
        for number, place in self._sources():
            if self._records(TOKENS, number, place):
                continue
            folder = self.work.of(self.streams[number], TOKENS)
            units = range(self.scans[number].units[place])
            found = [read_token_counts(unit_path(folder, place, unit)) for unit in units]
            if None in found:
                chosen.append((number, place))
            else:
                self._write_records(TOKENS, number, place, found)
        self._run_units(TOKENS, "tokenizing", chosen, tokenize_unit)

    def token_counts(self, stream: int) -> list[list[int]]:
        """The counts of all units of a stream in reading order: ids of each split, dropped lines."""
        sources = range(len(self.streams[stream].sources))
        return [counts for place in sources for counts in self._records(TOKENS, stream, place)]

    def write_shards(self) -> None:
        """Join the units to shards. The units of a stream are deleted after its last shard."""
        vocab_size = self.tokenizer.vocab_size
        shard_tokens = max(1, int(self.options.shard_mib * (1 << 20)) // id_dtype(vocab_size).itemsize)
        tasks = []
        for number, stream in enumerate(self.streams):
            units = unit_paths(self.work.of(stream, TOKENS), self.scans[number].units)
            counts = self.token_counts(number)
            for place, split in enumerate(SPLITS):
                runs = group_units([unit[place] for unit in counts], shard_tokens)
                tasks += [
                    ShardTask(split, shard, units[run], self.work, stream, vocab_size)
                    for shard, run in enumerate(runs)
                ]
        left = Counter(task.stream.folder for task in tasks)
        shown = Progress(len(tasks), "writing shards", unit="shards")
        for folder in self.workers.run(write_shard, tasks):
            shown.update()
            left[folder] -= 1
            if left[folder] == 0:
                shutil.rmtree(self.work.path / folder / TOKENS, ignore_errors=True)
        shown.close()

    def _run_units(
        self,
        stage: str,
        description: str,
        chosen: list[tuple[int, int]],
        function: Callable[[UnitTask], UnitResult],
    ) -> None:
        """Call `function` on all units of the chosen (stream, source) numbers, and record the results."""
        size = {key: self.streams[key[0]].sources[key[1]].size for key in self._sources()}
        total = sum(size.values())
        shown = Progress(total, description, initial=total - sum(size[key] for key in chosen), unit="bytes")
        weights: dict[tuple[int, int, int], int] = {}
        units: dict[tuple[int, int], int] = {}  # of each source; known once its last unit is read
        results: dict[tuple[int, int], dict[int, list[int]]] = defaultdict(dict)

        def tasks() -> Iterator[UnitTask]:
            documents = self.options.documents == "blank"
            readers = (
                read_units(
                    stream, place, self.streams[stream].sources[place], self.options.unit_bytes, documents
                )
                for stream, place in chosen
            )
            for unit in interleave(readers, min(_READERS, self.workers.number)):
                weights[unit.key] = unit.weight
                if unit.last:
                    units[unit.stream, unit.source] = unit.number + 1
                scan = self.scans[unit.stream] if stage == TOKENS else None
                task = UnitTask(unit, self.streams[unit.stream], self.work, self.options, scan)
                if scan is not None:
                    _check_unchanged(task)
                yield task

        try:
            for key, counts in self.workers.run(function, tasks()):
                shown.update(weights.pop(key))
                stream, place, number = key
                results[stream, place][number] = counts
                if len(results[stream, place]) == units.get((stream, place)):
                    found = sorted(results.pop((stream, place)).items())
                    self._write_records(stage, stream, place, [counts for _, counts in found])
        finally:
            shown.close()

    def _sources(self) -> list[tuple[int, int]]:
        return [
            (number, place)
            for number, stream in enumerate(self.streams)
            for place in range(len(stream.sources))
        ]

    def _records(self, stage: str, stream: int, place: int) -> list[list[int]] | None:
        """The counts of all units of a source; None if the stage has not done them all."""
        return read_json(self.work.record(self.streams[stream], stage, place))

    def _write_records(self, stage: str, stream: int, place: int, counts: list[list[int]]) -> None:
        source = self.streams[stream].sources[place]
        if stage == SCAN and not any(lines for lines, _ in counts):
            what = " and ".join(source.languages)
            what = f"pair of {what}" if len(source.languages) == 2 else f"text in {what}"
            raise UserError(f"{source}: no {what} in it; leave it out")
        write_json(self.work.record(self.streams[stream], stage, place), counts)

    def _scan_of(self, stream: Stream) -> StreamScan:
        number, options = self.streams.index(stream), self.options
        counts = [self._records(SCAN, number, place) for place in range(len(stream.sources))]
        units = [len(source) for source in counts]
        lines, documents = (sum(unit[i] for source in counts for unit in source) for i in (0, 1))
        folders = self.work.of(stream, SCAN), units, self.work.of(stream, "duplicates")
        of_lines = KeySets(*folders, 0, 1, lines) if options.deduplicate else None
        of_documents = None
        if options.near_duplicates:
            bands = bands_for(options.near_duplicates).count
            of_documents = KeySets(*folders, int(options.deduplicate), bands, documents)
        share = min(options.held_out / documents, _LARGEST_HELD_OUT)
        return StreamScan(units, of_lines, of_documents, int(share * (1 << 64)), self._held_out_side(stream))

    def _held_out_side(self, stream: Stream) -> int:
        """The side of a pair whose hash decides whether it is held out: the language with the most pairs.

        So a sentence that occurs in several pairs of languages tends to be held out in all or in none.
        """
        if not stream.is_parallel:
            return 0
        pairs = Counter(
            language for other in self.streams if other.is_parallel for language in other.languages
        )
        first, second = stream.languages
        return int(pairs[second] > pairs[first])


def _check_unchanged(task: UnitTask) -> None:
    expected, unit = task.scan.units[task.unit.source], task.unit
    if unit.number >= expected or (unit.last and unit.number + 1 < expected):
        raise UserError(
            f"{task.stream.sources[unit.source]}: changed while the corpus was built; start afresh with "
            "--overwrite true"
        )
