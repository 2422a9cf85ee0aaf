"""Tagged sentences as the official reader lays them out (--official_compat true).

    words    Ekeus           heads        for
    pieces   [CLS] ▁Eke us   ▁head s      ▁for [SEP]
    labels   O     B-PER I-PER O    O      O    O

Every piece is labelled, the special tokens are O, the loss is divided by B x T with the pads in T, and what
does not fit is cut off.
"""

from collections.abc import Sequence

from reader.tagged_features import EncodeTagged, TaggedFeature, expanded


class EncodeTaggedOfficially(EncodeTagged):
    """`EncodeTagged` with one window; a word that was cut off, or has no piece, has 0 labelled pieces."""

    def count(self, features: Sequence[TaggedFeature]) -> int:
        """B x T of the whole step."""
        return len(features) * max(len(feature.ids) for feature in features)

    def _feature(self, pieces: list[list[int]], labels: tuple[int, ...] | None) -> TaggedFeature:
        outside = len(self.inside) - 1
        ids, targets, words = [self.tokenizer.cls_id], [outside], []
        for number, word in enumerate(pieces):
            kept = word[: self.room + 1 - len(ids)]
            words.append((len(ids) if kept else 0, len(kept)))
            ids += kept
            targets += expanded(outside if labels is None else labels[number], len(kept), self.inside)
        return TaggedFeature([*ids, self.tokenizer.sep_id], [*targets, outside], [len(ids) + 1], words)
