"""`ernie-m show` prints the matrix of the batch that training would use."""

import subprocess
import sys

import numpy as np
import pytest

from ernie_m.pretrain.objectives.camlm import attention_mask
from ernie_m.pretrain.pictures import show
from ernie_m.pretrain.pictures.mask_panels import Panel, as_text
from tests.launching import ROOT, error_of
from tests.pretrain.examples import compact
from tests.toys import train_pieces

ENGLISH = "the small red house stands on the hill"
JAPANESE = "小さな 赤い 家は 丘の 上に 立って います"


def panels(*arguments: str) -> list[Panel]:
    """The panels of a command line."""
    return show.panels_of(arguments)


@pytest.mark.parametrize("objective", ["mmlm", "tlm", "camlm", "btmlm"])
def test_the_text_holds_the_matrix(objective):
    """Below the title and the header there is a line for each token, with its row and then the token."""
    for panel in panels(ENGLISH, JAPANESE, "--objective", objective, "--languages", "en,ja"):
        title, header, *lines = as_text(panel).split("\n")
        begin = header.index("attends to")
        end = header.index("input")
        assert title == panel.title
        bars = set()
        matrix = []
        for line in lines:
            row = line[begin:end]
            bars.add(row.index("|"))
            matrix.append([cell == "1" for cell in row if cell in "1."])
        assert len(bars) == 1  # they stand one below the other
        assert np.array_equal(matrix, panel.mask)
        assert [line[end:].split()[0] for line in lines] == panel.tokens


def test_camlm_panel_is_the_definition():
    (panel,) = panels(ENGLISH, JAPANESE, "--objective", "camlm", "--languages", "en,ja", "--seed", "4")
    side = (np.arange(len(panel.tokens)) >= panel.boundary).astype(int)
    masked = np.array([token == "[MASK]" for token in panel.tokens])
    assert np.array_equal(panel.mask, attention_mask(side, masked))
    assert [bool(predicted) for predicted in panel.predicted] == masked.tolist()
    languages = np.where(side == 0, "en", "ja")
    assert panel.languages == np.where(masked, languages, "").tolist()
    restored = [predicted or token for token, predicted in zip(panel.tokens, panel.predicted)]
    assert restored == ["[CLS]", *ENGLISH.split(), "[SEP]", "[SEP]", *JAPANESE.split(), "[SEP]"]
    assert panel.positions == list(range(2, 2 + len(restored)))
    # Another seed, which may be negative, draws other masks. CAMLM is the default.
    (with_other_seed,) = panels(ENGLISH, JAPANESE, "--languages", "en,ja", "--seed", "-1")
    assert with_other_seed.tokens != panel.tokens


def test_camlm_panel_with_the_other_sides_masks():
    """A masked place has two rows: the [MASK] symbol of the context, then the one that is predicted."""
    sentences = [ENGLISH, JAPANESE, "--languages", "en,ja", "--seed", "4"]
    (panel,) = panels(*sentences, "--camlm_context", "with_masks")
    (default,) = panels(*sentences)
    predicted = np.array([bool(word) for word in panel.predicted])
    side = (np.arange(len(panel.tokens)) >= panel.boundary).astype(int)
    assert np.array_equal(panel.mask, attention_mask(side, predicted))
    # Without the symbols of the context it is the panel of the default.
    stays = predicted | (np.array(panel.tokens) != "[MASK]")
    assert np.array_equal(panel.mask[np.ix_(stays, stays)], default.mask)
    for rows, expected in zip(panel[1:5], default[1:5]):
        assert np.array(rows)[stays].tolist() == expected
    assert np.array_equal(np.flatnonzero(~stays) + 1, np.flatnonzero(predicted))
    languages = np.array(panel.languages)
    assert languages[~stays].tolist() == languages[predicted].tolist() == ["en", "ja"]
    assert panel.title != default.title


def test_btmlm_panels():
    """Eight words with [CLS] and [SEP] are ten tokens, and 20 % of eight are two pseudo-tokens."""
    stage1, stage2 = panels(ENGLISH, "--objective", "btmlm", "--languages", "en,de")
    assert np.array_equal(stage1.mask, compact(10, 2))
    assert stage1.boundary == 10
    assert stage1.languages[-2:] == ["de", "de"]
    assert stage1.predicted[-2:] == ["h1", "h2"]
    assert stage1.positions[-2:] == [13, 14]  # 12 is that of the second [SEP]
    assert stage2.positions == list(range(2, 16))
    assert stage2.tokens[-4:] == ["[SEP]", "h1", "h2", "[SEP]"]
    assert stage2.mask.all()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["one sentence"], "camlm needs a pair"),
        (["a b c", "d"], "unmasked token on each side"),
        (["  ", "--objective", "mmlm"], "a sentence has no tokens"),
        (["a b", "c d", "--languages", "en"], "give two names"),
        (["a b", "--objective", "btmlm", "--pseudo_proportion", "nan"], "--pseudo_proportion nan: "),
        (["a b", "--objective", "btmlm", "--pseudo_proportion", "-1"], "--pseudo_proportion -1.0: "),
        (["a b", "c d", "--vocab_path", "/no/vocab.txt"], "--piece_model_path"),
        (["a b", "c d", "--piece_model_path", "/no/such.model"], "/no/such.model"),
    ],
)
def test_bad_input_is_one_line(arguments, message):
    assert message in error_of(panels, *arguments)


def test_command_with_a_piece_model(tmp_path):
    """It needs no Paddle."""
    sentences = ["baba $dodo gaga", "gigi 家 dudu"]
    flags = ["--piece_model_path", str(train_pieces(tmp_path / "model"))]
    code = "import sys; from ernie_m.pretrain.pictures import show; show.main(); "
    code += "assert 'paddle' not in sys.modules"
    command = [sys.executable, "-c", code, *sentences, *flags]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    assert "CAMLM (Figure 2 c)" in process.stdout
    assert "▁" in process.stdout  # with which sentencepiece marks the beginning of a word
