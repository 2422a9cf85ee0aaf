"""Conversion of tensors between native names (`ernie_m.model.checkpoint.native_names`) and those of a format.

The file of each format has its names.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from ernie_m.model.checkpoint.native_names import (
    BIAS,
    ENCODER,
    LINEAR,
    LM_BIAS,
    MODULES,
    NORM,
    OUTPUT,
    POOLER,
    QUERIES,
    TABLE,
    WORDS,
    count_layers,
)
from ernie_m.model.checkpoint.weights import Weights, widen_bfloat16
from ernie_m.model.tasks import CLASSIFICATION, QUESTION_ANSWERING, SEARCH, TOKEN_CLASSIFICATION
from ernie_m.utils.errors import UserError

# Model kinds besides `ernie_m.model.tasks`, for classes of other libraries.
CHOICE = "choice"  # multiple choice: one score per choice
LM = "lm"
TASKS = (CLASSIFICATION, TOKEN_CLASSIFICATION, QUESTION_ANSWERING, SEARCH, CHOICE)


class ModelClass(NamedTuple):
    """A model class of a library.

    Attributes:
        name: name of the class in config.json; "" if the format has no classes.
        has_pooler: whether the model has a pooler, under the encoder's name of the pooler.
        head: (native name, name in the format) of the modules of its head.
    """

    name: str = ""
    has_pooler: bool = True
    head: tuple[tuple[str, str], ...] = ()


# Heads with the same names in several libraries.
CLASSIFIER = (("classifier", "classifier"),)
QA_OUTPUTS = (("classifier", "qa_outputs"),)
LM_HEAD = (
    ("lm_head.dense", "lm_head.dense"),
    ("lm_head.layer_norm", "lm_head.layer_norm"),
    ("lm_head", "lm_head"),
)


_WORDS_AGAIN = "a copy of the word embeddings"
_NUMBERS = "0, 1, 2, ..."
_ZEROS = "zeros"
# Reason why a tensor is skipped -> its expected values by index.
_VALUES: Mapping[str, Callable[[int], np.ndarray]] = {_NUMBERS: np.arange, _ZEROS: np.zeros}


class TensorSpec(NamedTuple):
    """A tensor in a format: its native name and its name in the format.

    Attributes:
        canonical: native name.
        in_format: name in the format.
        axes: axes of the native tensor.
        transposed: whether the native [in, out] is [out, in] in the format.
    """

    canonical: str
    in_format: str
    axes: tuple[str, ...]
    transposed: bool


class TensorMapping(NamedTuple):
    """How a native tensor is computed from tensors in a file.

    Attributes:
        names: names of the tensors in the file; usually one.
        shape: shape of the result of `read`.
        read: reads the tensor.
        transposed: whether the result of `read` must be transposed.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]
    transposed: bool = False


class ConversionResult(NamedTuple):
    """The result of a conversion between native names and those of a format.

    Attributes:
        weights: the converted tensors, each of which is read when it is accessed.
        dropped: name in the file -> reason why the tensor was skipped; {} in a conversion from native names.
        unknown: names in the file, or native names, without a counterpart.
        absent: native names of tensors that the format requires and the weights lack; [] in a conversion to
            native names.
    """

    weights: Weights
    dropped: dict[str, str]
    unknown: list[str]
    absent: list[str]


def read_float_tensor(file: Weights, name: str) -> np.ndarray:
    """Read a floating-point tensor of a file. uint16, Paddle's bits of bfloat16, is converted to float32.

    Raises:
        UserError: the tensor does not have a floating-point dtype.
    """
    array = file[name]
    if array.dtype == np.uint16:
        return widen_bfloat16(array)
    if array.dtype.kind != "f":
        raise UserError(f"{file.source}: {name} has dtype {array.dtype.name} (expected a float dtype)")
    return array


def make_rename_mapping(file: Weights, name: str, transposed: bool = False) -> TensorMapping:
    """Return the mapping of a tensor that is only renamed, and possibly transposed."""
    return TensorMapping((name,), file.shape(name), lambda: read_float_tensor(file, name), transposed)


