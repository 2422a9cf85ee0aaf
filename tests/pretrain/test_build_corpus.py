"""Building: the same bytes however it is run or stopped; duplicates, filters, held-out text; the summary."""

import io
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from functools import partial
from hashlib import blake2b, sha256
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from ernie_m.pretrain.build_corpus import build, encode_chunks
from ernie_m.pretrain.build_corpus import command as build_command
from ernie_m.pretrain.build_corpus.build import CorpusBuild
from ernie_m.pretrain.build_corpus.report import are_lengths_correlated, format_pair_report, format_summary
from ernie_m.pretrain.build_corpus.text_chunks import read_lines
from ernie_m.pretrain.build_corpus.workers import LocalWorkers
from ernie_m.pretrain.packing import group_by_tokens
from ernie_m.reader.corpus import SPLITS, Corpus
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.reader.vocabulary import write_vocab
from ernie_m.utils.checksums import MANIFEST, write_manifest
from ernie_m.utils.logging import Progress
from tests.helpers.files import flip_last_bit, flip_middle_bit, read_files
from tests.launching import ROOT, as_flags, call_main, check_refusal, check_success, error_of
from tests.pretrain.builds import OPTIONS, Stopped, command, stop_at
from tests.toys import make_corpus, sentences, train_piece_model, write_lines


@pytest.fixture(scope="module")
def tokenizer(piece_model):
    return Tokenizer(None, piece_model)


def stop(*_):
    raise Stopped


def run_command(words: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True)


def test_corpus_files_and_manifest(inputs, reference, tokenizer):
    """The manifest counts what is in the files, of several shards; it has every source with its size."""
    manifest = json.loads(reference[MANIFEST])
    arrays = {name: np.load(io.BytesIO(data)) for name, data in reference.items() if name.endswith(".npy")}
    files = {
        name: {"bytes": len(data), "sha256": sha256(data).hexdigest()}
        for name, data in reference.items()
        if name != MANIFEST
    }
    assert manifest["files"] == files and not [name for name in files if ".build" in name or ".tmp" in name]
    french = []  # ids of the training text in this language
    for name, split in itertools.product(["mono/de", "mono/en", "mono/fr", "parallel/en-fr"], SPLITS):
        kind, _, languages = name.partition("/")
        sides = languages.split("-")
        entry = manifest[kind][languages][split]
        shards = [f"{name}/{shard['name']}" for shard in entry["shards"]]
        assert len(shards) > (kind == "parallel" and split == "train")
        ids = np.concatenate([arrays[f"{shard}.ids.npy"] for shard in shards])
        lines = np.concatenate([np.diff(arrays[f"{shard}.lines.npy"]) for shard in shards])
        side_of_ids = np.repeat(np.arange(len(lines)) % len(sides), lines)
        ids_of_sides = {side: ids[side_of_ids == number] for number, side in enumerate(sides)}
        starts = [arrays[f"{shard}.{'documents' if kind == 'mono' else 'lines'}.npy"] for shard in shards]
        counts = {
            "documents": sum(len(start) - 1 for start in starts) // len(sides),
            "lines": len(lines),
            "tokens": len(ids),
        }
        assert {key: sum(shard[key] for shard in entry["shards"]) for key in counts} == counts
        by_language = {
            side: {"tokens": len(own), "unknown": np.count_nonzero(own == tokenizer.unk_id)}
            for side, own in ids_of_sides.items()
        }
        counts |= {"unknown": np.count_nonzero(ids == tokenizer.unk_id), "by_language": by_language}
        assert entry == {**counts, "shards": entry["shards"]}
        french += [ids_of_sides["fr"]] if split == "train" and "fr" in sides else []
    np.testing.assert_array_equal(
        arrays["pieces/fr.npy"], np.bincount(np.concatenate(french), minlength=tokenizer.vocab_size)
    )
    paths = inputs["parallel"]["fr-en"]  # two aligned files
    assert manifest["inputs"]["parallel/en-fr"] == {
        f"fr-en<={paths}": sum(map(os.path.getsize, paths.split(",")))
    }
    assert list(manifest["inputs"]["mono/en"]) == [f"en<={path}" for path in inputs["mono"]["en"]]
    assert {key: manifest[key] for key in ("vocabulary", "options")} == {
        "vocabulary": {"digest": tokenizer.digest, "size": tokenizer.vocab_size},
        "options": {
            **dict.fromkeys(("columns", "delimiter", "quoting", "encoding", "filter")),
            "on_error": "stop",
            "documents": "line",
            "max_ratio": 0.0,
            **OPTIONS,
        },
    }


