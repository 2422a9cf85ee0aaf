"""Writes the shards of a corpus from tokenized chunks."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ernie_m.pretrain.build_corpus.encode_chunks import (
    FATES,
    StreamSettings,
    read_chunk,
    select_id_dtype,
    write_array,
)
from ernie_m.utils.checksums import make_manifest_entry
from ernie_m.utils.files import atomic_file


def write_shard(
    settings: StreamSettings,
    output: Path,
    name: str,
    split: str,
    first_chunk: int,
    chunks: Sequence[Path],
    tokens: int,
    vocab_size: int,
) -> tuple[dict[str, Any], dict[str, Any], np.ndarray]:
    """Write the files of a shard: the lines of one split in some chunks.

    Args:
        output: the corpus directory.
        name: path of the shard in the corpus directory, without extension.
        split: "train" or "held_out".
        first_chunk: number of the first chunk in the stream.
        chunks: files of the tokenized chunks.
        tokens: number of tokens of the shard.

    Returns:
        Manifest entry of the shard; file name -> size and SHA-256; subword counts of each side, int64 [sides,
        V].
    """
    dtype = select_id_dtype(vocab_size)
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (tokens,)}
    subword_counts = np.zeros((len(settings.languages), vocab_size), np.int64)
    # A zero, then per chunk the tokens of its lines, and the lines of its documents.
    counts = {"lines": [np.zeros(1, np.uint32)], "documents": [np.zeros(1, np.uint32)]}
    with atomic_file(output / f"{name}.ids.npy") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for number, chunk in enumerate(chunks, first_chunk):
            ids, lengths, documents = read_chunk(chunk, "ids", "lengths", "documents")
            is_chosen = np.load(settings.file("fates", number)) == FATES.index(split)
            chosen_ids = ids[np.repeat(is_chosen, lengths.sum(axis=1, dtype=np.int64))]
            file.write(chosen_ids)
            chosen_lengths = lengths[is_chosen]  # [lines, sides]
            side_of_ids = np.repeat(np.indices(chosen_lengths.shape)[1].ravel(), chosen_lengths.ravel())
            for side, side_counts in enumerate(subword_counts):
                side_counts += np.bincount(chosen_ids[side_of_ids == side], minlength=vocab_size)
            counts["lines"].append(chosen_lengths.ravel())
            document_of_lines = np.repeat(np.arange(len(documents)), documents)
            chosen_lines = np.bincount(document_of_lines[is_chosen])  # of each document
            counts["documents"].append(chosen_lines[chosen_lines > 0].astype(np.uint32))
    starts = {kind: np.cumsum(np.concatenate(parts), dtype=np.uint32) for kind, parts in counts.items()}
    files = {f"{name}.ids.npy": make_manifest_entry(output / f"{name}.ids.npy")}
    for kind in ("lines", "documents")[: 3 - len(settings.languages)]:  # each pair is a document
        file_name = f"{name}.{kind}.npy"
        write_array(output / file_name, starts[kind])
        files[file_name] = make_manifest_entry(output / file_name)
    digests = "".join(file["sha256"] for file in files.values())
    entry = {
        "name": name.rpartition("/")[2],
        "documents": len(starts["documents"]) - 1,
        "lines": len(starts["lines"]) - 1,
        "tokens": tokens,
        "index": hashlib.sha256(digests.encode()).hexdigest(),  # one digest for all files
    }
    return entry, files, subword_counts