class TensorNames:
    """The tensor names of a format. Encoder modules that are not in `encoder` keep their native names.

    Attributes:
        classes: task -> model class of the format; None: the encoder alone.
        encoder: native module -> its name in the format; "": the format does not have the module.
        transposed: whether linear weights are [out, in] in the format.
        endings: kind of module -> suffixes of its weight and bias; None: absent.
        prefix: prefix of the encoder's names in a model with a head, for writing.
        any_prefix: regular expression of all such prefixes, for reading.
        beside_any_head: (native name, name in the format) of modules that may occur next to any head.
        has_tables: whether the format supports static models.
        zeros: name of a tensor that is written as a row of zeros -> native tensor with the same row length.
        dropped: name prefix of tensors that are skipped in reading -> reason.
        optional: prefix of native names that the format does not require.
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
        "cls.seq_relationship": "the next-sentence-prediction head",
        "version": "a number",
        "embed_positions._float_tensor": "a marker",
    }
    # The official format is complete without a masked-LM head, and so is XLM-R's encoder.
    optional = "lm_head."

    def strip_prefix(self, name: str) -> str:
        """Remove the encoder's prefix, such as "roberta.", from a tensor name of a file."""
        return re.sub(f"^(?:{self.any_prefix})", "", name)

    def is_encoder_weight(self, name: str) -> bool:
        """Return whether a tensor of a file is a weight of the encoder, by name, and not a redundant copy."""
        bare = self.strip_prefix(name)
        is_inside = bare != name or bare.startswith(("embeddings.", "encoder."))
        return is_inside and not bare.startswith(tuple(self.dropped))

    @property
    def query_name(self) -> str:
        """Return the format's name of the query projection of layer `{i}`, which identifies the format."""
        return self.encoder.get(QUERIES, QUERIES)

    def select_model_class(self, task: str | None, tensors: Iterable[str]) -> str | None:
        """Return the key of `classes` for a model in native names; None: the format has no such head.

        Args:
            task: the task of the model's head; None: none.
            tensors: native names of the model's tensors.
        """
        if task is None and LM in self.classes and LM_BIAS in tensors:
            return LM
        return task if task in self.classes else None

    def find_tasks(self, tensors: Iterable[str], class_name: str | None) -> list[str]:
        """Return the tasks that the head of a model may be for, by class name or, if unknown, tensor names.

        Args:
            tensors: tensor names in the file.
            class_name: name of the model class in the config, if any.
        """
        tensors = set(tensors)
        ending, _ = self.endings[OUTPUT]
        class_of_task = {}  # task -> class, for tasks whose heads are in the file
        for task, model_class in self.classes.items():
            # The module lm_head has no weight.
            modules = [theirs for native, theirs in model_class.head if native != "lm_head"]
            if task and modules and {f"{theirs}{ending}" for theirs in modules} <= tensors:
                class_of_task[task] = model_class.name
        tasks_of_class = [task for task, name in class_of_task.items() if name == class_name]
        return tasks_of_class or list(class_of_task)

    def list_tensors(self, num_layers: int, task: str | None = None, prefix: str = "") -> list[TensorSpec]:
        """List the tensors of a model, with their native names and their names in the format.

        Args:
            num_layers: number of encoder layers.
            task: a key of `classes`; for other tasks, only the encoder is listed.
            prefix: prefix of the encoder's names in the format.
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
            for i in range(num_layers if "{i}" in module else 1):  # once per layer, or for the encoder
                rows += self._list_module_tensors(module, prefix + theirs, i)
        for module, theirs in (*model_class.head, *self.beside_any_head):
            rows += self._list_module_tensors(module, theirs)
        return rows

    def _list_module_tensors(self, module: str, format_name: str, layer_index: int = 0) -> list[TensorSpec]:
        """List the weight and the bias of a module, as far as the format has them.

        Args:
            module: native name.
            format_name: name in the format.
            layer_index: index that replaces `{i}` in both names.
        """
        kind, axes = MODULES[module]
        native = module.format(i=layer_index)
        format_name = format_name.format(i=layer_index)
        weight_ending, bias_ending = self.endings[kind]
        rows = []
        if weight_ending is not None:
            transposed = self.transposed and kind in (LINEAR, OUTPUT)
            rows.append(TensorSpec(f"{native}.weight", format_name + weight_ending, axes, transposed))
        if bias_ending is not None:
            rows.append(TensorSpec(f"{native}.bias", format_name + bias_ending, axes[-1:], transposed=False))
        return rows

    def adapt_mappings(
        self, mappings: dict[str, TensorMapping], file: Weights, file_names: Mapping[str, str]
    ) -> dict[str, str]:
        """Change the mappings of native tensors for which renaming is not enough; by default none.

        Args:
            mappings: native name -> mapping; modified in place.
            file: the tensors of the file.
            file_names: tensor name without the encoder's prefix -> name in the file.

        Returns:
            Name in the file -> reason, of additional tensors to skip.

        Raises:
            UserError: a tensor that must be split or added has an unsuitable shape.
        """
        return {}

    def to_native(self, file: Weights, task: str | None) -> ConversionResult:
        """Convert the tensors of a file to native names.

        Args:
            task: a key of `classes`.

        Raises:
            UserError: a tensor that must be split or added has an unsuitable shape. Later, when a tensor is
                read: its dtype is not a float dtype.
        """
        file_names = {self.strip_prefix(name): name for name in file}
        rows = self.list_tensors(count_layers(file_names, self.query_name), task)
        if not any(row.canonical.startswith(POOLER) for row in rows):  # a file may have one anyway
            rows += self._list_module_tensors(POOLER, POOLER)
        mappings: dict[str, TensorMapping] = {}
        for row in rows:
            # If a tensor has several names in the file, the first name of the table counts.
            if row.in_format in file_names and row.canonical not in mappings:
                mappings[row.canonical] = make_rename_mapping(file, file_names[row.in_format], row.transposed)
        dropped = self.adapt_mappings(mappings, file, file_names)

        def read(name: str) -> np.ndarray:
            array = mappings[name].read()
            return np.ascontiguousarray(array.T if mappings[name].transposed else array)

        shapes = {
            name: mapping.shape[::-1] if mapping.transposed else mapping.shape
            for name, mapping in mappings.items()
        }
        # Any other tensor of the file is dropped for a known reason, or unknown.
        used = {name for mapping in mappings.values() for name in mapping.names} | dropped.keys()
        native_of = {row.in_format: row.canonical for row in rows}
        unknown = [name for name in file.other_names if name not in dropped]
        for name in file:
            if name in used:
                continue
            bare = self.strip_prefix(name)
            reason = next((why for start, why in self.dropped.items() if bare.startswith(start)), "")
            if bare in native_of:
                reason = "a second name of a loaded tensor"
            original = mappings.get(WORDS if reason == _WORDS_AGAIN else native_of.get(bare, ""))
            if reason in _VALUES:
                is_same = np.array_equal(file[name].ravel(), _VALUES[reason](file[name].size))
            else:
                is_same = original is None or file.are_equal(name, original.names[0])
            if reason and is_same:
                dropped[name] = reason
            else:
                unknown.append(name)
        return ConversionResult(Weights(file.source, shapes, read), dropped, sorted(unknown), [])

    def from_native(self, weights: Weights, task: str | None) -> ConversionResult:
        """Convert tensors under native names to the names of the format.

        Args:
            task: result of `select_model_class`.
        """
        prefix = "" if task is None else self.prefix
        rows = self.list_tensors(count_layers(weights), task, prefix)
        row_of = {row.in_format: row for row in rows if row.canonical in weights}
        shapes: dict[str, tuple[int, ...]] = {}
        for name, row in row_of.items():
            shape = weights.shape(row.canonical)
            shapes[name] = shape[::-1] if row.transposed else shape
        for name, native in self.zeros.items():
            shapes[prefix + name] = (1, weights.shape(native)[1])

        def read(name: str) -> np.ndarray:
            if name not in row_of:
                return np.zeros(shapes[name], np.float32)
            array = weights[row_of[name].canonical]
            return np.ascontiguousarray(array.T) if row_of[name].transposed else array

        has_place = {row.canonical for row in rows}
        left_out = [name for name in weights if name not in has_place]
        needed = [row.canonical for row in rows if not row.canonical.startswith(self.optional)]
        absent = [name for name in needed if name not in weights]
        return ConversionResult(Weights(weights.source, shapes, read), {}, left_out, absent)
