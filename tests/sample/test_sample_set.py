"""The sample set: right by construction, and said rightly in every language."""

import json
import unicodedata
from collections import Counter

import pytest

from reader.task_reader import read_classification, read_label_map
from reader.tokenization import Tokenizer
from scripts.sample import texts, write
from scripts.sample.languages import CODES, realiser
from scripts.sample.nli import LABELS, relation
from scripts.sample.scenes import Scene, Thing, split_of

SCRIPTS = {"ru": "CYRILLIC", "el": "GREEK", "ar": "ARABIC", "hi": "DEVANAGARI", "zh": "CJK"}

# Checked by hand: gender and number of adjectives, case after verbs and numerals, word order, classifiers.
GOLDEN = {
    Scene("queen", "find", Thing("book"), place="school", day="friday"): {
        "en": "The queen finds a book at school on Friday.",
        "de": "Die Königin findet am Freitag in der Schule ein Buch.",
        "el": "Η βασίλισσα βρίσκει ένα βιβλίο στο σχολείο την Παρασκευή.",
        "zh": "王后星期五在学校里找到一本书。",
    },
    Scene("Tom", "hide", Thing("table", 4, "white"), day="friday"): {
        "en": "Tom hides 4 white tables on Friday.",
        "de": "Tom versteckt am Freitag 4 weiße Tische.",
        "ru": "В пятницу Tom прячет 4 белых стола.",
    },
    Scene("Maria", "find", Thing("ball", 4, "big"), place="school"): {
        "fr": "Maria trouve 4 grandes balles à l'école.",
        "es": "Maria encuentra 4 pelotas grandes en la escuela.",
    },
    Scene("Paul", "find", Thing("toy", 1, "white"), place="garden"): {
        "ru": "Paul находит белую игрушку в саду.",
        "de": "Paul findet im Garten ein weißes Spielzeug.",
    },
    Scene("cat", "lose", Thing("ball", 4, "small"), day="sunday"): {
        "tr": "Kedi pazar günü 4 küçük top kaybediyor.",
        "hi": "बिल्ली रविवार को 4 छोटी गेंदें खो देती है।",
        "ar": "تفقد القطة 4 كرات صغيرة يوم الأحد.",
    },
    Scene("king", "lose", Thing("horse", 3, "white"), place="school"): {
        "es": "El rey pierde 3 caballos blancos en la escuela.",
        "fr": "Le roi perd 3 chevaux blancs à l'école.",
        "ru": "Король теряет 3 белых лошадей в школе.",
    },
}


@pytest.mark.parametrize(
    ("scene", "code", "sentence"),
    [(scene, code, sentence) for scene, said in GOLDEN.items() for code, sentence in said.items()],
)
def test_sentences_checked_by_hand(scene, code, sentence):
    assert realiser(code)(scene) == unicodedata.normalize("NFC", sentence)


@pytest.mark.parametrize("code", CODES)
def test_every_scene_can_be_said_and_no_two_scenes_sound_alike(code):
    scenes = {texts.pair(3, "de", index) for index in range(1500)}
    sentences = {realiser(code)(scene) for scene in scenes}
    # Different meanings stay different, or a translation would not be found.
    assert len(sentences) == len(scenes)
    for sentence in sentences:
        assert unicodedata.is_normalized("NFC", sentence)
        assert "  " not in sentence
        assert sentence.strip() == sentence


@pytest.mark.parametrize("code", SCRIPTS)
def test_words_are_in_the_language_s_own_script(code):
    for index in range(200):
        sentence = realiser(code)(texts.pair(4, code, index))
        names = {unicodedata.name(letter).split()[0] for letter in sentence if letter.isalpha()}
        assert SCRIPTS[code] in names
        assert names <= {SCRIPTS[code], "LATIN"}, sentence  # Latin: names of persons only


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
    said = Scene("man", "buy", Thing("rose", 3, "red"), place="garden")
    assert relation(said, Scene("person", "buy", Thing("flower", 3))) == "entailment"
    assert relation(said, Scene("man", "sell", Thing("rose", 3))) == "contradiction"
    assert relation(said, Scene("man", "buy", Thing("rose", 4))) == "contradiction"
    assert relation(said, Scene("man", "buy", Thing("rose", 3, "white"))) == "contradiction"
    assert relation(said, Scene("man", "buy", Thing("rose", 3, "big"))) == "neutral"
    assert relation(said, Scene("man", "buy", Thing("rose", 3), day="sunday")) == "neutral"
    assert relation(said, Scene("woman", "buy", Thing("rose", 3))) == "neutral"


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
        arguments = "--seed 2 --hypotheses 30 --documents 20 --pairs 40 --pieces 300"
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
    for code in CODES[1:]:
        pairs = files[f"parallel/en-{code}.tsv"].decode().splitlines()
        said = [(realiser("en")(s), realiser(code)(s)) for s in (texts.pair(2, code, i) for i in range(40))]
        assert pairs == ["\t".join(pair) for pair in said]
