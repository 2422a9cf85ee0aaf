"""A small piece model trained on ten scripts, with pieces that the digit-comma rule touches."""

from pathlib import Path

import pytest

from reader.tokenization import Tokenizer
from tests.helpers.small_corpus import train_pieces

SENTENCES = [
    "The quick brown fox jumps over the lazy dog near a river, and 1,000 people saw it in 2000, 2010, 2025.",
    "Le renard brun saute par-dessus le chien paresseux près de la rivière, où l'été dure.",
    "Der schnelle braune Fuchs springt über den faulen Hund in der Nähe des Flusses.",
    "Быстрая коричневая лиса перепрыгивает через ленивую собаку у реки.",
    "敏捷的棕色狐狸跳过懒狗。他说,妈妈,我回来了。",
    "الثعلب البني السريع يقفز فوق الكلب الكسول.",
    "तेज भूरी लोमड़ी आलसी कुत्ते के ऊपर कूदती है।",
    "สุนัขจิ้งจอกสีน้ำตาลกระโดดข้ามสุนัขขี้เกียจ",
    "Con cáo nâu nhanh nhẹn nhảy qua con chó lười.",
    "Η γρήγορη καφέ αλεπού πηδάει πάνω από το τεμπέλικο σκυλί.",
    'She said "yes" - it\'s 12345 67890.',
]


@pytest.fixture(scope="session")
def piece_model(tmp_path_factory):
    options = {"normalization_rule_name": "nmt_nfkc", "user_defined_symbols": ["0,", "▁25,"]}
    path = tmp_path_factory.mktemp("pieces") / "piece.model"
    return train_pieces(path, SENTENCES * 20, vocab_size=400, **options)


@pytest.fixture(scope="session")
def tokenizer(piece_model):
    return Tokenizer(piece_model_path=piece_model)


def files(folder: Path) -> list[str]:
    """The names of all files below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
