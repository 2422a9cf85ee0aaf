"""The config of an encoder: sizes and regularization, read from JSON. Does not import Paddle."""

from dataclasses import asdict, dataclass, fields
from typing import Annotated, Literal

from ernie_m.model.positions import FIRST_POSITION
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import read_object, resolve_shipped_path
from ernie_m.utils.paddle_settings import read_cpu
from ernie_m.utils.value_types import (
    NonNegativeInt,
    PositiveFloat,
    Range,
    UnitInterval,
    describe_type,
    is_valid,
)

NO_LANGUAGE = -1  # language id of tokens without a language
_Size = Annotated[int, Range(at_least=1, at_most=1 << 40)]  # as a row of float32, 4 TB


@dataclass
class ErnieMConfig:
    """Sizes and regularization of an encoder.

    The keys are those of the official `ernie_config.json`, plus `intermediate_size`, `layer_norm_eps` and
    `pad_token_id`. If `intermediate_size` is None, it is set to 4 x hidden_size, as in the official code.

    A config with `num_hidden_layers` 0 describes a static model: word embeddings only. The embedding of a
    text is the mean of its token embeddings.
    """

    vocab_size: _Size
    hidden_size: _Size
    num_hidden_layers: Annotated[int, Range(at_least=0, at_most=1 << 10)]
    num_attention_heads: _Size
    intermediate_size: _Size | None = None
    hidden_act: Literal["gelu"] = "gelu"
    hidden_dropout_prob: UnitInterval = 0.1
    attention_probs_dropout_prob: UnitInterval = 0.1
    max_position_embeddings: _Size = 514
    initializer_range: PositiveFloat = 0.02
    layer_norm_eps: PositiveFloat = 1e-5
    pad_token_id: NonNegativeInt = 1

    def __post_init__(self):
        """Validate the config, and set the default of `intermediate_size`.

        Raises:
            UserError: a value has the wrong type or is out of range, hidden_size is not a multiple of
                num_attention_heads, or the activation is not gelu.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            if not is_valid(field.type, value):
                raise UserError(f"invalid {field.name} {value!r} (expected {describe_type(field.type)})")
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        if self.hidden_size % self.num_attention_heads:
            raise UserError(
                f"hidden_size {self.hidden_size} is not a multiple of "
                f"num_attention_heads {self.num_attention_heads}"
            )
        if self.pad_token_id >= self.vocab_size:
            raise UserError(
                f"invalid pad_token_id {self.pad_token_id} (expected an id "
                f"below vocab_size {self.vocab_size})"
            )
        if self.max_position_embeddings <= FIRST_POSITION:
            raise UserError(
                f"invalid max_position_embeddings {self.max_position_embeddings} (expected more than "
                f"{FIRST_POSITION}, the position of the first token)"
            )

    def check_memory(self) -> None:
        """Check, before an encoder is made, that its matrices fit into memory in float32.

        Raises:
            UserError: they are larger than the memory that this process may use.
        """
        assert self.intermediate_size is not None  # set by __post_init__
        rows = 4 * self.hidden_size + 2 * self.intermediate_size  # [rows, H] in a layer
        rows = rows * self.num_hidden_layers + self.vocab_size + self.max_position_embeddings
        needed, memory = 4 * rows * self.hidden_size, read_cpu().memory
        if needed > memory > 0:
            sizes = {
                key: value
                for key, value in self.to_dict().items()
                if key.endswith(("size", "layers", "embeddings"))
            }
            raise UserError(
                f"the encoder is too large: its matrices have {needed >> 30:,} GiB in float32, this machine "
                f"has {memory >> 30:,}. Reduce its sizes ({', '.join(f'{k} {v}' for k, v in sizes.items())})"
            )

    @property
    def is_static(self) -> bool:
        """Return whether the model is static: word embeddings without Transformer layers or a pooler."""
        return self.num_hidden_layers == 0

    @property
    def max_input_length(self) -> int:
        """Return the maximum input length in tokens, including special tokens."""
        return self.max_position_embeddings - FIRST_POSITION

    @classmethod
    def from_dict(cls, values: dict) -> "ErnieMConfig":
        """Make a config from a dict. Unknown keys are ignored, and None counts as missing.

        Raises:
            UserError: a required key is missing, or a value is invalid.
        """
        keys = {field.name for field in fields(cls)}
        arguments = {key: value for key, value in values.items() if key in keys and value is not None}
        required_keys = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
        missing = [key for key in required_keys if key not in arguments]
        if missing:
            raise UserError(f"missing keys in the model config: {', '.join(missing)}")
        return cls(**arguments)

    @classmethod
    def from_json(cls, path, vocab_size: int | None = None) -> "ErnieMConfig":
        """Read the config from a JSON file.

        Args:
            path: such as ernie_config.json.
            vocab_size: vocabulary size if the file has no `vocab_size`.

        Raises:
            UserError: the file is missing or not a JSON object, a required key is missing, or a value is
                invalid.
        """
        values = read_object(resolve_shipped_path(path), "expected the model's config file")
        try:
            return cls.from_dict({"vocab_size": vocab_size} | values)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    def to_dict(self) -> dict:
        """Return the config as a dict, for JSON."""
        return asdict(self)
