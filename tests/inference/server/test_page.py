"""The page of ernie-m serve in a browser: what a user clicks, types and sees."""

import json
import shlex
import shutil

import pytest

from ernie_m.inference.server.middleware import LONGEST_BODY
from tests.inference import browser
from tests.inference.conftest import write_means
from tests.inference.served import ask, serving
from tests.toys import sentences, write_languages

pytestmark = pytest.mark.browser
TEXTS = sentences(30, seed=6)
ARABIC = "يشتري الرجل كتابا في السوق."
TABS = ["search", "classification", "zero-shot", "token-classification", "question-answering", "fill-mask"]


@pytest.fixture(scope="module")
def page(models, tmp_path_factory):
    """A page with every tab, and the address of its server."""
    folder = tmp_path_factory.mktemp("page")
    centered = folder / "full"
    shutil.copytree(models / "full", centered)
    write_means(centered, ["de", "en"])  # not of the corpus, so that each text is nearest to itself
    folders = ",".join(map(str, (centered, models / "classify", models / "tag", models / "answer")))
    corpus = write_languages(folder, ar=[*TEXTS[:15], ARABIC], fr=TEXTS[15:])
    with (
        serving("--model", folders, "--corpus", corpus) as (address, _),
        browser.Browser(tmp_path_factory.mktemp("profile")) as opened,
    ):
        opened.address = address
        opened.encoder = str(models / "encode")
        yield opened


@pytest.fixture(autouse=True)
def fresh(page):
    """Each test begins with the page as it is when it is opened."""
    page.look(1000)
    page.open("about:blank")
    page.open(page.address)
    page.wait_for("document.querySelectorAll('[role=tab]').length")


def ask_page(page, task: str, **fields: str) -> None:
    """Choose a tab, fill in its form, press its button, and wait for the answer."""
    page.click(f"#tab-{task}")
    for name, text in fields.items():
        if page.value(f"document.querySelector('#{task}-{name}').tagName") == "SELECT":
            page.value(f"void (document.querySelector('#{task}-{name}').value = {text!r})")
        else:
            page.value(f"void (document.querySelector('#{task}-{name}').value = '')")
            page.type(f"#{task}-{name}", text)
    page.click(f"#panel-{task} .go")
    answered(page, task)


def answered(page, task: str) -> None:
    """Wait until the panel of a task shows an answer."""
    page.wait_for(f"document.querySelector('#panel-{task} .answer').dataset.done === {task!r}")


def get_texts(page, selector: str) -> list[str]:
    """The texts of the elements that a selector chooses."""
    return page.value(f"[...document.querySelectorAll({selector!r})].map(element => element.textContent)")


@pytest.mark.parametrize("task", TABS)
def test_every_example_is_answered(page, task):
    page.click(f"#tab-{task}")
    count = page.value(f"document.querySelectorAll('#panel-{task} .examples button').length")
    for number in range(count):
        page.value(f"void delete document.querySelector('#panel-{task} .answer').dataset.done")
        page.click(f"#panel-{task} .examples button:nth-of-type({number + 1})")
        answered(page, task)
        answer = page.value(f"document.querySelector('#panel-{task} .answer').textContent")
        # An example may be too long for so small a model.
        assert answer and ("shorten" in answer or not get_texts(page, f"#panel-{task} .error")), answer
    assert count >= 2


def test_demo_opens_with_an_example_search(page):
    answered(page, "search")
    examples = page.value(
        "[...document.querySelectorAll('#panel-search .examples button')].map(element => element.title)"
    )
    arabic = min([*TEXTS[:15], ARABIC], key=len)  # the shortest line of each language
    assert examples == [arabic, min(TEXTS[15:], key=len)]
    assert page.value("document.querySelector('#search-text').value") == arabic
    assert get_texts(page, "#panel-search .sentence")[0] == arabic
    command = get_texts(page, "footer code")[0]
    assert (
        command.startswith(f"curl {page.address}/api/search ")
        and json.dumps(arabic, ensure_ascii=False) in command
    )
    assert "not for real text" in get_texts(page, "#model")[0]


def test_demo_shows_the_query_language(page, tmp_path):
    """That of its line, or of the nearest mean, is shown; another can be chosen, and an example ends that."""
    corpus = write_languages(tmp_path, ar=[*TEXTS[:15], ARABIC], fr=TEXTS[15:])
    with serving("--model", page.encoder, "--corpus", corpus) as (address, _):
        page.open(address)
        page.wait_for("document.querySelector('#search-language')")
        answered(page, "search")
        ask_page(page, "search", text=TEXTS[17])
        chosen = "document.querySelector('#search-language').selectedOptions[0].textContent"
        assert page.value(chosen) == "French (detected)"
        texts = "[...document.querySelectorAll('#search-text, #panel-search .sentence')]"
        assert page.value(f"{texts}.map(text => text.lang)") == ["fr", "fr", "ar"]
        ask_page(page, "search", text=TEXTS[17], language="ar")
        assert page.value(chosen) == "Arabic"
        request = {"text": TEXTS[17], "each": True, "language": "ar"}
        found = ask(f"{address}/api/search", request)[1]["hits"]
        assert get_texts(page, "#panel-search .number") == [f"{hit['score']:.3f}" for hit in found]
        page.value("void delete document.querySelector('#panel-search .answer').dataset.done")
        page.click("#panel-search .examples button:nth-of-type(1)")
        answered(page, "search")
        assert page.value(chosen) == "Arabic (detected)"
        ask_page(page, "search", text="x[1] = (2 + 3) * 4;")
        assert page.value(chosen) == "no language detected"


