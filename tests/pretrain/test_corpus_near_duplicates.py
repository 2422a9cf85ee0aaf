"""Near-duplicates: signatures that estimate what they should, and a filter with one result in any run."""

import itertools
import random

import numpy as np

from pretrain.corpus import duplicates, near_duplicates
from pretrain.corpus.near_duplicates import Bands, band_keys, bands_for
from reader.corpus import Corpus
from reader.tokenization import Tokenizer
from tests.helpers.small_corpus import build, files_of, sentences, write_lines


def runs(text: str) -> set[str]:
    text = text.casefold()
    return {text[start : start + 5] for start in range(max(1, len(text) - 4))}


def similarity(one: str, two: str) -> float:
    return len(runs(one) & runs(two)) / len(runs(one) | runs(two))


def long_lines(count: int, seed: int = 0) -> list[str]:
    """Lines of about 25 words, no two alike."""
    lines = iter(sentences(6 * count, seed))
    return [" ".join(itertools.islice(lines, 4)) for _ in range(count)]


def test_texts_meet_as_often_as_their_similarity_says():
    draw = random.Random(3)
    ones = long_lines(400)
    twos = []
    for line in ones:
        words = line.split()
        for place in draw.sample(range(len(words)), draw.randrange(len(words) // 2)):
            words[place] = "".join(draw.choices("aeioubdfg", k=5))
        twos.append(" ".join(words))
    bands = Bands(128, 1)  # each number of the signature by itself
    pairs = zip(band_keys(ones, bands), band_keys(twos, bands))
    found = np.mean([one == two for one, two in pairs], axis=0)
    expected = np.array([similarity(*pair) for pair in zip(ones, twos)])
    assert expected.min() < 0.4 and expected.max() > 0.95
    # The estimate of one pair has a standard error of sqrt(s (1 - s) / 128), at most 0.044.
    assert abs(found - expected).max() < 0.2 and abs((found - expected).mean()) < 0.01


def test_keys_depend_on_the_text_alone(monkeypatch):
    texts = ["a", "abcd", "abcde", "ab cd ef", "Größe", "GRÖSSE", "漢字かな交じり", "a", *long_lines(20)]
    bands = bands_for(0.8)
    keys = np.stack(band_keys(texts, bands))
    assert keys.shape == (bands.count, len(texts)) and keys.dtype == np.uint64
    assert (keys[:, 0] == keys[:, 7]).all() and (keys[:, 4] == keys[:, 5]).all()  # ß folds to ss
    assert not (keys[:, 0] == keys[:, 1]).any()
    for name, few in {"_CHARACTERS_AT_ONCE": 1000, "_TEXTS_AT_ONCE": 3}.items():
        with monkeypatch.context() as patch:
            patch.setattr(near_duplicates, name, few)
            assert (np.stack(band_keys(texts, bands)) == keys).all()
    monkeypatch.setattr(near_duplicates, "_CHARACTERS_AT_ONCE", 1000)  # no more is looked at
    first, second = np.stack(band_keys(["x" * 900 + "y" * 200, "x" * 900 + "y" * 100 + "z" * 50], bands)).T
    assert (first == second).all()
    assert [len(part) for part in band_keys([], bands)] == [0] * bands.count


def test_near_duplicates_go_and_different_text_stays(tmp_path, pieces):
    tokenizer = Tokenizer(piece_model_path=pieces)
    originals = long_lines(300)
    copies = [line + " " + line.split()[0] for line in originals[:100]]
    copies += [line.upper().title() + "." for line in originals[100:200]]
    path = write_lines(tmp_path / "en", [*originals, *copies])
    manifest = build(tmp_path / "corpus", pieces, mono={"en": path}, near_duplicates=0.8)
    text = Corpus(tmp_path / "corpus").mono["en"]
    found = {tuple(text.line(number).tolist()) for number in range(text.num_lines)}
    assert found == set(map(tuple, tokenizer.encode_batch(originals)))
    assert manifest["mono"]["en"]["dropped"] == dict.fromkeys(manifest["mono"]["en"]["dropped"], 0) | {
        "near_duplicate": 200
    }


def test_the_same_result_however_it_is_run(tmp_path, monkeypatch, pieces):
    """Equal lines are counted as such; parts, units, workers and a later file change nothing."""
    draw = random.Random(1)
    lines = long_lines(400)
    lines += [draw.choice(lines) + draw.choice([" ba", " do", ""]) for _ in range(400)]
    draw.shuffle(lines)
    inputs = {
        "mono": {"en": [write_lines(tmp_path / "1", lines[:500]), write_lines(tmp_path / "2", lines[500:])]},
        "parallel": {"en-de": write_lines(tmp_path / "x.tsv", [f"{line}\t{line[::-1]}" for line in lines])},
    }
    options = {"near_duplicates": 0.7, "deduplicate": True, "held_out": 20}
    manifest = build(tmp_path / "one", pieces, **inputs, **options)
    reference = files_of(tmp_path / "one")
    dropped = manifest["mono"]["en"]["dropped"]
    assert dropped["duplicate"] == len(lines) - len(set(lines)) > 100 < dropped["near_duplicate"]
    assert manifest["parallel"]["de-en"]["dropped"]["near_duplicate"] > 100
    build(tmp_path / "two", pieces, **inputs, **options, workers=2)
    assert files_of(tmp_path / "two") == reference
    monkeypatch.setattr(duplicates, "KEYS_IN_MEMORY", 100)
    build(tmp_path / "parts", pieces, **inputs, **options)
    assert files_of(tmp_path / "parts") == reference
    build(tmp_path / "units", pieces, **inputs, **options, unit_mib=1)
    shards = [name for name in reference if name.startswith(("mono", "parallel"))]
    assert len(shards) > 8
    found = files_of(tmp_path / "units")
    assert {name: found[name] for name in shards} == {name: reference[name] for name in shards}
