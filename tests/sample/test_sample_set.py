"""The sample set: sentences checked by hand, labels, splits and files."""

import io
import json
import re
import unicodedata
from collections import Counter

import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from sentencepiece.sentencepiece_model_pb2 import ModelProto, TrainerSpec

from ernie_m.commands import convert
from ernie_m.model.checkpoint.write import save_model
from ernie_m.model.encoder import ErnieMConfig, ErnieMModel
from ernie_m.reader.classification import read_classification
from ernie_m.reader.label_map import read_label_map
from ernie_m.tokenizer.tokenizer import Tokenizer
from scripts.sample import scenes
from scripts.sample.languages import chinese_words, lexicon, say
from scripts.sample.scenes import CODES, LABELS, Scene, relation
from scripts.sample.write import as_unigram, write_sample
from tests.helpers.files import files_of

# Checked by hand: gender, number and case of adjectives, nouns after numerals, agreement of verbs,
# articles, measure words, word order.
GOLDEN = {
    Scene("woman", "find", "book", place="school", day="friday"): {
        "en": "On Friday the woman finds a book at school.",
        "de": "Am Freitag findet die Frau in der Schule ein Buch.",
        "fr": "Vendredi, la femme trouve un livre à l'école.",
        "es": "El viernes la mujer encuentra un libro en la escuela.",
        "ru": "В пятницу женщина находит книгу в школе.",
        "el": "Την Παρασκευή η γυναίκα βρίσκει ένα βιβλίο στο σχολείο.",
        "tr": "Cuma günü kadın okulda bir kitap buluyor.",
        "ar": "يوم الجمعة تجد المرأة كتابا في المدرسة.",
        "hi": "शुक्रवार को औरत स्कूल में एक किताब ढूँढ लेती है।",
        "zh": "星期五女人在学校里找到一本书。",
    },
    Scene("man", "lose", "dog", 3, "white", place="school"): {
        "en": "The man loses 3 white dogs at school.",
        "de": "Der Mann verliert in der Schule 3 weiße Hunde.",
        "fr": "L'homme perd 3 chiens blancs à l'école.",
        "es": "El hombre pierde 3 perros blancos en la escuela.",
        "ru": "Мужчина теряет 3 белых собак в школе.",
        "el": "Ο άντρας χάνει 3 άσπρους σκύλους στο σχολείο.",
        "tr": "Adam okulda 3 beyaz köpek kaybediyor.",
        "ar": "يفقد الرجل 3 كلاب بيضاء في المدرسة.",
        "hi": "आदमी स्कूल में 3 सफ़ेद कुत्ते खो देता है।",
        "zh": "男人在学校里丢失 3 只白色的狗。",
    },
    Scene("Anna", "sit", place="market"): {
        "en": "At the market Anna sits.",
        "de": "Auf dem Markt sitzt Anna.",
        "fr": "Au marché, Anna est assise.",
        "es": "En el mercado Anna está sentada.",
        "ru": "На рынке Anna сидит.",
        "el": "Στην αγορά η Anna κάθεται.",
        "tr": "Pazarda Anna oturuyor.",
        "ar": "في السوق تجلس Anna.",
        "hi": "बाज़ार में Anna बैठी है।",
        "zh": "在市场里 Anna 坐着。",
    },
    Scene("woman", "sell", "doll", 5, "red", place="market", day="monday"): {
        "en": "At the market the woman sells 5 red dolls on Monday.",
        "de": "Auf dem Markt verkauft die Frau am Montag 5 rote Puppen.",
        "fr": "Au marché, la femme vend 5 poupées rouges lundi.",
        "es": "En el mercado la mujer vende 5 muñecas rojas el lunes.",
        "ru": "На рынке женщина продаёт 5 красных кукол в понедельник.",
        "el": "Στην αγορά η γυναίκα πουλάει 5 κόκκινες κούκλες τη Δευτέρα.",
        "tr": "Pazarda kadın pazartesi günü 5 kırmızı oyuncak bebek satıyor.",
        "ar": "في السوق تبيع المرأة 5 دمى حمراء يوم الاثنين.",
        "hi": "बाज़ार में औरत सोमवार को 5 लाल गुड़ियाँ बेचती है।",
        "zh": "在市场里女人星期一卖 5 个红色的娃娃。",
    },
}


