"""`python -m pretrain.show` prints, and draws, the matrix of the batch that training would use."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from pretrain import attention_mask, show
from pretrain.show import Panel
from utils.errors import UserError

ROOT = Path(__file__).parents[2]
ENGLISH, JAPANESE = "the small red house stands on the hill", "小さな赤い家は丘の上に立っています"


def panels(*arguments: str) -> list[Panel]:
    return show.draw_panels(show.parse_arguments(arguments))


def read_back(text: str) -> tuple[list[str], np.ndarray]:
    """The lines of one printed panel below its header, and its matrix."""
    lines = text.split("\n")
    header = next(i for i, line in enumerate(lines) if line.startswith("pos"))
    cells = [re.search(r"  ([1.](?: ?\|? ?[1.])*)$", line)[1] for line in lines[header + 1 :]]
    return lines[header + 1 :], np.array([[c == "1" for c in row if c in "1."] for row in cells])


@pytest.mark.parametrize("objective", ["mmlm", "tlm", "camlm", "btmlm"])
@pytest.mark.parametrize("columns", [40, 200])
def test_text_is_aligned_and_holds_the_matrix(objective, columns):
    arguments = [ENGLISH, JAPANESE, "--objective", objective, "--languages", "en,ja"]
    for panel in panels(*arguments):
        lines, matrix = read_back(show.as_text(panel, columns))
        assert np.array_equal(matrix, panel.seen)
        assert len({show.display_width(line) for line in lines}) == 1  # every row ends in the same column
        assert len(lines) == len(panel.tokens) == len(panel.positions)


def test_camlm_panel_is_the_definition():
    (panel,) = panels(ENGLISH, JAPANESE, "--objective", "camlm", "--languages", "en,ja", "--seed", "4")
    side = (np.arange(len(panel.tokens)) >= panel.boundary).astype(int)
    masked = np.array([token == "[MASK]" for token in panel.tokens])
    assert np.array_equal(panel.seen, attention_mask.camlm(side, masked))
    assert [bool(predicted) for predicted in panel.predicted] == masked.tolist()
    assert panel.languages == [("", "en", "ja")[m * (1 + s)] for m, s in zip(masked, side)]
    restored = [predicted or token for token, predicted in zip(panel.tokens, panel.predicted)]
    assert restored == ["[CLS]", *ENGLISH.split(), "[SEP]", "[SEP]", *JAPANESE, "[SEP]"]
    assert panel.positions == list(range(2, 2 + len(restored)))
    (again,) = panels(ENGLISH, JAPANESE, "--languages", "en,ja", "--seed", "4")
    (other,) = panels(ENGLISH, JAPANESE, "--languages", "en,ja", "--seed", "5")
    assert again.tokens == panel.tokens != other.tokens


def test_btmlm_panels():
    first, second = panels(ENGLISH, "--objective", "btmlm", "--languages", "en,de")
    assert np.array_equal(first.seen, attention_mask.compact(10, 2)) and first.boundary == 10
    assert first.languages[-2:] == ["de", "de"] and first.predicted[-2:] == ["h1", "h2"]
    assert first.positions[-2:] == [13, 14] and second.positions == list(range(2, 16))
    assert second.tokens[-4:] == ["[SEP]", "h1", "h2", "[SEP]"] and second.seen.all()


@pytest.mark.parametrize(
    "sentence, tokens",
    [
        ("ein Satz.", ["ein", "Satz."]),
        ("你好, world", ["你", "好", ",", "world"]),
        ("สวัสดีโลก", ["ส", "วั", "ส", "ดี", "โ", "ล", "ก"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("がぎ", ["が", "ぎ"]),
        ("", []),
    ],
)
def test_words_or_characters(sentence, tokens):
    assert show.split_words(sentence) == tokens


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["one sentence"], "camlm needs a pair"),
        (["a b c", "d", "--objective", "camlm"], "unmasked token on each side"),
        (["  ", "--objective", "mmlm"], "has no tokens"),
        (["a b", "c d", "--languages", "en"], "give two names"),
        (["a b", "c d", "--piece_model_path", "/no/such.model"], "/no/such.model"),
    ],
)
def test_bad_input_is_one_line(arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        panels(*arguments)
    assert "\n" not in str(caught.value)


def test_piece_model(tmp_path):
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([ENGLISH, "das kleine rote Haus steht auf dem Hügel"] * 20),
        model_prefix=str(tmp_path / "m"),
        vocab_size=60,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (panel,) = panels("the house stands", "das Haus steht", "--piece_model_path", str(tmp_path / "m.model"))
    restored = "".join(p or t for t, p in zip(panel.tokens, panel.predicted))
    assert restored.replace("▁", " ") == "[CLS] the house stands[SEP][SEP] das Haus steht[SEP]"


# Only the fonts that come with matplotlib. Where looking through those of the machine takes more than five
# seconds, matplotlib says so on stderr, which has to be empty here.
WITH_MATPLOTLIBS_FONTS = """
import logging, sys
import matplotlib
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
from matplotlib.font_manager import fontManager
logging.getLogger("matplotlib.font_manager").setLevel(logging.NOTSET)
its_own = matplotlib.get_data_path()
fontManager.ttflist = [font for font in fontManager.ttflist if font.fname.startswith(its_own)]
from pretrain.show import main
from utils.errors import run
run(main)
assert "paddle" not in sys.modules
"""


def test_command_with_picture_and_without_paddle(tmp_path):
    picture = tmp_path / "figure.png"
    # One of these scripts is in none of the fonts, one has a character that formulas use.
    sentences = ["a $mall house", "ein 家 \U00013000 Haus"]
    command = [sys.executable, "-c", WITH_MATPLOTLIBS_FONTS, *sentences, "--output", str(picture)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no warnings of missing glyphs
    assert "no installed font has" in done.stdout and "\U00013000" in done.stdout
    image = imread(picture)
    assert image.ndim == 3 and min(image.shape[:2]) > 300 and image[..., :3].std() > 0.05
