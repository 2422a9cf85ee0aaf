"""Building: the same bytes however it is run or stopped; duplicates, filters, held-out text; the summary."""

import gzip
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from glob import glob
from pathlib import Path
from unittest import mock

import pytest

from ernie_m.pretrain.build_corpus import duplicates, stages
from ernie_m.pretrain.build_corpus.build import CorpusBuild
from ernie_m.pretrain.build_corpus.options import BuildOptions
from ernie_m.pretrain.build_corpus.report import pair_report, summary
from ernie_m.pretrain.build_corpus.stages import group_units
from ernie_m.pretrain.build_corpus.workers import LocalWorkers
from ernie_m.reader.corpus import Corpus
from ernie_m.tokenizer.tokenizer import Tokenizer
from ernie_m.utils.checksums import MANIFEST, write_manifest
from ernie_m.utils.errors import UserError
from tests.helpers.files import files_of, flip_last_bit, flip_middle_bit
from tests.helpers.processes import is_running
from tests.launching import ROOT, error_of
from tests.pretrain.builds import OPTIONS, Stopped, command, stop_at
from tests.toys import make_corpus, sentences, train_pieces, write_lines


def lines_of(text) -> list[list[int]]:
    """The ids of each line of a `CorpusText`."""
    return [text.line(number).tolist() for number in range(text.num_lines)]


def pairs_of(pairs) -> list[list[list[int]]]:
    """The ids of both sides of each pair of `CorpusPairs`."""
    return [[side.tolist() for side in pairs[number]] for number in range(len(pairs))]


def stop(*_):
    raise Stopped


def test_two_workers_give_the_same_bytes(tmp_path, pieces, inputs, reference):
    english_shards = [name for name in reference if name.startswith("mono/en/train") and ".ids" in name]
    assert len(english_shards) > 1
    assert not [name for name in reference if ".build" in name or ".tmp" in name]  # no traces of the work
    make_corpus(tmp_path / "corpus", pieces, **inputs, **OPTIONS, workers=2)
    assert files_of(tmp_path / "corpus") == reference


@pytest.mark.parametrize("seed", range(4))
def test_a_build_stopped_again_and_again_gives_the_same_bytes(
    tmp_path, monkeypatch, pieces, inputs, reference, seed
):
    """Each time it is stopped before the renaming of a random file."""
    draw = random.Random(seed)
    for _ in range(100):  # far more times than it takes
        with monkeypatch.context() as patch:
            stop_at(patch, draw.randrange(60))
            try:
                make_corpus(tmp_path / "corpus", pieces, **inputs, **OPTIONS)
                break
            except Stopped:
                assert not (tmp_path / "corpus" / MANIFEST).exists()
    assert files_of(tmp_path / "corpus") == reference


def test_killed_with_its_workers_and_run_again(tmp_path, pieces, inputs, reference):
    """It is killed in the middle of each of two passes over the text, when some units are done."""
    words = command(tmp_path / "corpus", pieces, inputs, workers=2, **OPTIONS)
    for stage in ("scan", "tokens"):
        finished = f"{tmp_path}/corpus/**/{stage}/*-*"  # its units
        deadline = time.monotonic() + 240
        while True:
            process = subprocess.Popen(words, cwd=ROOT)
            while process.poll() is None and len(glob(finished, recursive=True, include_hidden=True)) <= 4:
                time.sleep(0.01)
            process.send_signal(signal.SIGSTOP)
            if process.poll() is None:
                break
            shutil.rmtree(tmp_path / "corpus")  # this busy machine was too late: it had ended
            assert time.monotonic() < deadline
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        workers = [int(pid) for pid in children.split()]
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert len(workers) >= 2
        while any(map(is_running, workers)):  # they end by themselves
            assert time.monotonic() < deadline
            time.sleep(0.05)
    process = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert files_of(tmp_path / "corpus") == reference


def test_only_what_is_missing_is_done_again(tmp_path, monkeypatch, pieces, inputs, reference):
    """A build that is stopped before its shards does not read or tokenize the text again."""
    with monkeypatch.context() as patch:
        patch.setattr(CorpusBuild, "write_shards", stop)
        with pytest.raises(Stopped):
            make_corpus(tmp_path / "corpus", pieces, **inputs, **OPTIONS)
    monkeypatch.setattr(Tokenizer, "encode_batch", lambda *_: pytest.fail("tokenized again"))
    monkeypatch.setattr(stages, "read_lines", lambda *_: pytest.fail("read again"))
    make_corpus(tmp_path / "corpus", pieces, **inputs, **OPTIONS)
    assert files_of(tmp_path / "corpus") == reference


