"""`ernie-m show` prints the masks of the batch that training would use."""

import shlex

import pytest

from ernie_m.pretrain.show_masks import format_masks
from tests.launching import error_of

MMLM = """\
mmlm
 pos  attends to    input
   2  1 1 1 1 1 |   [CLS]
   3  1 1 1 1 1 |   [MASK] + ja -> 小さな
   4  1 1 1 1 1 |   赤い
   5  1 1 1 1 1 |   家は
   6  1 1 1 1 1 |   [SEP]"""
# One prediction is of a random token.
TLM = """\
tlm
 pos  attends to                input
   2  1 1 1 1 1 | 1 1 1 1 1 1   [CLS]
   3  1 1 1 1 1 | 1 1 1 1 1 1   e -> a
   4  1 1 1 1 1 | 1 1 1 1 1 1   b
   5  1 1 1 1 1 | 1 1 1 1 1 1   c
   6  1 1 1 1 1 | 1 1 1 1 1 1   [SEP]
   7  1 1 1 1 1 | 1 1 1 1 1 1   [SEP]
   8  1 1 1 1 1 | 1 1 1 1 1 1   d
   9  1 1 1 1 1 | 1 1 1 1 1 1   [MASK] + tgt -> e
  10  1 1 1 1 1 | 1 1 1 1 1 1   f
  11  1 1 1 1 1 | 1 1 1 1 1 1   g
  12  1 1 1 1 1 | 1 1 1 1 1 1   [SEP]"""
# "[SEP]" is a word here, no separator.
CAMLM = """\
camlm
 pos  attends to                input
   2  1 1 . 1 1 1 | . . . . .   [CLS]
   3  1 1 . 1 1 1 | . . . . .   a
   4  . . 1 . . . | 1 1 . 1 1   [MASK] + src -> b
   5  1 1 . 1 1 1 | . . . . .   c
   6  1 1 . 1 1 1 | . . . . .   d
   7  1 1 . 1 1 1 | . . . . .   [SEP]
   8  . . . . . . | 1 1 . 1 1   [SEP]
   9  . . . . . . | 1 1 . 1 1   [SEP]
  10  1 1 . 1 1 1 | . . 1 . .   [MASK] + tgt -> f
  11  . . . . . . | 1 1 . 1 1   g
  12  . . . . . . | 1 1 . 1 1   [SEP]"""
# A masked position has two rows: the [MASK] of the context, then the one that is predicted.
CAMLM_WITH_MASKS = """\
camlm
 pos  attends to                input
   2  1 1 1 . 1 1 | . . . . .   [CLS]
   3  1 1 1 . 1 1 | . . . . .   a
   4  1 1 1 . 1 1 | . . . . .   [MASK] + src
   4  . . . 1 . . | 1 1 1 . 1   [MASK] + src -> b
   5  1 1 1 . 1 1 | . . . . .   c
   6  1 1 1 . 1 1 | . . . . .   [SEP]
   7  . . . . . . | 1 1 1 . 1   [SEP]
   8  . . . . . . | 1 1 1 . 1   e
   9  . . . . . . | 1 1 1 . 1   [MASK] + tgt
   9  1 1 1 . 1 1 | . . . 1 .   [MASK] + tgt -> f
  10  . . . . . . | 1 1 1 . 1   [SEP]"""
BTMLM = """\
btmlm, stage 1
 pos  attends to      input
   2  1 1 1 1 1 | .   [CLS]
   3  1 1 1 1 1 | .   a
   4  1 1 1 1 1 | .   b
   5  1 1 1 1 1 | .   c
   6  1 1 1 1 1 | .   [SEP]
   8  1 1 1 1 1 | 1   [MASK] + de -> h1

btmlm, stage 2
 pos  attends to          input
   2  1 1 1 1 1 | 1 1 1   [CLS]
   3  1 1 1 1 1 | 1 1 1   a
   4  1 1 1 1 1 | 1 1 1   b -> b
   5  1 1 1 1 1 | 1 1 1   c
   6  1 1 1 1 1 | 1 1 1   [SEP]
   7  1 1 1 1 1 | 1 1 1   [SEP]
   8  1 1 1 1 1 | 1 1 1   h1
   9  1 1 1 1 1 | 1 1 1   [SEP]"""


@pytest.mark.parametrize(
    ("arguments", "masks"),
    [
        ("'小さな 赤い 家は' --objective mmlm --languages ja,en", MMLM),
        ("'a b c' 'd e f g' --objective tlm", TLM),
        ("'a b c d' '[SEP] f g'", CAMLM),
        ("'a b c' 'e f' --camlm_context with_masks --seed -1", CAMLM_WITH_MASKS),
        ("'a b c' --objective btmlm --languages en,de", BTMLM),
    ],
)
def test_masks_are_shown_as_by_hand(arguments, masks):
    assert "\n\n".join(format_masks(shlex.split(arguments))) == masks


def test_another_seed_masks_other_words():
    pair = ["the small red house stands on the hill", "das kleine rote Haus steht auf dem Berg"]
    assert (
        len(
            {
                *format_masks(pair),
                *format_masks([*pair, "--seed", "4"]),
                *format_masks([*pair, "--seed", "-1"]),
            }
        )
        == 3
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["one sentence"], "camlm requires a pair"),
        (["a b c", "d"], "unmasked token on each side"),
        (["  ", "--objective", "mmlm"], "empty sentence"),
        (["a b c", " "], "empty sentence"),
        (["a b", "c d", "--languages", "en"], "expected two names"),
        (["a b", "c d", "--languages", "en,de,fr"], "expected two names"),
    ],
)
def test_rejects_invalid_arguments(arguments, message):
    assert message in error_of(format_masks, arguments)
