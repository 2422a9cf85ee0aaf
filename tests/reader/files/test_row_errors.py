"""Errors in rows: what is reported of them, and how often."""

from ernie_m.reader.files.row_errors import RowErrors
from ernie_m.utils.errors import UserError
from tests.launching import error_of


def test_a_fix_of_several_rows_stands_once():
    """It is the last sentence of the error."""
    errors = RowErrors("a.csv")
    for line, value in enumerate("ab", 2):
        with errors.record_errors(line):
            raise UserError(f"a.csv, line {line}: no text. The label is '{value}'. Add the text")
    assert error_of(errors.report, print).splitlines()[:2] == [
        "a.csv, line 2: no text. The label is 'a'",
        "  line 3: no text. The label is 'b'. Add the text",
    ]
