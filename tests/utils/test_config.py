"""YAML files that are refused, and how their values are read."""

import pytest

from ernie_m.utils.options import read_yaml
from tests.launching import error_of


def test_a_file_without_end_is_not_read_whole():
    assert error_of(read_yaml, "/dev/zero").startswith("/dev/zero: larger than ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- 1", "expected 'key: value' lines"),
        ("a: [", "line 1, column 5: a: [ ^"),
        pytest.param("a: " + "[" * 100_000, "recursion depth", id="deep"),
        ("a: &x [*x]", "a tag or an alias; write the value out in line 1, column 8: a: &x [*x] ^"),
        ("a: 1\nb: {c: 2, d: 3,\n c: 4}", "the key 'c' is there twice in line 3, column 2:"),
        ("a: 1\n'a': 1", "the key 'a' is there twice in line 2, column 1:"),
        pytest.param("# " + "x" * (1 << 18), "larger than 262,144 bytes", id="large"),
        (
            "a: !!python/object/apply:os.system [ls]",
            "a tag or an alias; write the value out in line 1, column 4:",
        ),
        (b"\xff", "not UTF-8"),
    ],
)
def test_read_yaml_refuses_what_is_no_mapping_and_what_has_no_end(tmp_path, text, expected):
    path = tmp_path / "a.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    line = error_of(read_yaml, path)
    assert "a.yaml" in line and expected in line


def test_no_is_norwegian(tmp_path):
    (tmp_path / "a.yaml").write_text("languages: [no, yes, on, y]\nmono: {no: x}\ndate: 2001-99-99\n")
    assert read_yaml(tmp_path / "a.yaml") == {
        "languages": ["no", "yes", "on", "y"],
        "mono": {"no": "x"},
        "date": "2001-99-99",
    }
