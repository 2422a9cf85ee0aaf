"""A restricted unpickler for numbers, strings, containers and NumPy arrays; reads and writes `.pdparams`.

Every name in a pickle is looked up in a table of stand-ins, and other names are rejected, so that no code of
the pickle runs. No stand-in copies its arguments, because a pickle can use one large object any number of
times. The base class is the Python version of the standard unpickler, whose table of opcodes can be changed.

A `.pdparams` file of paddle.save is a pickle of {name: array}; bfloat16 is stored as its bits in uint16.
"""

import math
import os
import pickle
import re
import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np

from ernie_m.model.checkpoint.weights import Weights, WeightsFile, check_shape, read_numbers, write_data
from ernie_m.utils.errors import UserError

_FORM = "a file of paddle.save"
_LONG = 4096  # bytes objects of at least this length stay in the file
_TOO_LARGE = 1 << 62  # sizes and strides of an array are below this
_KEY_TYPES = (str, int, float, bool, bytes, type(None))
_DTYPE = re.compile(r"[<>|=]?(?:b1|[iu][1248]|f[248])")
# Opcodes of protocols 2 to 4 that the base class executes. They make or arrange plain values, or look up a
# name by `find_class`. Opcodes that are neither here nor in `_WeightsUnpickler.dispatch` are rejected.
_PLAIN_OPCODES = (
    *(pickle.PROTO, pickle.STOP, pickle.MARK, pickle.MEMOIZE),
    *(pickle.BINPUT, pickle.LONG_BINPUT, pickle.BINGET, pickle.LONG_BINGET),
    *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BINFLOAT),
    *(pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1, pickle.LONG4),
    *(pickle.BINUNICODE, pickle.BINUNICODE8, pickle.SHORT_BINUNICODE),
    *(pickle.SHORT_BINBYTES, pickle.BINSTRING, pickle.SHORT_BINSTRING),
    *(pickle.TUPLE, pickle.EMPTY_TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
    *(pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS, pickle.EMPTY_DICT),
    *(pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.BINPERSID),
)


def load(
    file: IO[bytes],
    path: Path,
    more_stand_ins: Mapping[str, Any] = {},
    persistent_load: Callable[[Any], Any] | None = None,
) -> Any:
    """Read one pickle of protocol 2 to 4 from the current position of a seekable file.

    Args:
        path: path of the file, for messages.
        more_stand_ins: additional allowed names: name -> stand-in. A pickle can call callable stand-ins, and
            use others as values.
        persistent_load: resolves references to data outside the pickle; None: not allowed.

    Raises:
        UserError: the pickle contains a name that is not allowed.
        One of `weights.BROKEN`: the pickle is corrupt.
    """
    return _WeightsUnpickler(file, path, {**_STAND_INS, **more_stand_ins}, persistent_load).load()


class LongBytes(NamedTuple):
    """Position of a long bytes object, which is not read into memory."""

    offset: int
    length: int


class Attributes(dict):
    """A stand-in for any object, with only the object's attributes."""


class _Dtype:
    """A stand-in for numpy.dtype, which only accepts numeric dtypes."""

    def __init__(self, code: Any, *_: Any):
        """Make the dtype of a code such as "f4".

        Args:
            _: two constant flags, which are ignored.

        Raises:
            ValueError: the dtype is not numeric.
        """
        if not isinstance(code, str) or not _DTYPE.fullmatch(code):
            raise ValueError("an array with a non-numeric dtype")
        self.numpy_dtype = np.dtype(code.lstrip("<>|="))

    def set_state(self, state: Any) -> None:
        """Set the byte order, which the pickled state of a dtype contains."""
        self.numpy_dtype = self.numpy_dtype.newbyteorder(state[1])  # state[0] is a version


class Array:
    """A stand-in for numpy.ndarray: shape and dtype are known, and `read` reads the data.

    A pickle creates an empty array, and then sets its state.
    """

    def __init__(self, *_: Any) -> None:
        """Make an empty array, like NumPy's `_reconstruct`, whose arguments are ignored."""
        self.shape: tuple[int, ...] = (0,)
        self.dtype = np.dtype("f4")
        self.order: Literal["C", "F"] = "C"
        self.data: bytes | LongBytes = b""

    def set_state(self, state: Any) -> None:
        """Set shape, dtype and data from the pickled state of an array.

        Raises:
            ValueError: the state is not that of a numeric array.
        """
        _version, shape, dtype, is_fortran, data = state
        if not isinstance(data, bytes | LongBytes) or not isinstance(dtype, _Dtype):
            raise ValueError("an array without data")
        self.shape = check_sizes(shape)
        self.dtype = dtype.numpy_dtype
        self.order = "F" if is_fortran else "C"
        self.data = data
        check_shape(self.shape, self.dtype)
        length = data.length if isinstance(data, LongBytes) else len(data)
        if length != math.prod(self.shape) * self.dtype.itemsize:
            raise ValueError(f"{length} bytes for an array of shape {list(self.shape)}")

    def read(self, file: IO[bytes]) -> np.ndarray:
        """Read the data of the array from the file of the pickle."""
        if isinstance(self.data, LongBytes):
            flat = read_numbers(file, self.dtype, math.prod(self.shape), self.data.offset)
        else:
            flat = np.frombuffer(self.data, self.dtype)
        return flat.reshape(self.shape, order=self.order)


