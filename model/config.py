"""The config of an encoder: its shape and regularisation, read from JSON. Needs no Paddle."""

from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real

from utils.errors import UserError
from utils.files import read_json

FIRST_POSITION = 2  # of a sequence's first token
PAD_POSITION = 1
NO_LANGUAGE = -1  # in place of the number of a language
_MAY_BE_ZERO = ("pad_token_id", "hidden_dropout_prob", "attention_probs_dropout_prob")


@dataclass
class ErnieMConfig:
    """Shape and regularisation of an encoder; the keys of the official `ernie_config.json`, and three more.

    `intermediate_size` None means 4 x hidden_size, which the official code always uses.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int | None = None
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 514
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    pad_token_id: int = 1

    def __post_init__(self):
        """UserError: a value that cannot be one, or another architecture."""
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        for field in fields(self):
            value, is_real = getattr(self, field.name), field.type is float
            if field.type is str:
                continue
            fits = isinstance(value, Real if is_real else Integral) and not isinstance(value, bool)
            least = "from 0" if field.name in _MAY_BE_ZERO else "above 0"
            too_large = fits and field.name.endswith("_prob") and value > 1
            if not fits or value < 0 or (value == 0 and least == "above 0") or too_large:
                kind, most = "number" if is_real else "whole number", " to 1" if too_large else ""
                raise UserError(f"{field.name} is {value!r}; it must be a {kind} {least}{most}")
        if self.hidden_size % self.num_attention_heads:
            raise UserError(
                f"hidden_size {self.hidden_size} is no multiple of "
                f"num_attention_heads {self.num_attention_heads}"
            )
        if self.hidden_act != "gelu":
            raise UserError(f'hidden_act {self.hidden_act!r} is not supported, only "gelu" is')

    @classmethod
    def from_dict(cls, values: dict) -> "ErnieMConfig":
        """Keys that are not ours are ignored. UserError: a size without a default is absent."""
        known = {f.name: values[f.name] for f in fields(cls) if values.get(f.name) is not None}
        needed = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
        missing = [name for name in needed if name not in known]
        if missing:
            raise UserError(f"the model config lacks {', '.join(missing)}")
        return cls(**known)

    @classmethod
    def from_json(cls, path) -> "ErnieMConfig":
        """Read a JSON file. UserError: no such file, not JSON, a missing key."""
        values = read_json(path, "give the model's config file (JSON)")
        if not isinstance(values, dict):
            raise UserError(f"{path}: a JSON object is expected")
        try:
            return cls.from_dict(values)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    def to_dict(self) -> dict:
        return asdict(self)