def build_until(stage, output, pieces, inputs):
    """Build a corpus up to a method of `CorpusBuild`."""
    with mock.patch.object(CorpusBuild, stage, stop), pytest.raises(Stopped):
        make_corpus(output, pieces, **inputs, **OPTIONS)


@pytest.mark.parametrize(
    "stage, name",
    [
        ("find_duplicates", ".build/mono/fr/scan-00000.json"),
        ("find_duplicates", ".build/mono/fr/scan/00000-000001"),
        ("tokenize", ".build/mono/fr/duplicates/00000"),
        ("write_shards", ".build/mono/fr/tokens-00000.json"),
        ("write_shards", ".build/mono/fr/tokens/00000-000001"),
        ("finish", ".build/mono/fr/shards/train-00000.json"),
        ("finish", ".build/mono/fr/shards/train-00000.pieces.npy"),
        ("finish", "mono/fr/train-00000.ids.npy"),
    ],
)
def test_what_was_damaged_is_done_again(tmp_path, pieces, inputs, reference, stage, name):
    build_until(stage, tmp_path / "corpus", pieces, inputs)
    flip_middle_bit(tmp_path / "corpus" / name)
    make_corpus(tmp_path / "corpus", pieces, **inputs, **OPTIONS)
    assert files_of(tmp_path / "corpus") == reference


def test_another_vocabulary_in_the_same_folder(tmp_path, pieces, inputs, reference):
    """The second build of this process cuts the text with its own vocabulary, not with the first one's."""
    others = train_pieces(tmp_path / "others.model", vocab_size=90)
    for piece_model in (others, pieces):
        make_corpus(tmp_path / "corpus", piece_model, **inputs, **OPTIONS, workers=1, overwrite=True)
    assert files_of(tmp_path / "corpus") == reference


@pytest.mark.parametrize("damage", [flip_middle_bit, Path.unlink])
def test_a_unit_that_is_damaged_during_a_build(tmp_path, monkeypatch, pieces, inputs, reference, damage):
    """The build ends with one line, and the same command makes the unit again."""
    unit = tmp_path / "corpus/.build/mono/fr/tokens/00000-000001"
    write_shards = CorpusBuild.write_shards

    def damaged(corpus_build):
        damage(unit)
        write_shards(corpus_build)

    with monkeypatch.context() as patch:
        patch.setattr(CorpusBuild, "write_shards", damaged)
        assert f"{unit}: " in error_of(make_corpus, tmp_path / "corpus", pieces, **inputs, **OPTIONS)
    make_corpus(tmp_path / "corpus", pieces, **inputs, **OPTIONS)
    assert files_of(tmp_path / "corpus") == reference


def test_a_plan_that_is_no_plan(tmp_path, pieces, inputs):
    build_until("scan", tmp_path / "corpus", pieces, inputs)
    (tmp_path / "corpus/.build/plan.json").write_text("[]")
    line = error_of(make_corpus, tmp_path / "corpus", pieces, **inputs, **OPTIONS)
    assert ".build/plan.json: " in line and "--overwrite true" in line


@pytest.mark.parametrize("deduplicate", [True, False])
def test_of_equal_lines_the_first_stays(tmp_path, monkeypatch, pieces, inputs, deduplicate):
    monkeypatch.setattr(duplicates, "KEYS_IN_MEMORY", 100)  # so that there are many parts
    make_corpus(tmp_path / "corpus", pieces, **inputs, deduplicate=deduplicate)
    corpus = Corpus(tmp_path / "corpus")
    tokenizer = Tokenizer(piece_model_path=pieces)
    gz_file, second_file = inputs["mono"]["en"]
    english = gzip.decompress(Path(gz_file).read_bytes()).decode().split("\n")
    english += Path(second_file).read_text().splitlines()
    rows = [tuple(line.split("\t")) for line in Path(inputs["parallel"]["en-de"]).read_text().splitlines()]
    expected_lines = english
    expected_rows = rows
    if deduplicate:  # a dictionary has each key once, where it came first
        expected_lines = list(dict.fromkeys(english))
        expected_rows = list(dict.fromkeys(rows))
    assert lines_of(corpus.mono["en"]) == tokenizer.encode_batch(expected_lines)
    # The rows are English and German; the corpus has the languages in alphabetical order.
    expected_pairs = [tokenizer.encode_batch([german, english]) for english, german in expected_rows]
    assert pairs_of(corpus.parallel["de", "en"]) == expected_pairs
    dropped = corpus.manifest["parallel"]["de-en"]["dropped"]
    assert dropped["duplicate"] == len(rows) - len(expected_rows)
    assert (dropped["duplicate"] > 0) == deduplicate


