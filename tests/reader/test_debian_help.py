"""Debian's help pages: which paragraphs are translations of each other, from small packages of their form."""

import shutil
import subprocess
from pathlib import Path

import pytest

from ernie_m.data.debian_help import fetch_help, read_help
from ernie_m.data.translated_messages import Message
from tests.launching import error_of

pytestmark = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="no dpkg-deb here")
LIBREOFFICE = "usr/share/libreoffice/help"
HANDBOOK = "usr/share/doc/debian-handbook/html"
CONTROL = "Package: {}\nVersion: 1:2.0\nArchitecture: all\nMaintainer: a <a@b.org>\nDescription: a\n"


def deb(downloads: Path, package: str, files: dict[str, str]) -> Path:
    """A package in its folder of the downloads."""
    tree = downloads.parent / "trees" / package
    for name, content in {"DEBIAN/control": CONTROL.format(package), **files}.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(content)
    path = downloads / package / f"{package}_1%3a2.0_all.deb"
    path.parent.mkdir(parents=True)
    subprocess.run(["dpkg-deb", "--build", tree, path], check=True, capture_output=True)
    return path


def test_libreoffice(tmp_path):
    """Paragraphs with one id of pages with one name; tags and entities become text."""
    english = '<h2 id="hd_id1">A title</h2><p id="par_id2" class="x">One <b>bold</b> word.</p>'
    english += '<p id="par_id3">Not there</p>'
    german = '<p id="par_id2">Ein <i>fettes</i> Wort &amp; mehr.</p><h2 class="y" id="hd_id1">Ein Titel</h2>'
    german += "<p>ohne</p>"
    deb(tmp_path / "d", "libreoffice-help-en-us", {f"{LIBREOFFICE}/en-US/text/a.html": english})
    files = {f"{LIBREOFFICE}/de/text/a.html": german, f"{LIBREOFFICE}/de/text/only.html": german}
    path = deb(tmp_path / "d", "libreoffice-help-de", files)
    assert [*read_help(path, ["de", "fr"])] == [
        Message("de", "One bold word.", "Ein fettes Wort & mehr."),
        Message("de", "A title", "Ein Titel"),
    ]


@pytest.mark.parametrize(
    ("package", "place", "english", "other", "page"),
    [
        ("gnome-user-docs", "usr/share/help/{}/a/a.page", "C", "zh_CN", "<p>{}</p><title x='y'>{}</title>"),
        ("debian-handbook", f"{HANDBOOK}/{{}}/a.html", "en-US", "zh-CN", 2 * '<div class="para">\n{}</div>'),
    ],
)  # fmt: skip
def test_pages_with_as_many_paragraphs(tmp_path, package, place, english, other, page):
    """The order counts; a page with another number of paragraphs, and traditional Chinese, are left out."""
    files = {
        place.format(english): page.format("one", "two"),
        place.format(other): page.format("一", "二"),
        place.format(other[:3] + "TW"): page.format("壹", "貳"),
        place.format("de"): page.format("eins", "zwei") + page.format("drei", "vier"),
        place.format("fr").replace("a.", "b."): page.format("un", "deux"),
    }
    messages = read_help(deb(tmp_path / "d", package, files), ["zh", "de", "fr"])
    read = [tuple(text.strip() for text in message) for message in messages]
    assert read == [("zh", "one", "一"), ("zh", "two", "二")]


def test_a_damaged_package_is_named(tmp_path):
    path = deb(tmp_path / "d", "debian-handbook", {"usr/x": "y"})
    path.write_bytes(path.read_bytes()[:200])
    assert str(path) in error_of(lambda: [*read_help(path, ["de"])])


def fake_apt_get(folder: Path, script: str, monkeypatch) -> None:
    """Let `apt-get` be a script of a folder of its own."""
    folder.mkdir(exist_ok=True)
    (folder / "apt-get").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_what_is_fetched(tmp_path, monkeypatch, capsys):
    """What is there is not fetched again; the MB are said; without apt-get, or with its error, one line."""
    (tmp_path / "d/gnome-user-docs").mkdir(parents=True)
    (tmp_path / "d/gnome-user-docs/gnome-user-docs_1_all.deb").touch()
    script = 'for name in "$@"; do last=$name; case $name in --print-uris) uris=1 ;; download | --*) ;; *) '
    script += '[ -z "$uris" ] || echo "\'http://x\' ${name}_1_all.deb 3000000 SHA256:1" ;; esac; done; '
    script += '[ -n "$uris" ] || touch "${last}_1_all.deb"'
    fake_apt_get(tmp_path / "bin", script, monkeypatch)
    fetched = fetch_help(tmp_path / "d", ["ar", "zh"])
    assert [*fetched] == [
        "libreoffice-help-en-us",
        "gnome-user-docs",
        "debian-handbook",
        "libreoffice-help-zh-cn",
    ]
    assert all(path.is_file() for path in fetched.values())
    assert "3 packages of Debian, 9 MB" in capsys.readouterr().out
    fake_apt_get(tmp_path / "bin", "echo 'E: no such package' >&2; exit 100", monkeypatch)
    assert fetch_help(tmp_path / "d", ["ar", "zh"]) == fetched
    error = error_of(fetch_help, tmp_path / "d", ["de"])
    assert "libreoffice-help-de" in error and "E: no such package" in error
    (tmp_path / "bin/apt-get").unlink()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert "--with_apt" in error_of(fetch_help, tmp_path / "d", ["de"])
    assert not (tmp_path / "d/libreoffice-help-de").exists()
