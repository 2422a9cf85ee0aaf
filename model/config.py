"""The config of an encoder: its shape and regularisation, read from JSON. Needs no Paddle."""

from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real

from utils.errors import UserError
from utils.files import read_json

_SIZE = (Integral, "a whole number above 0", lambda value: value > 0)
_SHARE = (Real, "a number from 0 to 1", lambda value: 0 <= value <= 1)
_POSITIVE = (Real, "a number above 0", lambda value: value > 0)
# key -> the kind of its values, what they must be, and whether one is that
_VALUES = {
    "vocab_size": _SIZE, "hidden_size": _SIZE, "num_hidden_layers": _SIZE, "num_attention_heads": _SIZE,
    "max_position_embeddings": _SIZE, "intermediate_size": _SIZE,
    "pad_token_id": (Integral, "a whole number", lambda value: value >= 0),
    "hidden_dropout_prob": _SHARE, "attention_probs_dropout_prob": _SHARE,
    "initializer_range": _POSITIVE, "layer_norm_eps": _POSITIVE,
}  # fmt: skip


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
        for key, (kind, what, fits) in _VALUES.items():
            value = getattr(self, key)
            if key == "intermediate_size" and value is None:
                value = self.intermediate_size = 4 * self.hidden_size
            if not isinstance(value, kind) or isinstance(value, bool) or not fits(value):
                raise UserError(f"{key} is {value!r}; it must be {what}")
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