def test_ratio_of_lengths(tmp_path, pieces):
    tokenizer = Tokenizer(piece_model_path=pieces)
    german = sentences(400, 1)
    english = sentences(400, 2)
    path = write_lines(tmp_path / "x.tsv", [f"{a}\t{b}" for a, b in zip(german, english)])
    make_corpus(tmp_path / "corpus", pieces, parallel={"de-en": path}, max_ratio=2.0)
    corpus = Corpus(tmp_path / "corpus")
    expected = []
    too_different = 0
    for german_ids, english_ids in zip(tokenizer.encode_batch(german), tokenizer.encode_batch(english)):
        shorter, longer = sorted([len(german_ids), len(english_ids)])
        if longer <= 2 * shorter:
            expected.append([german_ids, english_ids])
        else:
            too_different += 1
    assert too_different > 0
    assert pairs_of(corpus.parallel["de", "en"]) == expected
    assert corpus.manifest["parallel"]["de-en"]["dropped"]["ratio"] == too_different


def test_lines_without_any_piece_are_left_out(tmp_path, pieces):
    """sentencepiece makes nothing of zero-width spaces and marks of direction."""
    path = write_lines(tmp_path / "x", ["baba", "\u200b\u200e", "\u200b", "dodo"])
    manifest = make_corpus(tmp_path / "corpus", pieces, mono={"en": path})
    assert manifest["mono"]["en"]["train"]["lines"] == 2
    assert manifest["mono"]["en"]["dropped"]["empty"] == 2


def test_held_out_text(tmp_path, pieces):
    """About as much as asked; equal lines go together, also an English line that is in two pairs."""
    english = []  # 6000 lines, each of them twice
    for line in sentences(3000, 1):
        english += [line, line]
    german, french = ([f"{name} {line}" for line in sentences(6000, 2)] for name in ("de", "fr"))
    mono = write_lines(tmp_path / "en", english)
    parallel = {
        "en-de": write_lines(tmp_path / "de.tsv", map("\t".join, zip(english, german))),
        "fr-en": write_lines(tmp_path / "fr.tsv", map("\t".join, zip(french, english))),
    }
    make_corpus(tmp_path / "corpus", pieces, mono={"en": mono}, parallel=parallel, held_out=200)
    corpus = Corpus(tmp_path / "corpus")
    train = {tuple(line) for line in lines_of(corpus.mono["en"])}
    held_out = {tuple(line) for line in lines_of(corpus.held_out_mono["en"])}
    assert not train & held_out
    assert corpus.mono["en"].num_lines + corpus.held_out_mono["en"].num_lines == 6000
    # Each of 3000 lines is drawn by its hash, so the number of lines has a standard deviation of about 20.
    assert abs(corpus.held_out_mono["en"].num_lines - 200) < 80
    for languages in (("de", "en"), ("en", "fr")):
        english_side = languages.index("en")
        pairs = pairs_of(corpus.held_out_parallel[languages])
        assert {tuple(pair[english_side]) for pair in pairs} == held_out
    # The counts of pieces are those of the train text.
    assert corpus.piece_counts("fr").sum() == sum(len(french) for _, french in corpus.parallel["en", "fr"])


@pytest.mark.parametrize("held_out, low, high", [(100_000, 0.03, 0.07), (0, 0, 0)])
def test_at_most_a_twentieth_is_held_out(tmp_path, pieces, held_out, low, high):
    """`low` and `high` are the bounds of the share that is held out; which lines are, their hashes decide."""
    path = write_lines(tmp_path / "en", sentences(3000, 1))
    manifest = make_corpus(tmp_path / "corpus", pieces, mono={"en": path}, held_out=held_out)
    assert low <= manifest["mono"]["en"]["held_out"]["lines"] / 3000 <= high
    assert "held-out text" not in manifest["mono"]["en"]["dropped"]  # as earlier versions wrote it


