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
from ernie_m.utils.files import lock_writer
from ernie_m.utils.logging import logger, setup_console
from ernie_m.utils.paddle_settings import prepare


@dataclass
class ExportFlags:
    """What to export."""

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
    # Otherwise Paddle prints a warning about its own static graph. (2: only errors.)
    os.environ.setdefault("GLOG_minloglevel", "2")
    flags = parse_options(ExportFlags, None, __name__)
    prepare()
    setup_console()
    output = Path(flags.output)
    if output.resolve() == Path.cwd() or os.path.ismount(output):
        raise UserError(
            f"--output {output}: the current folder or a mount point. Choose a new folder inside it, "
            "which appears when it is complete"
        )
    with lock_writer(output):
        export_to(output, flags)


def export_to(output: Path, flags: ExportFlags) -> None:
    """Export to this folder, while no other command writes it."""
    # Imported here, after `prepare`, because Paddle reads its CPU settings when it is imported.
    import paddle

    from ernie_m.inference.export import NAMES, export
    from ernie_m.inference.load import exported_settings, load
    from ernie_m.vectors.pooling import layer_number

    # Nothing of the user's is replaced: refuse an output that is not of this command.
    names = {path.name for path in output.iterdir()} if output.is_dir() else set()
    holds_something = bool(names) or (output.exists() and not output.is_dir())
    if holds_something and exported_settings(output) is None:
        raise UserError(f"--output {output} exists and is not an exported folder. Choose another one")
    not_ours = sorted(names - NAMES)
    if not_ours:
        raise UserError(
            f"--output {output}: a new export would delete {', '.join(not_ours)}, which ernie-m "
            "export did not write. Move it, or choose another folder"
        )
    if exported_settings(Path(flags.model)) is not None:
        raise UserError(f"--model {flags.model} is itself an export. Use the checkpoint it was made from")
    paddle.set_device("cpu")  # a GPU would compute the outputs to compare with in TF32
    loaded = load(flags.model, engine="paddle-eager", task=flags.task)
    task = flags.task or loaded.task or EMBEDDING
    if task == FILL_MASK:
        task = EMBEDDING
        logger.info("the encoder is exported, without the masked-LM head and the language table")
    if task == EMBEDDING and loaded.preprocessing_errors:
        raise UserError(
            f"{'; '.join(loaded.preprocessing_errors)}: this is not done here; ernie-m convert "
            f"{flags.model} NEW "
            "--allow_lossy writes a model without it, which can be exported"
        )
    # Only an encoder can end below the last layer.
    layer_name = flags.layer  # a number, or a word
    if layer_name is None:
        layer_name = loaded.embedding_layer if task == EMBEDDING else loaded.num_layers
    layer = layer_number(layer_name, loaded.num_layers)
    if task != EMBEDDING and layer != loaded.num_layers:
        raise UserError(f"--layer {flags.layer}: only --task embedding can end below the last layer")
    export(loaded, output, task, layer, flags.format)
    logger.info("exported for %s: %s", task, flags.output)
