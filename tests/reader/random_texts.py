"""Plausible sentences of a few languages, for tables that a test makes up.

A meaning can be said in each language, so that two sides of a pair are translations of each other.
"""

from dataclasses import dataclass
from random import Random

# Of each language: what stands between words, how a sentence ends, the order of the four parts of a sentence
# (who, does, what, when), and six phrases for each part. Phrases at one place mean the same in all languages.
_LANGUAGES = {
    "en": (
        " . who does what when",
        "The customer|My neighbour|The new director|Our team|A young doctor|Nobody in the village",
        "lost|bought|sold|forgot|found|repaired",
        "the red umbrella|an old map|two tickets|the keys to the house|the invoice|a cheap phone",
        "yesterday|on Monday morning|after the meeting|in the rain|last summer|without a word",
    ),
    "de": (
        " . who does what when",
        "Der Kunde|Mein Nachbar|Die neue Direktorin|Unser Team|Eine junge Ärztin|Niemand im Dorf",
        "verlor|kaufte|verkaufte|vergaß|fand|reparierte",
        "den roten Schirm|eine alte Karte|zwei Fahrkarten|die Schlüssel|die Rechnung|ein billiges Telefon",
        "gestern|am Montag früh|nach der Sitzung|im Regen|letzten Sommer|ohne ein Wort",
    ),
    "fr": (
        " . who does what when",
        "Le client|Mon voisin|La nouvelle directrice|Notre équipe|Une jeune médecin|Un homme du village",
        "a perdu|a acheté|a vendu|a oublié|a trouvé|a réparé",
        "le parapluie rouge|une vieille carte|deux billets|les clés|la facture|un téléphone bon marché",
        "hier|lundi matin|après la réunion|sous la pluie|l'été dernier|sans un mot",
    ),
    "es": (
        " . who does what when",
        "El cliente|Mi vecino|La nueva directora|Nuestro equipo|Una médica joven|Un señor del pueblo",
        "perdió|compró|vendió|olvidó|encontró|reparó",
        "el paraguas rojo|un mapa viejo|dos entradas|las llaves|la factura|un teléfono barato",
        "ayer|el lunes por la mañana|después de la reunión|bajo la lluvia|el verano pasado|sin decir nada",
    ),
    "ru": (
        " . who does what when",
        "Клиент|Мой сосед|Новый директор|Старый учитель|Молодой врач|Один человек",
        "потерял|купил|продал|забыл|нашёл|починил",
        "красный зонт|старую карту|два билета|ключи от дома|этот счёт|дешёвый телефон",
        "вчера|в понедельник утром|после собрания|под дождём|прошлым летом|без единого слова",
    ),
    "tr": (
        " . who when what does",
        "Müşteri|Komşum|Yeni müdür|Ekibimiz|Genç bir doktor|Köydeki adam",
        "kaybetti|satın aldı|sattı|unuttu|buldu|onardı",
        "kırmızı şemsiyeyi|eski bir haritayı|iki bileti|evin anahtarlarını|faturayı|ucuz telefonu",
        "dün|pazartesi sabahı|toplantıdan sonra|yağmurda|geçen yaz|tek kelime etmeden",
    ),
    "sw": (
        " . who does what when",
        "Mteja|Jirani yangu|Mkurugenzi mpya|Mwalimu wetu|Daktari kijana|Mzee wa kijiji",
        "alipoteza|alinunua|aliuza|alisahau|alipata|alitengeneza",
        "mwavuli mwekundu|ramani ya zamani|tiketi mbili|funguo za nyumba|ankara|simu ya bei nafuu",
        "jana|Jumatatu asubuhi|baada ya mkutano|kwenye mvua|kiangazi kilichopita|bila neno lolote",
    ),
    "vi": (
        " . who does what when",
        "Khách hàng|Hàng xóm của tôi|Giám đốc mới|Đội chúng tôi|Một bác sĩ trẻ|Ông già trong làng",
        "đã làm mất|đã mua|đã bán|đã quên|đã tìm thấy|đã sửa",
        "chiếc ô màu đỏ|một tấm bản đồ cũ|hai chiếc vé|chìa khóa nhà|hóa đơn|một chiếc điện thoại rẻ",
        "hôm qua|vào sáng thứ Hai|sau cuộc họp|dưới mưa|mùa hè năm ngoái|mà không nói một lời",
    ),
    "zh": (
        "-。who when does what",
        "那位顾客|我的邻居|新来的经理|我们的团队|一位年轻的医生|村里的老人",
        "丢了|买了|卖了|忘了|找到了|修好了",
        "红色的雨伞|一张旧地图|两张票|家里的钥匙|那张发票|一部便宜的手机",
        "昨天|星期一早上|开会以后|在雨中|去年夏天|一声不响地",
    ),
    "ja": (
        "-。who when what does",
        "お客様は|隣の人は|新しい部長は|私たちのチームは|若い医者は|村の老人は",
        "なくした|買った|売った|忘れた|見つけた|直した",
        "赤い傘を|古い地図を|二枚の切符を|家の鍵を|請求書を|安い電話を",
        "昨日|月曜の朝に|会議の後で|雨の中で|去年の夏に|何も言わずに",
    ),
    "ar": (
        " . does who what when",
        "الزبون|جاري|المدير الجديد|فريقنا|طبيب شاب|رجل من القرية",
        "فقد|اشترى|باع|نسي|وجد|أصلح",
        "المظلة الحمراء|خريطة قديمة|تذكرتين|مفاتيح البيت|الفاتورة|هاتفا رخيصا",
        "أمس|صباح الاثنين|بعد الاجتماع|تحت المطر|في الصيف الماضي|دون أن يقول كلمة",
    ),
    "hi": (
        " ।who when what does",
        "ग्राहक ने|मेरे पड़ोसी ने|नए निदेशक ने|हमारी टीम ने|एक युवा डॉक्टर ने|गाँव के आदमी ने",
        "खो दिया|खरीद लिया|बेच दिया|छोड़ दिया|ढूँढ लिया|ठीक कर दिया",
        "लाल छाता|पुराना नक्शा|दो टिकटों को|घर की चाबियों को|बिल|सस्ता फ़ोन",
        "कल|सोमवार की सुबह|बैठक के बाद|बारिश में|पिछली गर्मियों में|बिना कुछ कहे",
    ),
}
LANGUAGES = tuple(_LANGUAGES)
WESTERN = ("en", "de", "fr", "es")  # cp1252 has their letters

