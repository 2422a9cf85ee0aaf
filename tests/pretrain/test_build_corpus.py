"""Building: the same bytes however it is run or stopped; duplicates, filters, held-out text; the summary."""

import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from functools import partial
from hashlib import blake2b
from pathlib import Path
from unittest import mock

import pytest

from ernie_m.pretrain.build_corpus import build, encode_chunks
from ernie_m.pretrain.build_corpus import command as build_command
from ernie_m.pretrain.build_corpus.build import CorpusBuild
from ernie_m.pretrain.build_corpus.build_args import BuildOptions
from ernie_m.pretrain.build_corpus.report import format_pair_report
from ernie_m.pretrain.build_corpus.text_chunks import read_lines
from ernie_m.pretrain.build_corpus.workers import LocalWorkers
from ernie_m.pretrain.packing import group_by_tokens
from ernie_m.reader.corpus import Corpus
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.reader.vocabulary import write_vocab
from ernie_m.utils.args import parse_options
from ernie_m.utils.checksums import MANIFEST, write_manifest
from tests.helpers.files import flip_last_bit, flip_middle_bit, read_files
from tests.launching import ROOT, as_flags, call_main, check_refusal, error_of
from tests.pretrain.builds import OPTIONS, Stopped, command, stop_at
from tests.toys import make_corpus, sentences, train_piece_model, write_lines


def stop(*_):
    raise Stopped


def run_command(words: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True)


def test_corpus_files_and_manifest(inputs, reference):
    """Several shards, no traces of the work; every file of every source, with its size."""
    assert sum(name.startswith("mono/en/train") and ".ids" in name for name in reference) > 1
    assert not [name for name in reference if ".build" in name or ".tmp" in name]
    sizes = json.loads(reference[MANIFEST])["inputs"]
    paths = inputs["parallel"]["fr-en"]  # two aligned files
    assert sizes["parallel/en-fr"] == {f"fr-en<={paths}": sum(map(os.path.getsize, paths.split(",")))}
    assert list(sizes["mono/en"]) == [f"en<={path}" for path in inputs["mono"]["en"]]


@pytest.mark.parametrize("seed", range(2))
def test_a_build_stopped_again_and_again_gives_the_same_bytes(
    tmp_path, monkeypatch, piece_model, inputs, reference, seed
):
    """Each time it is stopped before the renaming of a random file."""
    draw = random.Random(seed)
    for _ in range(100):  # far more times than it takes
        with monkeypatch.context() as patch:
            stop_at(patch, draw.randrange(800))
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
    process = run_command(words)
    assert process.returncode == 0, process.stderr
    assert read_files(tmp_path / "corpus") == reference


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory, piece_model, inputs):
    """A build that was stopped before it wrote its manifest, and has kept its work."""
    folder = tmp_path_factory.mktemp("unfinished") / "corpus"
    with mock.patch.object(build, "write_json", stop), pytest.raises(Stopped):
        make_corpus(folder, piece_model, **inputs, **OPTIONS)
    return folder


def test_text_is_not_tokenized_again(tmp_path, monkeypatch, unfinished, piece_model, inputs, reference):
    shutil.copytree(unfinished, tmp_path / "corpus")
    monkeypatch.setattr(encode_chunks, "read_lines", lambda *_: pytest.fail("tokenized again"))
    make_corpus(tmp_path / "corpus", piece_model, **inputs, **OPTIONS)
    assert read_files(tmp_path / "corpus") == reference


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
        damage(min(work.glob("*.npz")))
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
    return rows


