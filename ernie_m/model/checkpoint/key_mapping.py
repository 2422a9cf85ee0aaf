"""The names of our tensors and of a format's, and weights translated from one to the other.

Ours: the modules of a model, the kinds of their tensors and the axes. Linear weights are [in, out]. What
other formats call them is in the file of each format.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from ernie_m.model.checkpoint.weights import Weights, widen_bfloat16
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.tasks import CLASSIFICATION, QUESTION_ANSWERING, SEARCH, TOKEN_CLASSIFICATION
from ernie_m.utils.errors import UserError

# The axes of a tensor: the config's key for their size, if it has one.
VOCAB = "vocab_size"
POSITION = "max_position_embeddings"
HIDDEN = "hidden_size"
FFN = "intermediate_size"
LABELS = "num_labels"
LANGUAGES = "languages"
# The kinds of modules.
TABLE = "table"
NORM = "norm"
LINEAR = "linear"
OUTPUT = "output"  # a linear layer at the end of a task's head
BIAS = "bias"
# Module -> its kind, and the axes of its weight. `{i}` stands for the number of the layer, from 0.
_LAYER = "encoder.layers.{i}"
ENCODER = {
    "embeddings.word_embeddings": (TABLE, (VOCAB, HIDDEN)),
    "embeddings.position_embeddings": (TABLE, (POSITION, HIDDEN)),
    "embeddings.layer_norm": (NORM, (HIDDEN,)),
    f"{_LAYER}.self_attn.q_proj": (LINEAR, (HIDDEN, HIDDEN)),
    f"{_LAYER}.self_attn.k_proj": (LINEAR, (HIDDEN, HIDDEN)),
    f"{_LAYER}.self_attn.v_proj": (LINEAR, (HIDDEN, HIDDEN)),
    f"{_LAYER}.self_attn.out_proj": (LINEAR, (HIDDEN, HIDDEN)),
    f"{_LAYER}.norm1": (NORM, (HIDDEN,)),
    f"{_LAYER}.linear1": (LINEAR, (HIDDEN, FFN)),
    f"{_LAYER}.linear2": (LINEAR, (FFN, HIDDEN)),
    f"{_LAYER}.norm2": (NORM, (HIDDEN,)),
    "pooler.dense": (LINEAR, (HIDDEN, HIDDEN)),
}
HEADS = {
    "classifier": (OUTPUT, (HIDDEN, LABELS)),
    "lm_head.dense": (LINEAR, (HIDDEN, HIDDEN)),
    "lm_head.layer_norm": (NORM, (HIDDEN,)),
    "lm_head": (BIAS, (VOCAB,)),
    "language_embeddings": (TABLE, (LANGUAGES, HIDDEN)),
}
MODULES = ENCODER | HEADS
QUERIES = f"{_LAYER}.self_attn.q_proj"
POOLER = "pooler.dense"
WORDS = "embeddings.word_embeddings.weight"
POSITIONS = "embeddings.position_embeddings.weight"
LM_BIAS = "lm_head.bias"
# What a model is for, in addition to `ernie_m.model.tasks`: classes that other libraries have.
CHOICE = "choice"  # the classifier scores each choice with one number
LM = "lm"
TASKS = (CLASSIFICATION, TOKEN_CLASSIFICATION, QUESTION_ANSWERING, SEARCH, CHOICE)


def encoder_shapes(config: ErnieMConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of an encoder, with a pooler."""
    shapes = {}
    for module, (kind, axes) in ENCODER.items():
        sizes = tuple(getattr(config, axis) for axis in axes)
        for number in range(config.num_hidden_layers if "{i}" in module else 1):
            name = module.format(i=number)
            shapes[f"{name}.weight"] = sizes
            if kind != TABLE:
                shapes[f"{name}.bias"] = sizes[-1:]
    return {WORDS: shapes[WORDS]} if config.is_static else shapes


def count_layers(names: Iterable[str], queries: str = QUERIES) -> int:
    """Return the highest number of a layer in names without a prefix, plus one; 0 without layers.

    Args:
        queries: what the queries of layer `{i}` are called there; by default the names are ours.
    """
    before, _, behind = queries.partition("{i}")
    # At most four digits: a corrupt file may name any layer, and the tables get rows for all layers up to it.
    number = re.compile(f"{re.escape(before)}([0-9]{{1,4}}){re.escape(behind[:1])}")
    return max((int(match[1]) for match in map(number.match, names) if match), default=-1) + 1