def check_sizes(axes: Any) -> tuple[int, ...]:
    """Return a tuple of sizes or strides unchanged, if valid.

    Raises:
        ValueError: the argument is not a tuple of integers, or an integer is negative or too large.
    """
    if isinstance(axes, tuple) and all(type(size) is int and 0 <= size < _TOO_LARGE for size in axes):
        return axes
    raise ValueError("an array without a shape, or with a negative or very large size")


_STAND_INS: dict[str, Any] = {
    "collections.OrderedDict": lambda: OrderedDict(),  # without items, which the class would copy
    "numpy.ndarray": "numpy.ndarray",  # not callable; an argument of `_reconstruct`
    "numpy.dtype": _Dtype,
    "numpy.core.multiarray._reconstruct": Array,  # its name up to NumPy 1
    "numpy._core.multiarray._reconstruct": Array,
}


class _BoundedReader:
    """A file that is never read beyond its end, even if a corrupt pickle contains a huge length."""

    def __init__(self, file: IO[bytes]):
        position = file.tell()
        self.file = file
        self.size = file.seek(0, os.SEEK_END)
        file.seek(position)

    def check_remaining(self, count: int) -> None:
        """Check that the file has at least `count` more bytes.

        Raises:
            EOFError: there are fewer, or `count` is negative.
        """
        if count < 0 or count > self.size - self.file.tell():
            raise EOFError("unexpected end of file")

    def read(self, count: int) -> bytes:
        """Read the next `count` bytes.

        Raises:
            EOFError: there are fewer, or `count` is negative.
        """
        self.check_remaining(count)
        return self.file.read(count)

    def readline(self) -> bytes:
        """Read a line, which in a pickle contains a name; at most _LONG bytes."""
        return self.file.readline(_LONG)


class _WeightsUnpickler(pickle._Unpickler):
    """An unpickler that only resolves names in a table of stand-ins."""

    stack: list[Any]  # the base class sets both when loading starts
    append: Callable[[Any], None]

    def __init__(self, file: IO[bytes], path: Path, stand_ins: Mapping, persistent_load: Callable | None):
        self.stream = _BoundedReader(file)
        self.path = path
        self.stand_ins = stand_ins
        super().__init__(self.stream)
        if persistent_load is not None:
            self.persistent_load = persistent_load  # type: ignore[method-assign]  # pickle looks it up on the object

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for a name that the pickle refers to.

        Raises:
            UserError: the name is not allowed.
        """
        dotted = f"{module}.{name}"
        if dotted not in self.stand_ins:
            raise UserError(
                f"{self.path}: contains {dotted[:100]}; only arrays and plain containers are allowed. "
                "Save the weights only, preferably as model.safetensors"
            )
        return self.stand_ins[dotted]

    def _skip_frame(self) -> None:
        """Execute FRAME: skip the frame's length, 8 bytes. The base class would load the whole frame."""
        self.stream.read(8)

    def _push_bytes(self, struct_format: str) -> None:
        """Execute BINBYTES: push a bytes object, or a `LongBytes`, onto the stack.

        Args:
            struct_format: `struct` format of the length that precedes the bytes.
        """
        (length,) = struct.unpack(struct_format, self.stream.read(struct.calcsize(struct_format)))
        if length < _LONG:
            self.append(self.stream.read(length))
        else:
            self.stream.check_remaining(length)
            self.append(LongBytes(self.stream.file.tell(), length))
            self.stream.file.seek(length, os.SEEK_CUR)

    def _call(self) -> None:
        """Execute REDUCE: replace a callable and its arguments on the stack with the result of the call.

        Raises:
            ValueError: the object is not callable, or the arguments are not a tuple.
        """
        arguments = self.stack.pop()
        function = self.stack[-1]
        if not callable(function) or not isinstance(arguments, tuple):
            raise ValueError("call of a function that is not allowed")
        self.stack[-1] = function(*arguments)

    def _build(self) -> None:
        """Execute BUILD: pop a state from the stack, and set it on the object below.

        Raises:
            ValueError: the object does not accept a state.
        """
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, _Dtype | Array):
            target.set_state(state)
        elif isinstance(target, Attributes) and type(state) is dict:
            target.update(state)
        elif not isinstance(target, OrderedDict):  # torch sets attributes on its dict, which are ignored
            raise ValueError(f"a state for a {type(target).__name__}")

    def _set_items(self, keys_and_values: list) -> None:
        """Execute SETITEMS: add alternating keys and values to the dict on the stack.

        Raises:
            ValueError: a key is not of a simple type, or the object is not a dict.
        """
        keys = keys_and_values[::2]
        values = keys_and_values[1::2]
        for key in keys:
            if type(key) not in _KEY_TYPES:  # hashing a deeply nested tuple would crash Python
                raise ValueError(f"a key of type {type(key).__name__}")
        if not isinstance(self.stack[-1], dict):
            raise ValueError("items set on an object that is not a dict")
        self.stack[-1].update(zip(keys, values, strict=True))

    # Opcode -> the method that executes it. `pickle` has each opcode as a bytes object of one byte; [0] is
    # the byte as a number.
    dispatch = {code[0]: pickle._Unpickler.dispatch[code[0]] for code in _PLAIN_OPCODES} | {
        pickle.FRAME[0]: _skip_frame,
        pickle.BINBYTES[0]: lambda self: self._push_bytes("<I"),
        pickle.BINBYTES8[0]: lambda self: self._push_bytes("<Q"),
        pickle.SETITEM[0]: lambda self: self._set_items([self.stack.pop(-2), self.stack.pop()]),
        pickle.SETITEMS[0]: lambda self: self._set_items(self.pop_mark()),
        pickle.REDUCE[0]: _call,
        pickle.NEWOBJ[0]: _call,
        pickle.BUILD[0]: _build,
    }