@pytest.mark.parametrize("seed", range(2))
def test_a_build_stopped_again_and_again_gives_the_same_bytes(
    tmp_path, monkeypatch, piece_model, inputs, reference, seed
):
    """Each time it is stopped before the renaming of a random file."""
    draw = random.Random(seed)
    for _ in range(100):  # far more times than it takes
        with monkeypatch.context() as patch:
            stop_at(patch, draw.randrange(400))
            try:
                make_corpus(tmp_path / "corpus", piece_model, **inputs, **OPTIONS)
                break
            except Stopped:
                assert not (tmp_path / "corpus" / MANIFEST).exists()
    assert read_files(tmp_path / "corpus") == reference


# A build that kills itself, or one of its workers, in a stage, when five parts of it are done.
KILLED = """
import os, sys
from ernie_m.pretrain.build_corpus import command, workers
from ernie_m.utils.errors import run

stage, whom = sys.argv.pop(1), sys.argv.pop(1)

class KilledWorkers(workers.LocalWorkers):
    def run(self, function, tasks):
        for number, result in enumerate(super().run(function, tasks)):
            if function.__name__ == stage and number == 4:
                os.kill({"command": os.getpid(), "worker": min(self.pool._processes)}[whom], 9)
            yield result

command.LocalWorkers = KilledWorkers
run(command.main)
"""


@pytest.mark.parametrize(("stage", "whom"), [("encode_chunk", "command"), ("assign_splits", "worker")])
def test_killed_and_run_again(tmp_path, piece_model, inputs, reference, stage, whom):
    words = command(tmp_path / "corpus", piece_model, inputs, workers=2, **OPTIONS)
    # This returns when all workers have ended, as they write to the same pipe.
    process = run_command(
        [sys.executable, "-c", KILLED, stage, whom, *words[words.index("build_corpus") + 1 :]]
    )
    assert process.returncode == {"command": -signal.SIGKILL, "worker": 2}[whom]
    assert whom == "command" or process.stderr.startswith("error: a worker process died")
    check_success(run_command(words))
    assert read_files(tmp_path / "corpus") == reference


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory, piece_model, inputs):
    """A build that was stopped before it wrote its manifest, and has kept its work."""
    folder = tmp_path_factory.mktemp("unfinished") / "corpus"
    with mock.patch.object(build, "write_json", stop), pytest.raises(Stopped):
        make_corpus(folder, piece_model, **inputs, **OPTIONS)
    return folder


def test_text_is_not_tokenized_again(tmp_path, monkeypatch, unfinished, piece_model, inputs, reference):
    """The progress of each stage ends with its total."""
    shutil.copytree(unfinished, tmp_path / "corpus")
    chunks = len([*unfinished.glob(".build/*.npz")])
    size = sum(sum(sources.values()) for sources in json.loads(reference[MANIFEST])["inputs"].values())
    ends = []  # of the progress of each stage
    monkeypatch.setattr(
        Progress, "close", lambda self: ends.append((self.description, self.unit, self.completed, self.total))
    )
    monkeypatch.setattr(encode_chunks, "read_lines", lambda *_: pytest.fail("tokenized again"))
    make_corpus(tmp_path / "corpus", piece_model, **inputs, **OPTIONS)
    assert read_files(tmp_path / "corpus") == reference
    parts = {
        "sorting": chunks,
        "finding duplicates": 5,
        "holding out": chunks,
        "filtering": chunks,
        "writing shards": len([name for name in reference if ".ids." in name]),
    }
    assert ends == [
        ("tokenizing", "bytes", size, size),
        *((stage, "parts", count, count) for stage, count in parts.items()),
    ]


