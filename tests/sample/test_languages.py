"""Every language: sentences checked by hand, and a lexicon that lacks nothing."""

import unicodedata

import pytest

from scripts.sample import scenes, texts
from scripts.sample.languages import CODES, lexicon, realiser
from scripts.sample.scenes import Scene, Thing

# Checked by hand: gender, number and case of adjectives, nouns after numerals, agreement of verbs,
# articles, measure words, word order.
GOLDEN = {
    Scene("woman", "find", Thing("book"), place="school", day="friday"): {
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
    Scene("man", "lose", Thing("dog", 3, "white"), place="school"): {
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
    Scene("animal", "stand"): {
        "en": "An animal stands.",
        "de": "Ein Tier steht.",
        "fr": "Un animal est debout.",
        "es": "Un animal está de pie.",
        "ru": "Животное стоит.",
        "el": "Ένα ζώο στέκεται.",
        "tr": "Bir hayvan ayakta duruyor.",
        "ar": "يقف حيوان.",
        "hi": "एक जानवर खड़ा है।",
        "zh": "一只动物站着。",
    },
    Scene("woman", "sell", Thing("doll", 5, "red"), place="market", day="monday"): {
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
        assert realiser(code)(scene) == unicodedata.normalize("NFC", sentence)


@pytest.mark.parametrize("code", CODES)
def test_a_lexicon_has_every_concept_and_no_other(code):
    words = lexicon(code)
    assert set(words["verbs"]) == {*scenes.TRANSITIVE_VERBS, *scenes.INTRANSITIVE_VERBS}
    assert set(words["places"]) == set(scenes.PLACES) and set(words["days"]) == set(scenes.DAYS)
    assert set(words["nouns"]) == set(scenes.OBJECTS)
    assert set(words["subjects"]) == {*scenes.PEOPLE, *scenes.ANIMALS, "person", "animal"}
    assert set(words["attributes"]) == set(scenes.ATTRIBUTES)


@pytest.mark.parametrize("code", CODES)
def test_different_scenes_are_different_sentences(code):
    pairs = {texts.pair(3, "de", index) for index in range(1500)}
    sentences = {realiser(code)(scene) for scene in pairs}
    assert len(sentences) == len(pairs)  # or a translation could not be found
    for sentence in sentences:
        assert unicodedata.is_normalized("NFC", sentence)
        assert "  " not in sentence
        assert sentence.strip() == sentence
