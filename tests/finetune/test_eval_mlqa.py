"""F1 and exact match, worked by hand for each language, and equal to MLQA's own script on its dev files."""

import json

import pytest

from ernie_m.finetune.eval_mlqa import (
    compute_exact_match,
    compute_f1,
    normalize,
    resolve_rules_language,
    score_answers,
)
from ernie_m.reader.files.squad import read_squad
from ernie_m.reader.labels import parse_language


@pytest.mark.parametrize(
    ("language", "text", "words"),
    [
        ("en", "The  U.S.A., an «old» theatre", "usa old theatre"),
        ("en", "$5 + a half", "5 half"),  # ASCII symbols count as punctuation, though Unicode's S* does not
        ("en", "5 € – 7 €", "5 € 7 €"),
        ("en", "the cat, an ant and a bee", "cat ant and bee"),
        ("es", "El Niño, la niña y una (gran) ola", "niño niña y gran ola"),
        ("es", "los mares, las olas, un mar, unos ríos y unas lunas", "mares olas mar ríos y lunas"),
        ("de", "Das Haus des Vaters eines Der-Hundes", "haus vaters derhundes"),
        ("de", "der die das den dem des ein eine einen einem einer eines eins", "eins"),
        ("vi", "Những con mèo của tôi là đẹp", "con mèo tôi đẹp"),
        ("vi", "cái bàn và chiếc ghế", "bàn và ghế"),
        ("hi", "x\U00010100y", "xy"),  # punctuation beyond 65,536
        ("hi", "एक बिल्ली। the", "एक बिल्ली the"),
        ("ar", "الكتاب والبيت، ال", "كتاب و بيت"),
        ("zh", "1946 年，3G网络the A", "1946 年 3g 网 络 the a"),
        ("zh", "日ぞ本", "日 ぞ 本"),
        ("fr", "le chat d'un", "le chat dun"),  # no rules of its own: no articles
    ],
)
def test_normalize_answer_by_mlqa_rules(language, text, words):
    assert normalize(text, language) == words.split()


@pytest.mark.parametrize("language", ["en", "de", "es", "zh"])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The  U.S.A., an «old» theatre", "usa «old» theatre"),  # Unicode's punctuation stays
        ("Das Haus des Vaters", "das haus des vaters"),
        ("La Niña a la una", "la niña la una"),  # English articles go in every language
        ("1946 年，3G网络 the", "1946 年，3g网络"),  # Han characters are not words of their own
    ],
)
def test_squad_rules_are_english_in_every_language(language, text, words):
    assert normalize(text, language, rules="squad") == words.split()


@pytest.mark.parametrize(
    ("measure", "answer", "gold", "language", "score"),
    [
        # cat and sat, of 3 and of 4 words
        (compute_f1, "The cat sat down", ["a cat sat on mats"], "en", 2 * 2 / (3 + 4)),
        (compute_f1, "cat cat", ["cat"], "en", 2 * 1 / (2 + 1)),  # as multisets: one word of two is shared
        (compute_f1, "dog", ["cat", "Dog!"], "en", 1),  # the best of the answers
        (compute_f1, "red dog", ["dog", "red dog", "red"], "en", 1),  # not the first one that shares a word
        (compute_f1, "", ["cat"], "en", 0),
        (compute_f1, "the", ["cat"], "en", 0),  # an article alone is no word
        (compute_f1, "北京市", ["北京"], "zh", 2 * 2 / (3 + 2)),  # a Chinese character is a word
        (compute_exact_match, "The «Cat»", ["dog", "cat"], "en", 1),
        (compute_exact_match, "cats", ["cat"], "en", 0),
        # Only articles of the answer's language are left out.
        (compute_exact_match, "el gato", ["gato"], "en", 0),
        (compute_exact_match, "el gato", ["gato"], "es", 1),
    ],
)
def test_f1_and_exact_match_equal_hand_computed_ones(measure, answer, gold, language, score):
    """F1 is twice the number of shared words over the number of words of both."""
    assert measure(answer, gold, language) == pytest.approx(score)


@pytest.mark.parametrize(
    ("language", "names"),
    [
        (
            "zh",
            "zh ZH zh-cn zh_CN zh-Hans zh_Hans_CN zho cmn chi zh-de zh-question-de context-zh-question-en",
        ),
        ("zh", "dev-context-zh-question-de.json xquad.zh.json dev.zh_CN.json train-zh.json MLQA-zh.jsonl"),
        ("zh", "qa.zh.json en.zh.json"),
        ("de", "de de-at de_CH deu ger dev.deu.json"),
        ("es", "es es-419 spa context-es-question-es"),
        ("ar", "ar arb_Arab ara"),
        ("en", "eng en-zh en-question-zh"),
        ("pt", "pt_BR xquad.pt.json"),
        ("ru", "rus dev.rus.json"),
        ("de", "mlqa.de.qa.json dev.de.ok.json"),
        ("", "all dev dev.json no_answer_start.json train-v1.1.json"),
    ],
)
def test_the_language_that_a_name_says(language, names):
    assert {name: parse_language(name) for name in names.split()} == dict.fromkeys(names.split(), language)


def test_names_without_rules_are_logged_once(caplog):
    """French keeps its articles, and a file without a language loses those of English."""
    rows = [("the port", ["port"]), ("le port", ["port"])]
    resolve_rules_language.cache_clear()
    for _ in range(2):
        assert [score_answers(rows, name)["em"] for name in ("fr", "dev.json", "dev.en.json")] == [0, 50, 50]
        assert score_answers(rows, "fr", "squad")["em"] == 50
    assert [
        (message.partition(":")[0], message.rpartition("normalized ")[2]) for message in caplog.messages
    ] == [
        ("fr", "without removing articles"),
        ("dev.json", "as English"),
    ]


@pytest.mark.data
def test_equal_to_mlqas_script(data_dir):
    """To the last digit, on perturbed answers in 8 files and 5 languages, which their names say."""
    expected = json.loads((data_dir / "qa/official-scores/scores.json").read_text())
    assert len(expected) == 8
    for name, official in expected.items():
        predictions = json.loads((data_dir / f"qa/official-scores/predictions-{name}").read_text())
        questions = read_squad(data_dir / "qa/mlqa-dev" / name, "dev").questions
        rows = [(predictions[question.id], question.answers) for question in questions]
        scores = {"f1": official["f1"], "em": official["exact_match"]}
        for language in (official["answer_language"], name):
            assert score_answers(rows, language) == scores, name


def test_questions_whose_answers_are_all_blank_have_no_score():
    assert score_answers([("Rome", ("",)), ("", (" ", ""))], "dev.en.json") == {"f1": None, "em": None}
    assert score_answers([("Rome", ("",)), ("", ("Oslo",))], "dev.en.json") == {"f1": 0.0, "em": 0.0}