@pytest.mark.parametrize(
    ("stage", "damage"),
    [
        ("encode", flip_middle_bit),
        ("encode", partial(os.truncate, length=0)),
        ("find_duplicates", partial(os.truncate, length=1000)),
        ("write_shards", flip_middle_bit),
        ("write_shards", Path.unlink),
    ],
)
def test_rebuild_corrupt_chunk(tmp_path, monkeypatch, piece_model, inputs, reference, damage, stage):
    """All that is no chunk is made again without a word."""
    work = tmp_path / "corpus/.build"
    before = getattr(CorpusBuild, stage)

    def damaged(*arguments):
        if stage == "encode":
            before(*arguments)
        damage(max(work.glob("*.npz"), key=os.path.getsize))
        return before(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(CorpusBuild, stage, damaged)
        line = error_of(make_corpus, tmp_path / "corpus", piece_model, **inputs, **OPTIONS)
    assert line.startswith(f"{work}/") and ".npz: corrupt or missing" in line
    for path in (tmp_path / "corpus").rglob("*.npy"):
        os.truncate(path, path.stat().st_size // 2)
    make_corpus(tmp_path / "corpus", piece_model, **inputs, **OPTIONS)
    assert read_files(tmp_path / "corpus") == reference


def test_another_vocabulary_in_the_same_folder(tmp_path, piece_model, inputs, reference):
    """The second build of this process cuts the text with its own vocabulary, not with the first one's."""
    others = train_piece_model(tmp_path / "others.model", vocab_size=90)
    for vocabulary in (others, piece_model):
        make_corpus(tmp_path / "corpus", vocabulary, **inputs, **OPTIONS, workers=1, overwrite=True)
    assert read_files(tmp_path / "corpus") == reference


def other_bytes(lines):
    """The same texts with no-break spaces, twice as many spaces, and a full-width letter."""
    return [line.replace(" ", "\u00a0  ", 1).replace("a", "ａ", 1) for line in lines]


@pytest.fixture(scope="module")
def rows():
    """The rows of each language and pair: some are repeated, uneven, or without pieces.

    English sentences are in text and in three pairs of languages. Most of en-es have a sentence that is held
    out of the Spanish text, so that all of them stay.
    """
    lines = {
        name: list(dict.fromkeys(sentences(400, seed))) for seed, name in enumerate(("de", "en", "es", "fr"))
    }
    rows = {}
    for name in ("de", "en", "es"):
        texts = lines[name][:150] + other_bytes(lines[name][:150]) + ["\u200b\u200e", "\u200b"]
        rows[name,] = [(text,) for text in [*texts, *lines[name][:9], "bado 56"]]  # its hash is a small one
    for first, second in itertools.combinations(("de", "en", "fr"), 2):
        pairs = list(zip(lines[first], other_bytes(lines[second])))
        pairs += zip(other_bytes(lines[first][5:]), lines[second])
        rows[first, second] = [*pairs, *pairs[:20], ("\u200b", second)]
    rows["en", "es"] = list(zip(lines["en"][:140], ["bado 56"] * 99 + lines["es"][300:]))
    rows["en", "es"] += rows["en", "es"][:5]
    return rows


def kept_rows(texts, tokenizer, held_out=0, deduplicate=False, max_ratio=0.0, **_):
    """The ids of each document of each stream that is trained on or held out, and how many lines are not.

    Args:
        texts: languages -> documents, which are lists of rows.

    Returns:
        And a line of the log for each stream that keeps held-out text.
    """
    # languages -> each row, its texts in their normal forms, whether it is held out, its document
    new = defaultdict(list)
    dropped = defaultdict(Counter)
    for languages, documents_of_stream in texts.items():
        below = min(held_out / len(documents_of_stream), 0.05) * 2**64
        side = languages.index("en") if "en" in languages else 0  # English is in the most pairs
        for number, rows in enumerate(documents_of_stream):
            text = "\n".join(row[side] for row in rows)
            digest = int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")
            for row in rows:
                keys = [tokenizer.processor.Normalize(tokenizer.normalize(text)) for text in row]
                if deduplicate and keys in [others for _, others, *_ in new[languages]]:
                    dropped[languages]["duplicate"] += 1
                else:
                    new[languages].append((row, keys, digest < below, number))
    held = {key for some in new.values() for _, keys, is_held, _ in some if is_held for key in keys}
    kept = defaultdict(lambda: defaultdict(list))
    said = []
    for languages, some in new.items():
        shared = [not held.isdisjoint(keys) for _, keys, is_held, _ in some if not is_held]
        if sum(shared) > len(shared) / 2:
            said.append(
                f"{'-'.join(languages)}: {sum(shared)} of {len(shared)} lines are in the held-out part"
            )
        for row, keys, is_held, number in some:
            ids = tokenizer.encode_batch(row)
            lengths = sorted(map(len, ids))
            reasons = {
                "held-out text": not (is_held or held.isdisjoint(keys) or sum(shared) > len(shared) / 2),
                "empty": lengths[0] == 0,
                "ratio": max_ratio and lengths[-1] > max_ratio * lengths[0],
            }
            if any(reasons.values()):
                dropped[languages][next(filter(reasons.get, reasons))] += 1
            else:
                kept[languages, is_held][number] += ids
    return kept, dropped, said


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"deduplicate": True},
        {"max_ratio": 1.5},
        {"held_out": 12},
        {"held_out": 100_000, "deduplicate": True, "max_ratio": 1.5},
        {"held_out": 3, "documents": "blank"},
    ],
    ids=str,
)
def test_deduplicate_and_split_lines(tmp_path, monkeypatch, caplog, piece_model, rows, options):
    """Of equal lines the first stays; documents are held out whole; held-out text is in no training text."""
    monkeypatch.setattr(encode_chunks, "KEYS_IN_MEMORY", 100)  # so that there are many ranges
    monkeypatch.setattr(encode_chunks, "_BATCH", 50)  # and several calls of sentencepiece for a chunk
    inputs = {"mono": {}, "parallel": {}}
    documents = {}
    for languages, some in rows.items():
        size = 3 if "documents" in options and len(languages) == 1 else 1  # rows of a document
        documents[languages] = [some[start : start + size] for start in range(0, len(some), size)]
        lines = ["\t".join(row) + "\n" * (size == 3 and number % 3 == 2) for number, row in enumerate(some)]
        name = "-".join(languages)
        inputs["mono" if len(languages) == 1 else "parallel"][name] = write_lines(tmp_path / name, lines)
    manifest = make_corpus(tmp_path / "corpus", piece_model, **inputs, **options, skip_text_checks=True)
    corpus = Corpus(tmp_path / "corpus")
    kept, dropped, said = kept_rows(documents, Tokenizer(piece_model_path=piece_model), **options)
    for languages in rows:
        kind, key = ("mono", languages[0]) if len(languages) == 1 else ("parallel", languages)
        counts = dict.fromkeys(("empty", "score", "duplicate", "ratio"), 0) | dropped[languages]
        assert manifest[kind]["-".join(languages)]["dropped"] == counts
        for is_held, texts in enumerate((getattr(corpus, kind), getattr(corpus, f"held_out_{kind}"))):
            text = texts.get(key)
            lines = [text.read_line(number).tolist() for number in range(text.num_lines)] if text else []
            expected = kept[languages, is_held].values()
            assert lines == [*itertools.chain(*expected)]
            if text and kind == "mono":
                assert np.diff(text.read_document_offsets(0)).tolist() == [*map(len, expected)]
    assert [line[: line.index(". ")] for line in caplog.messages if "held-out part" in line] == [
        f"{line} of another file" for line in said
    ]