def kept_rows(texts, tokenizer, held_out=0, deduplicate=False, max_ratio=0.0, **_):
    """The ids of all lines of each stream that are trained on or held out, and how many others there are.

    Args:
        texts: languages -> documents, which are lists of rows.
    """
    new = defaultdict(list)  # languages -> each row, its texts in their normal forms, whether it is held out
    dropped = defaultdict(Counter)
    for languages, documents_of_stream in texts.items():
        below = min(held_out / len(documents_of_stream), 0.05) * 2**64
        side = languages.index("en") if "en" in languages else 0  # English is in the most pairs
        for rows in documents_of_stream:
            text = "\n".join(row[side] for row in rows)
            digest = int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")
            for row in rows:
                keys = [tokenizer.processor.Normalize(tokenizer.normalize(text)) for text in row]
                if deduplicate and keys in [others for _, others, _ in new[languages]]:
                    dropped[languages]["duplicate"] += 1
                else:
                    new[languages].append((row, keys, digest < below))
    held = {key for some in new.values() for _, keys, is_held in some if is_held for key in keys}
    kept = defaultdict(list)
    for languages, some in new.items():
        shared = [not held.isdisjoint(keys) for _, keys, is_held in some if not is_held]
        for row, keys, is_held in some:
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
                kept[languages, is_held] += ids
    return kept, dropped


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"deduplicate": True},
        {"max_ratio": 1.5},
        {"held_out": 12},
        {"held_out": 100_000, "deduplicate": True, "max_ratio": 1.5},
        {"held_out": 20, "documents": "blank"},
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
    manifest = make_corpus(tmp_path / "corpus", piece_model, **inputs, **options)
    corpus = Corpus(tmp_path / "corpus")
    kept, dropped = kept_rows(documents, Tokenizer(piece_model_path=piece_model), **options)
    for languages in rows:
        kind, key = ("mono", languages[0]) if len(languages) == 1 else ("parallel", languages)
        counts = manifest[kind]["-".join(languages)]["dropped"]
        assert {reason: count for reason, count in counts.items() if count} == dropped[languages]
        for is_held, texts in enumerate((getattr(corpus, kind), getattr(corpus, f"held_out_{kind}"))):
            text = texts.get(key)
            lines = [text.read_line(number).tolist() for number in range(text.num_lines)] if text else []
            assert lines == kept[languages, is_held]
    french = kept[("de", "fr"), False][1::2] + kept[("en", "fr"), False][1::2]
    assert corpus.count_subwords("fr").sum() == sum(map(len, french))
    said = re.findall(r"en-es: \d+ of \d+ lines are in the held-out part", caplog.text)
    assert bool(said) == bool(options.get("held_out"))


def test_shards_are_as_large_as_allowed(reference):
    """A shard is some consecutive chunks; 10 tokens are allowed, but a chunk is not divided."""
    tokens_of_chunks = [5, 5, 5, 0, 12, 1]
    slices = list(group_by_tokens(tokens_of_chunks, 10))
    assert [tokens_of_chunks[encode_chunks] for encode_chunks in slices] == [[5, 5], [5, 0], [12], [1]]
    assert list(group_by_tokens([0, 0], 10)) == []
    sizes = [len(data) for name, data in reference.items() if name.endswith(".ids.npy")]
    assert max(sizes) <= OPTIONS["shard_mib"] * 2**20 + 128  # the bytes of an .npy file before the array


