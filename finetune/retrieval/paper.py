"""What the paper reports for Tatoeba: accuracy in per cent, English queries (Tables 5 and 16)."""

from reader.sentences import TATOEBA

_LARGE = """
88.6 88.9 92.2 84.8 98.8 92.4 96.3 82.4 78.8 92.5 92.2 94.0 86.2 95.4 88.7 91.5 90.3 86.7
48.0 84.2 78.2 85.3 95.2 87.6 96.1 92.6 93.1 59.4 86.9 94.0 95.6 75.4 96.3 90.8 94.5 91.7
"""
_LARGE_FINE_TUNED = """
92.6 94.3 96.6 89.2 99.7 96.8 98.8 92.5 87.4 96.0 97.1 96.5 90.1 97.9 95.5 95.7 95.2 96.9
65.2 94.9 88.0 94.1 98.5 90.8 98.1 94.5 95.7 68.4 91.8 97.9 98.4 86.0 98.3 94.9 98.1 96.7
"""

# row -> language -> per cent
PAPER = {
    name: dict(zip(TATOEBA, (float(cell) for cell in cells.split()), strict=True))
    for name, cells in (
        ("paper, large", _LARGE), ("paper, large, fine-tuned", _LARGE_FINE_TUNED),
    )
}  # fmt: skip