def texts_of(mono, parallel):
    """The ids of all lines, and of both sides of all pairs."""
    lines = itertools.chain.from_iterable(map(lines_of, mono.values()))
    pairs = itertools.chain.from_iterable(map(pairs_of, parallel.values()))
    return {tuple(ids) for ids in itertools.chain(lines, *pairs)}


def other_bytes(lines):
    """The same texts with no-break spaces, twice as many spaces, and a full-width letter."""
    return [line.replace(" ", "\u00a0  ", 1).replace("a", "ａ", 1) for line in lines]


@pytest.mark.parametrize("deduplicate", [False, True])
def test_held_out_text_is_in_no_training_text(tmp_path, pieces, deduplicate):
    """Sentences of three languages, in three pairs of languages, in text, and in other bytes."""
    lines = {name: list(dict.fromkeys(sentences(350, seed))) for seed, name in enumerate(("de", "en", "fr"))}
    mono = {}
    for name, texts in lines.items():
        mono[name] = write_lines(tmp_path / name, texts[:150] + other_bytes(texts[:150]))
    parallel = {}
    for first, second in itertools.permutations(lines, 2):  # de-en is en-de, from the other side
        rows = list(zip(lines[first], other_bytes(lines[second])))
        rows += zip(other_bytes(lines[first]), lines[second][1:])
        path = write_lines(tmp_path / f"{first}-{second}.tsv", map("\t".join, rows))
        parallel[f"{first}-{second}"] = path
    options = {"held_out": 12, "deduplicate": deduplicate, "unit_mib": 1}
    manifest = make_corpus(tmp_path / "corpus", pieces, mono=mono, parallel=parallel, **options)
    corpus = Corpus(tmp_path / "corpus")
    trained = texts_of(corpus.mono, corpus.parallel)
    held_out = texts_of(corpus.held_out_mono, corpus.held_out_parallel)
    assert len(held_out) > 15 and len(trained) > 600 and not trained & held_out
    assert all(entry["dropped"]["held-out text"] for entry in manifest["parallel"].values())


@pytest.mark.parametrize(("repeated", "stays"), [(99, True), (9, False)])
def test_lines_stay_where_more_than_half_would_go(tmp_path, pieces, caplog, repeated, stays):
    """`repeated` of 139 pairs have one English sentence, which is held out in text; their number is said."""
    line = "bado 56"  # its hash is among those that are held out
    english = [f"en {text}" for text in sentences(400, 1)]
    rows = zip([line] * repeated + english[repeated:139], sentences(139, 2))
    parallel = {"en-de": write_lines(tmp_path / "x.tsv", map("\t".join, rows))}
    mono = {"en": write_lines(tmp_path / "en", [line, *english])}
    manifest = make_corpus(tmp_path / "corpus", pieces, mono=mono, parallel=parallel, held_out=40)
    said = re.findall(r"de-en: \d+ of \d+ lines have a text that is held out elsewhere", caplog.text)
    assert bool(said) == stays
    assert (manifest["parallel"]["de-en"]["dropped"].get("held-out text", 0) >= 9) != stays


def test_documents_are_held_out_whole(tmp_path, pieces):
    """Each of 500 documents of four lines is either in the train text or in the held-out text."""
    lines = sentences(2000, 1)
    documents = [lines[start : start + 4] for start in range(0, 2000, 4)]
    lines_with_blanks = []
    for document in documents:
        lines_with_blanks += [*document, ""]
    path = write_lines(tmp_path / "x", lines_with_blanks)
    make_corpus(tmp_path / "corpus", pieces, mono={"en": path}, documents="blank", held_out=25)
    corpus = Corpus(tmp_path / "corpus")
    tokenizer = Tokenizer(piece_model_path=pieces)
    in_corpus = []
    for text in (corpus.mono["en"], corpus.held_out_mono["en"]):
        ids = lines_of(text)
        for start, end in itertools.pairwise(text.document_offsets(0).tolist()):  # of shard 0, the only one
            in_corpus.append(ids[start:end])
    assert sorted(in_corpus) == sorted(tokenizer.encode_batch(document) for document in documents)


