"""Write the sample set: `python -m scripts.sample.write --out data/sample --seed 1`.

xnli/{train/train.en.tsv,dev/dev.<l>.tsv,test/test.<l>.tsv,label_map.json,lang_map.json}
mono/<l>.txt                  documents: one sentence a line, an empty line between documents
parallel/en-<l>.tsv           english<TAB>other
retrieval/<l>-en.{<l>,en}     line i of one file translates line i of the other; scenes of the test split
piece.model, vocab.txt        a vocabulary trained on mono and parallel
"""

import argparse
import json
import re
from collections.abc import Iterable
from pathlib import Path

import sentencepiece

from reader.tokenization import Tokenizer
from scripts.sample import texts
from scripts.sample.languages import CODES, chinese_words, realiser
from scripts.sample.nli import LABELS
from scripts.sample.scenes import Scene
from utils.errors import run
from utils.files import atomic_dir

PIECES = 2400
BOUNDARY = "\t"  # no sentence has it


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write UTF-8 text with "\\n" after every line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)


def write_inferences(folder: Path, seed: int, hypotheses: dict[str, int]) -> None:
    """Write train in English, and dev and test in every language: the same scenes in the same order."""
    for split, count in hypotheses.items():
        rows = texts.shuffled_inferences(seed, split, count)
        for code in ("en",) if split == "train" else CODES:
            say = realiser(code)
            lines = (f"{say(premise)}\t{say(hypothesis)}\t{label}" for premise, hypothesis, label in rows)
            write_lines(folder / split / f"{split}.{code}.tsv", ["text_a\ttext_b\tlabel", *lines])
    write_lines(folder / "label_map.json", [json.dumps({label: id_ for id_, label in enumerate(LABELS)})])
    write_lines(folder / "lang_map.json", [json.dumps({code: id_ for id_, code in enumerate(CODES)})])


def write_texts(folder: Path, seed: int, documents: int, pairs: int) -> None:
    """Write documents of every language, and sentence pairs of English and every other language."""
    english = realiser("en")
    for code in CODES:
        say = realiser(code)
        lines: list[str] = []
        for index in range(documents):
            lines += [say(scene) for scene in texts.document(seed, code, index)] + [""]
        write_lines(folder / "mono" / f"{code}.txt", lines[:-1])
        if code != "en":
            scenes = (texts.pair(seed, code, index) for index in range(pairs))
            write_lines(folder / "parallel" / f"en-{code}.tsv", (f"{english(s)}\t{say(s)}" for s in scenes))


def write_retrieval(folder: Path, seed: int, count: int) -> None:
    """Write translations to find: the same `count` different scenes in every language."""
    scenes: dict[Scene, None] = {}
    index = 0
    while len(scenes) < count:
        scenes[texts.retrieval(seed, index)] = None
        index += 1
    for code in CODES[1:]:
        write_lines(folder / f"{code}-en.{code}", map(realiser(code), scenes))
        write_lines(folder / f"{code}-en.en", map(realiser("en"), scenes))


def train_vocabulary(folder: Path, pieces: int) -> None:
    """Train on folder/mono and folder/parallel; write folder/piece.model and folder/vocab.txt.

    Pieces stay within words, in Chinese too. The ids of the model are those of XLM-R (unknown 0, begin 1,
    end 2, no pad), and vocab.txt is derived in the same way.
    """
    files = sorted([*folder.glob("mono/*.txt"), *folder.glob("parallel/*.tsv")])
    longest_first = sorted(chinese_words(), key=len, reverse=True)
    chinese = re.compile(f"({'|'.join(longest_first)})")
    sentences = (
        chinese.sub(rf"{BOUNDARY}\1{BOUNDARY}", sentence)
        for file in files
        for line in file.read_text(encoding="utf-8").splitlines()
        for sentence in line.split("\t")
        if sentence
    )
    with open(folder / "piece.model", "wb") as model:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=sentences,
            model_writer=model,
            model_type="bpe",
            vocab_size=pieces,
            hard_vocab_limit=False,
            character_coverage=1.0,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=-1,
            pretokenization_delimiter=BOUNDARY,
            num_threads=1,  # the same bytes on every machine
            minloglevel=1,
        )
    Tokenizer(piece_model_path=folder / "piece.model").write_vocab(folder / "vocab.txt")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write; replaced as a whole")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--documents", type=int, default=600, help="per language, two or three lines each")
    parser.add_argument("--pairs", type=int, default=3000, help="sentence pairs per language beside English")
    parser.add_argument("--hypotheses", type=int, default=2500, help="of the training set; three pairs each")
    parser.add_argument("--pieces", type=int, default=PIECES, help="size of the vocabulary")
    options = parser.parse_args()
    with atomic_dir(options.out) as folder:
        write_inferences(
            folder / "xnli", options.seed, {"train": options.hypotheses, "dev": 100, "test": 200}
        )
        write_texts(folder, options.seed, options.documents, options.pairs)
        write_retrieval(folder / "retrieval", options.seed, 300)
        train_vocabulary(folder, options.pieces)
    print(f"{options.out}: {len(CODES)} languages ({' '.join(CODES)})")


if __name__ == "__main__":
    run(main)