def find_axes(name: str) -> tuple[str, ...]:
    """Return the axes of one of our tensors; () for a name that is none of ours."""
    module, _, ending = re.sub(r"^encoder\.layers\.\d+\.", f"{_LAYER}.", name).rpartition(".")
    _kind, axes = MODULES.get(module, (None, ()))
    return axes if ending == "weight" else axes[-1:]


class ModelClass(NamedTuple):
    """A library's class.

    Attributes:
        name: "" if the format has no classes.
        has_pooler: whether the pooler is among its tensors, under the encoder's name for it.
        head: (our name, the name there) of the modules of its head.
    """

    name: str = ""
    has_pooler: bool = True
    head: tuple[tuple[str, str], ...] = ()


# Heads that several libraries name alike.
CLASSIFIER = (("classifier", "classifier"),)
QA_OUTPUTS = (("classifier", "qa_outputs"),)
LM_HEAD = (
    ("lm_head.dense", "lm_head.dense"),
    ("lm_head.layer_norm", "lm_head.layer_norm"),
    ("lm_head", "lm_head"),
)


_WORDS_AGAIN = "the word embeddings once more"
_NUMBERS = "0, 1, 2, ..."
_ZEROS = "zeros"
# Why a tensor is not taken -> the values that it has then, by their number.
_VALUES: Mapping[str, Callable[[int], np.ndarray]] = {_NUMBERS: np.arange, _ZEROS: np.zeros}


class Row(NamedTuple):
    """One tensor of a format.

    Attributes:
        canonical: our name.
        in_format: the name there.
        axes: the axes of our tensor.
        transposed: whether our [in, out] is [out, in] there.
    """

    canonical: str
    in_format: str
    axes: tuple[str, ...]
    transposed: bool