def test_the_report(tmp_path, capsys, piece_model):
    """Georgian has letters that the SentencePiece model does not know, so it gets the warning."""
    english = write_lines(tmp_path / "en", ["baba dodo"] * 3)
    georgian = write_lines(tmp_path / "ka", ["ბაბა დოდო"] * 2)
    pairs = write_lines(tmp_path / "x.tsv", ["baba\tdodo baba dodo"])
    values = {
        "output": tmp_path / "corpus",
        "piece_model_path": piece_model,
        "workers": 1,
        "deduplicate": "true",
    }
    texts = ["--mono", f"en<={english}", "--mono", f"ka<={georgian}", "--parallel", f"de-en<={pairs}"]
    printed = []
    for _ in range(2):
        call_main(build_command, [*as_flags(values), *texts])
        printed.append([" ".join(line.split()) for line in capsys.readouterr().out.splitlines()])
    tokenizer = Tokenizer(None, piece_model)
    en, ka, of_de, of_en = (
        len(tokenizer.encode(text)) for text in ("baba dodo", "ბაბა დოდო", "baba", "dodo baba dodo")
    )
    unknown = tokenizer.encode("ბაბა დოდო").count(tokenizer.unk_id) / ka
    report = [
        "text lines tokens unknown mean length held out left out",
        f"en 1 {en} 0.00% {en:.1f} 0 2 duplicate",
        f"ka 1 {ka} {unknown:.2%} {ka:.1f} 0 1 duplicate",
        f"de-en: de 1 {of_de} 0.00% {of_de:.1f} 0",
        f"de-en: en 1 {of_en} 0.00% {of_en:.1f} 0",
        f"warning: ka: {unknown:.1%} of its tokens are unknown; the vocabulary does not cover this language",
        *(
            f"0 of 1 pairs exceed data.max_seq_len {length}; 0.0% of all tokens are truncated"
            for length in (128, 256, 512)
        ),
        "de-en 1 de: baba",
        "de-en 1 en: dodo baba dodo",
    ]
    samples = [
        f"{english}: en: baba dodo",
        f"{georgian}: ka: ბაბა დოდო",
        f"{pairs}: de: baba",
        f"{pairs}: en: dodo baba dodo",
    ]
    assert printed[0] == [*samples, *report]
    assert printed[1] == [f"{tmp_path}/corpus: already built; verifying its checksums", *report]
    counts = json.loads((tmp_path / "corpus" / MANIFEST).read_text())["mono"]["ka"]["train"]
    assert counts["unknown"] == counts["by_language"]["ka"]["unknown"] > 0


ENGLISH = sentences(400, seed=3)
# A translation for the report: words of similar length, in another order.
GERMAN = [" ".join(f"{word}na" for word in reversed(line.split())) for line in ENGLISH]
PAIRS = [f"{english}\t{german}" for english, german in zip(ENGLISH, GERMAN)]


@pytest.mark.parametrize(
    ("second", "warning"),
    [
        (GERMAN, ""),  # the translations
        # A line is missing: the first one, or two in the middle.
        (GERMAN[1:], "at 3 of 3 sampled positions"),
        (GERMAN[:200] + GERMAN[202:], "of 3 sampled positions"),
        # No translations at all.
        (sentences(400, seed=4), "unrelated lengths"),
    ],
)
def test_sides_that_do_not_belong_together(tmp_path, piece_model, second, warning):
    """`second` is the other side of ENGLISH; `warning`: part of the warning, "" if there is none."""
    lines = [f"{english}\t{german}" for english, german in zip(ENGLISH, second)]
    make_corpus(tmp_path / "corpus", piece_model, parallel={"en-de": write_lines(tmp_path / "x.tsv", lines)})
    corpus = Corpus(tmp_path / "corpus")
    report = format_pair_report(corpus, Tokenizer.from_folder(corpus.path))
    assert [line[:14] for line in report[:3]] == [f"0 of {len(lines)} pairs"] * 3  # too long
    examples = report[3:9]  # three pairs
    assert f"de-en 1 de: {second[0]}".startswith(examples[0])  # a long line is truncated
    assert examples[1].startswith(f"de-en 1 en: {ENGLISH[0]}")
    are_as_expected = [line.startswith("warning: de-en: ") and warning in line for line in report[9:]]
    assert are_as_expected == [True] * bool(warning)


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
def test_text_that_changes(tmp_path, monkeypatch, piece_model, inputs, before, after):
    """While it is read it is refused; after a kill its chunks are made again."""
    monkeypatch.chdir(tmp_path)
    write_lines(Path("english"), ENGLISH)
    write_lines(Path("text"), before)
    with monkeypatch.context() as patch:
        patch.setattr(encode_chunks, "read_lines", lambda *_: os.utime("text") or read_lines(*_))
        assert "text: changed" in error_of(make_corpus, Path("corpus"), piece_model, **inputs)
    write_lines(Path("text"), after)
    for folder in (Path("corpus"), Path("anew")):
        make_corpus(folder, piece_model, **inputs)
    assert read_files(Path("corpus")) == read_files(Path("anew"))


