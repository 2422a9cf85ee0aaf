"""One shim over sentencepiece: its calls for offsets changed between 0.1.99, 0.2.1 and 0.2.2."""

import os

import sentencepiece

from utils.errors import UserError


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
