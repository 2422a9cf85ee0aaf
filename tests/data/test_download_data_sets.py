"""`ernie-m download data`: small copies of all data on a local server, fetched, prepared, trained on."""

import io
import json
import re
import shutil
import subprocess
import tarfile
import zipfile
from functools import partial
from pathlib import Path

import pytest

from ernie_m.data import download, download_data_sets
from ernie_m.finetune.check_inputs import check_inputs
from ernie_m.finetune.finetune_args import FinetuneFlags
from ernie_m.reader.files.aligned_lines import TATOEBA, read_bitexts
from ernie_m.reader.files.classification_tsv import read_classification
from ernie_m.reader.files.squad import read_squad
from ernie_m.reader.labels import read_label_map, read_languages
from ernie_m.utils.errors import UserError, get_command_name
from tests import toys
from tests.helpers.files import disk_full_after, write_file
from tests.launching import ROOT, clean_environment, error_of, stand_in_for_launch
from tests.reader.conftest import files
from tests.toys import sentences

TEXTS = sentences(12, seed=3)
QUESTIONS = json.dumps(toys.squad(6, seed=1))


def table(columns: str, rows: list) -> str:
    """A TSV file. `columns`: the header's names, with spaces between them."""
    return "".join("\t".join(map(str, row)) + "\n" for row in [columns.split(), *rows])


def nli_release() -> dict[str, str]:
    """XNLI-1.0 and XNLI-MT-1.0, two archives, as name -> content."""
    labels = ["entailment", "neutral", "contradiction"] * 4
    rows = [[language, label, text, text] for language in ("en", "fr") for text, label in zip(TEXTS, labels)]
    evaluated = table("language gold_label sentence1 sentence2", rows)
    trained = table("premise hypo label", [[text, text, label] for text, label in zip(TEXTS, labels)])
    return {
        "XNLI-1.0/xnli.dev.tsv": evaluated,
        "XNLI-1.0/xnli.test.tsv": evaluated,
        "XNLI-MT-1.0/multinli/multinli.train.en.tsv": trained,
    }


def paraphrase_release() -> dict[str, str]:
    """PAWS-X, as name -> content."""
    rows = [[number, text, text, number % 2] for number, text in enumerate(TEXTS)]
    content = table("id sentence1 sentence2 label", rows)
    names = ["en/train", "en/dev_2k", "en/test_2k", "de/dev_2k", "de/test_2k"]
    return {f"x-final/{name}.tsv": content for name in names}


def zipped(contents: dict[str, str], method: int = zipfile.ZIP_STORED) -> bytes:
    """The bytes of a zip archive. `contents`: name -> text."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(contents: dict[str, str], compression: str = "gz") -> bytes:
    """The bytes of a tar archive. `contents`: name -> text; `compression`: gz, or "" for none."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{compression}") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content.encode())
            archive.addfile(member, io.BytesIO(content.encode()))
    return buffer.getvalue()


def releases() -> dict[str, bytes]:
    """Path on the server, as in the real address -> a small copy of what is there."""
    nli = nli_release()
    mlqa = {
        f"MLQA_V1/{split}/{split}-context-{language}-question-{language}.json": QUESTIONS
        for split in ("dev", "test")
        for language in ("en", "de")
    }
    on_server = {
        "XNLI/XNLI-1.0.zip": zipped({name: text for name, text in nli.items() if "XNLI-1.0/" in name}),
        "XNLI/XNLI-MT-1.0.zip": zipped({name: text for name, text in nli.items() if "XNLI-MT-1.0/" in name}),
        "paws/pawsx/x-final.tar.gz": tarred(paraphrase_release(), "gz"),
        "MLQA/MLQA_V1.zip": zipped(mlqa),
        "rajpurkar/SQuAD-explorer/master/dataset/train-v1.1.json": QUESTIONS.encode(),
    }
    codes = download_data_sets.XQUAD_LANGUAGES
    xquad = {f"deepmind/xquad/master/xquad.{code}.json": QUESTIONS.encode() for code in codes}
    tatoeba = "facebookresearch/LASER/main/data/tatoeba/v1/tatoeba"
    text = "".join(f"{line}\n" for line in TEXTS).encode()
    sides = {f"{tatoeba}.{code}-eng.{side}": text for code in TATOEBA.values() for side in (code, "eng")}
    return on_server | xquad | sides


@pytest.fixture
def small(server, monkeypatch):
    """The local server has small copies of all releases, and stands in for the real ones."""
    parts = {
        name: part._replace(folder=f"{server.url}/{part.folder.split('/', 3)[3]}")  # https://host/path
        for name, part in download_data_sets.PARTS.items()
    }
    monkeypatch.setattr(download_data_sets, "PARTS", parts)
    server.files = {f"/{path}": content for path, content in releases().items()}
    return server


