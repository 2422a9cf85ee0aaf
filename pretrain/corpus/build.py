"""Runs the stages of a corpus build, continues an interrupted one, and writes the manifest at the end."""

import itertools
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pretrain.corpus.duplicates import find_duplicates, number_of_parts, part_file
from pretrain.corpus.options import BuildOptions
from pretrain.corpus.stages import (
    DROPPED,
    UnitResult,
    describe,
    group_units,
    id_dtype,
    pieces_file,
    scan_unit,
    tokenize_unit,
    write_array,
    write_shard,
)
from pretrain.corpus.text import Unit, read_units
from pretrain.corpus.work import SCAN, TOKENS, VOCABULARY_FILES, WORK, StreamWork
from pretrain.corpus.workers import LocalWorkers
from reader.corpus import FORMAT, MANIFEST, SPLITS
from reader.tokenization import Tokenizer
from utils.errors import UserError
from utils.files import atomic_file, read_json, write_json
from utils.logging import Progress

_READERS = 4  # sources read at a time; one can supply about twenty workers
_LARGEST_HELD_OUT = 0.05  # share of a stream


@dataclass
class CorpusBuild:
    """A build in progress. `build_corpus` calls its methods in the order in which they stand.

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

        UserError: bad input, with file and line, or a source without text.
        """
        self._run_units(SCAN, "reading", scan_unit)
        parallel = [work.stream.languages for work in self.works if work.stream.is_parallel]
        pairs = Counter(language for languages in parallel for language in languages)
        for place, work in enumerate(self.works):
            counts = work.counts(SCAN)
            lines, documents = map(sum, zip(*itertools.chain.from_iterable(counts)))
            share = min(self.options.held_out / documents, _LARGEST_HELD_OUT)
            # The language that is in the most pairs decides, so that a sentence in several pairs tends to be
            # held out in all or in none.
            first, second = work.stream.languages[0], work.stream.languages[-1]
            self.works[place] = replace(
                work,
                units=[len(units) for units in counts],
                lines=lines,
                held_out_below=int(share * (1 << 64)),
                held_out_side=int(pairs[second] > pairs[first]),
            )

    def find_duplicates(self) -> None:
        """Find the lines that occurred before, in parts that fit in memory."""
        parts = [(work, part) for work in self.works for part in range(number_of_parts(work))]
        missing = [task for task in parts if not part_file(*task).exists()]
        self._run("finding duplicates", find_duplicates, missing)

    def tokenize(self) -> None:
        """Read all text again and cut every unit into ids."""
        # Workers read the vocabulary from the corpus, and so does training later.
        model, vocab = (self.works[0].output / name for name in VOCABULARY_FILES)
        with atomic_file(model) as file:
            file.write(self.tokenizer.piece_model_path.read_bytes())
        self.tokenizer.write_vocab(vocab)
        self._run_units(TOKENS, "tokenizing", tokenize_unit)

    def write_shards(self) -> None:
        """Join the units to shards."""
        bytes_per_id = id_dtype(self.tokenizer.vocab_size).itemsize
        shard_tokens = max(1, int(self.options.shard_mib * (1 << 20)) // bytes_per_id)
        tasks = []
        for work in self.works:
            units, counts = work.unit_paths(TOKENS), list(itertools.chain.from_iterable(work.counts(TOKENS)))
            for place, split in enumerate(SPLITS):
                runs = group_units([unit[place] for unit in counts], shard_tokens)
                tasks += [(work, split, shard, units[run]) for shard, run in enumerate(runs)]
        self._run("writing shards", write_shard, tasks)

    def finish(self, plan: Mapping[str, Any]) -> dict[str, Any]:
        """Write the piece counts and then the manifest; remove the work folder.

        Returns:
            The manifest.

        Raises:
            UserError: the filters left nothing of a stream.
        """
        output, vocab_size = self.works[0].output, self.tokenizer.vocab_size
        manifest: dict[str, Any] = {"format": FORMAT, **plan, "dtype": id_dtype(vocab_size).name}
        manifest |= {"mono": {}, "parallel": {}, "pieces": {}, "files": {}}
        pieces: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(vocab_size, np.int64))
        for work in self.works:
            kind, name = work.stream.folder.split("/")
            counts = np.sum(list(itertools.chain.from_iterable(work.counts(TOKENS))), axis=0).tolist()
            entry: dict[str, Any] = {"dropped": dict(zip(DROPPED, counts[len(SPLITS) :]))}
            for split in SPLITS:
                records = [read_json(path) for path in sorted(work.folder("shards").glob(f"{split}-*.json"))]
                entry[split] = _total(records)
                for record in records:
                    manifest["files"] |= record["files"]
                    found = np.load(pieces_file(work, record["name"])) if split == "train" else ()
                    for language, counts in zip(work.stream.languages, found):
                        pieces[language] += counts
            if not entry["train"]["shards"]:
                raise UserError(
                    f"{name}: nothing is left of its text (left out: {left_out(entry)}); loosen the filters "
                    "or leave it out"
                )
            manifest[kind][name] = entry
        for language, counts in sorted(pieces.items()):
            name = f"pieces/{language}.npy"
            manifest["pieces"][language] = name
            manifest["files"][name] = write_array(output / name, counts.dtype, len(counts), [counts])
        for name in VOCABULARY_FILES:
            manifest["files"][name] = describe(output / name)
        for folder in ("mono", "parallel", "pieces"):  # temporary files of killed workers
            for file in (output / folder).rglob(".*.tmp-*"):
                file.unlink()
        write_json(output / MANIFEST, manifest)
        shutil.rmtree(output / WORK, ignore_errors=True)
        return manifest

    def _run(self, description: str, function: Callable, tasks: list[tuple]) -> None:
        with closing(Progress(len(tasks), description, unit="parts")) as shown:
            for _ in self.workers.run(function, tasks):
                shown.update()

    def _run_units(
        self, stage: str, description: str, function: Callable[[Unit, StreamWork], UnitResult]
    ) -> None:
        """Call `function` on all units of the sources that the stage has not done, and record the counts."""
        sources = {
            (work.number, place): source
            for work in self.works
            for place, source in enumerate(work.stream.sources)
        }
        left = {
            key: source
            for key, source in sources.items()
            if not self.works[key[0]].counts_file(stage, key[1]).exists()
        }
        total, to_do = (sum(source.size for source in some.values()) for some in (sources, left))
        blank, size = self.options.documents == "blank", int(self.options.unit_mib * (1 << 20))
        readers = (read_units(*key, source, size, blank) for key, source in left.items())
        units = _interleave(readers, min(_READERS, self.workers.number))
        tasks = ((unit, self.works[unit.stream]) for unit in units)
        last: dict[tuple[int, int], int] = {}  # number of each source's last unit, once that is done
        results: dict[tuple[int, int], dict[int, list[int]]] = defaultdict(dict)
        with closing(Progress(total, description, initial=total - to_do, unit="bytes")) as shown:
            for unit, counts in self.workers.run(function, tasks):
                shown.update(unit.weight)
                key = unit.stream, unit.source
                results[key][unit.number] = counts
                if unit.last:
                    last[key] = unit.number
                if len(results[key]) == last.get(key, -1) + 1:
                    found = [counts for _, counts in sorted(results.pop(key).items())]
                    if stage == SCAN and not any(lines for lines, _ in found):
                        languages = " and ".join(sources[key].languages)
                        raise UserError(f"{sources[key]}: no text in {languages} in it; leave it out")
                    write_json(self.works[unit.stream].counts_file(stage, unit.source), found)