def test_shards_are_as_large_as_allowed(reference):
    """A shard is some consecutive chunks; 10 tokens are allowed, but a chunk is not divided."""
    assert [encode_chunks.select_id_dtype(size) for size in (1 << 16, 1 + (1 << 16))] == ["<u2", "<u4"]
    tokens_of_chunks = [5, 5, 5, 0, 12, 1]
    shards = [tokens_of_chunks[chunks] for chunks in group_by_tokens(tokens_of_chunks, 10)]
    assert shards == [[5, 5], [5, 0], [12], [1]]
    assert list(group_by_tokens([0, 0], 10)) == []
    sizes = [len(data) for name, data in reference.items() if name.endswith(".ids.npy")]
    assert max(sizes) <= OPTIONS["shard_mib"] * 2**20 + 128  # the bytes of an .npy file before the array


def test_the_report_shows_samples_and_the_summary(tmp_path, capsys, piece_model, tokenizer):
    """Samples of the files, then the summary and samples of pairs; only these two for a finished corpus.

    Georgian has letters that the SentencePiece model does not know, so it gets the warning.
    """
    english = write_lines(tmp_path / "en", ["baba dodo"] * 3)
    georgian = write_lines(tmp_path / "ka", ["ბაბა დოდო"] * 2)
    pairs = write_lines(
        tmp_path / "x.tsv",
        ["score\tde\ten", "1\tbaba\tdodo baba dodo", "0\tkani\tbado", "1\t\tdodo", "1\tbaba\t "],
    )
    corpus = tmp_path / "corpus"
    values = {"output": corpus, "piece_model_path": piece_model, "workers": 1, "deduplicate": "true"}
    texts = ["--mono", f"en<={english}", "--mono", f"ka_Geor<={georgian}", "--parallel", f"de-en<={pairs}"]
    printed = []
    for _ in range(2):
        call_main(build_command, [*as_flags(values), *texts, "--filter", "score>=1"])
        printed.append(capsys.readouterr().out.splitlines())
    manifest = json.loads((corpus / MANIFEST).read_text())
    assert manifest["mono"].keys() == {"en", "ka_Geor"}
    assert manifest["parallel"]["de-en"]["dropped"] == {"empty": 2, "score": 1, "duplicate": 0, "ratio": 0}
    report = [*format_summary(manifest), *format_pair_report(Corpus(corpus), tokenizer)]
    assert report[-2:] == ["de-en 1 de: baba", "de-en 1 en: dodo baba dodo"]
    columns = f"{pairs}: pairs: de and en; ignored columns: score"
    assert printed == [
        [
            f"{english}: en: baba dodo",
            f"{georgian}: ka_Geor: ბაბა დოდო",
            columns,
            f"{pairs}: de: baba",
            f"{pairs}: en: dodo baba dodo",
            columns,
            *report,
        ],
        [f"{corpus}: already built; verifying its checksums", *report],
    ]


