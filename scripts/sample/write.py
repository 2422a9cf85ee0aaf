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
from scripts.sample import scenes
from scripts.sample.languages import chinese_words, say
from scripts.sample.scenes import CODES, LABELS
from utils.errors import run
from utils.files import atomic_dir

TRANSLATIONS = 300
BOUNDARY = "\t"  # no sentence has it


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write; replaced as a whole")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--documents", type=int, default=600, help="per language, two or three lines each")
    parser.add_argument("--pairs", type=int, default=3000, help="sentence pairs per language beside English")
    parser.add_argument("--hypotheses", type=int, default=2500, help="of the training set; three pairs each")
    parser.add_argument("--pieces", type=int, default=2400, help="size of the vocabulary")
    options = parser.parse_args()
    with atomic_dir(options.out) as folder:
        write_texts(folder, options)
        train_vocabulary(folder, options.pieces)
    print(f"{options.out}: {len(CODES)} languages ({' '.join(CODES)})")


def write_texts(folder: Path, options: argparse.Namespace) -> None:
    """Write all texts: training pairs in English; dev, test and translations the same in every language."""
    seed = options.seed
    counts = {"train": options.hypotheses, "dev": 100, "test": 200}
    pairs = {split: scenes.inferences(seed, split, count) for split, count in counts.items()}
    found = dict.fromkeys(scenes.retrieval(seed, index) for index in range(2 * TRANSLATIONS))
    translations = list(found)[:TRANSLATIONS]
    for code in CODES:
        for split, rows in pairs.items():
            if split != "train" or code == "en":
                lines = (
                    f"{say(code, premise)}\t{say(code, other)}\t{label}" for premise, other, label in rows
                )
                path = folder / "xnli" / split / f"{split}.{code}.tsv"
                write_lines(path, ["text_a\ttext_b\tlabel", *lines])
        documents = (scenes.document(seed, code, index) for index in range(options.documents))
        lines = [line for one in documents for line in [*(say(code, scene) for scene in one), ""]]
        write_lines(folder / "mono" / f"{code}.txt", lines[:-1])
        if code != "en":
            told = (scenes.pair(seed, code, index) for index in range(options.pairs))
            lines = (f"{say('en', scene)}\t{say(code, scene)}" for scene in told)
            write_lines(folder / "parallel" / f"en-{code}.tsv", lines)
            for side in (code, "en"):
                lines = (say(side, scene) for scene in translations)
                write_lines(folder / "retrieval" / f"{code}-en.{side}", lines)
    for name, values in {"label_map": LABELS, "lang_map": CODES}.items():
        numbers = {value: number for number, value in enumerate(values)}
        write_lines(folder / "xnli" / f"{name}.json", [json.dumps(numbers)])


def write_lines(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)


def train_vocabulary(folder: Path, pieces: int) -> None:
    """Train on folder/mono and folder/parallel; write folder/piece.model and folder/vocab.txt.

    Pieces stay within words, in Chinese too. The ids of the model are those of XLM-R (unknown 0, begin 1,
    end 2, no pad), and vocab.txt is derived in the same way.
    """
    files = sorted([*folder.glob("mono/*.txt"), *folder.glob("parallel/*.tsv")])
    chinese = re.compile(f"({'|'.join(sorted(chinese_words(), key=len, reverse=True))})")
    sentences = (
        chinese.sub(rf"{BOUNDARY}\1{BOUNDARY}", sentence)
        for file in files
        for line in file.read_text(encoding="utf-8").splitlines()
        for sentence in line.split("\t")
        if sentence
    )
    with open(folder / "piece.model", "wb") as model:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=sentences, model_writer=model, model_type="bpe", vocab_size=pieces,
            hard_vocab_limit=False, character_coverage=1.0, unk_id=0, bos_id=1, eos_id=2, pad_id=-1,
            minloglevel=1, pretokenization_delimiter=BOUNDARY,
            num_threads=1,  # the same bytes on every machine
        )  # fmt: skip
    Tokenizer(piece_model_path=folder / "piece.model").write_vocab(folder / "vocab.txt")


if __name__ == "__main__":
    run(main)
