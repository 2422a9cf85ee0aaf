"""The stages of a corpus build: tokenization, deduplication, filtering, shards, manifest."""

import hashlib
import itertools
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ernie_m.pretrain.build_corpus.build_args import BuildOptions
from ernie_m.pretrain.build_corpus.encode_chunks import (
    DROPPED,
    FATES,
    HELD_OUT,
    HELD_OUT_TEXT,
    VOCABULARY_FILES,
    WORK,
    StreamSettings,
    assign_splits,
    collect_held_out_keys,
    count_ranges,
    encode_chunk,
    find_duplicates,
    select_id_dtype,
    write_array,
    write_sorted_keys,
)
from ernie_m.pretrain.build_corpus.shards import write_shard
from ernie_m.pretrain.build_corpus.source_files import CorpusSource, Stream
from ernie_m.pretrain.build_corpus.text_chunks import read_chunks
from ernie_m.pretrain.build_corpus.workers import LocalWorkers
from ernie_m.pretrain.packing import group_by_tokens
from ernie_m.reader.corpus import FORMAT, SPLITS, compute_checksum
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.utils.checksums import MANIFEST, make_manifest_entry
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import atomic_file, write_json
from ernie_m.utils.logging import Progress, logger

_LARGEST_HELD_OUT = 0.05  # fraction of a stream


