"""Every language: sentences checked by hand, and a lexicon that lacks nothing."""

import unicodedata
from importlib import import_module

import pytest

from scripts.sample import concepts, texts
from scripts.sample.languages import CODES, realiser
from scripts.sample.scenes import Scene, Thing

SCRIPTS = {"ru": "CYRILLIC", "el": "GREEK", "ar": "ARABIC", "hi": "DEVANAGARI", "zh": "CJK"}

# Checked by hand: gender, number and case of adjectives, nouns after numerals, agreement of verbs,
# articles, measure words, word order.
GOLDEN = {
    Scene("queen", "find", Thing("book"), place="school", day="friday"): {
        "en": "The queen finds a book at school on Friday.",
        "de": "Die Königin findet am Freitag in der Schule ein Buch.",
        "fr": "La reine trouve un livre à l'école vendredi.",
        "es": "La reina encuentra un libro en la escuela el viernes.",
        "ru": "В пятницу королева находит книгу в школе.",
        "el": "Η βασίλισσα βρίσκει ένα βιβλίο στο σχολείο την Παρασκευή.",
        "tr": "Kraliçe cuma günü okulda bir kitap buluyor.",
        "ar": "تجد الملكة كتابا في المدرسة يوم الجمعة.",
        "hi": "रानी शुक्रवार को स्कूल में एक किताब ढूँढ लेती है।",
        "zh": "王后星期五在学校里找到一本书。",
    },
    Scene("Tom", "hide", Thing("table", 4, "white"), day="friday"): {
        "en": "Tom hides 4 white tables on Friday.",
        "de": "Tom versteckt am Freitag 4 weiße Tische.",
        "fr": "Tom cache 4 tables blanches vendredi.",
        "es": "Tom esconde 4 mesas blancas el viernes.",
        "ru": "В пятницу Tom прячет 4 белых стола.",
        "el": "Ο Tom κρύβει 4 άσπρα τραπέζια την Παρασκευή.",
        "tr": "Tom cuma günü 4 beyaz masa saklıyor.",
        "ar": "يخفي Tom 4 طاولات بيضاء يوم الجمعة.",
        "hi": "Tom शुक्रवार को 4 सफ़ेद मेज़ें छिपाता है।",
        "zh": "Tom 星期五藏起 4 张白色的桌子。",
    },
    Scene("cat", "lose", Thing("ball", 4, "small"), day="sunday"): {
        "en": "The cat loses 4 small balls on Sunday.",
        "de": "Die Katze verliert am Sonntag 4 kleine Bälle.",
        "fr": "Le chat perd 4 petites balles dimanche.",
        "es": "El gato pierde 4 pelotas pequeñas el domingo.",
        "ru": "В воскресенье кошка теряет 4 маленьких мяча.",
        "el": "Η γάτα χάνει 4 μικρές μπάλες την Κυριακή.",
        "tr": "Kedi pazar günü 4 küçük top kaybediyor.",
        "ar": "تفقد القطة 4 كرات صغيرة يوم الأحد.",
        "hi": "बिल्ली रविवार को 4 छोटी गेंदें खो देती है।",
        "zh": "猫星期日丢失 4 个小的球。",
    },
    Scene("king", "lose", Thing("horse", 3, "white"), place="school"): {
        "en": "The king loses 3 white horses at school.",
        "de": "Der König verliert in der Schule 3 weiße Pferde.",
        "fr": "Le roi perd 3 chevaux blancs à l'école.",
        "es": "El rey pierde 3 caballos blancos en la escuela.",
        "ru": "Король теряет 3 белых лошадей в школе.",
        "el": "Ο βασιλιάς χάνει 3 άσπρα άλογα στο σχολείο.",
        "tr": "Kral okulda 3 beyaz at kaybediyor.",
        "ar": "يفقد الملك 3 أحصنة بيضاء في المدرسة.",
        "hi": "राजा स्कूल में 3 सफ़ेद घोड़े खो देता है।",
        "zh": "国王在学校里丢失 3 匹白色的马。",
    },
    Scene("Anna", "sit", place="market"): {
        "en": "Anna sits at the market.",
        "de": "Anna sitzt auf dem Markt.",
        "fr": "Anna est assise au marché.",
        "es": "Anna está sentada en el mercado.",
        "ru": "Anna сидит на рынке.",
        "el": "Η Anna κάθεται στην αγορά.",
        "tr": "Anna pazarda oturuyor.",
        "ar": "تجلس Anna في السوق.",
        "hi": "Anna बाज़ार में बैठी है।",
        "zh": "Anna 在市场里坐着。",
    },
    Scene("man", "stand", day="monday"): {
        "en": "The man stands on Monday.",
        "de": "Der Mann steht am Montag.",
        "fr": "L'homme est debout lundi.",
        "es": "El hombre está de pie el lunes.",
        "ru": "В понедельник мужчина стоит.",
        "el": "Ο άντρας στέκεται τη Δευτέρα.",
        "tr": "Adam pazartesi günü ayakta duruyor.",
        "ar": "يقف الرجل يوم الاثنين.",
        "hi": "आदमी सोमवार को खड़ा है।",
        "zh": "男人星期一站着。",
    },
    Scene("girl", "show", Thing("apple", 1, "red")): {
        "en": "The girl shows a red apple.",
        "de": "Das Mädchen zeigt einen roten Apfel.",
        "fr": "La fille montre une pomme rouge.",
        "es": "La chica muestra una manzana roja.",
        "ru": "Девочка показывает красное яблоко.",
        "el": "Το κορίτσι δείχνει ένα κόκκινο μήλο.",
        "tr": "Kız kırmızı bir elma gösteriyor.",
        "ar": "تعرض البنت تفاحة حمراء.",
        "hi": "लड़की एक लाल सेब दिखाती है।",
        "zh": "女孩展示一个红色的苹果。",
    },
    Scene("person", "buy", Thing("flower", 5, "black"), place="garden"): {
        "en": "A person buys 5 black flowers in the garden.",
        "de": "Eine Person kauft im Garten 5 schwarze Blumen.",
        "fr": "Une personne achète 5 fleurs noires dans le jardin.",
        "es": "Una persona compra 5 flores negras en el jardín.",
        "ru": "Человек покупает 5 чёрных цветков в саду.",
        "el": "Ένα άτομο αγοράζει 5 μαύρα λουλούδια στον κήπο.",
        "tr": "Bir kişi bahçede 5 siyah çiçek satın alıyor.",
        "ar": "يشتري شخص 5 زهور سوداء في الحديقة.",
        "hi": "एक व्यक्ति बगीचे में 5 काले फूल खरीदता है।",
        "zh": "一个人在花园里买 5 朵黑色的花。",
    },
    Scene("Laura", "sell", Thing("letter", 1, "big"), place="forest"): {
        "en": "Laura sells a big letter in the forest.",
        "de": "Laura verkauft im Wald einen großen Brief.",
        "fr": "Laura vend une grande lettre dans la forêt.",
        "es": "Laura vende una carta grande en el bosque.",
        "ru": "Laura продаёт большое письмо в лесу.",
        "el": "Η Laura πουλάει ένα μεγάλο γράμμα στο δάσος.",
        "tr": "Laura ormanda büyük bir mektup satıyor.",
        "ar": "تبيع Laura رسالة كبيرة في الغابة.",
        "hi": "Laura जंगल में एक बड़ी चिट्ठी बेचती है।",
        "zh": "Laura 在森林里卖一封大的信。",
    },
    Scene("animal", "rest"): {
        "en": "An animal rests.",
        "de": "Ein Tier ruht.",
        "fr": "Un animal se repose.",
        "es": "Un animal descansa.",
        "ru": "Животное отдыхает.",
        "el": "Ένα ζώο ξεκουράζεται.",
        "tr": "Bir hayvan dinleniyor.",
        "ar": "يستريح حيوان.",
        "hi": "एक जानवर आराम करता है।",
        "zh": "一只动物休息。",
    },
    Scene("boy", "find", Thing("dog", 1, "black")): {
        "en": "The boy finds a black dog.",
        "de": "Der Junge findet einen schwarzen Hund.",
        "fr": "Le garçon trouve un chien noir.",
        "es": "El chico encuentra un perro negro.",
        "ru": "Мальчик находит чёрную собаку.",
        "el": "Το αγόρι βρίσκει έναν μαύρο σκύλο.",
        "tr": "Oğlan siyah bir köpek buluyor.",
        "ar": "يجد الولد كلبا أسود.",
        "hi": "लड़का एक काला कुत्ता ढूँढ लेता है।",
        "zh": "男孩找到一只黑色的狗。",
    },
    Scene("woman", "hide", Thing("chair", 5, "red"), place="market", day="monday"): {
        "en": "The woman hides 5 red chairs at the market on Monday.",
        "de": "Die Frau versteckt am Montag auf dem Markt 5 rote Stühle.",
        "fr": "La femme cache 5 chaises rouges au marché lundi.",
        "es": "La mujer esconde 5 sillas rojas en el mercado el lunes.",
        "ru": "В понедельник женщина прячет 5 красных стульев на рынке.",
        "el": "Η γυναίκα κρύβει 5 κόκκινες καρέκλες στην αγορά τη Δευτέρα.",
        "tr": "Kadın pazartesi günü pazarda 5 kırmızı sandalye saklıyor.",
        "ar": "تخفي المرأة 5 كراسي حمراء في السوق يوم الاثنين.",
        "hi": "औरत सोमवार को बाज़ार में 5 लाल कुर्सियाँ छिपाती है।",
        "zh": "女人星期一在市场里藏起 5 把红色的椅子。",
    },
}


