"""The official ERNIE-M tokenizer: normalise, cut into sentencepiece pieces, look them up in the vocabulary.

The rules, in order:
1. “ ” become ", ‘ ’ become ', — becomes -.
2. Control and format characters (Cc, Cf) are dropped, except tab and line ends. (Ours: a lone surrogate,
   which has no UTF-8, becomes U+FFFD.)
3. Tab, line ends and every space character (Zs) become a space.
4. sentencepiece cuts the text (and applies its own NFKC). Nothing is lower-cased.
5. A piece that ends in a digit and "," is cut again without the comma, and "," follows as a token of its own.
   This is the rule as it was meant; the official code compares text with bytes here, so that it never takes
   the extra "▁" off again.
6. A piece that is not in the vocabulary is [UNK].
"""

import functools
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from reader import spans
from reader.normalization import normalize, normalize_with_sources
from reader.pieces import PieceModel
from reader.vocabulary import SPECIAL_TOKENS, UNK, derive_vocab, read_vocab, write_vocab
from utils.errors import UserError

# Pieces of the model that a vocabulary may lack (they become [UNK]) before the two are taken to be strangers.
MISSING_PIECES_ALLOWED = 10

_VOCAB_NAME = "vocab.txt"
_PIECE_MODEL_NAMES = ("piece.model", "sentencepiece.bpe.model")


def truncate_longest_first(length_a: int, length_b: int, budget: int) -> tuple[int, int]:
    """The lengths left of two texts when the longer one loses its last token until both fit in `budget`.

    At equal length the second loses first, as in the official reader.
    """
    excess = length_a + length_b - budget
    if excess <= 0:
        return length_a, length_b
    shorter = min(length_a, length_b)
    if max(length_a, length_b) - excess >= shorter:
        return (length_a - excess, length_b) if length_a > length_b else (length_a, length_b - excess)
    return budget - budget // 2, budget // 2