ENGLISH = sentences(400, seed=3)
# A translation for the report: words of similar length, in another order.
GERMAN = [" ".join(f"{word}na" for word in reversed(line.split())) for line in ENGLISH]
PAIRS = [f"{english}\t{german}" for english, german in zip(ENGLISH, GERMAN)]


@pytest.mark.parametrize(
    ("second", "fits"),
    [
        (GERMAN, [True, True, True]),  # the translations
        # A line is missing: the first one, or two in the middle.
        (GERMAN[1:], [False, False, False]),
        (GERMAN[:200] + GERMAN[202:], [True, True, False]),
        # No translations at all.
        (sentences(400, seed=4), [False, False, False]),
        (["bado"] * 400, [False, False, False]),
    ],
)
def test_sides_that_do_not_belong_together(tokenizer, second, fits):
    """`second` is the other side of ENGLISH."""
    assert are_lengths_correlated([*zip(*map(tokenizer.encode_batch, (ENGLISH, second)))]) == fits


def test_the_summary_counts_both_sides_of_a_pair():
    """The lines of a pair are those of both sides; a language's unknown tokens are those of all its text."""

    def entry(lines, held_out, dropped, **tokens_and_unknown):
        counts = {side: dict(zip(("tokens", "unknown"), pair)) for side, pair in tokens_and_unknown.items()}
        train = {"lines": lines, "by_language": counts}
        return {"train": train, "held_out": {"lines": held_out}, "dropped": dropped}

    dropped = {"empty": 2000, "score": 0, "duplicate": 3}
    mono = {"en": entry(1000, 50, dropped, en=(12_000, 120)), "ka": entry(10, 0, {}, ka=(100, 5))}
    parallel = {"en-ka": entry(400, 20, {"score": 7}, en=(1000, 50), ka=(1000, 60))}
    assert format_summary({"mono": mono, "parallel": parallel}) == [
        "text       lines  tokens  unknown  mean length  held out                  left out",
        "en         1,000  12,000    1.00%         12.0        50  2,000 empty, 3 duplicate",
        "ka            10     100    5.00%         10.0         0                          ",
        "en-ka: en    200   1,000    5.00%          5.0        10                   7 score",
        "en-ka: ka    200   1,000    6.00%          5.0        10                   7 score",
        "warning: ka: 5.9% of its tokens are unknown; the vocabulary does not cover this language",
    ]


