"""The official ERNIE-M tokenizer: normalize, split with SentencePiece, look up in the vocabulary.

The rules, in order: 1. “ ” become ", ‘ ’ become ', — becomes -. 2. Control and format characters (Cc, Cf) are
dropped, except tabs and newlines. A lone surrogate, which cannot be encoded in UTF-8, becomes U+FFFD (an
addition of this project). 3. Tabs, newlines and space characters (Zs) become a space. 4. SentencePiece
applies its own NFKC and splits the text into subwords. Text is not lower-cased. 5. A subword that ends in a
digit and "," is split again without the comma, and "," follows as a separate token. This is the intended
rule: the official code compares text with bytes here and never removes the extra "▁". 6. A subword that is
not in the vocabulary is [UNK].

Other values of text_rules: "none" is SentencePiece and rule 6 only, as in XLM-R; "paddlenlp" and
"transformers" split subwords further, like the ErnieMTokenizer of these libraries. `read_tokenizer_rules`
returns the rules of a vocabulary, corpus, model or export of this project.
"""

import functools
import hashlib
import itertools
import os
import re
import sys
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import sentencepiece

from ernie_m.reader.tokenizer_json import (
    BPE_MODEL,
    TOKENIZER_JSON,
    build_piece_model_from_json,
    make_missing_model_error,
)
from ernie_m.reader.tokenizer_rules import (
    ERNIE_M,
    LIBRARY_RULES,
    QUOTES,
    TEXT_RULES,
    get_pipeline_values,
    split_subwords,
)
from ernie_m.reader.vocabulary import (
    CONFIG,
    DICT,
    FILLER,
    LARGEST_VOCAB,
    SPECIAL_TOKENS,
    UNK,
    VOCAB,
    derive_vocab,
    parse_vocab,
    write_vocab,
)
from ernie_m.utils.checksums import MANIFEST
from ernie_m.utils.errors import UserError, format_value, get_command_name, join_items
from ernie_m.utils.files import Folder, read_bytes
from ernie_m.utils.logging import logger

_MODEL_NAMES = ("piece.model", BPE_MODEL, TOKENIZER_JSON)
# A vocabulary that lacks more subwords than this does not match the SentencePiece model, nor does a dict.txt
# with more tokens than this that are not subwords. Fewer become [UNK] with a warning, unless the model has
# rows for them: then lines were lost, and all later ids are wrong. A fairseq model has a row for each line of
# its dict.txt.
_MAX_ODD_SUBWORDS = 10
# Maximum number of unused rows of an embedding matrix, which may be padded to a multiple of 64 or 128;
# E5-small has 35.
_MOST_UNREAD_ROWS = 128
_SURROGATE = re.compile("[\ud800-\udfff]")
_SPLIT = -1  # marks a subword that rule 5 splits
_FEW_TEXTS = 8  # up to this number, texts are encoded one by one

_FOREIGN = {"tokenizer_config.json", "model_config.json"}  # written by other libraries
_ALONE = {TOKENIZER_JSON, DICT}  # without config.json, also written by other libraries


@functools.cache
def make_normalization_table() -> dict[int, str | None]:
    """Return rules 1 to 3 as a table for `str.translate`: code point -> replacement, or None to remove."""
    table: dict[int, str | None] = {}
    by_category = {"Cc": None, "Cf": None, "Zs": " ", "Cs": "\ufffd"}  # Cs: surrogates
    for code in range(sys.maxunicode + 1):
        category = unicodedata.category(chr(code))
        if category in by_category:
            table[code] = by_category[category]
    table |= {ord(character): " " for character in "\t\n\r"}  # these are also in Cc
    table |= {ord(quote): replacement for quote, replacement in QUOTES.items()}
    del table[ord(" ")]  # maps to itself
    return table


def normalize(text: str) -> str:
    """Normalize a text by rules 1 to 3. Every character becomes one character or none."""
    # isprintable() is fast, and false for Cc, Cf, Zs and Cs, except the space. The quotes of rule 1 are not
    # ASCII.
    if text.isprintable():
        has_quotes = not text.isascii() and any(quote in text for quote in QUOTES)
        if not has_quotes:
            return text
    return text.translate(make_normalization_table())


