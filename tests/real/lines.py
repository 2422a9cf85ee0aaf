"""Raw lines of real text in 15 languages, for comparisons of tokenizers and embeddings."""

import contextlib
import gzip
import io
import unicodedata
from pathlib import Path

from ernie_m.commands import convert

LANGUAGES = ("en", "fr", "es", "de", "ru", "zh", "ar", "tr", "vi", "hi", "sw", "ur", "el", "bg", "th")


def raw_lines(data_dir: Path, count: int) -> list[str]:
    """Lines of web text, news and translations, as many of each language.

    Some lines of each language are repeated in decomposed form, in full width, and with characters of no
    width, which are rarer in clean text than in that of users.
    """
    lines = []
    of_each = -(-count // len(LANGUAGES))
    for language in LANGUAGES:
        with gzip.open(data_dir / f"pretrain/mono/{language}.txt.gz", "rt", encoding="utf-8") as file:
            mono = [line.rstrip("\n") for _, line in zip(range(of_each), file)]
        news = (
            (data_dir / f"pretrain/parallel-multiway/ntrex.{language}")
            .read_text(encoding="utf-8")
            .split("\n")
        )
        own = [*mono[: of_each // 2], *news[: of_each // 2], *mono[of_each // 2 :]][:of_each]
        for change, text_of in enumerate(_CHANGES):
            own[change::20] = map(text_of, own[change::20])
        lines += own
    return lines[:count]


def converted(source: Path, target: Path, to: str, *flags: str) -> Path:
    """What ernie-m convert makes of a model, without its list of tensors; the target."""
    with contextlib.redirect_stdout(io.StringIO()):
        convert.main([str(source), str(target), "--to", to, *flags])
    return target


_FULL_WIDTH = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}
_CHANGES = (
    lambda text: unicodedata.normalize("NFD", text),
    lambda text: text.translate(_FULL_WIDTH),
    lambda text: text.replace(" ", " \u200b", 2),
)
