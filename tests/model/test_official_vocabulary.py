"""The helper that stands in for the official vocabulary: as large, and text is cut as by the given model."""

import io

import sentencepiece

from reader.tokenization import Tokenizer
from tests.helpers.official_vocabulary import make_official_vocabulary

LINES = ["the cat sat on the mat", "a dog and a cat, 12 mats", "the mat and the dog", "cats and dogs"] * 5


def test_widened_vocabulary(tmp_path):
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=trained, vocab_size=24, minloglevel=2
    )
    (tmp_path / "narrow.model").write_bytes(trained.getvalue())
    make_official_vocabulary(tmp_path, tmp_path / "narrow.model", vocab_size=3000)
    narrow = Tokenizer(None, str(tmp_path / "narrow.model"))
    wide = Tokenizer(str(tmp_path / "vocab.txt"), str(tmp_path / "piece.model"))
    assert wide.vocab_size == 3000 and wide.mask_id == 2999 and narrow.vocab_size < 50
    for line in LINES:
        assert wide.tokenize(line) == narrow.tokenize(line)
        assert wide.encode(line) == narrow.encode(line)
