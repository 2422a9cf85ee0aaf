"""The columns that people keep in tables of labels and of pairs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple


class Column(NamedTuple):
    name: str
    cells: list[str]
    part: str = (
        ""  # "text", "other", "label", "source", "target", "flag": a label of its own; else it is no part
    )
    decimals: bool = False


class Made(NamedTuple):
    columns: list[Column]
    parts: tuple[str, ...]  # of a row
    ambiguous: str
    kept: list[int]
    split_labels: str = ""  # between the labels of a cell


@dataclass(frozen=True)
class Form:
    """One way to arrange a table: `make(random, texts, labels, languages, header)` returns its columns."""

    weight: int
    make: Callable[..., Made]
    texts: int = 1  # columns of them
    headers: dict[str, int] = field(default_factory=lambda: {"known": 1})  # kinds of header, and how often
    programs: tuple[str, ...] = ()  # that write it, if not all
    extras: bool = False  # whether people add columns


LABELS: tuple[tuple[str, ...], ...] = (
    ("positive", "negative", "neutral"), ("pos", "neg"), ("spam", "ham"), ("0", "1"),
    ("1", "2", "3", "4", "5"),
    ("-1", "0", "1"), ("yes", "no"), ("ja", "nein"), ("Positiv", "Negativ", "Neutral"), ("TRUE", "FALSE"),
    ("sports", "politics", "business", "science & technology"), ("True", "False"), ("A1", "A2", "B1", "B2"),
    ("Technik, Netz", "Rechnung", "Kündigung"), ("好评", "差评"), ("体育", "财经", "娱乐", "教育"),
    ("положительный", "отрицательный"), ("olumlu", "olumsuz", "nötr"), ("إيجابي", "سلبي", "محايد"),
    ("billing/refund", "billing/charge", "delivery/late", "other"), ("OTHER", "OFFENSE"), ("none", "hate"),
    ("en", "de", "fr", "es"), ("ERR_TIMEOUT", "ERR_DISK", "OK"), ("I", "II", "III"), ("NA", "EU", "APAC"),
    ("Not a complaint", "Complaint about the staff", "Complaint about the price"), ("bug", "feature request"),
)  # fmt: skip

_FLAGS = (
    ("toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate"),
    ("anger", "anticipation", "disgust", "fear", "joy", "sadness"),
    ("admiration", "amusement", "annoyance", "confusion"),
)

# What text and label, or the sides of a pair, are called: in many public tables, and in tables of one's own.
NAMES = {
    ("labels", "known"): (
        "text label", "sentence label", "review sentiment", "content category", "comment class",
        "tweet label",
        "message intent", "Text Label", "title category", "utterance intent", "document label", "TEXT CLASS",
        "comment_text target", "review_body stars", "question category", "body topic", "tweet sentiment",
    ),
    ("labels", "own"): (
        "Kommentar Kategorie", "Bewertungstext Bewertung", "avis étiquette", "texto etiqueta",
        "opinión sentimiento",
        "текст метка", "отзыв тональность", "内容 标签", "评论 类别", "テキスト ラベル", "metin etiket",
        "النص التصنيف", "Nachricht Thema", "commentaire sentiment", "Anfrage Abteilung",
    ),
    ("pairs", "known"): (
        "source target", "src tgt", "anchor positive", "question answer", "sentence1 sentence2",
        "query document",
        "src_text tgt_text", "source_text target_text", "Source Target", "original translation", "L1 L2",
        "L1 L2",
        "L1 L2", "L1_sentence L2_sentence", "text_L1 text_L2",
    ),
    ("pairs", "own"): (
        "原文 译文", "Ausgangstext Zieltext", "оригинал перевод", "texte_source texte_cible",
        "Original Übersetzung",
        "kaynak hedef", "origen destino", "原文 訳文",
    ),
}  # fmt: skip

# Names that no list has. Of each family, as many as a table has columns.
_ODD_FAMILIES: tuple[tuple[str, ...], ...] = (
    tuple(f"col{letter}" for letter in "ABCDEFGHIJKL"),
    tuple("ABCDEFGHIJKL"),
    tuple(f"Spalte{i}" for i in range(1, 13)),
    tuple(f"Column{i}" for i in range(1, 13)),
    tuple(f"V{i}" for i in range(1, 13)),
    tuple(f"feld_{i:02}" for i in range(1, 13)),
    tuple(str(i) for i in range(12)),
)
_ODD_NAMES = (
    "Quelle_x", "Ziel_x", "orig_txt", "uebers", "phr_l1", "phr_l2", "lado_b", "seg1", "seg2", "Satz links",
    "Satz rechts", "вход_1", "выход_1", "左", "右", "원문칸", "kolumna_k", "ak_metni", "bk_metni", "zin1",
    "zin2",
    "wsad", "German Sentence (bitte prüfen)", "roh", "fertig", "korvane", "teluma", "X.1", "X.2", "FR v2",
    "EN v2",
)  # fmt: skip


def odd_names(random: Random, columns: list[Column]) -> list[str]:
    """Return a name for each column that says nothing about it."""
    family = random.choice((*_ODD_FAMILIES, _ODD_NAMES, _ODD_NAMES, _ODD_NAMES))
    return random.sample(family, len(columns)) if family is _ODD_NAMES else list(family[: len(columns)])


def _named(random: Random, kind: str, header: str, languages: list[str]) -> tuple[str, str]:
    """Draw two names. L1 and L2 stand for languages: as codes, or in full."""
    first, second = random.choice(NAMES[kind, "own" if header == "own" else "known"]).split()
    spelled = random.choice((str, str, str.upper, lambda code: f"{code}-{code.upper()}", _LANGUAGE_NAMES.get))
    one, two = languages[0], languages[1] if len(languages) > 1 else "mt"
    return first.replace("L1", spelled(one) or one), second.replace("L2", spelled(two) or two)


_LANGUAGE_NAMES = {
    "en": "English", "de": "German", "fr": "French", "es": "Spanish", "ru": "Russian", "tr": "Turkish",
    "sw": "Swahili",
    "vi": "Vietnamese", "zh": "Chinese", "ja": "Japanese", "ar": "Arabic", "hi": "Hindi", "mt": "Translation",
}  # fmt: skip


def extra(random: Random, what: str, count: int, languages: list[str]) -> Column:
    """Return a column of `count` cells that is no part of the rows."""
    start = random.choice((0, 1, 1000, 2877272))
    step = random.choice((1, 1, 3))
    constant_name, constant = random.choice(
        (
            ("corpus", "WikiMatrix v1"),
            ("version", "1.0"),
            ("source", "twitter"),
            ("annotator", "3"),
            ("domain", "web"),
        )
    )
    people = ("anna", "bob", "chen", "dario", "elif", "fatma", "gus")
    makers: dict[str, tuple[str, Callable[[int], str]]] = {
        "id": ("id", lambda i: str(start + step * i)),
        "uuid": ("uuid", lambda i: f"{random.getrandbits(32):08x}-4f1c-{random.getrandbits(48):012x}"),
        "date": ("date", lambda i: f"{random.randint(1, 28):02}.{random.randint(1, 12):02}.2023"),
        "timestamp": (
            "created_at",
            lambda i: f"2024-05-{random.randint(1, 28):02}T{i % 24:02}:07:{i % 60:02}Z",
        ),
        "url": (
            "url",
            lambda i: f"https://example.org/{random.choice(people)}/{random.getrandbits(24)}?p={i}",
        ),
        "user": ("user", lambda i: f"{random.choice(people)}_{random.randint(1, 9999)}"),
        "split": ("split", lambda i: random.choices(("train", "dev", "test"), (8, 1, 1))[0]),
        "constant": (constant_name, lambda i: constant),
        "empty": ("remarks", lambda i: ""),
        "score": ("confidence", lambda i: f"{random.uniform(0.5, 1):.4f}"),
        "language": ("lang", lambda i: random.choice(languages)),
        "likes": ("likes", lambda i: str(int(random.expovariate(0.02)))),
        "other class": ("country", lambda i: random.choice(("Kenya", "Chile", "Vietnam"))),
    }
    name, cell = makers[what]
    return Column(name, [cell(i) for i in range(count)], decimals=what == "score")


def _numbers(random: Random, name: str, count: int, low: float, high: float, falling: bool = False) -> Column:
    drawn = [random.uniform(low, high) for _ in range(count)]
    return Column(name, [f"{number:.5f}" for number in (sorted(drawn)[::-1] if falling else drawn)], "", True)


def _all(columns: list[Column], *parts: str, ambiguous: str = "", split_labels: str = "") -> Made:
    return Made(columns, parts, ambiguous, list(range(len(columns[0].cells))), split_labels)


# Labels


def _plain_labels(random, texts, labels, languages, header):
    text, label = _named(random, "labels", header, languages)
    columns = [Column(text, texts[0], "text"), Column(label, labels, "label")]
    return _all(columns[:: random.choice((1, 1, -1))], "text", "label")


def _flags(random, texts, labels, languages, header):
    flags = random.choice(_FLAGS)
    columns = (
        [extra(random, random.choice(("id", "uuid")), len(labels), languages)]
        if random.random() < 0.7
        else []
    )
    columns.append(Column(random.choice(("comment_text", "Tweet", "text")), texts[0], "text"))
    columns += [Column(flag, [random.choice("0001") for _ in labels], "flag") for flag in flags]
    return _all(columns, "text", "flags")


def _text_pairs(random, texts, labels, languages, header):
    one, two, label = random.choice(
        ("premise hypothesis label", "sentence1 sentence2 label", "question1 question2 is_duplicate",
         "sentence1 sentence2 gold_label", "text1 text2 label")
    ).split()  # fmt: skip
    names = {"label": ("0", "1", "2"), "is_duplicate": ("0", "1")}.get(
        label, ("entailment", "neutral", "contradiction")
    )
    columns = [Column(one, texts[0], "text"), Column(two, texts[1], "other")]
    columns.append(Column(label, [random.choice(names) for _ in labels], "label"))
    if label == "is_duplicate":
        ids = (("qid2", 2 * 100), ("qid1", 100), ("id", 0))
        for name, start in ids:
            columns.insert(0, Column(name, [str(start + i) for i in range(len(labels))]))
    return _all(columns, "text", "other", "label")


def _label_studio_table(random, texts, labels, languages, header):
    count = len(labels)
    columns = [
        Column("annotation_id", [str(40 + i) for i in range(count)]),
        Column("annotator", ["1"] * count),
        Column("created_at", [f"2024-05-02T10:{i % 60:02}:07.{i:06}Z" for i in range(count)]),
        Column("id", [str(100 + i) for i in range(count)]),
        _numbers(random, "lead_time", count, 1, 60),
        Column(random.choice(("sentiment", "topic", "choice")), labels, "label"),
        Column("text", texts[0], "text"),
        Column("updated_at", [f"2024-05-02T11:{i % 60:02}:07.{i:06}Z" for i in range(count)]),
    ]
    return _all(columns, "text", "label")


def _doccano_table(random, texts, labels, languages, header):
    joined = [
        label if random.random() < 0.7 else "#".join(sorted({label, random.choice(labels)}))
        for label in labels
    ]
    columns = [
        extra(random, "id", len(labels), languages),
        Column("text", texts[0], "text"),
        Column("label", joined, "label"),
    ]
    columns.append(Column("Comments", [""] * len(labels)))
    return _all(columns, "text", "label", split_labels="#")


def _several_in_a_cell(random, texts, labels, languages, header):
    mark = random.choice((",", "|", ";"))
    names = ("sport", "music", "travel", "food")
    cells = [mark.join(sorted(random.sample(names, random.choice((1, 2, 2, 3))))) for _ in labels]
    columns = [Column("text", texts[0], "text"), Column(random.choice(("labels", "tags")), cells, "label")]
    return _all(columns, "text", "label", split_labels=mark, ambiguous="several labels in a cell")


def _log(random, texts, labels, languages, header):
    columns = [
        extra(random, "timestamp", len(labels), languages),
        Column("service", ["checkout-7f9c"] * len(labels)),
    ]
    columns += [
        Column("message", texts[0], "text"),
        Column(random.choice(("label", "category")), labels, "label"),
    ]
    return _all(columns, "text", "label")


def _sms(random, texts, labels, languages, header):
    columns = [
        Column("v1", [random.choice(("ham", "ham", "spam")) for _ in labels], "label"),
        Column("v2", texts[0], "text"),
    ]
    return _all([*columns, *(Column("", [""] * len(labels)) for _ in range(3))], "text", "label")


def _sentiment140(random, texts, labels, languages, header):
    count = len(labels)
    columns = [Column("target", [random.choice("04") for _ in labels], "label")]
    columns.append(Column("ids", [str(1467810369 + 97 * i) for i in range(count)]))
    columns.append(Column("date", [f"Mon Apr 06 22:{i % 60:02}:45 PDT 2009" for i in range(count)]))
    columns += [
        Column("flag", ["NO_QUERY"] * count),
        extra(random, "user", count, languages),
        Column("text", texts[0], "text"),
    ]
    return _all(columns, "text", "label")


def _cola(random, texts, labels, languages, header):
    judged = [random.choice("0111") for _ in labels]
    columns = [Column("source", ["gj04"] * len(labels)), Column("label", judged, "label")]
    columns += [
        Column("mark", ["" if label == "1" else "*" for label in judged]),
        Column("sentence", texts[0], "text"),
    ]
    return _all(columns, "text", "label")


def _afrisenti(random, texts, labels, languages, header):
    ids = Column("ID", [f"{languages[0]}_train_{i:05}" for i in range(len(labels))])
    return _all([ids, Column("tweet", texts[0], "text"), Column("label", labels, "label")], "text", "label")


def _sib200(random, texts, labels, languages, header):
    ids = Column("index_id", [str(random.randint(0, 2000)) for _ in labels])
    return _all([ids, Column("category", labels, "label"), Column("text", texts[0], "text")], "text", "label")


def _two_classes(random, texts, labels, languages, header):
    others = [random.choice(("ABUSE", "INSULT", "PROFANITY")) for _ in labels]
    columns = [Column("text", texts[0], "text"), Column("task_1", labels, "label"), Column("task_2", others)]
    return _all(columns, "text", "label", ambiguous="two columns of classes")


def _two_texts(random, texts, labels, languages, header):
    columns = [Column("class", labels, "label"), Column("title", texts[0], "text"), Column("text", texts[1])]
    return _all(columns, "text", "label", ambiguous="two columns of texts")


# Pairs


def _plain_pairs(random, texts, labels, languages, header):
    source, target = _named(random, "pairs", header, languages)
    return _all([Column(source, texts[0], "source"), Column(target, texts[1], "target")], "source", "target")


def _scored_pairs(random, texts, labels, languages, header):
    made = _plain_pairs(random, texts, labels, languages, header)
    first = random.random() < 0.6
    score = _numbers(
        random, "score", len(labels), 1.0 if first else 0.4, 1.3 if first else 1.0, random.random() < 0.5
    )
    columns = [score, *made.columns] if first else [*made.columns, score]
    if random.random() < 0.3:
        columns += [
            Column("src_lang", [languages[0]] * len(labels)),
            Column("tgt_lang", [languages[-1]] * len(labels)),
        ]
    return _all(columns, "source", "target")


def _paracrawl(random, texts, labels, languages, header):
    urls = [
        extra(random, "url", len(labels), languages)._replace(name=name) for name in ("src_url", "tgt_url")
    ]
    made = _plain_pairs(random, texts, labels, languages, header)
    return _all(
        [*urls, *made.columns, _numbers(random, "bicleaner", len(labels), 0.5, 1)], "source", "target"
    )


def _tatoeba(random, texts, labels, languages, header):
    ids = [extra(random, "id", len(labels), languages)._replace(name=name) for name in ("id1", "id2")]
    codes = [Column(f"lang{i}", [languages[i and -1]] * len(labels)) for i in (0, 1)]
    sides = [Column("text1", texts[0], "source"), Column("text2", texts[1], "target")]
    with_codes = random.random() < 0.5
    columns = [
        column
        for i in (0, 1)
        for column in ((ids[i], codes[i], sides[i]) if with_codes else (ids[i], sides[i]))
    ]
    return _all(columns, "source", "target")


def _manythings(random, texts, labels, languages, header):
    said = [
        f"CC-BY 2.0 (France) Attribution: tatoeba.org #{2877272 + 7 * i} (CM) & #{i + 85} (Ro)"
        for i in range(len(labels))
    ]
    made = _plain_pairs(random, texts, labels, languages, header)
    return _all([*made.columns, Column("attribution", said)], "source", "target")


def _pairs_with_codes(random, texts, labels, languages, header):
    made = _plain_pairs(random, texts, labels, languages, header)
    mixed = random.random() < 0.3
    codes = [
        Column(name, [random.choice(languages) if mixed else languages[place] for _ in labels])
        for name, place in (("source_lang", 0), ("target_lang", -1))
    ]
    columns = random.choice(((*made.columns, *codes), (*codes, *made.columns)))
    number = [extra(random, "id", len(labels), languages)] if random.random() < 0.5 else []
    return _all([*number, *columns], "source", "target")


def _log_of_pairs(random, texts, labels, languages, header):
    columns = [extra(random, what, len(labels), languages) for what in ("timestamp", "uuid")]
    columns += [Column("query", texts[0], "source"), Column("clicked_title", texts[1], "target")]
    return _all(columns, "source", "target")


def _judged(random, texts, labels, languages, header):
    """Pairs of which some are no pairs. The others are kept, if the reader is told so."""
    names, verdicts, good = random.choice(
        (
            ("sentence1 sentence2 label", ("0", "1"), ("1",)),
            ("question1 question2 is_duplicate", ("0", "1"), ("1",)),
            ("premise hypothesis label", ("entailment", "neutral", "contradiction"), ("entailment",)),
            ("sentence1 sentence2 score", ("0.0", "1.25", "2.5", "4.0", "4.8", "5.0"), ("4.0", "4.8", "5.0")),
            ("query document relevant", ("yes", "no"), ("yes",)),
            ("query title clicked", ("0", "1"), ("1",)),
        )
    )
    one, two, verdict = names.split()
    drawn = [*verdicts, *(random.choice(verdicts) for _ in labels[len(verdicts) :])]
    random.shuffle(drawn)
    columns = [Column(one, texts[0], "source"), Column(two, texts[1], "target"), Column(verdict, drawn)]
    kept = [i for i, drawn_one in enumerate(drawn) if drawn_one in good]
    return Made(columns, ("source", "target"), "a column judges the pairs", kept)


def _judged_equal(random, texts, labels, languages, header):
    made = _plain_pairs(random, texts, labels, languages, header)
    return _all([*made.columns, Column("label", ["1"] * len(labels))], "source", "target")


def _three_texts(random, texts, labels, languages, header):
    names = languages if len(languages) == 3 else ("original", "machine", "edited")
    columns = [Column(*of) for of in zip(names, texts, ("source", "target", ""), strict=True)]
    return _all(columns, "source", "target", ambiguous="three columns of texts")


_TABBED = ("lines with tabs", "pandas with tabs")
_ANY_HEADER = {"known": 50, "own": 15, "odd": 15, "none": 20}
_OFTEN_NONE = {"known": 3, "none": 7}
FORMS: dict[str, dict[str, Form]] = {
    "labels": {
        "plain": Form(60, _plain_labels, headers=_ANY_HEADER, extras=True),
        "flags": Form(7, _flags),
        "text pairs": Form(5, _text_pairs, 2),
        "label studio": Form(3, _label_studio_table, programs=("pandas",)),
        "doccano": Form(2, _doccano_table, programs=("pandas",)),
        "several labels in a cell": Form(2, _several_in_a_cell, programs=("LibreOffice", "pandas with tabs")),
        "log": Form(4, _log, headers={"known": 1, "none": 1}),
        "sms": Form(2, _sms, programs=("Excel, English", "Excel, ANSI", "pandas")),
        "sentiment140": Form(2, _sentiment140, headers={"none": 1}, programs=("LibreOffice", "pandas")),
        "cola": Form(2, _cola, headers={"none": 1}, programs=("lines with tabs",)),
        "afrisenti": Form(2, _afrisenti, programs=_TABBED),
        "sib200": Form(2, _sib200, programs=_TABBED),
        "two classes": Form(3, _two_classes, headers={"none": 1, "odd": 1, "known": 1}),
        "two texts": Form(2, _two_texts, 2, headers={"none": 1, "odd": 1}),
    },
    "pairs": {
        "plain": Form(20, _plain_pairs, 2, {"known": 7, "own": 3}, extras=True),
        "odd header": Form(16, _plain_pairs, 2, {"odd": 1}, extras=True),
        "moses": Form(12, _plain_pairs, 2, {"none": 1}, (*_TABBED, "three bars", "pandas")),
        "scored": Form(12, _scored_pairs, 2, {"known": 3, "none": 6, "odd": 2}),
        "paracrawl": Form(2, _paracrawl, 2, {"none": 1}, ("lines with tabs",)),
        "tatoeba": Form(6, _tatoeba, 2, {"none": 1}, _TABBED),
        "manythings": Form(3, _manythings, 2, {"none": 1}, ("lines with tabs",)),
        "language codes": Form(7, _pairs_with_codes, 2, {"known": 4, "none": 4, "odd": 2}),
        "log": Form(3, _log_of_pairs, 2, _OFTEN_NONE),
        "judged": Form(6, _judged, 2, {"known": 8, "none": 1}),
        "judged equal": Form(1, _judged_equal, 2),
        "three texts": Form(3, _three_texts, 3, {"none": 1, "odd": 1, "known": 1}),
    },
}  # fmt: skip
