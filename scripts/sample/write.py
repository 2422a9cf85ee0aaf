"""The files of a sample set in ten languages.

xnli/{train/train.en.tsv,dev/dev.<l>.tsv,test/test.<l>.tsv,label_map.json,lang_map.json}
mono/<l>.txt                  documents: one sentence a line, an empty line between documents
parallel/en-<l>.tsv           english<TAB>other
retrieval/<l>-en.{<l>,en}     line i of one file translates line i of the other; scenes of the test split
piece.model, vocab.txt        a vocabulary trained on mono and parallel
"""

import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import sentencepiece
from sentencepiece.sentencepiece_model_pb2 import ModelProto, TrainerSpec

from ernie_m.tokenizer.tokenizer import Tokenizer
from ernie_m.utils.files import atomic_dir
from ernie_m.utils.logging import logger, progress
from scripts.sample import scenes
from scripts.sample.languages import chinese_words, say
from scripts.sample.scenes import CODES, LABELS

TRANSLATIONS = 300  # sentences to find, in each language
BOUNDARY = "\t"  # stands around a Chinese word; no sentence has it


def write_sample(
    output: Path, seed: int, documents: int, pairs: int, hypotheses: int, pieces: int = 2400
) -> None:
    """Write a sample set to `output`, which is replaced as a whole.

    Each language has so many documents, and each but English so many pairs of sentences with English. The
    inference pairs to train on are three for each hypothesis. `pieces` is the size of the vocabulary.
    """
    with atomic_dir(output) as folder:
        write_inferences(folder / "xnli", seed, hypotheses)
        write_texts(folder, seed, documents, pairs)
        train_vocabulary(folder, pieces)


def write_inferences(folder: Path, seed: int, hypotheses: int) -> None:
    """Write inference pairs: for training in English, for dev and test the same pairs in every language."""
    for split, count in {"train": hypotheses, "dev": 100, "test": 200}.items():
        rows = scenes.inferences(seed, split, num_hypotheses=count)
        codes = ("en",) if split == "train" else CODES
        for code in codes:
            lines = ["text_a\ttext_b\tlabel"]
            for premise, hypothesis, label in rows:
                lines.append(f"{say(code, premise)}\t{say(code, hypothesis)}\t{label}")
            write_lines(folder / split / f"{split}.{code}.tsv", lines)
    for name, values in {"label_map": LABELS, "lang_map": CODES}.items():
        numbers = {value: number for number, value in enumerate(values)}
        write_lines(folder / f"{name}.json", [json.dumps(numbers)])


def write_texts(folder: Path, seed: int, documents: int, pairs: int) -> None:
    """Write documents, sentence pairs with English, and translations to find, which all languages share."""
    # Twice as many draws as are needed, because some scenes are drawn twice.
    drawn = (scenes.retrieval(seed, index) for index in range(2 * TRANSLATIONS))
    translations = list(dict.fromkeys(drawn))[:TRANSLATIONS]  # all different
    for code in progress(CODES, "writing sentences", unit="languages"):
        lines = []
        for index in range(documents):
            lines += [say(code, scene) for scene in scenes.document(seed, code, index)]
            lines.append("")
        write_lines(folder / "mono" / f"{code}.txt", lines[:-1])  # without the empty line at the end
        if code == "en":
            continue
        pair_scenes = [scenes.pair(seed, code, index) for index in range(pairs)]
        lines = [f"{say('en', scene)}\t{say(code, scene)}" for scene in pair_scenes]
        write_lines(folder / "parallel" / f"en-{code}.tsv", lines)
        for side in (code, "en"):
            lines = [say(side, scene) for scene in translations]
            write_lines(folder / "retrieval" / f"{code}-en.{side}", lines)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)


def train_vocabulary(folder: Path, pieces: int) -> None:
    """Train on folder/mono and folder/parallel; write folder/piece.model and folder/vocab.txt.

    The model is a unigram model, as that of XLM-R. sentencepiece's training of unigram models takes only
    parts of words that several different words share, which are few in so small a lexicon. So the pieces are
    those of a BPE model. They stay within words, in Chinese too.

    The ids of the model are those of XLM-R (unknown 0, begin 1, end 2, no pad), and vocab.txt is derived in
    the same way.
    """
    logger.info("training a vocabulary of %s pieces", f"{pieces:,}")
    bpe = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=_vocabulary_sentences(folder),
        model_writer=bpe,
        model_type="bpe",
        vocab_size=pieces,
        hard_vocab_limit=False,  # fewer pieces, if so few words have no more
        character_coverage=1.0,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        minloglevel=1,
        pretokenization_delimiter=BOUNDARY,
        num_threads=1,  # the same bytes on every machine
    )
    model = as_unigram(bpe.getvalue(), _vocabulary_sentences(folder))
    (folder / "piece.model").write_bytes(model)
    Tokenizer(piece_model_path=folder / "piece.model").write_vocab(folder / "vocab.txt")


def as_unigram(bpe: bytes, sentences: Iterable[str]) -> bytes:
    """A BPE model as a unigram model with the same pieces.

    The score of a piece is the logarithm of its share of all pieces into which BPE cuts the sentences. A
    piece that does not occur counts half, so that the pieces which do occur are preferred.
    """
    processor = sentencepiece.SentencePieceProcessor(model_proto=bpe)
    counts: Counter[int] = Counter()
    for sentence in sentences:
        counts.update(processor.encode(sentence.replace(BOUNDARY, "")))
    model = ModelProto.FromString(bpe)
    model.trainer_spec.MergeFrom(TrainerSpec(model_type=TrainerSpec.UNIGRAM))
    for number, piece in enumerate(model.pieces):
        if piece.type == piece.NORMAL:
            score = math.log(max(counts[number], 0.5) / counts.total())
            piece.MergeFrom(ModelProto.SentencePiece(score=score))  # replaces the score alone
    return model.SerializeToString(deterministic=True)


def _vocabulary_sentences(folder: Path) -> Iterator[str]:
    """The sentences that the vocabulary is trained on, with boundaries around Chinese words."""
    longest_first = sorted(chinese_words(), key=len, reverse=True)
    chinese_word = re.compile(f"({'|'.join(longest_first)})")
    for file in sorted([*folder.glob("mono/*.txt"), *folder.glob("parallel/*.tsv")]):
        for line in file.read_text(encoding="utf-8").splitlines():
            for sentence in line.split("\t"):
                if sentence:
                    yield chinese_word.sub(rf"{BOUNDARY}\1{BOUNDARY}", sentence)
