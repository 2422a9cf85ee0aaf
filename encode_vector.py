"""Turn texts into vectors. Official name and flags; see docs/retrieval.md.

python encode_vector.py --data_set texts.tsv --output_dir vectors --init_pretraining_params ...
cat sentences.txt | python encode_vector.py --data_set - --vectors mean --layer middle --dtype float16 ...
"""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from utils.errors import UserError, run

STANDARD_INPUT = "standard_input"


@dataclass
class Flags:
    """The official flags, and ours from `vectors` on.

    Args:
        data_set: a TSV file with a header and a column text_a, perhaps text_b; "-": standard input
        output_dir: a new folder for the .npy files
        init_pretraining_params: weights: official params or a folder of ours
        ernie_config_path: ernie_config.json; not needed where it lies beside the weights
        vocab_path: vocab.txt; without it the vocabulary is derived as XLM-R does
        piece_model_path: sentencepiece model; not needed where it lies beside the weights
        max_seq_len: longest input in tokens, specials included; what is longer is cut
        batch_size: of texts of max_seq_len tokens; of shorter ones a batch holds as many more
        use_cuda: use a GPU where there is one
        vectors: official: cls_emb.npy and top_layer_emb.npy; else vectors.npy, a vector a text: the mean over
            its tokens, the mean with [CLS] and [SEP] (specials), or the pooled [CLS]
        layer: of mean and specials: a number (0: the embeddings), middle, or top
        dtype: of the files
        data_format: tsv, or text: a sentence a line, no header; standard input is text unless said otherwise
    """

    data_set: str
    output_dir: str
    init_pretraining_params: str
    ernie_config_path: str | None = None
    vocab_path: str | None = None
    piece_model_path: str | None = None
    max_seq_len: int = 256
    batch_size: int = 16
    use_cuda: bool = True
    vectors: Literal["official", "mean", "specials", "pooled"] = "official"
    layer: str = "top"
    dtype: Literal["float32", "float16"] = "float32"
    data_format: Literal["tsv", "text"] | None = None

    init_checkpoint: ClassVar[None] = None  # nothing is resumed here

    def __post_init__(self) -> None:
        if Path(self.output_dir).exists():
            raise UserError(f"--output_dir {self.output_dir}: it exists already; name a new folder")
        if self.batch_size < 1:
            raise UserError(f"--batch_size {self.batch_size}: it must be at least 1")


def main() -> None:
    from utils.config import load_config
    from utils.runtime import prepare

    flags = load_config(Flags, sys.argv[1:], __doc__)
    prepare()
    # Paddle reads its CPU settings when it is imported, and the reader process imports this file again and
    # needs no paddle: so what uses it is imported here.
    from evaluation.encode import layer_number
    from evaluation.vectors import VectorWriter
    from finetune.encoder import open_encoder
    from reader.features import EncodePairs
    from utils import distributed
    from utils.files import atomic_dir
    from utils.logging import logger, setup_console

    distributed.init(flags.use_cuda)
    setup_console()
    with atomic_dir(flags.output_dir) as folder:
        texts = read_texts(flags, folder)
        model, tokenizer = open_encoder(flags)
        layer = layer_number(flags.layer, model.config.num_hidden_layers)
        encode = EncodePairs(tokenizer, flags.max_seq_len)
        batch_tokens = flags.batch_size * flags.max_seq_len
        writer = VectorWriter(model, texts, encode, folder, flags.dtype, batch_tokens)
        if flags.vectors == "official":
            writer.official()
        else:
            writer.vectors(layer, flags.vectors)
        (folder / STANDARD_INPUT).unlink(missing_ok=True)
    logger.info("%s texts: %s", f"{len(texts):,}", flags.output_dir)


def read_texts(flags: Flags, folder: Path):
    """The texts of --data_set, not held in memory; standard input is first copied into `folder`."""
    from reader.sentences import Sentences
    from reader.task_reader import read_classification

    path = Path(flags.data_set)
    if flags.data_set == "-":
        path = folder / STANDARD_INPUT
        with open(path, "wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        if not path.stat().st_size:
            raise UserError("--data_set -: nothing came on standard input")
    if (flags.data_format or ("text" if flags.data_set == "-" else "tsv")) == "text":
        return Sentences(path)
    return read_classification(path, labels=False)


if __name__ == "__main__":
    run(main)