@pytest.mark.parametrize(
    "change",
    [
        lambda mono, parallel: {"held_out": 5},
        lambda mono, parallel: {"documents": "blank"},
        lambda mono, parallel: {"text_rules": "none"},
        lambda mono, parallel: {"max_ratio": 1.5, "deduplicate": False},
        lambda mono, parallel: {"mono": mono | {"en": mono["en"][::-1]}},
        lambda mono, parallel: {"mono": mono | {"fr": mono["de"], "de": mono["fr"]}},
        # Two languages and both pairs are gone.
        lambda mono, parallel: {"mono": {"fr": mono["fr"]}, "parallel": {}},
        # The columns are of the other languages.
        lambda mono, parallel: {"parallel": {"de-en": parallel["en-de"], "fr-en": parallel["fr-en"]}},
        # German decides what is held out.
        lambda mono, parallel: {
            "mono": {"en": mono["en"]},
            "parallel": {"en-de": parallel["en-de"], "de-fr": f"{mono['de']},{mono['fr']}"},
        },
    ],
)
def test_an_unfinished_build_does_what_changed_anew(tmp_path, unfinished, piece_model, inputs, change):
    """With other options, another order or other text the corpus is that of a build from the beginning."""
    shutil.copytree(unfinished, tmp_path / "corpus")
    for folder in ("corpus", "anew"):
        make_corpus(tmp_path / folder, piece_model, **(inputs | OPTIONS | change(**inputs)))
    assert read_files(tmp_path / "corpus") == read_files(tmp_path / "anew")


@pytest.mark.parametrize(
    ("inputs", "before", "after"),
    [
        ({"mono": {"en": "text"}}, ENGLISH, [*ENGLISH[:300], "bado kani", *ENGLISH[301:]]),
        # All chunks but the first have the same bytes as before, and other columns.
        ({"parallel": {"en-de": "text"}}, ["en\tde", *PAIRS], ["de\ten", *PAIRS]),
        # The second of two aligned files.
        ({"parallel": {"en-de": "english,text"}}, GERMAN, [*GERMAN[:300], "bado kani", *GERMAN[301:]]),
    ],
)
def test_text_that_changes(in_tmp_path, monkeypatch, piece_model, inputs, before, after):
    """While it is read it is refused; after a kill its chunks are made again."""
    write_lines(Path("english"), ENGLISH)
    write_lines(Path("text"), before)
    with monkeypatch.context() as patch:
        patch.setattr(encode_chunks, "read_lines", lambda *_: os.utime("text") or read_lines(*_))
        assert "text: changed" in error_of(make_corpus, Path("corpus"), piece_model, **inputs)
    write_lines(Path("text"), after)
    for folder in (Path("corpus"), Path("anew")):
        make_corpus(folder, piece_model, **inputs)
    assert read_files(Path("corpus")) == read_files(Path("anew"))


def test_overwriting_leaves_other_files(tmp_path, monkeypatch, piece_model, inputs):
    (tmp_path / "corpus/.build").mkdir(parents=True)
    (tmp_path / "corpus/note.txt").write_text("mine")
    for held_out in (5, 6):  # first over the unfinished build, then over the corpus
        make_corpus(tmp_path / "corpus", piece_model, **inputs, held_out=held_out, overwrite=True)
        piece_model = tmp_path / "corpus/piece.model"  # the SentencePiece model of the corpus may serve again
        assert Corpus(tmp_path / "corpus").manifest["options"]["held_out"] == held_out
    # The same corpus without --overwrite, which does not change it.
    make_corpus(tmp_path / "corpus", piece_model, **inputs, held_out=6)
    assert (tmp_path / "corpus/note.txt").read_text() == "mine"
    # A build that was stopped leaves no corpus, not even the old one.
    stop_at(monkeypatch, 0)
    with pytest.raises(Stopped):
        make_corpus(tmp_path / "corpus", piece_model, **inputs, overwrite=True)
    assert not (tmp_path / "corpus" / MANIFEST).exists()


def test_a_finished_corpus_is_checked_not_built_again(tmp_path, piece_model, inputs, caplog):
    caplog.set_level("WARNING", logger="ernie_m")
    manifest = make_corpus(tmp_path / "corpus", piece_model, **inputs)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "corpus").rglob("*")}
    assert make_corpus(tmp_path / "corpus", piece_model, **inputs, workers=3) == manifest
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "corpus").rglob("*")} == before
    (tmp_path / "corpus/.build/mono").mkdir(parents=True)  # left by a build that was killed at its end
    make_corpus(tmp_path / "corpus", piece_model, **inputs)
    assert not (tmp_path / "corpus/.build").exists()
    assert not caplog.records
    later = (tmp_path / "corpus/manifest.json").stat().st_mtime + 1
    os.utime(inputs["mono"]["fr"], (later, later))
    make_corpus(tmp_path / "corpus", piece_model, **inputs)
    (warning,) = caplog.messages
    assert warning.startswith(f"{inputs['mono']['fr']}: modified after the corpus was built")
    assert "made with other settings (options.documents: line -> blank)" in error_of(
        make_corpus, tmp_path / "corpus", piece_model, **inputs, documents="blank"
    )
    assert "made with other settings (inputs." in error_of(
        make_corpus, tmp_path / "corpus", piece_model, mono=inputs["mono"]
    )
    flip_last_bit(tmp_path / "corpus/mono/fr/train-00000.ids.npy")
    assert "train-00000.ids.npy: corrupt" in error_of(make_corpus, tmp_path / "corpus", piece_model, **inputs)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("is_model", [False, True])
