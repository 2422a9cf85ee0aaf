"""Whether the demo's models answer every example of the page rightly. Run on request, after the demo:

    sh scripts/demo.sh
    DEMO=output/demo .venv/bin/python -m pytest tests/inference/trained_demo.py

The examples are read from the page in a browser, and asked of the server that the demo names. The masks are
left out: no model draws them.
"""

import base64
import json
import os
import shlex
from pathlib import Path

import pytest

from scripts import demo
from scripts.sample.scenes import CODES
from tests.inference import browser
from tests.inference.served import ask, serving
from tests.launching import ROOT

DEMO = os.environ.get("DEMO", str(demo.OUTPUT))  # relative to the repository
# Words of the first sentence, and the pieces of the second one that translate them.
TRANSLATIONS = {
    "man": {"Mann", "男人"},
    "book": {"Buch", "本", "书"},  # a counter and the noun: 一本书, "a book"
    "market": {"Markt", "在市", "场里"},  # 在市场里, "at the market", is cut in two here
    "homme": {"الرجل"},
    "livre": {"كتابا"},
    "marché": {"السوق"},
    "hombre": {"आदमी"},
    "libro": {"किताब"},
    "mercado": {"बाज़ार"},
}
# Every word of the lexicon that fits into the sentence, in its language.
FITTING = {
    "The man buys a [MASK] at the market.": {"ball", "doll", "book", "letter", "cat", "dog", "toy"},
    "Der Mann kauft auf dem [MASK] ein Buch.": {"Markt"},
    "L'homme achète un [MASK] au marché.": {"livre", "chien", "chat", "jouet", "animal"},
}
# An example of classification -> the label that its sentences have.
LABELS = {
    ("The man buys a book at the market.", "The man buys a book at school."): "contradiction",
    ("Der Mann kauft auf dem Markt ein Buch.", "Eine Person kauft auf dem Markt ein Buch."): "entailment",
    ("يشتري الرجل كتابا في السوق.", "يشتري الرجل كتابا أحمر."): "neutral",  # a red book
}
# The labels of an example of zero-shot classification -> the one that is right.
OWN_LABELS = {"at the market, at school, in the garden": "at the market", "buys, sells": "buys"}
# The translation of each example of translate-probe, by its language.
SENTENCES = {
    "en": "The man buys a book at the market.",
    "de": "Der Mann kauft auf dem Markt ein Buch.",
}
# picture of docs/images -> width, whether the page is dark, tab, number of the example; page.png shows a real
# encoder, with `sh scripts/demo.sh --page`
PICTURES = {
    "page-align.png": (1000, False, "align", 2),
    "page-dark.png": (1000, True, "masks", 1),
    "page-phone.png": (390, False, "classify", 3),
}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A browser that shows the page of the demo's command; `address` is the server's."""
    # The command that the demo prints, with the folder that DEMO names.
    words = shlex.split(demo.serving_command().replace(str(demo.OUTPUT), DEMO))
    flags = words[words.index("--serve") + 1 :]
    with (
        serving(*flags) as (address, _),
        browser.Browser(tmp_path_factory.mktemp("profile")) as opened,
    ):
        opened.address = address
        open_page(opened)
        yield opened


def open_page(page) -> None:
    page.open("about:blank")
    page.open(page.address)
    page.wait_for("document.querySelectorAll('[role=tab]').length > 1")


def answers(page, task: str) -> list[tuple[dict, dict]]:
    """Each example of a task with the server's answer."""
    pairs = []
    for example in json.loads(page.value(f"JSON.stringify(examplesOf({task!r}))")):
        request = example | ({"each": True} if task == "search" else {})  # the page's choice for this corpus
        status, answer = ask(f"{page.address}/api/{task}", request)
        assert status == 200, answer
        pairs.append((example, answer))
    return pairs


def word(piece: str) -> str:
    """The text of a piece that begins a word."""
    return piece.removeprefix("▁")


def test_search_finds_the_translation_in_every_language(page):
    retrieval = ROOT / DEMO / "sample/retrieval"
    sentences = {}  # language -> the lines of its file; translations are in the same line of every file
    for code in CODES:
        bitext = "de-en" if code == "en" else f"{code}-en"
        sentences[code] = (retrieval / f"{bitext}.{code}").read_text(encoding="utf-8").splitlines()
    for example, answer in answers(page, "search"):
        text = example["text"]
        (number,) = {lines.index(text) for lines in sentences.values() if text in lines}
        for hit in answer["found"]:
            assert hit["text"] == sentences[hit["language"]][number], text
        assert len(answer["found"]) == len(CODES)


def test_nouns_are_nearest_to_their_translations(page):
    for example, answer in answers(page, "align"):
        checked = 0
        for token, cosines in zip(answer["tokens_a"], answer["similarity"]):
            if token["text"] in TRANSLATIONS:
                nearest = answer["tokens_b"][cosines.index(max(cosines))]["text"]
                assert nearest in TRANSLATIONS[token["text"]], example
                checked += 1
        assert checked == 3  # man, book and market


def test_the_class_is_right(page):
    for example, answer in answers(page, "classify"):
        assert answer["label"] == LABELS[example["text_a"], example["text_b"]], (example, answer)


def test_the_own_label_is_right(page):
    for example, answer in answers(page, "zero-shot"):
        assert answer["label"] == OWN_LABELS[example["labels"]], (example, answer)


def test_the_word_for_a_mask_fits(page):
    for example, answer in answers(page, "fill"):
        (candidates,) = answer["masks"]  # of one mask, the likeliest first
        best = candidates[0]
        assert word(best["token"]) in FITTING[example["text"]], (example, best)


def test_pseudo_tokens_are_words_of_the_translation(page):
    for example, answer in answers(page, "translate-probe"):
        for candidates in answer["slots"]:  # of each pseudo-token, the likeliest first
            best = candidates[0]
            assert word(best["token"]) in SENTENCES[example["language"]].split(), (example, best)


def test_pictures(page, tmp_path):
    """With PICTURES=docs/images they become those of the documentation."""
    folder = Path(os.environ.get("PICTURES", tmp_path))
    for name, (width, dark, tab, number) in PICTURES.items():
        page.look(width, dark=dark)
        open_page(page)
        page.value(f"void document.querySelector('#tab-{tab}').click()")  # it may be behind the training
        page.value("void (document.querySelector('#training').open = true)")
        page.click(f"#panel-{tab} .examples button:nth-of-type({number})")
        page.wait_for(f"document.querySelector('#panel-{tab} .answer').dataset.done === {tab!r}")
        picture = page.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        (folder / name).write_bytes(base64.b64decode(picture))
        assert (folder / name).stat().st_size > 10_000
