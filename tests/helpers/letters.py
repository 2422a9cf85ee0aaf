"""A tokenizer whose subwords are single characters."""

from ernie_m.reader.tokenization import Tokenizer


class Letters:
    """Splits a word into characters, whose ids are their code points.

    "_" stands for "▁", the subword of a space. The word "-" has no pieces.
    """

    cls_id = 0
    pad_id = 9  # not the usual one
    sep_id = 2
    unk_id = 3
    vocab = {"▁": 4}  # noqa: RUF012
    build_inputs_from_ids = Tokenizer.build_inputs_from_ids

    def encode_batch(self, words: list[str]) -> list[list[int]]:
        """The ids of each word."""
        rows = []
        for word in words:
            if word == "-":
                ids = []
            else:
                ids = [self.vocab["▁"] if letter == "_" else ord(letter) for letter in word]
            rows.append(ids)
        return rows