@dataclass
class CorpusBuild:
    """A corpus build in progress. `build_corpus` calls the stages in the order of their definition.

    Args:
        options: the options of the build.
        plan: all settings that determine the bytes of the corpus, for the manifest.
        streams: the languages and language pairs, with their source files.
        workers: processes that run the work.
        tokenizer: the tokenizer of the corpus.

    Attributes:
        works: stream -> settings for the workers.
        chunks: stream -> files of its tokenized chunks, in reading order.
    """

    options: BuildOptions
    plan: Mapping[str, Any]
    streams: list[Stream]
    workers: LocalWorkers
    tokenizer: Tokenizer
    works: dict[Stream, StreamSettings] = field(default_factory=dict)
    chunks: dict[Stream, list[Path]] = field(default_factory=lambda: defaultdict(list))

    @property
    def output(self) -> Path:
        """Return the path of the corpus directory."""
        return Path(self.options.output)

    def encode(self) -> None:
        """Read and tokenize all text; reuse the tokenized chunks of an earlier build.

        Raises:
            UserError: a line is invalid, or a source has no text.
        """
        for name in ("mono", "parallel", "pieces"):  # files of an earlier build
            shutil.rmtree(self.output / name, ignore_errors=True)
        # Workers read the vocabulary from the corpus, as training does later.
        model_name, vocab_name = VOCABULARY_FILES
        with atomic_file(self.output / model_name) as file:
            file.write(self.tokenizer.piece_model)
        self.tokenizer.write_vocab(self.output / vocab_name)
        total = sum(source.size for stream in self.streams for source in stream.sources)
        counts: dict[CorpusSource, Any] = defaultdict(int)  # of `encode_chunk`, of all chunks
        with closing(Progress(total, "tokenizing", unit="bytes")) as progress:
            for source, bytes_read, counts_of_chunk in self.workers.run(
                encode_chunk, self._list_chunk_tasks()
            ):
                progress.update(bytes_read)
                counts[source] += counts_of_chunk
        for stream, work in self.works.items():
            for source in stream.sources:
                if not counts[source][0]:
                    raise UserError(
                        f"{source}: no text in {' and '.join(source.languages)}. Remove it from the command"
                    )
            lines, documents, *_ = sum(counts[source] for source in stream.sources).tolist()
            work.ranges = count_ranges(lines) if self.options.deduplicate else 0
            held_out_share = min(self.options.held_out / documents, _LARGEST_HELD_OUT)
            work.held_out_below = int(held_out_share * (1 << 64))  # hashes are uniform over 64 bits

    def _list_chunk_tasks(self) -> Iterator[tuple]:
        """Yield the arguments of `encode_chunk` for each chunk of text."""
        chunk_bytes = int(self.options.chunk_mib * (1 << 20))
        settings = (FORMAT, self.plan["vocabulary"], self.plan["options"])
        # Language -> number of language pairs that contain it.
        pairs_of = Counter(
            itertools.chain(*(stream.languages for stream in self.streams if stream.is_parallel))
        )
        for stream in self.streams:
            # The language that is in the most pairs decides, so that a sentence in several pairs tends to be
            # held out in all or in none.
            side = stream.languages.index(max(stream.languages, key=pairs_of.__getitem__))
            folder = self.output / WORK / stream.folder
            work = self.works[stream] = StreamSettings(folder, stream.languages, side, self.options.max_ratio)
            for source in stream.sources:
                for chunk in read_chunks(source, chunk_bytes, self.options):
                    layout = (stream.languages, side, source.languages, chunk.table, chunk.first_line)
                    digests = [hashlib.sha256(text).hexdigest() for text in chunk.texts]
                    key = hashlib.sha256(repr((settings, layout, digests)).encode()).hexdigest()
                    path = self.output / WORK / f"{key}.npz"
                    self.chunks[stream].append(path)
                    yield path, chunk, source, work, self.options, self.tokenizer.digest

    def find_duplicates(self) -> None:
        """Find duplicate lines by their keys, one range of keys that fits in memory at a time."""
        if self.options.deduplicate:
            self._run_chunks("sorting", write_sorted_keys)
        tasks = [
            (work, number, len(self.chunks[stream]))
            for stream, work in self.works.items()
            for number in range(work.ranges)
        ]
        list(self._run("finding duplicates", find_duplicates, tasks))

    def assign_splits(self) -> dict[Stream, np.ndarray]:
        """Assign each line to training, held-out text, or a reason for dropping it.

        Training lines with held-out text are dropped, unless they are more than half of a stream.

        Returns:
            stream -> numbers of lines and tokens per split or drop reason, int64 [chunks, 2, fates].
        """
        held_out = self._run_chunks("holding out", collect_held_out_keys)
        keys = [keys for chunks in held_out.values() for keys, _ in chunks]
        write_array(self.output / WORK / HELD_OUT, np.unique(np.concatenate(keys)))
        counts = self._run_chunks("filtering", assign_splits)
        for stream, work in self.works.items():
            trained = sum(lines for _, lines in held_out[stream])
            shared = int(np.sum(counts[stream], axis=0)[0, FATES.index(HELD_OUT_TEXT)])
            work.keeps_all = shared > trained / 2
            if work.keeps_all:
                logger.warning(
                    "%s: %s of %s lines are in the held-out part of another file. As these are more than "
                    "half, they stay in training, which inflates held-out scores",
                    "-".join(stream.languages),
                    f"{shared:,}",
                    f"{trained:,}",
                )
        if any(work.keeps_all for work in self.works.values()):
            counts = self._run_chunks("filtering", assign_splits)
        return {stream: np.array(counts_of_chunks) for stream, counts_of_chunks in counts.items()}

    def write_shards(self, counts: Mapping[Stream, np.ndarray]) -> dict[str, Any]:
        """Write the training and held-out lines to shards, and return the manifest.

        Args:
            counts: result of `assign_splits`.

        Raises:
            UserError: no training line of a language or language pair is left.
        """
        vocab_size = self.tokenizer.vocab_size
        dtype = select_id_dtype(vocab_size)
        shard_tokens = max(1, int(self.options.shard_mib * (1 << 20)) // dtype.itemsize)
        manifest: dict[str, Any] = {"format": FORMAT, **self.plan, "dtype": dtype.name}
        manifest |= {"mono": {}, "parallel": {}, "pieces": {}, "files": {}}
        tasks = []
        entries = []  # of a language or pair and split, for each task
        for stream, work in self.works.items():
            lines = dict(zip(FATES, counts[stream][:, 0].sum(axis=0).tolist()))
            tokens = dict(zip(FATES, counts[stream][:, 1].T.tolist()))  # of each chunk
            if not lines["train"]:
                raise no_training_text_error(stream, lines)
            # Held-out text is named only where a line to train on had some.
            dropped = {
                reason: lines[reason] for reason in DROPPED if lines[reason] or reason != HELD_OUT_TEXT
            }
            kind, name = stream.folder.split("/")  # "mono/en", "parallel/de-en"
            entry: dict[str, Any] = {"dropped": dropped}
            manifest[kind][name] = entry
            for split in SPLITS:
                entry[split] = dict.fromkeys(("documents", "lines", "tokens", "unknown"), 0)
                entry[split] |= {"by_language": {}, "shards": []}
                for number, part in enumerate(group_by_tokens(tokens[split], shard_tokens)):
                    shard_name = f"{stream.folder}/{split}-{number:05d}"
                    chunks = (part.start, self.chunks[stream][part], sum(tokens[split][part]))
                    tasks.append((work, self.output, shard_name, split, *chunks, vocab_size))
                    entries.append(entry[split])

        # Language -> subword counts of all its text, [V].
        subword_counts: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(vocab_size, np.int64))
        shards = self._run("writing shards", write_shard, tasks)
        for entry, (work, _, _, split, *_), (shard, files, side_counts) in zip(entries, tasks, shards):
            manifest["files"] |= files
            entry["shards"].append(shard)
            for key in ("documents", "lines", "tokens"):
                entry[key] += shard[key]
            for language, language_counts in zip(work.languages, side_counts):
                sums = entry["by_language"].setdefault(language, {"tokens": 0, "unknown": 0})
                unknown = int(language_counts[self.tokenizer.unk_id])
                sums["tokens"] += int(language_counts.sum())
                sums["unknown"] += unknown
                entry["unknown"] += unknown
                if split == "train":
                    subword_counts[language] += language_counts
        for language, language_counts in sorted(subword_counts.items()):
            manifest["pieces"][language] = f"pieces/{language}.npy"
            write_array(self.output / manifest["pieces"][language], language_counts)
        manifest["files"] |= {
            file: make_manifest_entry(self.output / file)
            for file in (*manifest["pieces"].values(), *VOCABULARY_FILES)
        }
        return manifest

    def finish(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """Write the manifest with its checksum, remove the work directory, and return the manifest."""
        manifest["sha256"] = compute_checksum(manifest)
        write_json(self.output / MANIFEST, manifest)
        shutil.rmtree(self.output / WORK, ignore_errors=True)
        return manifest

    def _run_chunks(self, description: str, function: Callable) -> dict[Stream, list[Any]]:
        """Call `function(work, number, path)` for each chunk of each stream in the workers.

        Returns:
            stream -> results of its chunks.
        """
        tasks = [
            (work, number, chunk)
            for stream, work in self.works.items()
            for number, chunk in enumerate(self.chunks[stream])
        ]
        results = self._run(description, function, tasks)
        return {
            stream: list(itertools.islice(results, len(chunks))) for stream, chunks in self.chunks.items()
        }

    def _run(self, description: str, function: Callable, tasks: list[tuple]) -> Iterator[Any]:
        """Run the tasks of a stage in the workers, and yield results in the order of the tasks."""
        with closing(Progress(len(tasks), description, unit="parts")) as progress:
            for result in self.workers.run(function, tasks):
                progress.update()
                yield result


def no_training_text_error(stream: Stream, lines: Mapping[str, int]) -> UserError:
    """Return the error for a language or language pair without a training line.

    Args:
        lines: split or reason for dropping -> number of lines.
    """
    error = f"(dropped: {format_dropped_counts(lines)}). Relax the filters or remove it from the command"
    if lines["held_out"]:
        error = "(all of it is held out). Provide more text, or set --held_out 0"
    return UserError(f"{'-'.join(stream.languages)}: no training text left {error}")


def format_dropped_counts(lines: Mapping[str, int]) -> str:
    """Format the number of dropped lines of a language or language pair by reason."""
    return ", ".join(f"{lines[reason]:,} {reason}" for reason in DROPPED if lines.get(reason))