def get(folder, *parts: str) -> None:
    """Download parts, or all, to `folder`/data, and prepare them."""
    download_data_sets.main([*parts, "--data", str(folder / "data")])


# Task -> what reads the files that its recipe names.
READERS = {
    "xnli": lambda path: read_classification(path, read_label_map("data/xnli/label_map.json", 3)),
    "pawsx": lambda path: read_classification(path, read_label_map("data/pawsx/label_map.json", 2)),
    "mlqa": lambda path: read_squad(path).questions,
}


def test_every_task_ends_in_files_that_its_recipe_reads(small, tmp_path, in_tmp_path):
    """From the download to the rows of each file that a recipe of base names, and the pairs of Tatoeba."""
    get(tmp_path)
    assert not list((tmp_path / "data").rglob("*.unpacked"))
    requests = len(small.requests)
    get(tmp_path, "xnli")
    assert len(small.requests) == requests  # what is there is not fetched again
    stand_in_for_launch(tmp_path)
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    for task, read in READERS.items():
        recipe = ["sh", f"scripts/base/{task}_cross_lingual_transfer.sh"]
        # The stand-in for launch.py prints its arguments.
        arguments = json.loads(subprocess.check_output(recipe, env=clean_environment()))
        languages = read_languages(f"data/{task}/lang_map.json")
        for flag in ("--train_set", "--dev_set", "--test_set"):
            for pattern in arguments[arguments.index(flag) + 1].split(","):
                for language in languages if "%s" in pattern else [""]:
                    assert len(read(Path(pattern.replace("%s", language)))) >= 6, pattern
    assert [bitext.language for bitext in read_bitexts("data/tatoeba", ["de"])] == ["de"]


def test_lists_failed_downloads_and_prepares_the_others(small, tmp_path, capsys):
    """A moved file, and one whose download breaks off; the same command resumes."""
    moved = "/MLQA/MLQA_V1.zip"
    content = small.files.pop(moved)
    small.drop_at = 40  # bytes of every file
    parts = ("mlqa", "squad", "pawsx", "tatoeba")
    assert "some files could not be downloaded" in error_of(get, tmp_path, *parts)
    listed = capsys.readouterr().out
    assert f"{small.url}{moved} -> {tmp_path}/data/downloads/mlqa/MLQA_V1.zip: HTTP error 404" in listed
    assert re.search(r"x-final.tar.gz: interrupted at 40 of \d+ bytes", listed)
    assert not (tmp_path / "data/pawsx").exists()

    small.drop_at = None
    some = tmp_path / "data/downloads/xquad/xquad.en.json"  # of eleven files, which an earlier call has left
    write_file(some, QUESTIONS)
    error_of(get, tmp_path, "mlqa", "squad", "pawsx")
    assert (tmp_path / "data/mlqa/train/train.en.json").is_file()  # SQuAD alone
    assert (tmp_path / "data/pawsx/dev/dev.de.tsv").is_file()
    assert ("/paws/pawsx/x-final.tar.gz", "bytes=40-") in small.requests
    small.files[moved] = content
    get(tmp_path, "mlqa")
    assert {"dev/dev.en.json", "train/train.en.json"} < set(files(tmp_path / "data/mlqa"))