def test_shards_are_as_large_as_allowed(reference):
    """A shard is some consecutive units; 10 tokens are allowed, but a unit is not divided."""
    tokens_of_units = [5, 5, 5, 0, 12, 1]
    shards = [tokens_of_units[units] for units in group_units(tokens_of_units, 10)]  # `units` is a slice
    assert shards == [[5, 5], [5, 0], [12], [1]]
    assert list(group_units([0, 0], 10)) == []
    sizes = [len(data) for name, data in reference.items() if name.endswith(".ids.npy")]
    header = 128  # bytes of an .npy file before the array
    assert max(sizes) <= OPTIONS["shard_mib"] * 2**20 + header


def test_the_table_and_the_warning(tmp_path, pieces):
    """Georgian has letters that the piece model does not know, so it gets the warning."""
    mono = {
        "en": write_lines(tmp_path / "en", ["baba dodo"] * 3),
        "ka": write_lines(tmp_path / "ka", ["ბაბა დოდო"] * 2),
    }
    pair = write_lines(tmp_path / "x.tsv", ["baba\tdodo baba"])
    manifest = make_corpus(tmp_path / "corpus", pieces, mono=mono, parallel={"en-de": pair}, deduplicate=True)
    table = summary(manifest)
    tokens = manifest["mono"]["en"]["train"]["tokens"]
    rows = {row.split("  ")[0].strip(): row.split() for row in table}  # text -> words of its row
    # One line of the three is left: its tokens, unknown ones, mean length, held out, left out.
    assert rows["en"][1:] == ["1", str(tokens), "0.00%", f"{tokens:.1f}", "0", "2", "duplicate"]
    assert rows["ka"][-2:] == ["1", "duplicate"]
    _, _, lines_of_german, *_ = rows["de-en: de"]
    _, _, lines_of_english, *_ = rows["de-en: en"]
    assert lines_of_german == lines_of_english == "1"
    warnings = [line for line in table if line.startswith("warning")]
    assert len(warnings) == 1 and warnings[0].startswith("warning: ka: ")


ENGLISH = sentences(400, seed=3)
# A translation for the report: words of similar length, in another order.
GERMAN = [" ".join(f"{word}na" for word in reversed(line.split())) for line in ENGLISH]


@pytest.mark.parametrize(
    ("second", "warning"),
    [
        (GERMAN, ""),  # the translations
        # A line is missing: the first one, or two in the middle.
        (GERMAN[1:], "at 3 of 3 places that were looked at the sides have unrelated lengths"),
        (GERMAN[:200] + GERMAN[202:], "of 3 places that were looked at the sides have unrelated lengths"),
        # No translations at all.
        (sentences(400, seed=4), "share no numbers or names; is a line missing in one file"),
    ],
)
def test_sides_that_do_not_belong_together(tmp_path, pieces, second, warning):
    """`second` is the other side of ENGLISH; `warning`: part of the warning, "" if there is none."""
    lines = [f"{english}\t{german}" for english, german in zip(ENGLISH, second)]
    make_corpus(tmp_path / "corpus", pieces, parallel={"en-de": write_lines(tmp_path / "x.tsv", lines)})
    corpus = Corpus(tmp_path / "corpus")
    report = pair_report(corpus, Tokenizer.from_folder(corpus.path))
    assert [line[:14] for line in report[:3]] == [f"0 of {len(lines)} pairs"] * 3  # too long
    examples = report[3:9]  # three pairs
    assert f"de-en 1 de: {second[0]}".startswith(examples[0])  # a long line is cut
    assert examples[1].startswith(f"de-en 1 en: {ENGLISH[0]}")
    warnings = report[9:]
    if warning:
        (line,) = warnings
        assert line.startswith("warning: de-en: ") and warning in line
    else:
        assert not warnings


def run_command(words: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True)