def replace_surrogates(text: str) -> str:
    """Replace lone surrogates, which cannot be encoded in UTF-8, with U+FFFD."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def truncate_longest_first(length_a: int, length_b: int, budget: int) -> tuple[int, int]:
    """Compute the lengths of two texts after truncation to `budget` tokens in total.

    Tokens are removed one by one from the longer text; at equal lengths, from the second.
    """
    if length_a + length_b <= budget:
        return length_a, length_b
    # The second text gets half of the budget, or more if the first text is shorter than half.
    cut_b = min(length_b, max(budget // 2, budget - length_a))
    return budget - cut_b, cut_b


class Tokenizer:
    """The ERNIE-M tokenizer, also for XLM-R's vocabulary. A pickle has all that was read.

    Args:
        vocab_path: vocab.txt in either format, or dict.txt of fairseq. None: derive the vocabulary from the
            SentencePiece model, as XLM-R does.
        piece_model_path: the SentencePiece model, or XLM-R's tokenizer.json.
        text_rules: the tokenizer rules, one of `TEXT_RULES`.
        added_tokens: token -> id of tokens that are not in the SentencePiece model. They are matched first;
            SentencePiece splits the text between them.
        folder: the folder of `piece_model_path`, which parses a tokenizer.json once; None: a new `Folder`.

    Attributes:
        piece_model: the serialized SentencePiece model.
        files: name in a checkpoint -> content of the files that the tokenizer was read from: the
            SentencePiece model, also for a tokenizer.json, and vocab.txt or dict.txt, if given.
        processor: the SentencePiece processor.
        vocab: token -> id.
        cls_id, pad_id, sep_id, unk_id, mask_id: ids from the vocabulary.
        vocab_size: highest id + 1, the required number of embedding rows.
        special_ids: the ids of the five special tokens, ascending.
        digit_comma: for rule 5: index of a subword in the SentencePiece model -> the tokens that replace it.

    Raises:
        UserError: a file is missing or corrupt, the vocabulary does not match the SentencePiece model, or the
            id of an added token is in use.
    """

    def __init__(
        self,
        vocab_path: str | os.PathLike | None = None,
        piece_model_path: str | os.PathLike | None = None,
        text_rules: str = ERNIE_M,
        added_tokens: Mapping[str, int] | None = None,
        folder: Folder | None = None,
    ):
        if piece_model_path is None:
            raise UserError("missing --piece_model_path: the SentencePiece model")
        self.vocab_path = None if vocab_path is None else Path(vocab_path).absolute()
        self.piece_model_path = Path(piece_model_path).absolute()
        self.piece_model = _read_sentencepiece_model(Path(piece_model_path), folder)
        self.files = {_MODEL_NAMES[0]: self.piece_model}
        self.processor, self._subwords = _load_sentencepiece_model(self.piece_model, piece_model_path)
        # A subword's number in the model is not its id in the vocabulary.
        subword_numbers = list(range(len(self._subwords)))
        is_special = np.logical_or(
            self.processor.IsUnknown(subword_numbers), self.processor.IsControl(subword_numbers)
        )
        self._is_ordinary = (~is_special).tolist()  # indexed by the subword's number
        self.text_rules = text_rules
        self.added_tokens = dict(added_tokens or {})
        self.vocab = self._read_vocab()
        self._add_tokens()
        special_ids = [self.vocab[token] for token in SPECIAL_TOKENS]
        self.cls_id, self.pad_id, self.sep_id, self.unk_id, self.mask_id = special_ids
        self.special_ids = tuple(sorted(special_ids))
        self.vocab_size = max(self.vocab.values()) + 1
        self.digit_comma = self._make_digit_comma_splits() if text_rules == ERNIE_M else {}
        self._id_of_subword = self._list_token_ids()  # indexed by the subword's number

    @classmethod
    def from_folder(
        cls,
        folder: str | os.PathLike,
        text_rules: str | None = None,
        added_tokens: Mapping[str, int] | None = None,
    ) -> "Tokenizer":
        """Load the tokenizer from a model or corpus directory of this project.

        The directory has a SentencePiece model and optionally vocab.txt or dict.txt.

        Args:
            text_rules: the tokenizer rules; None: by `read_tokenizer_rules`.
            added_tokens: token -> id; None: those of the directory, or none if `text_rules` is given.

        Raises:
            UserError: the SentencePiece model is missing; see also `read_tokenizer_rules` and `Tokenizer`.
        """
        folder = Path(folder)
        models = [folder / name for name in _MODEL_NAMES if (folder / name).is_file()]
        if not models:
            raise make_missing_model_error(folder)
        vocabs = [folder / name for name in (VOCAB, DICT) if (folder / name).is_file()]
        if text_rules is None:
            text_rules, its_tokens = read_tokenizer_rules(folder)
            added_tokens = its_tokens if added_tokens is None else added_tokens
        return cls(vocabs[0] if vocabs else None, models[0], text_rules, added_tokens)

    @functools.cached_property
    def digest(self) -> str:
        """The SHA-256 of the vocabulary, the SentencePiece model, and unofficial rules and added tokens.

        The digest does not depend on the format of vocab.txt.
        """
        digest = hashlib.sha256()
        for id_, token in sorted(self._token_of.items()):
            digest.update(f"{token}\t{id_}\n".encode())
        digest.update(self.piece_model)
        if self.text_rules != ERNIE_M or self.added_tokens:
            digest.update(f"{self.text_rules}\t{sorted(self.added_tokens.items())}".encode())
        return digest.hexdigest()

    def check_model(self, vocab_size: int, pad_token_id: int, source: str | os.PathLike) -> None:
        """Check that a model's configuration matches the tokenizer.

        Args:
            vocab_size, pad_token_id: the values of the configuration.
            source: the path of the model, for errors.

        Raises:
            UserError: vocab_size is below that of the tokenizer or exceeds it by too much, or pad_token_id
                differs.
        """
        if not 0 <= vocab_size - self.vocab_size <= self._most_unread_rows:
            path = self.vocab_path or self.piece_model_path
            raise UserError(
                f"{source}: vocab_size {vocab_size} does not match {path}, which has ids up to "
                f"{self.vocab_size - 1}, including added tokens{self._lacks}. Restore the complete tokenizer "
                "of the model: after a lost line all ids are wrong"
            )
        if self.pad_id != pad_token_id:
            raise UserError(
                f"{source}: invalid pad_token_id {pad_token_id} (expected {self.pad_id}, the id of [PAD])"
            )

    def write_vocab(self, path: str | os.PathLike) -> None:
        """Write the vocabulary as `token<TAB>id` lines, atomically."""
        write_vocab(self.vocab, path)

    def list_ordinary_subwords(self) -> list[str]:
        """Return the subwords of the SentencePiece model in order, without unknown and control symbols."""
        return list(itertools.compress(self._subwords, self._is_ordinary))

    def get_subword_scores(self) -> dict[str, float]:
        """Return the score of each ordinary subword of the SentencePiece model."""
        subwords = self.list_ordinary_subwords()
        return dict(zip(subwords, self.processor.GetScore(self.processor.PieceToId(subwords))))

    def derive_vocab(self) -> dict[str, int]:
        """Return the vocabulary that XLM-R derives from the SentencePiece model; see `derive_vocab`."""
        numbers = itertools.compress(itertools.count(), self._is_ordinary)
        return derive_vocab(dict(zip(numbers, self.list_ordinary_subwords())), len(self._subwords))

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        """Convert ids to tokens; an unknown id becomes [UNK]."""
        return [self._token_of.get(int(id_), UNK) for id_ in ids]

    def decode(self, ids: Sequence[int]) -> str:
        """Convert ids to text, which may differ from the original text by normalization and [UNK]."""
        return "".join(self.convert_ids_to_tokens(ids)).replace("▁", " ").strip()

    def convert_tokens_to_ids(self, tokens: Iterable[str]) -> list[int]:
        """Convert tokens to ids; an unknown token has the id of [UNK]."""
        return [self.vocab.get(token, self.unk_id) for token in tokens]

    def normalize(self, text: str) -> str:
        """Normalize a text for SentencePiece by the tokenizer rules. Each character maps to at most one."""
        return normalize(text) if self.text_rules == ERNIE_M else replace_surrogates(text)

    def tokenize(self, text: str) -> list[str]:
        """Tokenize a text without special tokens. Unknown subwords are returned as their text."""
        tokens: list[str] = []
        for _, part in self.split_added_tokens(text):
            if part in self.added_tokens:
                tokens.append(part)
                continue
            normal = self.normalize(part)
            subwords = self.processor.EncodeAsPieces(normal)
            for tokens_of_subword in self.split_subwords(subwords, self.processor.EncodeAsIds(normal)):
                tokens += tokens_of_subword
        return tokens

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, without special tokens."""
        if self._added is None and self.text_rules not in LIBRARY_RULES:  # a batch of one is slower
            return self.to_ids(self.processor.EncodeAsIds(self.normalize(text)))
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, without special tokens; faster than `encode` for each text."""
        if self._added is None:
            return self._encode_plain(texts)
        parts_of_texts = [[part for _offset, part in self.split_added_tokens(text)] for text in texts]
        all_parts = dict.fromkeys(itertools.chain(*parts_of_texts))  # distinct parts
        plain_parts = [part for part in all_parts if part not in self.added_tokens]
        ids_of = dict(zip(plain_parts, self._encode_plain(plain_parts)))  # part -> its ids
        ids_of |= {token: [id_] for token, id_ in self.added_tokens.items()}
        return [[id_ for part in parts for id_ in ids_of[part]] for parts in parts_of_texts]

    def get_subword_indices(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the indices in the SentencePiece model (not token ids) of the subwords of each text.

        Added tokens are not recognized.
        """
        # SentencePiece starts a thread for a list, which takes longer than a few texts.
        if len(texts) <= _FEW_TEXTS:
            return [self.processor.Encode(self.normalize(text)) for text in texts]
        return self.processor.Encode([self.normalize(text) for text in texts], num_threads=1)

    def build_inputs(self, text_a: str, text_b: str | None = None, max_seq_len: int = 512) -> list[int]:
        """Return the ids of a text or a pair with special tokens, truncated to `max_seq_len`.

        See `build_inputs_from_ids`.
        """
        ids_b = self.encode(text_b) if text_b else None
        return self.build_inputs_from_ids(self.encode(text_a), ids_b, max_seq_len)

    def build_inputs_from_ids(self, ids_a: list[int], ids_b: list[int] | None, max_seq_len: int) -> list[int]:
        """Return the model input `[CLS] A [SEP]`, or `[CLS] A [SEP] [SEP] B [SEP]` for a pair.

        A pair is truncated from the longer text first; see `truncate_longest_first`. A pair with an empty B
        becomes `[CLS] A [SEP]`, as in the official reader.

        Raises:
            UserError: `max_seq_len` does not exceed the number of special tokens.
        """
        special_tokens = 4 if ids_b else 2
        if max_seq_len <= special_tokens:
            raise UserError(
                f"invalid --max_seq_len {max_seq_len} (expected more than {special_tokens}, "
                "the number of special tokens)"
            )
        budget = max_seq_len - special_tokens
        if not ids_b:
            return [self.cls_id, *ids_a[:budget], self.sep_id]
        length_a, length_b = truncate_longest_first(len(ids_a), len(ids_b), budget)
        first = [self.cls_id, *ids_a[:length_a], self.sep_id]
        return [*first, self.sep_id, *ids_b[:length_b], self.sep_id]

    def build_sentence_inputs(self, ids: Iterable[Collection[int]], max_seq_len: int) -> list[np.ndarray]:
        """Return the model input of each sentence, `[CLS] S [SEP]` truncated to `max_seq_len`: int64 [T].

        Args:
            ids: the token ids of each sentence, without special tokens.
        """
        rows = [self.build_inputs_from_ids(list(sentence), None, max_seq_len) for sentence in ids]
        return [np.array(row, np.int64) for row in rows]

    def _add_tokens(self) -> None:
        """Extend the vocabulary with the added tokens, and compile the pattern that matches them.

        Raises:
            UserError: the id of an added token is in use, or the vocabulary has a different id for the token.
        """
        self._token_of = {id_: token for token, id_ in self.vocab.items()}
        for token, id_ in self.added_tokens.items():
            if self.vocab.get(token, id_) != id_ or self._token_of.get(id_, token) != token:
                raise UserError(
                    f"{self.piece_model_path}: added token '{token}' with id {id_} does not match the "
                    "vocabulary. Put the tokenizer files of the model next to its weights"
                )
            self.vocab[token] = id_
            self._token_of[id_] = token
        longest_first = sorted(map(re.escape, self.added_tokens), key=len, reverse=True)
        self._added = re.compile("|".join(longest_first)) if longest_first else None

    def split_added_tokens(self, text: str) -> list[tuple[int, str]]:
        """Split a text into added tokens and the text between them, each with its offset."""
        if self._added is None:
            return [(0, text)]
        parts = []
        index = 0
        for match in self._added.finditer(text):
            if match.start() > index:
                parts.append((index, text[index : match.start()]))
            parts.append((match.start(), match.group()))
            index = match.end()
        if index < len(text) or not parts:
            parts.append((index, text[index:]))
        return parts

    def _encode_plain(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text; the texts have no added tokens."""
        if self.text_rules not in LIBRARY_RULES:
            return [self.to_ids(numbers) for numbers in self.get_subword_indices(texts)]
        normal = [self.normalize(text) for text in texts]
        ids_of_texts = []
        for subwords in self.processor.Encode(normal, out_type=str, num_threads=1):
            # These rules do not use the numbers of subwords.
            tokens_of_subwords = self.split_subwords(subwords, subword_indices=[])
            ids_of_texts.append(self.convert_tokens_to_ids(itertools.chain(*tokens_of_subwords)))
        return ids_of_texts

    def split_subwords(self, subwords: list[str], subword_indices: list[int]) -> list[list[str]]:
        """Split each subword of a text into tokens by the tokenizer rules.

        Args:
            subword_indices: the index of each subword in the SentencePiece model.
        """
        if self.text_rules in LIBRARY_RULES:
            return split_subwords(subwords, keeps_spaces=self.text_rules == "transformers")
        # Only rule 5 splits subwords, see `digit_comma`.
        return [self.digit_comma.get(number, [subword]) for number, subword in zip(subword_indices, subwords)]

    def _read_vocab(self) -> dict[str, int]:
        """Read token -> id from vocab.txt or dict.txt, or derive it from the SentencePiece model.

        Raises:
            UserError: the file cannot be read, or does not match the SentencePiece model.
        """
        self._lacks = ""
        self._most_unread_rows = _MOST_UNREAD_ROWS
        if self.vocab_path is None:
            try:
                return self.derive_vocab()
            except UserError as error:
                raise UserError(f"{self.piece_model_path}: {error}") from error
        subwords = self.list_ordinary_subwords()
        content = read_bytes(self.vocab_path, ". Set --vocab_path", LARGEST_VOCAB)
        vocab = parse_vocab(content, self.vocab_path)
        is_dict = self.vocab_path.name == DICT
        self.files[DICT if is_dict else VOCAB] = content
        if is_dict:  # contains the subwords of the training text, and no other tokens
            tokens = vocab.keys() - {*SPECIAL_TOKENS, *subwords}
            odd = [token for token in tokens if not token.startswith(FILLER)]
        else:
            odd = [subword for subword in subwords if subword not in vocab]
        if is_dict or odd:
            self._most_unread_rows = 0
        if len(odd) > _MAX_ODD_SUBWORDS:
            raise UserError(
                f"{self.piece_model_path} does not match {self.vocab_path}: {len(odd)} subwords are in "
                f"only one of them ('{format_value(odd[0])}', ...). Use the files of one model"
            )
        if odd:
            names = join_items(list(map(format_value, odd)))
            self._lacks = f", and lacks '{names}'"
            line = "%s does not match its SentencePiece model; these subwords become [UNK]: %s"
            logger.warning(line, self.vocab_path, names)
        return vocab

    def _make_digit_comma_splits(self) -> dict[int, list[str]]:
        """Return, for rule 5, the index of each subword that ends in a digit and "," -> its tokens."""
        cuts = {}
        for number, (subword, is_ordinary) in enumerate(zip(self._subwords, self._is_ordinary)):
            ends_in_digit_comma = len(subword) > 1 and subword[-1] == "," and subword[-2].isdigit()
            if not (is_ordinary and ends_in_digit_comma):
                continue
            # SentencePiece prepends "▁" to every text, so the subword is split without its own.
            parts = self.processor.EncodeAsPieces(subword[:-1].replace("▁", ""))
            if not subword.startswith("▁"):
                parts[0] = parts[0].removeprefix("▁")
                if not parts[0]:  # it was a lone "▁"
                    del parts[0]
            cuts[number] = [*parts, ","]
        return cuts

    def _list_token_ids(self) -> list[int]:
        """Return the token id of each subword of the SentencePiece model; _SPLIT if rule 5 splits it."""
        ids = [self.unk_id] * len(self._subwords)
        for number, (subword, is_ordinary) in enumerate(zip(self._subwords, self._is_ordinary)):
            if is_ordinary:
                ids[number] = self.vocab.get(subword, self.unk_id)
        for number in self.digit_comma:
            ids[number] = _SPLIT
        return ids

    def to_ids(self, subword_indices: list[int]) -> list[int]:
        """Convert the indices of a text's subwords in the SentencePiece model to ids, by rules 5 and 6."""
        ids = [self._id_of_subword[number] for number in subword_indices]
        if _SPLIT not in ids:
            return ids
        cut_ids = []
        for number, id_ in zip(subword_indices, ids):
            if id_ == _SPLIT:
                cut_ids += self.convert_tokens_to_ids(self.digit_comma[number])
            else:
                cut_ids.append(id_)
        return cut_ids


def _read_sentencepiece_model(path: Path, folder: Folder | None) -> bytes:
    """Read a serialized SentencePiece model, or build one from tokenizer.json; see `Tokenizer`.

    Raises:
        UserError: the file is missing, or is a tokenizer.json other than XLM-R's.
    """
    if not os.path.isfile(path):
        raise UserError(
            f"{path}: no such SentencePiece model. Set --piece_model_path, or "
            f"{get_command_name()} download weights vocab for the released one (train_vocab trains your own)"
        )
    if path.suffix != ".json":
        return read_bytes(path)
    return build_piece_model_from_json(folder or Folder(path), path.name)


def _load_sentencepiece_model(
    content: bytes, path: str | os.PathLike
) -> tuple[sentencepiece.SentencePieceProcessor, list[str]]:
    """Load a serialized SentencePiece model, and list all its subwords in order.

    Args:
        path: the file of the model, for errors.

    Raises:
        UserError: the content is not a SentencePiece model.
    """
    model = sentencepiece.SentencePieceProcessor()
    try:
        model.LoadFromSerializedProto(content)
        return model, model.IdToPiece(list(range(model.GetPieceSize())))
    except (RuntimeError, OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: corrupt or not a SentencePiece model. Restore or download it again"
        ) from error


def read_tokenizer_rules(path: Path) -> tuple[str, Mapping[str, int]]:
    """Read the tokenizer rules, one of `TEXT_RULES`, and the added tokens, token -> id, of a directory.

    The rules are in the manifest of a corpus, or under "pipeline" in a model's config.json; the default is
    the official rules.

    Raises:
        UserError: another library wrote the directory, a file is corrupt, or the rules are unknown.
    """
    folder = Folder(path)
    location = folder.path / MANIFEST
    # The manifest of a corpus has this key, that of a model does not.
    settings = folder.read_object(MANIFEST).get("vocabulary")
    if settings is None:
        location = folder.path / CONFIG
        config = folder.read_object(CONFIG)
        is_of_others = config.get("model_type") not in (None, "ernie_m") or "architectures" in config
        if is_of_others or folder.names & (_FOREIGN if config else _FOREIGN | _ALONE):
            raise UserError(
                f"{path}: written by another library, with tokenizer settings in several files. "
                "Use open_model(open_checkpoint(folder)).tokenizer, from "
                "ernie_m.model.open_model and ernie_m.model.checkpoint.open"
            )
        values = get_pipeline_values(config, location)
        settings = {} if values is None else values
    if not isinstance(settings, dict):
        raise UserError(
            f"{location}: invalid tokenizer settings {format_value(settings)}. Restore or download it again"
        )
    rules = settings.get("text_rules", ERNIE_M)
    added_tokens = settings.get("added_tokens", {})
    if rules not in TEXT_RULES:
        raise UserError(
            f"{location}: invalid 'text_rules' {format_value(rules)} (choose from {', '.join(TEXT_RULES)})"
        )
    if not isinstance(added_tokens, dict) or not all(type(id_) is int for id_ in added_tokens.values()):
        raise UserError(f"{location}: invalid 'added_tokens' (expected an object of token: id)")
    return rules, added_tokens