@pytest.mark.parametrize(
    "part, path, message",
    [
        ("xnli", "/XNLI/XNLI-1.0.zip", "XNLI-1.0.zip: "),
        ("pawsx", "/paws/pawsx/x-final.tar.gz", "x-final.tar.gz: "),
        (
            "squad",
            "/rajpurkar/SQuAD-explorer/master/dataset/train-v1.1.json",
            "train-v1.1.json",
        ),
    ],
)
@pytest.mark.parametrize("damage", ["cut", "page"])
def test_name_corrupt_files(small, tmp_path, part, path, message, damage):
    """A file that the server has only a part of, and a page instead of it."""
    whole = small.files[path]
    small.files[path] = whole[: len(whole) // 2] if damage == "cut" else b"<html>log in</html>"
    assert message in error_of(get, tmp_path, part)
    assert not (tmp_path / "data" / download_data_sets.PARTS[part].task).exists()
    assert not list(tmp_path.rglob("*.unpacked"))


@pytest.mark.parametrize(
    ("part", "path", "content", "message"),
    [
        (
            "mlqa",
            "/MLQA/MLQA_V1.zip",
            zipped({"MLQA_V1/dev/dev-context-en-question-en.json": "{"}),
            "dev-context-en-question-en.json",
        ),
        (
            "tatoeba",
            "/facebookresearch/LASER/main/data/tatoeba/v1/tatoeba.deu-eng.deu",
            b"eins\n",
            "expected aligned lines",
        ),
    ],
)
def test_a_damaged_file_of_a_release_is_named_and_nothing_stays_unpacked(
    small, tmp_path, part, path, content, message
):
    small.files[path] = content
    assert message in error_of(get, tmp_path, part)
    assert not list(tmp_path.rglob("*.unpacked"))


@pytest.mark.parametrize("room", [100, 600], ids=["download", "unpack or prepare"])
def test_the_same_command_goes_on_after_a_full_disk(small, tmp_path, room):
    """No file can have more than `room` bytes. When the disk has room again, the same command goes on."""
    with disk_full_after(room), pytest.raises(UserError, match="no space left"):
        get(tmp_path, "pawsx")
    assert not (tmp_path / "data/pawsx/label_map.json").exists()
    get(tmp_path, "pawsx")
    assert (tmp_path / "data/pawsx/label_map.json").is_file()


@pytest.mark.parametrize(
    "part, message",
    [
        ("panx", "panx: "),
        ("conll", "conll: "),
        ("glue", "unknown part 'glue'"),
    ],
)
def test_parts_that_are_fetched_by_hand(tmp_path, part, message):
    assert message in error_of(get, tmp_path, part)


def header(kind: bytes, size: int) -> bytes:
    """A header of a tar archive that says how many bytes follow."""
    member = tarfile.TarInfo("a")
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


TEXT = {f"{name}.tsv": "x" * 600 for name in "abc"}
COMMENT = b"1048576 comment=".ljust((1 << 20) - 1, b"x") + b"\n"
# A zip writes for each file the version 20, flags and a method, twice: b"\x14\0" + flags + method.
ARCHIVES = {
    "header.tar": tarred(TEXT, "").replace(b"b.tsv", b"c.tsv"),  # its checksum is that of b.tsv
    "outside.tar.gz": tarred({"../outside.tsv": "x"}, "gz"),
    "folders.tar.gz": tarred({"a/" * 2000 + "b": ""}, "gz"),
    "folders.zip": zipped({"a/" * 2000 + "b": ""}),
    "terabytes.tar": header(tarfile.GNUTYPE_LONGNAME, 1 << 42) + tarred(TEXT, ""),
    "negative.tar": header(tarfile.REGTYPE, -1024) + tarred(TEXT, ""),  # its end is before its beginning
    "comment.tar": header(tarfile.XHDTYPE, len(COMMENT)) + COMMENT + tarred(TEXT, ""),
    "encrypted.zip": zipped(TEXT).replace(b"\x14\0\0\0\0\0", b"\x14\0\1\0\0\0"),
    "lzma.zip": zipped(TEXT, zipfile.ZIP_LZMA),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_corrupt_archives(tmp_path, name):
    (tmp_path / name).write_bytes(ARCHIVES[name])
    assert f"{tmp_path / name}: " in error_of(download.unpack, tmp_path / name, tmp_path / "out")
    assert files(tmp_path) == [name]


@pytest.mark.parametrize("pack", [partial(zipped, method=zipfile.ZIP_DEFLATED), tarred])
def test_too_large_an_archive_is_not_unpacked(tmp_path, monkeypatch, pack):
    monkeypatch.setattr(download, "LARGEST_ARCHIVE", 100)  # compressed, the files are smaller
    path = write_file(
        tmp_path / ("a.tgz" if pack is tarred else "a.zip"), pack({"a": "x" * 50, "b": "x" * 60})
    )
    assert "expected 0 to 100" in error_of(download.unpack, path, tmp_path / "out")
    assert files(tmp_path) == [path.name]


@pytest.mark.parametrize(
    "task, parts, header",
    [
        ("xnli", "xnli", "text_a\tlabel\n"),
        ("mlqa", "mlqa squad xquad", ""),
        ("panx", "panx", "text_a\tlabel\n"),
        ("conll", "conll", "text_a\tlabel\n"),
    ],
)
def test_a_recipe_without_data_names_the_commands(tmp_path, in_tmp_path, task, parts, header):
    path = f"data/{task}/train/train.en.tsv"
    locations = {"train_set": f"./{path}", "init_pretraining_params": "configs/base/params"}
    flags = FinetuneFlags(**locations, do_val=False, do_test=False)
    first_line, advice = error_of(check_inputs, flags, header).splitlines()
    assert first_line.startswith(f"{path}: ")
    assert f"get_data.sh {parts} " in advice and f"{get_command_name()} prepare {task} " in advice
    write_file(tmp_path / path, header or "{}")
    check_inputs(flags, header)