def test_an_unfinished_build_goes_on_only_with_the_same_plan(tmp_path, monkeypatch, pieces, inputs):
    """With other options or changed files it is refused. --overwrite begins anew, beside other files."""
    with monkeypatch.context() as patch:
        stop_at(patch, file_number=30)
        with pytest.raises(Stopped):
            make_corpus(tmp_path / "corpus", pieces, **inputs)
    line = error_of(make_corpus, tmp_path / "corpus", pieces, **inputs, held_out=5)
    assert ".build " in line and "options.held_out: 0 -> 5" in line
    exchanged = inputs | {"mono": inputs["mono"] | {"en": inputs["mono"]["en"][::-1]}}
    assert "(order: " in error_of(make_corpus, tmp_path / "corpus", pieces, **exchanged)
    os.utime(inputs["mono"]["fr"])
    assert f"(modified.{inputs['mono']['fr']}: " in error_of(
        make_corpus, tmp_path / "corpus", pieces, **inputs
    )
    with monkeypatch.context() as patch:
        patch.setattr(CorpusBuild, "find_duplicates", lambda _: os.utime(inputs["mono"]["fr"]))
        assert "changed while it was read" in error_of(
            make_corpus, tmp_path / "corpus", pieces, **inputs, held_out=5, overwrite=True
        )
    (tmp_path / "corpus/note.txt").write_text("mine")
    for held_out in (5, 6):  # first over the unfinished build, then over the corpus
        make_corpus(tmp_path / "corpus", pieces, **inputs, held_out=held_out, overwrite=True)
        pieces = tmp_path / "corpus/piece.model"  # the piece model of the corpus may serve again
        assert Corpus(tmp_path / "corpus").manifest["options"]["held_out"] == held_out
    assert (tmp_path / "corpus/note.txt").read_text() == "mine"


def test_a_finished_corpus_is_checked_not_built_again(tmp_path, pieces, inputs, caplog):
    caplog.set_level("WARNING", logger="ernie_m")
    manifest = make_corpus(tmp_path / "corpus", pieces, **inputs)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "corpus").rglob("*")}
    assert make_corpus(tmp_path / "corpus", pieces, **inputs, workers=3) == manifest
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "corpus").rglob("*")} == before
    (tmp_path / "corpus/.build/mono").mkdir(parents=True)  # left by a build that was killed at its end
    make_corpus(tmp_path / "corpus", pieces, **inputs)
    assert not (tmp_path / "corpus/.build").exists()
    assert not caplog.records
    later = (tmp_path / "corpus/manifest.json").stat().st_mtime + 1
    os.utime(inputs["mono"]["fr"], (later, later))
    make_corpus(tmp_path / "corpus", pieces, **inputs)
    (warning,) = caplog.messages
    assert warning.startswith(f"{inputs['mono']['fr']}: written after the corpus was built")
    assert "made with other settings (options.documents: line -> blank)" in error_of(
        make_corpus, tmp_path / "corpus", pieces, **inputs, documents="blank"
    )
    flip_last_bit(tmp_path / "corpus/mono/fr/train-00000.ids.npy")
    assert "train-00000.ids.npy: damaged, its checksum" in error_of(
        make_corpus, tmp_path / "corpus", pieces, **inputs
    )


@pytest.mark.parametrize(
    "key, message",
    [('"options"', "(options"), ('"bytes"', "manifest.json: ")],
)
def test_a_damaged_manifest_of_a_finished_corpus(tmp_path, pieces, inputs, key, message):
    make_corpus(tmp_path / "corpus", pieces, mono={"fr": inputs["mono"]["fr"]})
    manifest = tmp_path / "corpus" / MANIFEST
    manifest.write_text(manifest.read_text().replace(key, '"other"', 1))
    assert "manifest.json: damaged, its checksum" in error_of(
        make_corpus, tmp_path / "corpus", pieces, mono={"fr": inputs["mono"]["fr"]}
    )
    without_checksum = json.loads(manifest.read_text())
    del without_checksum["sha256"]  # as version 1.0 wrote it
    manifest.write_text(json.dumps(without_checksum))
    assert message in error_of(make_corpus, tmp_path / "corpus", pieces, mono={"fr": inputs["mono"]["fr"]})


@pytest.mark.parametrize("overwrite", [False, True])
def test_foreign_folders_are_left_alone(tmp_path, pieces, inputs, overwrite):
    (tmp_path / "chapter").write_text("precious")
    assert "neither" in error_of(make_corpus, tmp_path, pieces, **inputs, overwrite=overwrite)
    assert (tmp_path / "chapter").read_text() == "precious"


def test_a_model_is_no_corpus(tmp_path, pieces, inputs):
    """It has a manifest of its own, and perhaps a folder of the user's that is named like one of a corpus."""
    (tmp_path / "model.safetensors").touch()
    write_manifest(tmp_path / "manifest.json")
    (tmp_path / "mono").mkdir()
    assert error_of(make_corpus, tmp_path, pieces, **inputs, overwrite=True).startswith(
        f"{tmp_path}: neither"
    )
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["manifest.json", "model.safetensors", "mono"]


