"""The table of contexts x questions, by hand."""

import pytest

from finetune.gxlt import PairTable, find_pairs
from finetune.report import to_markdown, to_text
from utils.errors import UserError

TABLE = PairTable(
    "f1, %s-%s.json", ["en", "de"], {("en", "en"): 80.0, ("en", "de"): 70.0, ("de", "de"): 60.0}
)


def test_text_markdown_and_json():
    """Rows are contexts, columns questions; an absent pair is no zero."""
    assert TABLE.to_json()["scores"] == {"en": {"en": 80.0, "de": 70.0}, "de": {"de": 60.0}}
    off = PairTable("f1", ["en", "de"], {("en", "de"): 70.0, ("de", "en"): 40.0})
    assert off.summary() == {"g-xlt": 55.0}
    assert to_text([TABLE]).splitlines() == [
        "f1, %s-%s.json",
        "context \\ question     en     de    avg",
        "                en  80.00  70.00  75.00",
        "                de      -  60.00  60.00",
        "               avg  80.00  65.00  70.00",
        "XLT, the diagonal: en 80.00, de 60.00; mean 70.00",
        "G-XLT, the mean of 3 pairs: 70.00",
    ]
    assert to_markdown([TABLE]).splitlines() == [
        "**f1, %s-%s.json**",
        "",
        "| context \\ question | en | de | avg |",
        "|---|---:|---:|---:|",
        "| en | **80.00** | 70.00 | 75.00 |",
        "| de | - | **60.00** | 60.00 |",
        "| avg | 80.00 | 65.00 | 70.00 |",
        "",
        "XLT, the diagonal: en 80.00, de 60.00; mean 70.00  ",
        "G-XLT, the mean of 3 pairs: 70.00",
    ]


def test_pairs_in_the_order_of_contexts_then_questions(tmp_path, caplog):
    for name in ("en-en", "en-de", "de-en"):
        (tmp_path / f"test-context-{name[:2]}-question-{name[3:]}.json").write_text("{}")
    found = find_pairs(f"{tmp_path}/test-context-%s-question-%s.json", ["de", "en"])
    assert list(found) == [("de", "en"), ("en", "de"), ("en", "en")]
    assert found["en", "de"].name == "test-context-en-question-de.json"
    assert "no file for de-de" in caplog.text
    with pytest.raises(UserError, match="no such file for any pair of fr"):
        find_pairs(f"{tmp_path}/%s-%s.json", ["fr"])
