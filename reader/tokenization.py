"""Rules 1 to 3 of the official tokenizer (quotes, control characters, white space), and their way back."""

import functools
import hashlib
import os
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import sentencepiece

from reader import tokenization as spans
from reader.vocabulary import SPECIAL_TOKENS, UNK, derive_vocab, read_vocab, write_vocab
from utils.errors import UserError

QUOTES = {"“": '"', "”": '"', "‘": "'", "’": "'", "—": "-"}
_QUOTE_CHARACTERS = tuple(QUOTES)


@functools.cache
def _rules_1_to_3() -> dict[int, str | None]:
    """Code point -> its replacement, or None where it is dropped."""
    table: dict[int, str | None] = {}
    for code in range(sys.maxunicode + 1):
        category = unicodedata.category(chr(code))
        if category in ("Cc", "Cf"):
            table[code] = None
        elif category == "Zs":
            table[code] = " "
        elif category == "Cs":
            table[code] = "\ufffd"
    for character in "\t\n\r":
        table[ord(character)] = " "
    for character, replacement in QUOTES.items():
        table[ord(character)] = replacement
    del table[ord(" ")]
    return table


def _is_plain(text: str) -> bool:
    """Whether rules 1 to 3 leave `text` alone. isprintable(): one pass in C, false for Cc, Cf, Zs, Cs."""
    if not text.isprintable():
        return False
    if text.isascii():
        return True
    return not any(character in text for character in _QUOTE_CHARACTERS)


def normalize(text: str) -> str:
    """Rules 1 to 3. Every character becomes one character or none."""
    return text if _is_plain(text) else text.translate(_rules_1_to_3())


def normalize_with_sources(text: str) -> tuple[str, list[int] | None]:
    """`normalize`, and for each character of it the index in `text` that it came from, then `len(text)`.

    The list is None where it would be 0, 1, 2, ...: nothing was dropped.
    """
    if _is_plain(text):
        return text, None
    table = _rules_1_to_3()
    normal = text.translate(table)
    if len(normal) == len(text):
        return normal, None
    sources = [index for index, character in enumerate(text) if table.get(ord(character), "") is not None]
    return normal, [*sources, len(text)]


# One shim over sentencepiece: its calls for offsets changed between 0.1.99, 0.2.1 and 0.2.2.


class PieceModel:
    """A sentencepiece model: text to piece ids, and to pieces with character offsets.

    Args:
        path: the model file (`piece.model`, XLM-R's `sentencepiece.bpe.model`, or one's own).

    Raises:
        UserError: the file is missing or is no sentencepiece model.
    """

    def __init__(self, path: str | os.PathLike):
        if not os.path.isfile(path):
            raise UserError(
                f"{path}: no such piece model; --piece_model_path names another, and "
                "sh scripts/data/get_weights.sh vocab fetches the released one"
            )
        self._model = sentencepiece.SentencePieceProcessor()
        try:
            self._model.Load(str(path))
        except (RuntimeError, OSError, UnicodeDecodeError) as error:  # what is wrong, in bytes of its own
            raise UserError(
                f"{path}: not a sentencepiece model, or cut short; fetch or copy it again"
            ) from error
        ids = range(self._model.GetPieceSize())
        try:
            self.pieces: list[str] = self._model.IdToPiece(list(ids))
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: damaged: a piece is not UTF-8; fetch or copy it again") from error
        self.is_ordinary: list[bool] = [
            not (unknown or control)
            for unknown, control in zip(self._model.IsUnknown(list(ids)), self._model.IsControl(list(ids)))
        ]
        self.unk_id: int = self._model.unk_id()
        self._has_offset_mapping = hasattr(self._model, "EncodeAsOffsetMapping")

    def encode(self, text: str) -> list[int]:
        """Piece ids of one text."""
        return self._model.EncodeAsIds(text)

    def encode_batch(self, texts: list[str], threads: int) -> list[list[int]]:
        """Piece ids of many texts, on that many threads."""
        return self._model.Encode(texts, num_threads=threads)

    def tokenize(self, text: str) -> list[str]:
        """The pieces of one text as strings; an unknown one is the text it stands for."""
        return self._model.EncodeAsPieces(text)

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[str], list[tuple[int, int]]]:
        """Piece ids, pieces and the (start, end) characters of `text` each of them came from.

        The spans tile the text as the model sees it: a piece that begins with "▁" owns the space before it.
        """
        if self._has_offset_mapping:  # 0.2.2 and later
            answer = self._model.EncodeAsOffsetMapping(text)
            return answer["ids"], answer["pieces"], answer["offsets"]
        answer = self._model.Encode(text, out_type="immutable_proto")  # up to 0.2.1
        pieces = answer.pieces
        return [p.id for p in pieces], [p.piece for p in pieces], [(p.begin, p.end) for p in pieces]


