"""Export a checkpoint as a folder that predicts by itself: Paddle inference, ONNX, int8. See docs/export.md.

python export.py --model checkpoints/best --output exported
python export.py --model checkpoints/best --output exported --int8 true --check_set data/xnli/dev/dev.en.tsv
python export.py --model checkpoints/best --output exported --task encoding --layer middle
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from utils.environment import run
from model.task_names import CLASSIFICATION, ENCODING, task_named
from utils.config import check_ranges, load_config, within
from utils.errors import UserError

MADE_UP = 64  # sentences that are compared where no --check_set is given
FORMATS = ("paddle", "onnx")


@dataclass
class ExportFlags:
    """What to export.

    Args:
        model: a checkpoint of any supported format
        output: the folder to write; an exported folder there is replaced
        task: classification (or classify), tagging (tag), question_answering (answer), or encoding (encode),
            the encoder alone; default: the task of the model's head
        layer: for encoding, the layer at which the encoder ends: a number, middle or top; default: as trained
            for retrieval, else top
        formats: paddle, onnx, or paddle,onnx
        int8: also write ONNX with int8 weights and activations, and report how that changes the predictions
        reduce_range: use int8 weights of 7 bits, for CPUs without VNNI; default: if this CPU has none
        check_set: texts to compare on: TSV with text_a (text_b, label), or plain lines; default: made-up ones
        check_sentences: largest number of texts of check_set that are compared
        max_seq_len: longest text compared, in tokens; default: what the model can read
        ernie_config_path: ernie_config.json, if it is not beside the weights
        vocab_path: vocab.txt, if it is not beside the weights
        piece_model_path: sentencepiece model, if it is not beside the weights
        label_map_config: names of the labels: {"label": id}
    """

    model: str
    output: str
    task: Literal[
        "classification", "tagging", "question_answering", "encoding", "classify", "tag", "answer", "encode"
    ] | None = None  # fmt: skip
    layer: str | None = None
    formats: str = "paddle,onnx"
    int8: bool = False
    reduce_range: bool | None = None
    check_set: str | None = None
    check_sentences: int = within("[1, )", 1000)
    max_seq_len: int | None = None
    ernie_config_path: str | None = None
    vocab_path: str | None = None
    piece_model_path: str | None = None
    label_map_config: str | None = None

    def __post_init__(self) -> None:
        self.kinds = self.formats.split(",")
        if unknown := [kind for kind in self.kinds if kind not in FORMATS]:
            raise UserError(f"--formats {self.formats}: no {unknown[0]}; there are {', '.join(FORMATS)}")
        if self.reduce_range and not self.int8:
            raise UserError("--reduce_range is of --int8 true, which is not given")
        check_ranges(self)


def main() -> None:
    os.environ.setdefault("GLOG_minloglevel", "2")  # else Paddle prints a warning about its own static graph
    from utils.runtime import int8_saturates, prepare, read_cpu

    flags = load_config(ExportFlags, sys.argv[1:], __doc__)
    prepare()
    # Imported here, after `prepare`, because Paddle reads its CPU settings when it is imported.
    from evaluation.pooling import layer_number
    from inference.export import export
    from inference.loading import Files, exported_settings, load
    from utils.logging import logger, setup_console

    setup_console()
    output = Path(flags.output)
    is_new = not output.exists() or (output.is_dir() and not any(output.iterdir()))
    if not is_new and exported_settings(output) is None:
        raise UserError(f"--output {output}: it exists and is no exported folder; name a new one")
    files = Files(flags.ernie_config_path, flags.vocab_path, flags.piece_model_path, flags.label_map_config)
    loaded = load(flags.model, engine="dygraph", task=flags.task, files=files, use_cuda=False)
    task = task_named(flags.task) if flags.task else loaded.head or ENCODING
    if task == "fill":
        task = ENCODING
        logger.info("the masked-LM head and the language table are not exported, the encoder is")
    trained = loaded.reading.get("layer", "top") if task == ENCODING else "top"
    layer = layer_number(flags.layer or trained, loaded.num_layers)
    if task != ENCODING and layer != loaded.num_layers:
        raise UserError(f"--layer {flags.layer}: only --task encoding can end below the top layer")
    reduce_range = flags.reduce_range
    if reduce_range is None:
        reduce_range = flags.int8 and int8_saturates(read_cpu())
        if reduce_range:
            logger.info("this CPU has no VNNI: int8 weights have 7 bits; --reduce_range false writes 8")
    kinds = {"formats": flags.kinds, "int8": flags.int8, "reduce_range": reduce_range}
    export(loaded, output, task, layer, read_checked(flags, loaded, task), **kinds)
    logger.info("exported for %s: %s", task, flags.output)


def read_checked(flags: ExportFlags, loaded, task: str):
    """The texts on which the export is compared with the checkpoint."""
    from itertools import islice

    import numpy as np

    from inference.export import Checked, made_up_rows
    from reader.bitext import Sentences
    from reader.classification import read_classification
    from reader.features import EncodePairs

    tokenizer, longest = loaded.tokenizer, loaded.limit(flags.max_seq_len, loaded.longest)
    if flags.check_set is None:
        ordinary = np.setdiff1d(np.arange(tokenizer.vocab_size), tokenizer.special_ids)
        rows = made_up_rows(MADE_UP, longest, ordinary, tokenizer.cls_id, tokenizer.sep_id)
        return Checked(f"{MADE_UP} made-up sentences", rows)
    path, labels = Path(flags.check_set), None
    if path.suffix == ".tsv":
        with_labels = task == CLASSIFICATION and path.is_file()
        if with_labels:
            with open(path, "rb") as file:
                with_labels = b"label" in file.readline().split()
        ids = {label: i for i, label in enumerate(loaded.labels)} if with_labels else None
        texts = read_classification(path, ids, labels=with_labels)
        texts = list(islice(texts, flags.check_sentences))
        labels = [text.label for text in texts] if with_labels else None
    else:
        texts = list(islice(Sentences(path), flags.check_sentences))
    if not texts:
        raise UserError(f"{path}: no text in it to compare on")
    rows = [feature.ids for feature in EncodePairs(tokenizer, longest)(texts)]
    return Checked(f"{len(rows)} texts of {path.name}", rows, labels)


if __name__ == "__main__":
    run(main)