@pytest.mark.parametrize("scene", GOLDEN, ids=lambda scene: GOLDEN[scene]["en"])
def test_sentences_checked_by_hand(scene):
    assert tuple(GOLDEN[scene]) == CODES
    for code, sentence in GOLDEN[scene].items():
        assert say(code, scene) == unicodedata.normalize("NFC", sentence)


@pytest.mark.parametrize("code", CODES)
def test_a_lexicon_is_complete_and_different_scenes_are_different_sentences(code):
    words = lexicon(code)
    assert set(words["verbs"]) == set(scenes.OPPOSITES)
    assert set(words["places"]) == set(scenes.PLACES) and set(words["days"]) == set(scenes.DAYS)
    assert set(words["nouns"]) == set(scenes.OBJECTS)
    assert set(words["subjects"]) == {*scenes.PEOPLE, *scenes.ANIMALS, "person", "animal"}
    assert {noun_class for noun_class, *_ in words["nouns"].values()} == set(words["things"])
    for things in words["things"].values():
        assert set(things) == {"plain", *scenes.ATTRIBUTES}
    # A scene has no language: "de" only chooses one of the streams of random scenes.
    pair_scenes = {scenes.pair(seed=3, language="de", index=index) for index in range(1500)}
    sentences = {say(code, scene) for scene in pair_scenes}
    # Otherwise a sentence would have two translations, and finding the right one would be luck.
    assert len(sentences) == len(pair_scenes)
    for sentence in sentences:
        assert unicodedata.is_normalized("NFC", sentence)
        assert "  " not in sentence and sentence.strip() == sentence


def test_labels_follow_from_the_meaning_and_the_hypothesis_alone_says_nothing():
    rows = scenes.inferences(seed=5, split="train", num_hypotheses=300)
    assert len(rows) == 300 * len(LABELS)
    assert all(relation(premise, hypothesis) == label for premise, hypothesis, label in rows)
    labels_of: dict[Scene, Counter] = {}  # hypothesis -> label -> how often
    for _, hypothesis, label in rows:
        labels_of.setdefault(hypothesis, Counter())[label] += 1
    for counts in labels_of.values():
        assert set(counts) == set(LABELS)
        assert len(set(counts.values())) == 1  # all labels are equally frequent


def test_the_parts_of_a_scene_fit_together():
    drawn = [scene for index in range(300) for scene in scenes.document(seed=4, language="fr", index=index)]
    for premise, hypothesis, _ in scenes.inferences(seed=5, split="train", num_hypotheses=300):
        drawn += [premise, hypothesis]
    for scene in drawn:
        assert (scene.verb in ("buy", "sell", "find", "lose")) == (scene.noun is not None)
        if scene.noun is None:
            assert (scene.count, scene.attribute) == (1, None)
        if scene.subject in ("dog", "cat", "animal"):
            assert scene.verb in ("find", "lose", "sit", "stand")
        assert scene.noun not in ("dog", "cat", "animal") or scene.attribute != "red"


@pytest.mark.parametrize(
    ("hypothesis", "label"),
    [
        (Scene("person", "buy", "toy", 3), "entailment"),
        (Scene("man", "sell", "ball", 3), "contradiction"),
        (Scene("man", "buy", "ball", 4), "contradiction"),
        (Scene("man", "buy", "ball", 3, "white"), "contradiction"),
        (Scene("man", "buy", "ball", 3, "big"), "neutral"),
        (Scene("man", "buy", "ball", 3, day="sunday"), "neutral"),
        (Scene("woman", "buy", "ball", 3), "neutral"),
    ],
)
def test_the_label_of_a_hypothesis(hypothesis, label):
    """The premise is: the man buys 3 red balls in the garden."""
    premise = Scene("man", "buy", "ball", 3, "red", place="garden")
    assert relation(premise, hypothesis) == label


