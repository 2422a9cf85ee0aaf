"""PAWS-X and Tatoeba as they are published, in small, become the layouts that the programs read."""

import pytest

from experiments.finetune_real import prepare_paws
from reader.bitext import read_bitexts
from reader.classification import read_classification, read_label_map, read_languages
from scripts.data import prepare_pawsx, prepare_tatoeba
from utils.errors import UserError

HEADER = "id\tsentence1\tsentence2\tlabel\n"


def release(folder, languages=("de", "en", "zh")):
    """x-final: a folder per language; the last development row of de is not translated."""
    for language in languages:
        (folder / language).mkdir(parents=True)
        train = "train" if language == "en" else "translated_train"
        for name, count in ((train, 4), ("dev_2k", 3), ("test_2k", 2)):
            rows = [f'{i}\t{language} {name} "{i}" .\t""other"" {i}\t{i % 2}\n' for i in range(1, count + 1)]
            if language == "de" and name != "test_2k":
                rows[-1] = f"{count}\tNS\tetwas\t0\n"
            (folder / language / f"{name}.tsv").write_text(HEADER + "".join(rows), encoding="utf-8")
    return folder


def prepare(*arguments):
    prepare_pawsx.main([str(argument) for argument in arguments])


def rows(path):
    return [(e.text_a, e.text_b, e.label, e.qid) for e in read_classification(path, {"0": 0, "1": 1})]


def test_the_release(tmp_path, capsys):
    out = tmp_path / "data"
    prepare(release(tmp_path / "x-final"), "--output", out)
    assert read_label_map(out / "label_map.json", 2) == {"0": 0, "1": 1}
    assert read_languages(out / "lang_map.json") == ["en", "de", "zh"]  # the order of the paper's Table 4
    # Texts stay as they are, quotes and all.
    assert rows(out / "test" / "test.zh.tsv") == [
        ('zh test_2k "1" .', '""other"" 1', 1, "1"),
        ('zh test_2k "2" .', '""other"" 2', 0, "2"),
    ]
    assert len(rows(out / "dev" / "dev.de.tsv")) == 3  # as XTREME counts
    assert len(rows(out / "train" / "train.de.tsv")) == 3
    joint = [row for language in ("en", "de", "zh") for row in rows(out / "train" / f"train.{language}.tsv")]
    assert rows(out / "train" / "train.all.tsv") == joint and len(joint) == 11
    assert "train  de        3 rows; dropped: 1 not translated" in capsys.readouterr().out


def test_flat_files_without_a_header(tmp_path, capsys):
    source = tmp_path / "in" / "test-de.tsv"
    source.parent.mkdir()
    source.write_text("eins\tzwei\t0\ndrei\tvier\t1\r\n")
    prepare(source, "--output", tmp_path / "out")
    assert rows(tmp_path / "out" / "test" / "test.de.tsv") == [
        ("eins", "zwei", 0, "1"), ("drei", "vier", 1, "2"),
    ]  # fmt: skip
    assert read_languages(tmp_path / "out" / "lang_map.json") == ["de"]
    assert not (tmp_path / "out" / "train").exists()
    printed = capsys.readouterr().out
    assert "no train data among the sources\n" in printed and "no dev data among the sources\n" in printed


def test_a_language_of_dev_only_is_left_out_of_the_map(tmp_path, capsys):
    source = release(tmp_path / "x-final", ("de", "en"))
    (source / "de" / "test_2k.tsv").unlink()
    prepare(source, "--output", tmp_path / "out")
    assert read_languages(tmp_path / "out" / "lang_map.json") == ["en"]
    assert "lang_map.json leaves out de: not in both dev and test" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("notes.tsv", b"a\tb\t1\n", "no file there has a known name"),
        ("dev-de.tsv", b"", r"dev-de.tsv: no usable row \(the file is empty\)"),
        ("dev-de.tsv", b"a\tb\n", "no usable row .*malformed"),
        ("dev-de.tsv", b"a\tb\tyes\n", "without a label 0 or 1"),
        ("dev-de.tsv", b"a\tb\t1\n\xff\tb\t1\n", "dev-de.tsv, line 2: not UTF-8"),
    ],
)
def test_bad_sources(tmp_path, name, content, message):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        prepare(tmp_path / "in", "--output", tmp_path / "out")


def test_two_files_for_the_same(tmp_path, capsys):
    release(tmp_path / "x-final")
    (tmp_path / "x-final" / "dev-de.tsv").write_text("a\tb\t1\n")
    prepare(tmp_path / "x-final", "--output", tmp_path / "out")
    assert "dev-de.tsv (dev de is taken from" in capsys.readouterr().out
    with pytest.raises(UserError, match="absent: no such file or folder"):
        prepare(tmp_path / "absent")


def test_tatoeba(tmp_path, capsys):
    source, out = tmp_path / "v1", tmp_path / "out"
    source.mkdir()
    for long, lines in (("cmn", "二\n一\n"), ("deu", "zwei\neins"), ("lat", "duo\nunum\n")):
        (source / f"tatoeba.{long}-eng.{long}").write_text(lines, encoding="utf-8")
        (source / f"tatoeba.{long}-eng.eng").write_text("two \none\n")
    prepare_tatoeba.main([str(source), "--output", str(out)])
    assert [tuple(bitext) for bitext in read_bitexts(out)] == [
        ("de", ["zwei", "eins"], ["two", "one"]), ("zh", ["二", "一"], ["two", "one"]),
    ]  # fmt: skip
    assert read_languages(out / "lang_map.json") == ["de", "zh"]
    assert "not there: af ar bg" in capsys.readouterr().out
    with pytest.raises(UserError, match="no tatoeba.<lan>-eng.eng there"):
        prepare_tatoeba.main([str(out)])


@pytest.mark.data
def test_the_split_of_the_development_files_is_by_row(data_dir, tmp_path):
    """What is tested on, in any language, is a translation of no row that is trained on."""
    prepare_paws(data_dir, tmp_path, lower=False)
    original = {
        language: (data_dir / "pawsx" / f"dev-{language}.tsv").read_text(encoding="utf-8").splitlines()
        for language in ("en", "de", "fr", "zh")
    }
    assert {len(lines) for lines in original.values()} == {2000}
    train = rows(tmp_path / "train" / "train.en.tsv")
    assert [row[3] for row in train] == [str(number) for number in range(1, 1501)]
    assert [(a, b, str(label)) for a, b, label, _ in train] == [
        tuple(line.split("\t")) for line in original["en"][:1500]
    ]
    for language, lines in original.items():
        test = rows(tmp_path / "test" / f"test.{language}.tsv")
        assert [row[3] for row in test] == [str(number) for number in range(1501, 2001)]
        assert [(a.strip(), b.strip(), str(label)) for a, b, label, _ in test] == [
            tuple(cell.strip() for cell in line.split("\t")) for line in lines[1500:]
        ]
    assert sorted(path.name for path in (tmp_path / "train").iterdir()) == ["train.en.tsv"]
    # Row-aligned: far more than chance, the labels of a row are the same in every language.
    for language in ("de", "fr", "zh"):
        pairs = zip(original["en"], original[language])
        equal = sum(one.rsplit("\t")[-1] == other.rsplit("\t")[-1] for one, other in pairs)
        assert equal > 1700, language