class TensorMapping(NamedTuple):
    """How one of our tensors is made of tensors in a file.

    Attributes:
        names: of the tensors in the file; nearly always one.
        shape: of what `read` gives.
        read: reads it.
        transposed: whether its axes are reversed then.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]
    transposed: bool = False


class Translated(NamedTuple):
    """Weights under other names.

    Attributes:
        weights: each is read when it is accessed.
        dropped: of a file: name there -> why the tensor was not taken.
        unknown: of a file: names there that were not understood, sorted; of ours: those that have no place.
        absent: our names that the format needs and that are not in the weights.
    """

    weights: Weights
    dropped: dict[str, str]
    unknown: list[str]
    absent: list[str]


def floats(file: Weights, name: str) -> np.ndarray:
    """Return a tensor of a file. uint16 is how Paddle stores bfloat16, which becomes float32.

    Raises:
        UserError: it does not hold floating point numbers.
    """
    array = file[name]
    if array.dtype == np.uint16:
        return widen_bfloat16(array)
    if array.dtype.kind != "f":
        raise UserError(f"{file.source}: {name} has dtype {array.dtype.name} (expected a float dtype)")
    return array


def as_it_is(file: Weights, name: str, transposed: bool = False) -> TensorMapping:
    """Return the recipe of a tensor that only gets another name."""
    return TensorMapping((name,), file.shape(name), lambda: floats(file, name), transposed)


class Names:
    """What a format calls our tensors. The modules that it does not list have our names there.

    Attributes:
        classes: what a model is for -> its class; None is the encoder alone.
        encoder: our module -> its name there; "": the format has no such module.
        transposed: whether linear weights are [out, in].
        endings: kind of module -> how the names of its weight and its bias end; None: it has none.
        prefix: what the encoder's names begin with in a model with a head.
        any_prefix: what names may begin with in files, an expression.
        beside_any_head: as `ModelClass.head`, of modules that may be in addition to any head.
        has_tables: whether a model may be a static model, without any layer.
        zeros: the name of a tensor that is written as a row of zeros -> our tensor with rows of its length.
        dropped: what the name of a tensor begins with that is not taken -> why.
        optional: what our names begin with that no model of the format needs.
    """

    classes: Mapping[str | None, ModelClass]
    encoder: Mapping[str, str] = {}
    transposed = False
    endings: Mapping[str, tuple[str | None, str | None]] = {
        TABLE: (".weight", None),
        NORM: (".weight", ".bias"),
        LINEAR: (".weight", ".bias"),
        OUTPUT: (".weight", ".bias"),
        BIAS: (None, ".bias"),
    }
    prefix = ""
    any_prefix = ""
    beside_any_head: tuple[tuple[str, str], ...] = ()
    has_tables = False
    zeros: Mapping[str, str] = {}
    dropped: Mapping[str, str] = {
        "embeddings.position_ids": _NUMBERS,
        "embeddings.token_type_ids": _ZEROS,
        "lm_head.decoder.weight": _WORDS_AGAIN,
        "lm_head.weight": _WORDS_AGAIN,
        "cls.predictions.decoder.weight": _WORDS_AGAIN,
        "cls.seq_relationship": "the head of next sentence prediction",
        "version": "a number",
        "embed_positions._float_tensor": "a marker",
    }
    # The official format is complete without a masked-LM head, and so is XLM-R's encoder.
    optional = "lm_head."

    def bare(self, name: str) -> str:
        """Return a name in a file without the prefix of a model with a head."""
        return re.sub(f"^(?:{self.any_prefix})", "", name)

    def is_encoder_weight(self, name: str) -> bool:
        """Return whether a tensor of a file is part of the encoder, which requires it, and is not a copy."""
        bare = self.bare(name)
        is_inside = bare != name or bare.startswith(("embeddings.", "encoder."))
        return is_inside and not bare.startswith(tuple(self.dropped))

    @property
    def queries(self) -> str:
        """What the queries of layer `{i}` are called; their name tells the format and its layers."""
        return self.encoder.get(QUERIES, QUERIES)

    def kind(self, task: str | None, tensors: Iterable[str]) -> str | None:
        """Return the key of `classes` for a model of ours; None if the format has no class with its head.

        Args:
            tensors: our names of its tensors.
        """
        if task is None and LM in self.classes and LM_BIAS in tensors:
            return LM
        return task if task in self.classes else None

    def find_tasks(self, tensors: Iterable[str], class_name: str | None) -> list[str]:
        """Return the tasks that a model may be for, by its class name, or otherwise by the names of its head.

        Args:
            tensors: the names in the file.
            class_name: from the model's config; None: the config names none.
        """
        tensors = set(tensors)
        ending, _ = self.endings[OUTPUT]
        class_of_task = {}  # task -> class, for the tasks whose heads are in the file
        for task, model_class in self.classes.items():
            modules = [theirs for ours, theirs in model_class.head if ours != "lm_head"]  # it has no weight
            if task and modules and {f"{theirs}{ending}" for theirs in modules} <= tensors:
                class_of_task[task] = model_class.name
        tasks_of_class = [task for task, name in class_of_task.items() if name == class_name]
        return tasks_of_class or list(class_of_task)

    def rows(self, num_layers: int, task: str | None = None, prefix: str = "") -> list[Row]:
        """Return the tensors of a model, under our names and under those of the format.

        Args:
            task: a key of `classes`; of another one the format has only the encoder.
            prefix: what the encoder's names in the format begin with.
        """
        model_class = self.classes.get(task, self.classes[None])
        is_table = self.has_tables and num_layers == 0
        rows = []
        for module in ENCODER:
            theirs = self.encoder.get(module, module)
            is_absent_pooler = module == POOLER and not model_class.has_pooler
            is_absent_in_table = is_table and f"{module}.weight" != WORDS
            if not theirs or is_absent_pooler or is_absent_in_table:
                continue
            for i in range(num_layers if "{i}" in module else 1):  # a module of each layer, or of the encoder
                rows += self._rows_of(module, prefix + theirs, i)
        for module, theirs in (*model_class.head, *self.beside_any_head):
            rows += self._rows_of(module, theirs)
        return rows

    def _rows_of(self, module: str, theirs: str, layer: int = 0) -> list[Row]:
        """Return the weight and the bias of a module, which is called `theirs` in the format."""
        kind, axes = MODULES[module]
        ours = module.format(i=layer)
        theirs = theirs.format(i=layer)
        weight_ending, bias_ending = self.endings[kind]
        rows = []
        if weight_ending is not None:
            transposed = self.transposed and kind in (LINEAR, OUTPUT)
            rows.append(Row(f"{ours}.weight", theirs + weight_ending, axes, transposed))
        if bias_ending is not None:
            rows.append(Row(f"{ours}.bias", theirs + bias_ending, axes[-1:], transposed=False))
        return rows

    def adapt(
        self, mappings: dict[str, TensorMapping], file: Weights, in_file: Mapping[str, str]
    ) -> dict[str, str]:
        """Change what our tensors are made of, where another name alone is not enough.

        Args:
            mappings: our name -> how it is made.
            in_file: name without prefix -> the name in the file.

        Returns:
            Further names of the file that are not taken, with the reason.

        Raises:
            UserError: a shape that cannot be split or added.
        """
        return {}

    def to_native(self, file: Weights, task: str | None) -> Translated:
        """Translate the weights of a file to our names.

        Args:
            task: a key of `classes`.

        Raises:
            UserError: as `adapt`; when a tensor is read, that it does not hold floating point numbers.
        """
        in_file = {self.bare(name): name for name in file}
        rows = self.rows(count_layers(in_file, self.queries), task)
        if not any(row.canonical.startswith(POOLER) for row in rows):  # a file may have one all the same
            rows += self._rows_of(POOLER, POOLER)
        mappings: dict[str, TensorMapping] = {}
        for row in rows:
            # If a tensor is there under several names, the first name of the table counts.
            if row.in_format in in_file and row.canonical not in mappings:
                mappings[row.canonical] = as_it_is(file, in_file[row.in_format], row.transposed)
        dropped = self.adapt(mappings, file, in_file)

        def read(name: str) -> np.ndarray:
            array = mappings[name].read()
            return np.ascontiguousarray(array.T if mappings[name].transposed else array)

        shapes = {
            name: mapping.shape[::-1] if mapping.transposed else mapping.shape
            for name, mapping in mappings.items()
        }
        # Every other tensor of the file is dropped, if there is a known reason, or unknown.
        used = {name for mapping in mappings.values() for name in mapping.names} | dropped.keys()
        ours_of = {row.in_format: row.canonical for row in rows}
        unknown = [name for name in file.other_names if name not in dropped]
        for name in file:
            if name in used:
                continue
            bare = self.bare(name)
            reason = next((why for start, why in self.dropped.items() if bare.startswith(start)), "")
            if bare in ours_of:
                reason = "a second name of a tensor that is taken"
            original = mappings.get(WORDS if reason == _WORDS_AGAIN else ours_of.get(bare, ""))
            if reason in _VALUES:
                is_same = np.array_equal(file[name].ravel(), _VALUES[reason](file[name].size))
            else:
                is_same = original is None or file.equal(name, original.names[0])
            if reason and is_same:
                dropped[name] = reason
            else:
                unknown.append(name)
        return Translated(Weights(file.source, shapes, read), dropped, sorted(unknown), [])

    def from_native(self, weights: Weights, task: str | None) -> Translated:
        """Translate weights under our names to those of the format.

        Args:
            task: from `kind`.
        """
        prefix = "" if task is None else self.prefix
        rows = self.rows(count_layers(weights), task, prefix)
        row_of = {row.in_format: row for row in rows if row.canonical in weights}
        shapes: dict[str, tuple[int, ...]] = {}
        for name, row in row_of.items():
            shape = weights.shape(row.canonical)
            shapes[name] = shape[::-1] if row.transposed else shape
        for name, ours in self.zeros.items():
            shapes[prefix + name] = (1, weights.shape(ours)[1])

        def read(name: str) -> np.ndarray:
            if name not in row_of:
                return np.zeros(shapes[name], np.float32)
            array = weights[row_of[name].canonical]
            return np.ascontiguousarray(array.T) if row_of[name].transposed else array

        has_place = {row.canonical for row in rows}
        left_out = [name for name in weights if name not in has_place]
        needed = [row.canonical for row in rows if not row.canonical.startswith(self.optional)]
        absent = [name for name in needed if name not in weights]
        return Translated(Weights(weights.source, shapes, read), {}, left_out, absent)