class Tokenizer:
    """Text to ids by the official rules. Can be pickled: a worker process reads the two files again.

    Args:
        vocab_path: vocab.txt in either form; None derives the vocabulary from the piece model, as XLM-R does.
        piece_model_path: the sentencepiece model.

    Attributes:
        cls_id, pad_id, sep_id, unk_id, mask_id: read from the vocabulary, never assumed.
        vocab_size: highest id + 1, the rows an embedding needs.
        special_ids: the five ids above, ascending.
        special_id_count: how many ids at the start of the vocabulary are special; ordinary tokens follow.

    Raises:
        UserError: a file is missing or malformed, or the two do not belong together.
    """

    def __init__(
        self, vocab_path: str | os.PathLike | None = None, piece_model_path: str | os.PathLike | None = None
    ):
        if piece_model_path is None:
            raise UserError(
                "no piece model given; pass --piece_model_path (piece.model or sentencepiece.bpe.model)"
            )
        self.vocab_path = None if vocab_path is None else Path(vocab_path).absolute()
        self.piece_model_path = Path(piece_model_path).absolute()
        self._model = PieceModel(piece_model_path)
        if vocab_path is None:
            try:
                self.vocab = derive_vocab(self.ordinary_pieces())
            except UserError as error:
                raise UserError(f"{piece_model_path}: {error}") from error
        else:
            self.vocab = read_vocab(vocab_path)
            self._check_they_belong_together()
        self.cls_id, self.pad_id, self.sep_id, self.unk_id, self.mask_id = (
            self.vocab[t] for t in SPECIAL_TOKENS
        )
        self.special_ids = tuple(sorted(self.vocab[token] for token in SPECIAL_TOKENS))
        self.special_id_count = next(
            (i for i, id_ in enumerate(self.special_ids) if i != id_), len(self.special_ids)
        )
        self.vocab_size = max(self.vocab.values()) + 1
        self._token_of = {id_: token for token, id_ in self.vocab.items()}
        self._digit_comma = self._cut_digit_comma_pieces()
        self._id_of_piece = self._piece_to_id()

    @classmethod
    def from_folder(cls, folder: str | os.PathLike) -> "Tokenizer":
        """That of a folder with piece.model or sentencepiece.bpe.model, and vocab.txt if it is there."""
        models = [Path(folder, name) for name in _PIECE_MODEL_NAMES if Path(folder, name).is_file()]
        if not models:
            raise UserError(f"{folder}: no {' or '.join(_PIECE_MODEL_NAMES)} there; pass --piece_model_path")
        vocab = Path(folder, _VOCAB_NAME)
        return cls(vocab if vocab.is_file() else None, models[0])

    def __reduce__(self):
        return type(self), (self.vocab_path, self.piece_model_path)

    def __len__(self) -> int:
        return self.vocab_size

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the tokens with their ids and of the piece model, whatever the form of vocab.txt."""
        digest = hashlib.sha256()
        for id_, token in sorted(self._token_of.items()):
            digest.update(f"{token}\t{id_}\n".encode())
        digest.update(self.piece_model_path.read_bytes())
        return digest.hexdigest()

    def write_vocab(self, path: str | os.PathLike) -> None:
        """Write vocab.txt as `token<TAB>id` lines, atomically."""
        write_vocab(self.vocab, path)

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        """The token of each id; an id without one is [UNK]."""
        return [self._token_of.get(int(id_), UNK) for id_ in ids]

    def convert_tokens_to_ids(self, tokens: Sequence[str]) -> list[int]:
        """The id of each token; a token without one has that of [UNK]."""
        return [self.vocab.get(token, self.unk_id) for token in tokens]

    def tokenize(self, text: str) -> list[str]:
        """Rules 1 to 5: the pieces, without special tokens. An unknown piece is the text itself."""
        text = normalize(text)
        tokens: list[str] = []
        for piece_id, piece in zip(self._model.encode(text), self._model.tokenize(text)):
            tokens += self._digit_comma.get(piece_id, (piece,))
        return tokens

    def encode(self, text: str) -> list[int]:
        """Rules 1 to 6: the ids, without special tokens."""
        return self._to_ids(self._model.encode(normalize(text)))

    def encode_batch(self, texts: Sequence[str], threads: int = 1) -> list[list[int]]:
        """`encode` of many texts, in order; faster than one by one.

        Args:
            texts: any number of texts.
            threads: threads that sentencepiece may use.
        """
        plain = [normalize(text) for text in texts]
        return [self._to_ids(piece_ids) for piece_ids in self._model.encode_batch(plain, threads)]

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """`encode`, and for each token the characters of `text`, as it was given, that it came from.

        Returns:
            ids and as many (start, end) spans, `text[start:end]` being the token's source without the white
            space around it. Starts and ends never decrease. A "▁" that stands for a space alone has an empty
            span. A dropped character inside a token lies inside its span. Where NFKC makes several characters
            of one (½, ㍿) and they end up in different tokens, each of them has the whole one in its span.
        """
        normal, sources = normalize_with_sources(text)
        piece_ids, pieces, raw = self._model.encode_with_offsets(normal)
        offsets = spans.clean(normal, pieces, raw)
        ids = self._to_ids(piece_ids)
        if len(ids) != len(piece_ids):  # the digit-comma rule put several in the place of one
            offsets = [
                part
                for piece_id, span in zip(piece_ids, offsets)
                for part in spans.cut(self._digit_comma.get(piece_id), *span)
            ]
        return ids, offsets if sources is None else spans.to_sources(offsets, sources)

    def build(
        self, text_a: str, text_b: str | None = None, max_seq_len: int = 512, pair_separators: int = 2
    ) -> list[int]:
        """The ids of one input with its special tokens, cut to `max_seq_len`; see `build_from_ids`."""
        ids_b = None if text_b is None else self.encode(text_b)
        return self.build_from_ids(self.encode(text_a), ids_b, max_seq_len, pair_separators)

    def build_from_ids(
        self,
        ids_a: list[int],
        ids_b: list[int] | None = None,
        max_seq_len: int = 512,
        pair_separators: int = 2,
    ) -> list[int]:
        """Add the special tokens: `[CLS] A [SEP]`, or `[CLS] A [SEP] [SEP] B [SEP]` for a pair.

        A pair whose B has no tokens is laid out as A alone, as the official reader does.

        Args:
            ids_a, ids_b: what `encode` gave.
            max_seq_len: most ids of the answer. A pair loses from the longer text first.
            pair_separators: separators between A and B; 2, or 1 for question and context (MLQA).

        Raises:
            UserError: `max_seq_len` has no room for the special tokens.
        """
        special = 2 + pair_separators if ids_b else 2
        if max_seq_len <= special:
            raise UserError(
                f"--max_seq_len {max_seq_len} leaves no room for text beside {special} special tokens"
            )
        if not ids_b:
            return [self.cls_id, *ids_a[: max_seq_len - special], self.sep_id]
        keep_a, keep_b = truncate_longest_first(len(ids_a), len(ids_b), max_seq_len - special)
        separators = [self.sep_id] * pair_separators
        return [self.cls_id, *ids_a[:keep_a], *separators, *ids_b[:keep_b], self.sep_id]

    def _to_ids(self, piece_ids: list[int]) -> list[int]:
        table = self._id_of_piece
        ids = [table[piece_id] for piece_id in piece_ids]
        if self._digit_comma and -1 in ids:
            return self._to_ids_with_digit_comma(piece_ids)
        return ids

    def _to_ids_with_digit_comma(self, piece_ids: list[int]) -> list[int]:
        ids: list[int] = []
        for piece_id in piece_ids:
            cut = self._digit_comma.get(piece_id)
            ids += [self._id_of_piece[piece_id]] if cut is None else self.convert_tokens_to_ids(cut)
        return ids

    def ordinary_pieces(self) -> list[str]:
        """The pieces of the model in its own order, without unknown and control pieces."""
        return [piece for piece, ordinary in zip(self._model.pieces, self._model.is_ordinary) if ordinary]

    def _check_they_belong_together(self) -> None:
        missing = [piece for piece in self.ordinary_pieces() if piece not in self.vocab]
        if len(missing) > MISSING_PIECES_ALLOWED:
            raise UserError(
                f"{self.piece_model_path} and {self.vocab_path} do not belong together: {len(missing)} of "
                f"the model's {len(self._model.pieces)} pieces are not in the vocabulary "
                f"('{missing[0]}', '{missing[1]}', ...)"
            )

    def _cut_digit_comma_pieces(self) -> dict[int, list[str]]:
        """Rule 5 for every piece of the model that it touches: piece id -> the pieces that take its place."""
        cuts = {}
        for piece_id, piece in enumerate(self._model.pieces):
            if (
                len(piece) > 1
                and piece[-1] == ","
                and piece[-2].isdigit()
                and self._model.is_ordinary[piece_id]
            ):
                parts = self._model.tokenize(piece[:-1].replace("▁", ""))
                if not piece.startswith("▁") and parts[0].startswith("▁"):
                    parts = parts[1:] if parts[0] == "▁" else [parts[0][1:], *parts[1:]]
                cuts[piece_id] = [*parts, ","]
        return cuts

    def _piece_to_id(self) -> list[int]:
        """Id of each piece of the model; -1 where rule 5 puts several in its place."""
        ids = [
            self.vocab.get(piece, self.unk_id) if ordinary else self.unk_id
            for piece, ordinary in zip(self._model.pieces, self._model.is_ordinary)
        ]
        for piece_id in self._digit_comma:
            ids[piece_id] = -1
        return ids
