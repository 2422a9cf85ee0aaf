"""The sample set: labels, splits and files. What the languages say of a scene: test_languages.py."""

import json
import re
from collections import Counter

from reader.classification import read_classification, read_label_map
from reader.tokenization import Tokenizer
from scripts.sample import texts, write
from scripts.sample.languages import CODES, chinese_words, realiser
from scripts.sample.nli import LABELS, relation
from scripts.sample.scenes import Scene, Thing, split_of


def test_labels_follow_from_the_meaning_and_the_hypothesis_alone_says_nothing():
    rows = texts.shuffled_inferences(5, "train", 300)
    assert len(rows) == 900
    assert all(relation(premise, hypothesis) == label for premise, hypothesis, label in rows)
    by_hypothesis: dict[Scene, Counter] = {}
    for _, hypothesis, label in rows:
        by_hypothesis.setdefault(hypothesis, Counter())[label] += 1
    for counts in by_hypothesis.values():
        assert len(set(counts.values())) == 1
        assert set(counts) == set(LABELS)


def test_the_reading_of_a_scene():
    said = Scene("man", "buy", Thing("ball", 3, "red"), place="garden")
    assert relation(said, Scene("person", "buy", Thing("toy", 3))) == "entailment"
    assert relation(said, Scene("man", "sell", Thing("ball", 3))) == "contradiction"
    assert relation(said, Scene("man", "buy", Thing("ball", 4))) == "contradiction"
    assert relation(said, Scene("man", "buy", Thing("ball", 3, "white"))) == "contradiction"
    assert relation(said, Scene("man", "buy", Thing("ball", 3, "big"))) == "neutral"
    assert relation(said, Scene("man", "buy", Thing("ball", 3), day="sunday")) == "neutral"
    assert relation(said, Scene("woman", "buy", Thing("ball", 3))) == "neutral"


def test_splits_share_no_scene():
    seen = {split: set() for split in ("train", "dev", "test")}
    for split, scenes in seen.items():
        for premise, hypothesis, _ in texts.shuffled_inferences(6, split, 60):
            scenes |= {premise, hypothesis}
    seen["train"] |= {scene for index in range(200) for scene in texts.document(6, "fr", index)}
    seen["train"] |= {texts.pair(6, "fr", index) for index in range(500)}
    seen["test"] |= {texts.retrieval(6, index) for index in range(200)}
    for split, scenes in seen.items():
        assert {split_of(scene) for scene in scenes} == {split}


def test_the_files_are_those_of_the_readers_and_repeat_byte_for_byte(tmp_path, monkeypatch):
    def make(name: str) -> dict[str, bytes]:
        folder = tmp_path / name
        arguments = "--seed 2 --hypotheses 30 --documents 20 --pairs 40 --pieces 700"
        monkeypatch.setattr("sys.argv", ["write", "--out", str(folder), *arguments.split()])
        write.main()
        return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}

    files = make("a")
    assert files == make("b")
    tokenizer = Tokenizer.from_folder(tmp_path / "a")
    labels = read_label_map(tmp_path / "a/xnli/label_map.json", 3)
    assert list(json.loads(files["xnli/lang_map.json"])) == list(CODES)
    train = read_classification(tmp_path / "a/xnli/train/train.en.tsv", labels, 3)
    assert Counter(example.label for example in train) == {0: 30, 1: 30, 2: 30}
    english = list(read_classification(tmp_path / "a/xnli/test/test.en.tsv", labels, 3))
    for code in CODES:
        examples = list(read_classification(tmp_path / f"a/xnli/test/test.{code}.tsv", labels, 3))
        assert [e.label for e in examples] == [e.label for e in english]  # translations, row by row
        assert tokenizer.unk_id not in tokenizer.encode(examples[0].text_a)
    chinese = [piece for piece in tokenizer.vocab if re.fullmatch(r"[\u4e00-\u9fff]{2,}", piece)]
    assert chinese and all(any(piece in word for word in chinese_words()) for piece in chinese)
    for code in CODES[1:]:
        pairs = files[f"parallel/en-{code}.tsv"].decode().splitlines()
        said = [(realiser("en")(s), realiser(code)(s)) for s in (texts.pair(2, code, i) for i in range(40))]
        assert pairs == ["\t".join(pair) for pair in said]