# From the spans of sentencepiece to those a reader wants: whole characters, no white space at the ends.

Span = tuple[int, int]


def clean(text: str, pieces: list[str], spans: list[Span]) -> list[Span]:
    """Spans of whole characters, without the white space at their ends; starts and ends never decrease.

    Args:
        text: what was cut into `pieces`.
        spans: of sentencepiece; they tile `text`, a piece that begins with "▁" owning the space before it.
    """
    cleaned = []
    last_end = 0
    for piece, (start, end) in zip(pieces, _whole_characters(text, pieces, spans)):
        while start < end and (text[start].isspace() or text[start] == "▁"):
            start += 1
        while start < end and (text[end - 1].isspace() or text[end - 1] == "▁"):
            end -= 1
        if start == end < len(text) and piece.strip("▁"):
            end += 1  # a byte of a character that the model spells in bytes: only the last has its span
        if end < last_end:
            end = last_end  # a space that came out of the middle of a character
        last_end = end
        cleaned.append((start, end))
    return cleaned


def _whole_characters(text: str, pieces: list[str], spans: list[Span]) -> list[Span]:
    """Widen each span over the character that it ends inside of.

    NFKC makes several characters of one (½ becomes 1⁄2, ㍿ four characters). When those end up in different
    pieces, sentencepiece gives the source character to the last piece only; here every piece that holds a
    part of it has it.
    """
    if unicodedata.is_normalized("NFKC", text):
        return spans
    joined = "".join(pieces)
    position = 0
    widened = []
    for piece, (start, end) in zip(pieces, spans):
        position += len(piece)
        if end < len(text):
            expanded = unicodedata.normalize("NFKC", text[end]).replace(" ", "▁")
            if len(expanded) > 1 and not joined.startswith(expanded, position):
                end += 1
        widened.append((start, end))
    return widened


def cut(pieces: list[str] | None, start: int, end: int) -> list[Span]:
    """The spans of `pieces`, which the digit-comma rule puts in the place of the one at (start, end)."""
    if pieces is None:
        return [(start, end)]
    comma = (end - 1, end)
    lengths = [len(piece.lstrip("▁")) for piece in pieces[:-1]]
    if sum(lengths) != end - 1 - start:  # NFKC changed the length: no telling which character is whose
        return [(start, end - 1)] * len(lengths) + [comma]
    result = []
    for length in lengths:
        result.append((start, start + length))
        start += length
    return [*result, comma]


def to_sources(spans: list[Span], sources: list[int]) -> list[Span]:
    """Spans of the normalised text as spans of the text it was made from; see `normalize_with_sources`."""
    return [
        (sources[start], sources[end - 1] + 1) if start < end else (sources[start], sources[start])
        for start, end in spans
    ]


# The official ERNIE-M tokenizer: normalise, cut into sentencepiece pieces, look them up in the vocabulary.
#
# The rules, in order:
# 1. “ ” become ", ‘ ’ become ', — becomes -.
# 2. Control and format characters (Cc, Cf) are dropped, except tab and line ends. (Ours: a lone surrogate,
#    which has no UTF-8, becomes U+FFFD.)
# 3. Tab, line ends and every space character (Zs) become a space.
# 4. sentencepiece cuts the text (and applies its own NFKC). Nothing is lower-cased.
# 5. A piece that ends in a digit and "," is cut again without the comma, and "," follows as a token of its
# own.
#    This is the rule as it was meant; the official code compares text with bytes here, so that it never takes
#    the extra "▁" off again.
# 6. A piece that is not in the vocabulary is [UNK].

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