def left_out(entry: Mapping[str, Any]) -> str:
    """What was left out of a language or pair of the manifest, and why."""
    return ", ".join(f"{count:,} {reason}" for reason, count in entry["dropped"].items() if count)


def _interleave(sources: Iterable[Iterator[Unit]], threads: int) -> Iterator[Unit]:
    """The units of many sources, of which `threads` are read at a time."""
    waiting = iter(sources)
    with ThreadPoolExecutor(threads, "reader") as pool:
        pending = {pool.submit(next, source, None): source for source in itertools.islice(waiting, threads)}
        while pending:
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                source, unit = pending.pop(future), future.result()
                following = next(waiting, None) if unit is None else source
                if following is not None:
                    pending[pool.submit(next, following, None)] = following
                if unit is not None:
                    yield unit


def _total(records: list[dict[str, Any]]) -> dict[str, Any]:
    """The shards of one split and their sums."""
    by_language: dict[str, dict[str, int]] = defaultdict(lambda: {"tokens": 0, "unknown": 0})
    for record in records:
        for language, counts in record["by_language"].items():
            for key, count in counts.items():
                by_language[language][key] += count
    sums = ("documents", "lines", "tokens", "unknown")
    return {
        **{key: sum(record[key] for record in records) for key in sums},
        "by_language": dict(by_language),
        "shards": [{key: record[key] for key in ("name", *sums[:3], "index")} for record in records],
    }
