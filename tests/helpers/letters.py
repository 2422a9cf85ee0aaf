"""A tokenizer whose pieces are single characters."""


class Letters:
    """Splits a word into characters, with "_" for "▁". The word "-" has no pieces."""

    cls_id, pad_id, sep_id, unk_id = 0, 1, 2, 3
    vocab = {"▁": 4}  # noqa: RUF012

    def encode_batch(self, words: list[str]) -> list[list[int]]:
        return [[] if word == "-" else [4 if c == "_" else ord(c) for c in word] for word in words]