@pytest.mark.parametrize("scene", GOLDEN, ids=lambda scene: GOLDEN[scene]["en"])
def test_sentences_checked_by_hand(scene):
    assert tuple(GOLDEN[scene]) == CODES
    for code, sentence in GOLDEN[scene].items():
        assert realiser(code)(scene) == unicodedata.normalize("NFC", sentence)


@pytest.mark.parametrize("code", CODES)
def test_a_lexicon_has_every_concept_and_no_other(code):
    lexicon = vars(import_module(f"scripts.sample.languages.{code}"))
    assert set(lexicon["VERBS"]) == {*concepts.TRANSITIVE_VERBS, *concepts.INTRANSITIVE_VERBS}
    assert set(lexicon["PLACES"]) == set(concepts.PLACES)
    assert set(lexicon["DAYS"]) == set(concepts.DAYS)
    if code == "en":  # whose words are the concepts
        assert set(lexicon["PLURALS"]) == set(concepts.OBJECTS)
        return
    assert set(lexicon["NOUNS"]) == set(concepts.OBJECTS)
    assert set(lexicon["SUBJECTS"]) == {*concepts.PEOPLE, *concepts.ANIMALS, "person", "animal"}
    attributes = [lexicon.get(name, ()) for name in ("ATTRIBUTES", "COLOURS", "SIZES", "STEMS")]
    assert set().union(*attributes) == set(concepts.ATTRIBUTES)


@pytest.mark.parametrize("code", CODES)
def test_different_scenes_are_different_sentences(code):
    scenes = {texts.pair(3, "de", index) for index in range(1500)}
    sentences = {realiser(code)(scene) for scene in scenes}
    assert len(sentences) == len(scenes)  # or a translation could not be found
    for sentence in sentences:
        assert unicodedata.is_normalized("NFC", sentence)
        assert "  " not in sentence
        assert sentence.strip() == sentence


@pytest.mark.parametrize("code", CODES)
def test_words_are_in_the_language_s_own_script(code):
    own = SCRIPTS.get(code, "LATIN")
    for index in range(200):
        scene = texts.document(4, code, index)[0]
        sentence = realiser(code)(scene)
        if scene.subject in concepts.NAMES:
            assert scene.subject in sentence
            sentence = sentence.replace(scene.subject, "")
        scripts = {unicodedata.name(letter).split()[0] for letter in sentence if letter.isalpha()}
        assert scripts == {own}, sentence