def test_foreign_folders_are_left_alone(tmp_path, piece_model, inputs, overwrite, is_model):
    """A model has a manifest of its own, and possibly a folder that is named like one of a corpus."""
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "mono").mkdir()
    if is_model:
        write_manifest(tmp_path / MANIFEST)
    before = sorted(tmp_path.rglob("*"))
    line = error_of(make_corpus, tmp_path, piece_model, **inputs, overwrite=overwrite)
    assert line.startswith(f"{tmp_path}") and ("--output" in line or MANIFEST in line)
    assert sorted(tmp_path.rglob("*")) == before


# Of the third line sentencepiece makes nothing, and the hash of the last is a small one.
@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "x: empty"),
        (["", "  "], "x: no text in en"),
        (["\u200b"], "en: no training text left (dropped: 1 empty)"),
        (["bado 56"], "en: no training text left (all of it is held out)"),
    ],
)
def test_reject_language_without_text(tmp_path, piece_model, lines, message):
    """A file without text is refused, also among others."""
    files = [write_lines(tmp_path / "x", lines), write_lines(tmp_path / "y", ["baba"])]
    assert message in error_of(
        make_corpus,
        tmp_path / "corpus",
        piece_model,
        mono={"en": files[: 1 + message.startswith("x")]},
        held_out=1,
    )


def test_a_worker_never_receives_ctrl_c():
    """It is blocked when the worker starts, so that its imports are not interrupted either."""
    with LocalWorkers(2) as workers:
        blocked = workers.submit(signal.pthread_sigmask, signal.SIG_BLOCK, []).result()
    assert signal.SIGINT in blocked and signal.SIGTERM not in blocked


def test_by_the_name_in_a_checkout():
    flags = ["--output", "corpus", "--piece_model_path", "piece.model", "--on_error", "go"]
    process = run_command([sys.executable, "-m", "pretrain.build_corpus", *flags])
    assert "--on_error" in check_refusal(process)


def test_a_vocabulary_with_other_ids(tmp_path, piece_model, monkeypatch):
    """It is that of the corpus. Paths may name an environment variable."""
    monkeypatch.setenv("FOLDER", str(tmp_path))
    shutil.copy(piece_model, tmp_path / "piece.model")
    vocab = Tokenizer(None, piece_model).vocab
    first, second = list(vocab)[10:12]
    swapped = {**vocab, first: vocab[second], second: vocab[first]}
    write_vocab(swapped, tmp_path / "vocab.txt")
    mono = {"en": write_lines(tmp_path / "en", sentences(50))}
    make_corpus("$FOLDER/corpus", "$FOLDER/piece.model", mono=mono, vocab_path="$FOLDER/vocab.txt")
    assert Tokenizer.from_folder(tmp_path / "corpus").vocab == swapped


@pytest.mark.slow
def test_shared_text_in_bounded_memory(tmp_path, data_dir):
    """Real text in two languages, and 302 pairs; no process takes more than 1 GiB."""
    inputs = {
        "mono": {language: f"{data_dir}/pretrain/mono/{language}.txt.gz" for language in ("th", "zh")},
        "parallel": {"en-th": f"{data_dir}/pretrain/parallel/en-th.tsv.gz"},
    }
    words = command(
        tmp_path / "corpus", data_dir / "vocab/xnli15-32k.model", inputs, deduplicate=True, workers=2
    )
    # A process that runs the build, and prints how much memory the largest of its descendants took, in KiB.
    measure = (
        "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:]); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
    )
    process = check_success(run_command([sys.executable, "-c", measure, *words]))
    assert int(process.stdout.splitlines()[-1]) < 1 << 20
    assert "warning" not in process.stdout
    corpus = Corpus(tmp_path / "corpus", verify=True)
    assert len(corpus.parallel["en", "th"]) + len(corpus.held_out_parallel["en", "th"]) == 302
