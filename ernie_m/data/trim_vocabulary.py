"""Trimming of a vocabulary to the languages of a text, without changing the tokens of this text.

A unigram model segments a text into the subwords with the highest total score, so removing subwords that do
not occur in a text does not change its segmentation. Other text is split into smaller subwords where a
subword was removed. BPE models are not supported, because removing a subword changes how others are merged.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from ernie_m.reader.batching import iter_chunks
from ernie_m.reader.files.aligned_lines import Sentences
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.reader.tokenizer_rules import ERNIE_M, NONE
from ernie_m.reader.vocabulary import SPECIAL_TOKENS, write_vocab
from ernie_m.reader.write_tokenizer import parse_unigram_model
from ernie_m.utils.errors import UserError

_BLOCK = 10_000  # lines tokenized at a time


def trim_vocabulary(
    tokenizer: Tokenizer, text_paths: Sequence[Path], folder: Path, min_count: int = 1
) -> tuple[Tokenizer, np.ndarray]:
    """Trim a vocabulary to the subwords of text files, and write piece.model and vocab.txt.

    The special tokens, the tokens that rule 5 of `ernie_m.reader.tokenization` produces, and each character
    of the text (for unseen words) are also kept.

    Args:
        tokenizer: the tokenizer with the full vocabulary.
        text_paths: UTF-8 text files, one sentence or paragraph per line.
        folder: the output directory.
        min_count: minimum number of occurrences of a subword; rarer subwords are removed, and their
            occurrences are split into smaller subwords.

    Returns:
        The tokenizer with the trimmed vocabulary, and the old id of each token, int64 [new vocab_size],
        ascending.

    Raises:
        UserError: a file cannot be read, all lines are blank, the SentencePiece model is not a unigram model,
            or the text rules split its subwords further.
    """
    if tokenizer.text_rules not in (ERNIE_M, NONE):
        raise UserError(
            f"{tokenizer.piece_model_path}: cannot trim text rules {tokenizer.text_rules}, which "
            "split subwords further. Remove --trim_vocab_to"
        )
    model = parse_unigram_model(
        tokenizer,
        "removing its subwords would change other words. Remove --trim_vocab_to",
    )
    counts: Counter[int] = Counter()  # subword index -> its frequency in the texts
    for path in text_paths:
        for examples in iter_chunks(Sentences(path), _BLOCK):
            counts.update(chain(*tokenizer.get_subword_indices([example.text_a for example in examples])))
    if not counts:
        names = ", ".join(map(str, text_paths))
        raise UserError(f"{names}: no text. --trim_vocab_to requires the text whose subwords are kept")
    # The kept subwords, by their index in the SentencePiece model, which is not the token id.
    numbers = {number for number, count in counts.items() if count >= min_count}
    tokens = _find_rule_5_tokens(tokenizer, model, numbers)  # adds to `numbers`
    # Only normal subwords can be removed: unknown, control, user-defined subwords and bytes are kept.
    normal = [number for number, piece in enumerate(model.pieces) if piece.type == piece.NORMAL]
    # The characters of all subwords of the text are kept, including those rarer than `min_count`.
    characters = {*chain(*(model.pieces[number].piece for number in counts.keys() & set(normal)))}
    # Keep two more for SentencePiece. The penalty of unknown characters follows from the lowest score, the
    # bonus of user-defined subwords from the highest.
    by_score = sorted(normal, key=lambda number: model.pieces[number].score)
    removable = set(normal) - numbers - {by_score[0], by_score[-1]}
    needed = tokens | characters
    kept = [
        piece for number, piece in enumerate(model.pieces) if number not in removable or piece.piece in needed
    ]
    del model.pieces[:]
    model.pieces.extend(kept)

    tokens |= {piece.piece for piece in model.pieces}  # the subwords of the smaller model
    tokens |= {*SPECIAL_TOKENS, *tokenizer.added_tokens}
    tokens_in_order = sorted(tokens & tokenizer.vocab.keys(), key=tokenizer.vocab.get)

    (folder / "piece.model").write_bytes(model.SerializeToString())
    new_ids = {token: id_ for id_, token in enumerate(tokens_in_order)}
    write_vocab(new_ids, folder / "vocab.txt")
    added_tokens = {token: new_ids[token] for token in tokenizer.added_tokens}
    trimmed = Tokenizer(folder / "vocab.txt", folder / "piece.model", tokenizer.text_rules, added_tokens)
    return trimmed, np.array([tokenizer.vocab[token] for token in tokens_in_order], np.int64)


def _find_rule_5_tokens(tokenizer: Tokenizer, model: ModelProto, token_ids: set[int]) -> set[str]:
    """Return the tokens into which rule 5 of `ernie_m.reader.tokenization` splits subwords: "0" "," for "0,".

    Args:
        token_ids: the indices of the kept subwords in the SentencePiece model. The indices of the subwords of
            the digits before the comma are added.
    """
    tokens: set[str] = set()
    for number in sorted(token_ids & tokenizer.digit_comma.keys()):
        # The smaller model must split the digits before the comma in the same way.
        digits = model.pieces[number].piece[:-1].replace("▁", "")
        token_ids.update(tokenizer.get_subword_indices([digits])[0])
        tokens.update(tokenizer.digit_comma[number])
    return tokens
