"""Examples read the tables that the commands read, and refuse others as they do."""

import pytest

from ernie_m.reader.files.classification_tsv import read_classification
from ernie_m.reader.labels import read_label_map, write_indices
from tests.helpers.files import write_file
from tests.launching import ROOT, run_script


def test_example_writes_the_official_format(tmp_path):
    """Of a CSV with quotation marks, separators, tabs and line ends in its cells, and other column names."""
    content = '\ufeffid;Body;Team\r\n1;"So; ""good"".\r\n\tIndeed.";nice\r\n2;安娜住在罗马。;"so,  so"\r\n'
    write_file(tmp_path / "reviews.csv", content)
    columns = ["--text", "Body", "--label", "Team"]
    run_script([ROOT / "examples/official_format.py", "reviews.csv", ".", *columns], tmp_path)
    labels = read_label_map(tmp_path / "label_map.json")
    assert [*labels] == ["nice", "so, so"]
    rows = [(row.text_a, row.label) for row in read_classification(tmp_path / "train.tsv", labels)]
    assert rows == [('So; "good". Indeed.', 0), ("安娜住在罗马。", 1)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["official_format.py", "a.csv", "."],
        ["near_duplicates.py", "{encode}", "a.csv", 0.9],
        ["train_classifier.py", "{encode}", "a.csv", "label_map.json", "ours", 1e-3],
    ],
)
def test_a_table_without_known_columns_is_named(models, tmp_path, words):
    write_file(tmp_path / "a.csv", "Nr,正文\n1,安娜住在罗马。\n")
    write_indices(tmp_path / "label_map.json", ["a", "b"])
    name, *arguments = [str(word).format(encode=models / "encode") for word in words]
    process = run_script([ROOT / "examples" / name, *arguments], tmp_path)
    assert process.returncode == 2 and "error: a.csv" in process.stderr
