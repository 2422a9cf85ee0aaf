"""Opens a model for a command: checkpoint, config and tokenizer, which must match. Does not import Paddle."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, TypeVar

from ernie_m.model.checkpoint.open import TRAINED_LENGTH, Checkpoint
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.pipeline_config import PipelineConfig
from ernie_m.model.tasks import SEARCH
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.utils.errors import UserError
from ernie_m.utils.logging import logger


class ModelFlags(Protocol):
    """The flags of a command that `apply_model_defaults` requires."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    max_seq_len: int
    on_command_line: tuple[str, ...]


Flags = TypeVar("Flags", bound=ModelFlags)
# The keys in which the configs of small, base and large differ.
SIZES = ("num_hidden_layers", "hidden_size", "num_attention_heads")


@dataclass(frozen=True)
class OpenedModel:
    """A model's checkpoint, config and tokenizer, which match each other. No weights have been read yet.

    Attributes:
        checkpoint: None: the model will be randomly initialized.
        config: the encoder's config.
        tokenizer: a tokenizer whose vocabulary matches the embedding matrix.
        source: the file or folder of the config, for messages.
    """

    checkpoint: Checkpoint | None
    config: ErnieMConfig
    tokenizer: Tokenizer
    source: str | os.PathLike

    @property
    def max_length(self) -> int:
        """Return the maximum input length in tokens, including special tokens."""
        return self.config.max_input_length

    @property
    def pipeline_config(self) -> PipelineConfig:
        """Return the pipeline settings of the checkpoint; ERNIE-M's without a checkpoint."""
        return self.checkpoint.pipeline_config if self.checkpoint else PipelineConfig()

    def check_length(self, max_seq_len: int) -> None:
        """Check a --max_seq_len against the model, and warn if it exceeds the maximum length in pre-training.

        Raises:
            UserError: `max_seq_len` exceeds the model's maximum input length.
        """
        if max_seq_len > self.max_length:
            raise UserError(
                f"--max_seq_len {max_seq_len}: the maximum length of {self.source} is {self.max_length} "
                f"tokens. Set --max_seq_len {self.max_length} or less"
            )
        if self.checkpoint is None:
            return
        trained_length = self.checkpoint.settings.get(TRAINED_LENGTH)
        if isinstance(trained_length, int) and max_seq_len > trained_length:
            logger.warning(
                "--max_seq_len %d: positions above %d of %s were not trained in pre-training",
                max_seq_len,
                trained_length,
                self.checkpoint.path,
            )


def open_model(
    checkpoint: Checkpoint | None,
    config_path: str | None = None,
    vocab_path: str | None = None,
    piece_model_path: str | None = None,
) -> OpenedModel:
    """Load the tokenizer and the config of a model, and check that they match the checkpoint.

    Args:
        checkpoint: the checkpoint of the weights; None: the model will be randomly initialized.
        config_path, vocab_path, piece_model_path: the files of --ernie_config_path, --vocab_path and
            --piece_model_path; None: the files next to the weights. With only a `piece_model_path`, the
            vocabulary is derived from the SentencePiece model.

    Raises:
        UserError: a file is missing or corrupt, or the files do not match.
    """
    if checkpoint:
        tokenizer = checkpoint.load_tokenizer(vocab_path, piece_model_path)
    else:
        tokenizer = Tokenizer(vocab_path, piece_model_path)

    if config_path:
        source: str | os.PathLike = config_path
        config = ErnieMConfig.from_json(config_path, tokenizer.vocab_size)
        if checkpoint and checkpoint.config:
            for key in SIZES:
                size = getattr(checkpoint.config, key)
                expected = getattr(config, key)
                if size != expected:
                    raise UserError(
                        f"{checkpoint.path}: the model size ({key} {size}) does not match "
                        f"--ernie_config_path {config_path} ({key} {expected}). For a model that "
                        'has its own config, add --ernie_config_path ""'
                    )
    elif checkpoint is None:
        raise UserError("missing --ernie_config_path: the model config (configs/base/ernie_config.json)")
    else:
        source = checkpoint.path
        config = checkpoint.required_config
    tokenizer.check_model(config.vocab_size, config.pad_token_id, source)
    return OpenedModel(checkpoint, config, tokenizer, source)


def apply_embedding_defaults(
    flags: Flags, opened: OpenedModel, setting_names: Sequence[str] = ("pooling", "layer")
) -> Flags:
    """Replace flags that were not given by the model's settings, for a command that computes embeddings.

    The maximum length also comes from the model, unless the model has a head, because the stored maximum
    length is then that of the head's training.

    Args:
        setting_names: as in `apply_model_defaults`.

    Raises:
        UserError: the given --max_seq_len exceeds the model's maximum, or the model's pooling is not
            supported and --pooling was not given.
    """
    checkpoint = opened.checkpoint
    takes_pooling = "pooling" in setting_names and "pooling" not in flags.on_command_line
    if takes_pooling and checkpoint and checkpoint.pipeline_errors:
        errors = "; ".join(checkpoint.pipeline_errors)
        raise UserError(f"{errors} (not supported). Set --pooling to compute other embeddings")
    if checkpoint and checkpoint.task in (None, SEARCH):
        setting_names = [*setting_names, "max_seq_len"]
    return apply_model_defaults(flags, opened, setting_names)


def apply_model_defaults(flags: Flags, opened: OpenedModel, setting_names: Sequence[str] = ()) -> Flags:
    """Replace flags that were not given on the command line by the model's settings.

    Args:
        flags: flags of a command with --max_seq_len, whose default is the model's maximum.
        setting_names: names of flags that are fields of `PipelineConfig`. A flag that was not given gets
            the model's value, unless this is None.

    Raises:
        UserError: the given --max_seq_len exceeds the model's maximum.
    """
    values: dict[str, Any] = {}
    for name in setting_names:
        value = getattr(opened.pipeline_config, name)
        default = getattr(flags, name)
        if value is not None and name not in flags.on_command_line:
            values[name] = str(value) if isinstance(default, str) else value  # --layer is a string
    changed_values = {name: value for name, value in values.items() if value != getattr(flags, name)}
    if changed_values and opened.checkpoint:
        in_words = ", ".join(f"--{name} {value}" for name, value in changed_values.items())
        logger.info("options of %s: %s", opened.checkpoint.path, in_words)
    if "max_seq_len" not in flags.on_command_line:
        values["max_seq_len"] = min(values.get("max_seq_len", flags.max_seq_len), opened.max_length)
    flags = replace(flags, **values)
    opened.check_length(flags.max_seq_len)
    return flags
