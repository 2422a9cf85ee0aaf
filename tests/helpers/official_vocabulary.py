"""Extend a sentencepiece model to the official number of ids, with pieces that occur in no text.

Command line: python -m tests.helpers.official_vocabulary FOLDER PIECE_MODEL
"""

import argparse
from pathlib import Path

from sentencepiece import sentencepiece_model_pb2

from reader.vocabulary import SPECIAL_TOKENS, derive_vocab, write_vocab

NORMAL = 1  # the type of an ordinary piece
FILLER = "\ue000"  # a private-use character


def make_official_vocabulary(folder: str | Path, piece_model: str | Path, vocab_size: int = 250002) -> None:
    """Write `folder/piece.model` and `folder/vocab.txt` (token<TAB>id) of `vocab_size` ids.

    The pieces of a text and their ids, by the rule of XLM-R, are those of the given model.
    """
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(Path(piece_model).read_bytes())
    ordinary = [piece.piece for piece in model.pieces if piece.type == NORMAL]
    score = min(piece.score for piece in model.pieces) - 1
    for n in range(vocab_size - len(SPECIAL_TOKENS) - len(ordinary)):
        ordinary.append(f"{FILLER}{n}")
        model.pieces.add(piece=ordinary[-1], score=score, type=NORMAL)
    model.trainer_spec.vocab_size = len(model.pieces)
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / "piece.model").write_bytes(model.SerializeToString())
    write_vocab(derive_vocab(ordinary), Path(folder) / "vocab.txt")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("piece_model", type=Path)
    parser.add_argument("--vocab_size", type=int, default=250002)
    args = parser.parse_args()
    make_official_vocabulary(args.folder, args.piece_model, args.vocab_size)
    print(f"{args.folder}: piece.model and vocab.txt of {args.vocab_size} ids")


if __name__ == "__main__":
    main()