def test_overwriting_leaves_other_files(tmp_path, piece_model, inputs):
    (tmp_path / "corpus/.build").mkdir(parents=True)
    (tmp_path / "corpus/note.txt").write_text("mine")
    for held_out in (5, 6):  # first over the unfinished build, then over the corpus
        make_corpus(tmp_path / "corpus", piece_model, **inputs, held_out=held_out, overwrite=True)
        piece_model = tmp_path / "corpus/piece.model"  # the SentencePiece model of the corpus may serve again
        assert Corpus(tmp_path / "corpus").manifest["options"]["held_out"] == held_out
    # The same corpus without --overwrite, which does not change it.
    make_corpus(tmp_path / "corpus", piece_model, **inputs, held_out=6)
    assert (tmp_path / "corpus/note.txt").read_text() == "mine"


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
    flip_last_bit(tmp_path / "corpus/mono/fr/train-00000.ids.npy")
    assert "train-00000.ids.npy: corrupt" in error_of(make_corpus, tmp_path / "corpus", piece_model, **inputs)


@pytest.mark.parametrize("key", ["options", "sha256"])
def test_reject_corrupt_corpus_manifest(tmp_path, piece_model, inputs, key):
    mono = {"fr": inputs["mono"]["fr"]}
    make_corpus(tmp_path / "corpus", piece_model, mono=mono)
    manifest = tmp_path / "corpus" / MANIFEST
    manifest.write_text(manifest.read_text().replace(f'"{key}"', '"other"'))
    assert "manifest.json: corrupt" in error_of(make_corpus, tmp_path / "corpus", piece_model, mono=mono)


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
    mono = {"en": files[: 1 + message.startswith("x")]}
    assert message in error_of(make_corpus, tmp_path / "corpus", piece_model, mono=mono, held_out=1)


def test_a_worker_never_receives_ctrl_c():
    """It is blocked when the worker starts, so that its imports are not interrupted either."""
    with LocalWorkers(2) as workers:
        blocked = workers.submit(signal.pthread_sigmask, signal.SIG_BLOCK, []).result()
    assert signal.SIGINT in blocked and signal.SIGTERM not in blocked


def test_by_the_name_in_a_checkout():
    process = run_command([sys.executable, "-m", "pretrain.build_corpus", "--on_error", "go"])
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


@pytest.mark.parametrize(
    "options, message",
    [
        ({"output": ""}, "--output"),
        ({"piece_model_path": ""}, "--piece_model_path"),
        ({"on_error": "go"}, "--on_error"),
        ({"ray_address": "auto"}, "--engine ray"),
    ],
)
def test_options_that_make_no_sense(options, message):
    options = {"output": "x", "piece_model_path": "y"} | options
    assert message in error_of(
        parse_options, BuildOptions, [f"--{key}={text}" for key, text in options.items()]
    )


@pytest.mark.slow
def test_shared_text_in_bounded_memory(tmp_path, data_dir):
    """Real text in two languages, and 302 pairs; no process takes more than 1 GiB."""
    inputs = {
        "mono": {language: f"{data_dir}/pretrain/mono/{language}.txt.gz" for language in ("th", "zh")},
        "parallel": {"en-th": f"{data_dir}/pretrain/parallel/en-th.tsv.gz"},
    }
    model = data_dir / "vocab/xnli15-32k.model"
    words = command(tmp_path / "corpus", model, inputs, deduplicate=True, workers=2)
    # A process that runs the build, and prints how much memory the largest of its descendants took, in KiB.
    measure = (
        "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:]); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
    )
    process = run_command([sys.executable, "-c", measure, *words])
    assert process.returncode == 0, process.stderr
    assert int(process.stdout.splitlines()[-1]) < 1 << 20
    assert "warning" not in process.stdout
    corpus = Corpus(tmp_path / "corpus", verify=True)
    assert len(corpus.parallel["en", "th"]) + len(corpus.held_out_parallel["en", "th"]) == 302
