"""Export a checkpoint for Paddle Inference or ONNX Runtime. See docs/models.md.

ernie-m export --model checkpoints/best --output exported --format onnx
ernie-m export --model checkpoints/best --output exported --task embedding --layer middle
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ernie_m.model.tasks import EMBEDDING, EXPORTED_TASKS, FILL_MASK
from ernie_m.utils.args import option, parse_options
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import lock_for_writing
from ernie_m.utils.logging import logger, setup_console
from ernie_m.utils.paddle_settings import prepare


@dataclass
class ExportFlags:
    """Command-line options of `ernie-m export`."""

    model: str
    """Checkpoint in any supported format."""

    output: str
    """Output directory; an existing export is replaced."""

    task: Literal[EXPORTED_TASKS] | None = None
    """Task to export (default: the task of the model's head; embedding: the encoder alone)."""

    layer: str | None = None
    """Encoder layer at which an embedding model ends: a number, middle or last (default: as trained for
    retrieval, otherwise last)."""

    format: Literal["paddle-inference", "onnx"] = option("paddle-inference", needed=True)
    """Format of the exported graph, for Paddle Inference or ONNX Runtime."""


def main() -> None:
    """Run `ernie-m export`."""
    # 2: errors only. Otherwise Paddle logs a warning about its own static graph.
    os.environ.setdefault("GLOG_minloglevel", "2")
    flags = parse_options(ExportFlags, None, __name__)
    prepare()
    setup_console()
    output = Path(flags.output)
    if os.path.realpath(output) == os.getcwd() or os.path.ismount(output):
        raise UserError(
            f"--output {output} is the current folder or a mount point. Choose a new folder inside it"
        )
    with lock_for_writing(output):
        export_model(output, flags)


def export_model(output: Path, flags: ExportFlags) -> None:
    """Export the model in the flags to a directory; requires the lock of the directory.

    Raises:
        UserError: the output has other files, or the model does not support the task or the layer.
    """
    # Imported here, after `prepare`, because Paddle reads its CPU settings at import.
    import paddle

    from ernie_m.inference.export import NAMES, export
    from ernie_m.inference.load import load, read_export_settings
    from ernie_m.vectors.pooling import parse_layer

    # Do not delete user files: reject an output that this command did not write.
    names = {path.name for path in output.iterdir()} if output.is_dir() else set()
    holds_something = bool(names) or (output.exists() and not output.is_dir())
    if holds_something and read_export_settings(output) is None:
        raise UserError(f"--output {output} already exists and is not an export. Choose another folder")
    others = sorted(names - NAMES)
    if others:
        raise UserError(
            f"--output {output}: a new export would delete {', '.join(others)}, not written by ernie-m "
            "export. Move it, or choose another folder"
        )
    if read_export_settings(Path(flags.model)) is not None:
        raise UserError(f"--model {flags.model} is an export. Use the checkpoint it was made from")
    paddle.set_device("cpu")  # a GPU would compute the reference outputs in TF32
    loaded = load(flags.model, engine="paddle-eager", task=flags.task)
    task = flags.task or loaded.task or EMBEDDING
    if task == FILL_MASK:
        task = EMBEDDING
        logger.info("exporting the encoder only, without the masked-LM head and the language embeddings")
    if task == EMBEDDING and loaded.pipeline_errors:
        raise UserError(
            f"{'; '.join(loaded.pipeline_errors)}: not supported. To export without it, run ernie-m "
            f"convert {flags.model} NEW --allow_lossy and export NEW"
        )
    # Only an encoder can end before the last layer.
    layer_name = flags.layer  # a number, "middle" or "last"
    if layer_name is None:
        layer_name = loaded.embedding_layer if task == EMBEDDING else loaded.num_layers
    layer = parse_layer(layer_name, loaded.num_layers)
    if task != EMBEDDING and layer != loaded.num_layers:
        raise UserError(
            f"--layer {flags.layer} requires --task embedding (task {task} requires the "
            f"last layer, {loaded.num_layers})"
        )
    export(loaded, output, task, layer, flags.format)
    logger.info("exported %s: %s", task, flags.output)