def test_marks_in_the_text(page):
    ask_page(page, "token-classification", text=TEXTS[0])
    entities = ask(f"{page.address}/api/token-classification", {"text": TEXTS[0]})[1]["entities"]
    marks = [entity["text"] + entity["type"] for entity in entities]
    assert get_texts(page, "#panel-token-classification mark") == marks != []
    # 😀 is one character of Python, but two units of JavaScript's strings.
    question = {"question": TEXTS[1], "context": f"😀 {TEXTS[0]}"}
    ask_page(page, "question-answering", **question)
    answer = ask(f"{page.address}/api/question-answering", question)[1]
    assert get_texts(page, "#panel-question-answering mark") == [answer["answer"]] != [""]


def test_masks_are_filled_in_the_sentence(page):
    ask_page(page, "fill-mask", text=f"{TEXTS[0]} [MASK] [MASK]")
    # English is the language of the first example, so the page begins with it.
    _, answer = ask(f"{page.address}/api/fill-mask", {"text": f"{TEXTS[0]} [MASK] [MASK]", "language": "en"})
    best = [candidates[0]["token"].removeprefix("▁") for candidates in answer["masks"]]
    assert get_texts(page, "#panel-fill-mask .filled mark") == best
    assert get_texts(page, "#panel-fill-mask .filled")[0] == f"{TEXTS[0]} {best[0]} {best[1]}"
    assert "▁" not in page.value("document.querySelector('main').textContent")


@pytest.mark.parametrize("width", [390, 1000])
def test_text_from_right_to_left(page, width):
    def directions(selector: str) -> list[str]:
        """The directions of the elements with Arabic text, on a page that is no wider than the window."""
        arabic = r"element => /[\u0600-\u06ff]/.test(element.value ?? element.textContent)"
        elements = f"[...document.querySelectorAll('{selector}')].filter({arabic})"
        assert page.value("document.documentElement.scrollWidth") <= width
        return page.value(f"{elements}.map(element => getComputedStyle(element).direction)")

    page.look(width)
    ask_page(page, "search", text=ARABIC)
    assert ARABIC in get_texts(page, "#panel-search .sentence")
    assert directions("#search-text") == directions("#panel-search .sentence") == ["rtl"]
    ask_page(page, "fill-mask", text=f"{ARABIC} [MASK]")
    assert directions("#panel-fill-mask .filled") == ["rtl"]
    ask_page(page, "token-classification", text=ARABIC)
    assert directions("#panel-token-classification p.result") == ["rtl"]


def test_demo_shows_curl_for_the_open_tab(page):
    for task in ("fill-mask", "classification", "search"):
        page.click(f"#tab-{task}")
        assert f"/api/{task} " in get_texts(page, "footer code")[0]
    page.value("void (TASKS['fill-mask'].examples = [{text: \"It's [MASK].\"}], show('fill-mask'))")
    *_, body = shlex.split(get_texts(page, "footer code")[0])  # as a shell reads it
    assert json.loads(body) == {"text": "It's [MASK]."}
    ask_page(page, "classification", text_a=TEXTS[3], text_b="")
    *_, body = shlex.split(get_texts(page, "footer code")[0])
    assert json.loads(body) == {"text_a": TEXTS[3]}  # the request that was sent


def test_unknown_words_are_told(page):
    unknown = "bado qqq kani xyx"
    for task, fields in {
        "search": {"text": unknown}, "token-classification": {"text": unknown},
        "classification": {"text_a": unknown, "text_b": ""},
        "zero-shot": {"text": unknown, "labels": "bado, lera", "hypothesis_template": ""},
        "question-answering": {"question": unknown, "context": TEXTS[0]},
        "fill-mask": {"text": f"{unknown} [MASK]"},
    }.items():  # fmt: skip
        ask_page(page, task, **fields)
        assert get_texts(page, f"#panel-{task} .unknown")[0].startswith("2 words are unknown"), task
    ask_page(page, "classification", text_a="bado kani", text_b="")
    assert get_texts(page, "#panel-classification .unknown") == []


def test_a_request_that_is_refused(page):
    # To lay out such a word takes the browser many seconds, so the field is hidden, and where curl shows it.
    for hidden in ("#search-text", "footer"):
        page.value(f"void (document.querySelector('{hidden}').style.display = 'none')")
    page.value(f"void (document.querySelector('#search-text').value = 'x'.repeat({LONGEST_BODY}))")
    page.click("#panel-search .go")
    answered(page, "search")
    assert f"the request is too long (maximum: {LONGEST_BODY}" in get_texts(page, "#panel-search .error")[0]
    ask_page(page, "fill-mask", text="no mask")
    assert "“Text with [MASK]” has no [MASK]" in get_texts(page, "#panel-fill-mask .error")[0]


def test_the_keyboard_chooses_tabs_and_sends(page):
    page.value("void document.querySelector('#tab-search').focus()")
    for key, chosen in (
        ("ArrowRight", "classification"), ("ArrowLeft", "search"), ("ArrowLeft", TABS[-1]),
        ("ArrowRight", "search"), ("End", TABS[-1]), ("Home", "search"),
    ):  # fmt: skip
        page.press(key)
        assert page.value("document.activeElement.id") == f"tab-{chosen}"
        assert page.value("document.querySelector('[role=tab][aria-selected=true]').id") == f"tab-{chosen}"
        assert page.value(f"document.querySelector('#panel-{chosen}').checkVisibility()")
    for modifiers in (2, 0):  # Ctrl+Enter; in a search Enter alone
        text = TEXTS[2 + modifiers]  # another one each time
        page.value("void (document.querySelector('#search-text').value = '')")
        page.type("#search-text", text)
        page.value("void delete document.querySelector('#panel-search .answer').dataset.done")
        page.press("Enter", modifiers)
        answered(page, "search")
        assert get_texts(page, "#panel-search .sentence")[0] == text