def test_a_language_without_text(tmp_path, pieces):
    """Without a line, with blank lines, and with a line of which sentencepiece makes nothing."""
    (tmp_path / "corpus").mkdir()
    lines_by_message = {
        "empty: no text": [],
        "no text in en in it": ["", "  "],
        "en: nothing is left": ["\u200b"],
    }
    for message, lines in lines_by_message.items():
        path = write_lines(tmp_path / "x", lines)
        assert message in error_of(
            make_corpus, tmp_path / "corpus", pieces, mono={"en": path}, overwrite=True
        )


def test_a_language_whose_text_is_all_held_out(tmp_path, pieces):
    """A twentieth of all lines is held out by its hash, and this line is one of them."""
    path = write_lines(tmp_path / "x", ["bado 56"])
    line = error_of(make_corpus, tmp_path / "corpus", pieces, mono={"en": path}, held_out=1)
    assert "en: " in line and "--held_out 0" in line
    make_corpus(tmp_path / "corpus", pieces, mono={"en": path}, held_out=0, overwrite=True)


def test_a_dead_worker():
    tasks = [(1,)]  # the argument of os._exit: the worker ends at once
    with LocalWorkers(2) as workers, pytest.raises(UserError, match="a worker process died"):
        list(workers.run(os._exit, tasks))


def test_a_worker_never_receives_ctrl_c():
    """It is blocked when the worker starts, so that its imports are not interrupted either."""
    with LocalWorkers(2) as workers:
        blocked = workers.submit(signal.pthread_sigmask, signal.SIG_BLOCK, []).result()
    assert signal.SIGINT in blocked and signal.SIGTERM not in blocked


def test_its_earlier_name():
    """By the link at the top of a checkout."""
    process = run_command([sys.executable, "-m", "pretrain.build_corpus", "--help"])
    assert process.stdout.startswith("usage: ernie-m build_corpus ")


def test_command_line(tmp_path, pieces, monkeypatch):
    """A YAML file and flags together; one line for a mistake, exit code 2."""
    text = write_lines(tmp_path / "en", sentences(50))
    (tmp_path / "c.yaml").write_text(f"mono:\n  en: {text}\npiece_model_path: {pieces}\nheld_out: 0\n")
    words = [sys.executable, "-m", "ernie_m", "build_corpus", "--config", str(tmp_path / "c.yaml")]
    words += ["--output", "$FOLDER/corpus", "--workers", "1"]
    monkeypatch.setenv("FOLDER", str(tmp_path))
    english = write_lines(tmp_path / "x.en", ["a", "b"])
    german = write_lines(tmp_path / "x.de", ["a"])
    process = run_command([*words, "--parallel", f"en-de<={english},{german}"])
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    fault = f"{german} has 1 lines, the other more: not aligned; line i"
    assert line.startswith(f"error: {english} and {german}: {fault}")
    process = run_command([*words, "--overwrite", "true"])
    assert process.returncode == 0, process.stderr
    language, lines, *_ = process.stdout.splitlines()[-1].split()  # the last row of the table
    assert (language, lines) == ("en", "50") and (tmp_path / "corpus").is_dir()


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
    assert message in error_of(BuildOptions, **({"output": "x", "piece_model_path": "y"} | options))


def test_shared_text_in_bounded_memory(tmp_path, data_dir):
    """Real text in two languages, and 302 pairs; no process takes more than 1 GiB."""
    inputs = {
        "mono": {language: f"{data_dir}/pretrain/mono/{language}.txt.gz" for language in ("th", "zh")},
        "parallel": {"en-th": f"{data_dir}/pretrain/parallel/en-th.tsv.gz"},
    }
    model = data_dir / "vocab/xnli15-32k.model"
    words = command(tmp_path / "corpus", model, inputs, deduplicate=True, workers=2)
    # A process that runs the build, and prints how much memory the largest of its descendants took, in KiB.
    measure = "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:]); "
    measure += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
    process = run_command([sys.executable, "-c", measure, *words])
    assert process.returncode == 0, process.stderr
    assert int(process.stdout.splitlines()[-1]) < 1 << 20
    assert "warning" not in process.stdout
    corpus = Corpus(tmp_path / "corpus", verify=True)
    assert corpus.manifest["mono"]["zh"]["train"]["unknown"] > 0
    assert len(corpus.parallel["en", "th"]) + len(corpus.held_out_parallel["en", "th"]) == 302