# What people write around a text, which stands for each §.
STYLES = {
    "plain": ("§",),
    "punctuation": (
        "§", "§", "§", "«§»", "(§)", "“§”", '§, "OK"', "§ (3,50 €; 2 x)", "§, §", "§; §", "§ - 14:30", "’§’",
        "§...",
        "1,5 / 2,5: §", "§ | 7",
    ),
    "social": ("§", "@maria §", "§ #news", "RT @anna_92: § 😀", "§ https://t.co/x7Ab", "§!!! 👍🏽", "#ok §",
    "§ :-)"),
    "html": ("§", "<p>§</p>", "§<br /><br />§", "§ &amp; §", '<a href="x.html">§</a>'),
    "inches": ("§", "§", '7.5" §', '§ (5")', '§, "'),
    "quotes first": ("§", "§", '"§" §', '"§", §', '"OK": §'),
    "in quotes": ("§", "§", '"§"'),
    "lines": ("§", "§", "§\n§", "§\n\n- §", "§\r\n§"),
    "tabs": ("§", "§", "§\t§"),
    "separators": ("§", "§", "§\u2028§", "§\x0b§", "§\x0c§", "§\x85§", "§\xa0§", "\u3000§"),
    "blanks": ("§", " §", "§  ", "  § "),
}  # fmt: skip


@dataclass(frozen=True)
class Meaning:
    """What a text says: for each of its sentences a phrase of each part, or the last two alone."""

    sentences: tuple[tuple[int, ...], ...]
    number: str  # at its end, or nothing
    short: bool


def draw_meaning(random: Random, most_sentences: int, short: bool) -> Meaning:
    """Draw a text of at most `most_sentences` sentences; a `short` one is a phrase, as for a search."""
    count = 1 if short else random.randint(1, most_sentences)
    sentences = tuple(tuple(random.randrange(6) for _ in range(4)) for _ in range(count))
    number = random.choice(
        ("", "", str(random.randint(2, 999)), f"{random.randint(7, 19)}:{random.randint(10, 59)}")
    )
    return Meaning(sentences, number, short)


def say(meaning: Meaning, language: str) -> str:
    """Return the meaning in the language."""
    form, *phrases = _LANGUAGES[language]
    blank, end, order = form[0].strip("-"), form[1], form[2:].split()
    of = dict(zip(("who", "does", "what", "when"), phrases, strict=True))
    said = []
    for picks in meaning.sentences:
        chosen = dict(
            zip(of, (of[part].split("|")[pick] for part, pick in zip(of, picks, strict=True)), strict=True)
        )
        parts = ("what", "when") if meaning.short else order
        words = blank.join(chosen[part] for part in parts)
        said.append(
            words if meaning.short else words[0].upper() + words[1:] + (f" {end}" if end == "।" else end)
        )
    return blank.join(said) + (f" ({meaning.number})" if meaning.number else "")