def test_splits_share_no_scene():
    seed = 6
    drawn: dict[str, set[Scene]] = {}  # split -> the scenes of its texts
    for split in ("train", "dev", "test"):
        drawn[split] = set()
        for premise, hypothesis, _ in scenes.inferences(seed, split, num_hypotheses=60):
            drawn[split] |= {premise, hypothesis}
    for index in range(200):
        drawn["train"].update(scenes.document(seed, "fr", index))
        drawn["test"].add(scenes.retrieval(seed, index))
    for index in range(500):
        drawn["train"].add(scenes.pair(seed, "fr", index))
    for split, scenes_of_split in drawn.items():
        assert {scene.split for scene in scenes_of_split} == {split}


def test_the_files_are_those_of_the_readers_and_repeat_byte_for_byte(tmp_path):
    """Made twice from one seed; then read by the program's readers, and compared with the scenes."""

    def make(name: str) -> dict[str, bytes]:
        folder = tmp_path / name
        write_sample(folder, seed=2, documents=20, pairs=40, hypotheses=30, pieces=700)
        return files_of(folder)

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
        # Translations, row by row.
        assert [example.label for example in examples] == [example.label for example in english]
        assert tokenizer.unk_id not in tokenizer.encode(examples[0].text_a)
    # No piece of several Han characters goes beyond a word.
    chinese = [piece for piece in tokenizer.vocab if re.fullmatch(r"[\u4e00-\u9fff]{2,}", piece)]
    assert chinese
    for piece in chinese:
        assert any(piece in word for word in chinese_words())
    assert model_type_of(files["piece.model"]) == TrainerSpec.UNIGRAM
    pairs = files["parallel/en-hi.tsv"].decode().splitlines()
    pair_scenes = [scenes.pair(seed=2, language="hi", index=index) for index in range(40)]
    assert pairs == [f"{say('en', scene)}\t{say('hi', scene)}" for scene in pair_scenes]


def model_type_of(piece_model: bytes) -> int:
    """BPE or UNIGRAM, as a number of sentencepiece's `TrainerSpec`."""
    return ModelProto.FromString(piece_model).trainer_spec.model_type


def test_the_unigram_model_cuts_sentences_as_the_bpe_model_does():
    # Any 100 scenes, said in every language: "de" only chooses a stream of random scenes.
    drawn = [scenes.pair(seed=4, language="de", index=index) for index in range(100)]
    sentences = [say(code, scene) for code in CODES for scene in drawn]
    trained = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=trained,
        model_type="bpe",
        vocab_size=2400,  # as in the demo
        hard_vocab_limit=False,
        character_coverage=1.0,
        minloglevel=2,
    )
    assert model_type_of(trained.getvalue()) == TrainerSpec.BPE
    unigram = as_unigram(trained.getvalue(), sentences)
    assert model_type_of(unigram) == TrainerSpec.UNIGRAM
    bpe_model = SentencePieceProcessor(model_proto=trained.getvalue())
    unigram_model = SentencePieceProcessor(model_proto=unigram)
    assert unigram_model.encode(sentences) == bpe_model.encode(sentences)


def test_a_model_with_this_vocabulary_becomes_an_xlm_roberta(tmp_path):
    """`--to xlm-roberta` needs a unigram model, which a plain BPE model is not."""
    write_sample(tmp_path / "sample", seed=2, documents=20, pairs=40, hypotheses=30, pieces=700)
    files = {"vocab_path": tmp_path / "sample/vocab.txt", "piece_model_path": tmp_path / "sample/piece.model"}
    vocab_size = Tokenizer(**files).vocab_size
    config = ErnieMConfig(
        vocab_size=vocab_size,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=34,
    )
    save_model(tmp_path / "encoder", ErnieMModel(config), config, **files)
    convert.main([str(tmp_path / "encoder"), str(tmp_path / "out"), "--to", "xlm-roberta"])
    contents = json.loads((tmp_path / "out/tokenizer.json").read_text(encoding="utf-8"))
    assert contents["model"]["type"] == "Unigram"
    assert (tmp_path / "out/modules.json").is_file()
