"""When texts are equal: by ids cut to a length, by their normal form, and without a tokenizer."""

import pytest

from ernie_m.reader.equal_texts import hash_texts
from ernie_m.reader.tokenization import Tokenizer
from tests.toys import train_piece_model

PLAIN = "fika bado"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return Tokenizer(None, train_piece_model(tmp_path_factory.mktemp("pieces") / "piece.model"))


@pytest.mark.parametrize(
    ("text", "other", "by_ids", "by_form"),
    [
        (PLAIN, " fika\u00a0\u3000 bado ", True, True),  # other spaces, and more of them
        (PLAIN, "ﬁka ｂａｄｏ", True, True),  # a ligature, full width
        (PLAIN, "fi\u00adka\u200b bado\ufeff", True, True),  # characters that are not seen
        ("kani “bado”", 'kani "bado"', True, True),  # the quotes of rule 1
        ("café", "cafe\u0301", True, True),
        (PLAIN, "Fika bado", False, False),
        (PLAIN, "fikabado", False, False),
        ("bado ბა", "bado დო", True, False),  # unknown words
        ("bado " * 9 + "kani", "bado " * 9 + "kofo", True, False),  # they differ after the length
    ],
)
def test_which_texts_are_equal(tokenizer, text, other, by_ids, by_form):
    texts = [text, other]
    for settings, are_equal in (((), by_form), ((tokenizer,), by_form), ((tokenizer, 8), by_ids)):
        first, second = hash_texts(iter(texts), *settings)
        assert (first == second) == are_equal, settings