def read_pdparams(path: Path) -> Weights:
    """Open a state dict of paddle.save; an array is read when it is accessed.

    bfloat16 is returned as its bits in uint16.

    Raises:
        UserError: the file is missing, truncated, changed or not a state dict, or contains objects other
            than arrays and plain containers.
    """
    opened = WeightsFile(path, _FORM)
    with opened.open_binary() as pickled:
        state = load(pickled, path)
        is_state_dict = isinstance(state, dict) and all(isinstance(name, str) for name in state)
        if not is_state_dict:
            raise ValueError("not a state dict")
    state.pop("StructuredToParameterName@@", None)  # Paddle's internal names
    # A tensor within containers is a pair: its name and its array.
    values = {
        name: value[1] if isinstance(value, tuple) and len(value) == 2 else value
        for name, value in state.items()
    }
    arrays = {name: value for name, value in values.items() if isinstance(value, Array)}

    def fetch(name: str) -> np.ndarray:
        with opened.open_binary() as file:
            return arrays[name].read(file)

    shapes = {name: array.shape for name, array in arrays.items()}
    other_names = [name for name in state if name not in arrays]
    return Weights(path, shapes, fetch, other_names=other_names)


# The pickle is written manually, because the pickle library would need every array in memory at once.
_BEGIN_PICKLE = pickle.PROTO + b"\x04" + pickle.EMPTY_DICT + pickle.MARK
_END_PICKLE = pickle.SETITEMS + pickle.STOP  # all items since the mark
# NumPy's _reconstruct(ndarray, (0,), b"b"); NumPy 1 and 2 both know the name.
_RECONSTRUCT = b"\x8c\x15numpy.core.multiarray\x8c\x0c_reconstruct\x93"
_NEW_ARRAY = _RECONSTRUCT + b"\x8c\x05numpy\x8c\x07ndarray\x93K\x00\x85C\x01b\x87R"
# dtype("f4", False, True), and its state (3, "<", None, None, None, -1, -1, 0).
_DTYPE_F4 = b"\x8c\x05numpy\x8c\x05dtype\x93\x8c\x02f4\x89\x88\x87R"
_LITTLE_ENDIAN = b"(K\x03\x8c\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"


def write_pdparams(path: str | os.PathLike, weights: Mapping[str, np.ndarray]) -> None:
    """Write a state dict in float32 for paddle.load, one array at a time. Not atomic."""
    with open(path, "wb") as file:
        file.write(_BEGIN_PICKLE)
        for name in weights:
            array = np.asarray(weights[name], dtype="<f4", order="C")
            encoded_name = name.encode("utf-8")
            file.write(pickle.BINUNICODE + struct.pack("<I", len(encoded_name)) + encoded_name)
            file.write(_NEW_ARRAY)
            # The array's state is the tuple (1, shape, dtype, False, data); False: C order.
            file.write(pickle.MARK + pickle.BININT1 + b"\x01")
            shape = b"".join(pickle.LONG1 + b"\x08" + struct.pack("<q", size) for size in array.shape)
            file.write(pickle.MARK + shape + pickle.TUPLE)
            file.write(_DTYPE_F4 + _LITTLE_ENDIAN)
            file.write(pickle.NEWFALSE)
            file.write(pickle.BINBYTES8 + struct.pack("<Q", array.nbytes))
            write_data(file, array)
            file.write(pickle.TUPLE + pickle.BUILD)
        file.write(_END_PICKLE)
