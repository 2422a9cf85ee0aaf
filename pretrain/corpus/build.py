"""Runs the stages of a corpus build and continues an interrupted one."""

import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from pretrain.corpus.duplicates import find_duplicates, number_of_parts, part_file
from pretrain.corpus.near_duplicates import bands_for
from pretrain.corpus.options import BuildOptions
from pretrain.corpus.stages import (
    UnitResult,
    group_units,
    id_dtype,
    scan_unit,
    tokenize_unit,
    write_shard,
)
from pretrain.corpus.units import Unit, interleave, read_units
from pretrain.corpus.work import SCAN, TOKENS, VOCABULARY_FILES, KeySet, StreamWork
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
        works: one for each language and each pair, in the order of their numbers.
        workers: run the units.
        tokenizer: cuts the text.
    """

    options: BuildOptions
    works: list[StreamWork]
    workers: LocalWorkers
    tokenizer: Tokenizer

    def scan(self) -> None:
        """Read all text: count lines and documents, hash what is needed to find duplicates.

        Raises:
            UserError: bad input, with file and line, or a source without text.
        """
        self._run_units(SCAN, "reading", scan_unit)
        parallel = [work.stream.languages for work in self.works if work.stream.is_parallel]
        pairs = Counter(language for languages in parallel for language in languages)
        self.works = [self._scanned(work, pairs) for work in self.works]

    def _scanned(self, work: StreamWork, pairs: Counter) -> StreamWork:
        lines, documents = map(sum, zip(*work.all_counts(SCAN)))
        options = self.options
        key_sets = [KeySet(0, "line", lines)] if options.deduplicate else []
        bands = bands_for(options.near_duplicates).count if options.near_duplicates else 0
        key_sets += [KeySet(options.deduplicate + band, "document", documents) for band in range(bands)]
        share = min(options.held_out / documents, _LARGEST_HELD_OUT)
        # The language that is in the most pairs decides, so that a sentence in several pairs tends to be held
        # out in all or in none.
        first, second = work.stream.languages[0], work.stream.languages[-1]
        return replace(
            work,
            units=[len(work.counts(SCAN, place)) for place in range(len(work.stream.sources))],
            key_sets=key_sets,
            held_out_below=int(share * (1 << 64)),
            held_out_side=int(pairs[second] > pairs[first]),
        )

    def find_duplicates(self) -> None:
        """Find the lines and documents that occurred before, in parts that fit in memory."""
        tasks = [
            (work, key_set, part)
            for work in self.works
            for key_set in work.key_sets
            for part in range(number_of_parts(key_set))
            if not part_file(work, key_set, part).exists()
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
        model, vocab = (self.works[0].output / name for name in VOCABULARY_FILES)
        with atomic_file(model) as file:
            file.write(self.tokenizer.piece_model_path.read_bytes())
        self.tokenizer.write_vocab(vocab)
        self._run_units(TOKENS, "tokenizing", tokenize_unit)

    def write_shards(self) -> None:
        """Join the units to shards. The units of a stream are deleted after its last shard."""
        bytes_per_id = id_dtype(self.tokenizer.vocab_size).itemsize
        shard_tokens = max(1, int(self.options.shard_mib * (1 << 20)) // bytes_per_id)
        tasks = []
        for work in self.works:
            units, counts = work.unit_paths(TOKENS), work.all_counts(TOKENS)
            for place, split in enumerate(SPLITS):
                runs = group_units([unit[place] for unit in counts], shard_tokens)
                tasks += [(work, split, shard, units[run]) for shard, run in enumerate(runs)]
        left = Counter(work.number for work, *_ in tasks)
        shown = Progress(len(tasks), "writing shards", unit="shards")
        for number in self.workers.run(write_shard, tasks):
            shown.update()
            left[number] -= 1
            if left[number] == 0:
                shutil.rmtree(self.works[number].folder(TOKENS), ignore_errors=True)
        shown.close()

    def _run_units(
        self, stage: str, description: str, function: Callable[[Unit, StreamWork], UnitResult]
    ) -> None:
        """Call `function` on all units of the sources that the stage has not done, and record the counts."""
        sizes = {
            (work.number, place): source.size
            for work in self.works
            for place, source in enumerate(work.stream.sources)
        }
        chosen = [key for key in sizes if self.works[key[0]].counts(stage, key[1]) is None]
        total, left = sum(sizes.values()), sum(sizes[key] for key in chosen)
        shown = Progress(total, description, initial=total - left, unit="bytes")
        last: dict[tuple[int, int], int] = {}  # number of each source's last unit, once that is done
        results: dict[tuple[int, int], dict[int, list[int]]] = defaultdict(dict)

        def tasks() -> Iterator[tuple[Unit, StreamWork]]:
            blank, size = self.options.documents == "blank", self.options.unit_bytes
            sources = ((*key, self.works[key[0]].stream.sources[key[1]]) for key in chosen)
            readers = (read_units(*source, size, blank) for source in sources)
            for unit in interleave(readers, min(_READERS, self.workers.number)):
                work = self.works[unit.stream]
                if stage == TOKENS:
                    _check_unchanged(unit, work)
                yield unit, work

        try:
            for unit, counts in self.workers.run(function, tasks()):
                shown.update(unit.weight)
                key = unit.stream, unit.source
                results[key][unit.number] = counts
                if unit.last:
                    last[key] = unit.number
                if len(results[key]) == last.get(key, -1) + 1:
                    found = [counts for _, counts in sorted(results.pop(key).items())]
                    self._write_counts(stage, *key, found)
        finally:
            shown.close()

    def _write_counts(self, stage: str, number: int, place: int, counts: list[list[int]]) -> None:
        source = self.works[number].stream.sources[place]
        if stage == SCAN and not any(lines for lines, _ in counts):
            what = " and ".join(source.languages)
            what = f"pair of {what}" if len(source.languages) == 2 else f"text in {what}"
            raise UserError(f"{source}: no {what} in it; leave it out")
        self.works[number].write_counts(stage, place, counts)


def _check_unchanged(unit: Unit, work: StreamWork) -> None:
    expected = work.units[unit.source]
    if unit.number >= expected or (unit.last and unit.number + 1 < expected):
        raise UserError(
            f"{work.stream.sources[unit.source]}: changed while the corpus was built; start afresh with "
            "--overwrite true"
        )
