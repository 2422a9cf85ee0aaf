"""The operations of Paddle that Python code calls, with the tensors that they take and return."""

from dataclasses import dataclass

import paddle
from paddle import Tensor

# Methods of tensors that C++ implements without `paddle._C_ops` -> the operation that they do.
_OPERATORS = {
    "__add__": "add",
    "__radd__": "add",
    "__sub__": "subtract",
    "__rsub__": "subtract",
    "__mul__": "multiply",
    "__rmul__": "multiply",
    "__truediv__": "divide",
    "__matmul__": "matmul",
    "__ge__": "greater_equal",
    "__lt__": "less_than",
}
# These make another view of the same memory.
_VIEWS = {"reshape", "squeeze", "unsqueeze", "slice", "transpose", "flatten", "view_shape", "split"}


@dataclass(frozen=True)
class TensorFacts:
    """What a tensor was when an operation took or returned it."""

    shape: list[int]
    dtype: paddle.dtype

    @property
    def size(self) -> int:
        """The number of its elements."""
        size = 1
        for length in self.shape:
            size *= length
        return size


@dataclass(frozen=True)
class Operation:
    """One call."""

    name: str
    inputs: list[TensorFacts]
    outputs: list[TensorFacts]


class Operations(list[Operation]):
    """The calls since `begin`, in order."""

    is_recording = False

    def begin(self) -> None:
        """Forget the calls so far, and record those that follow."""
        self.clear()
        self.is_recording = True

    def bytes_of_tensors_with(self, size: int, bytes_each: dict[paddle.dtype, int]) -> int:
        """The bytes of all inputs and outputs with at least `size` elements. Views move nothing.

        `bytes_each`: dtype -> the bytes of an element; other dtypes are not counted.
        """
        total = 0
        for call in self:
            if call.name.rstrip("_") in _VIEWS:  # "reshape_" is "reshape" in place
                continue
            for tensor in (*call.inputs, *call.outputs):
                if tensor.size >= size:
                    total += tensor.size * bytes_each.get(tensor.dtype, 0)
        return total


def recorded_operations(monkeypatch) -> Operations:
    """Record the operations of this process until the test ends. Call `begin` on the result."""
    operations = Operations()

    def record(owner, name: str, operation: str) -> None:
        original = getattr(owner, name)

        def call(*args, **options):
            inputs = _facts([*args, *options.values()])  # before an operation in place changes them
            results = original(*args, **options)
            if operations.is_recording:
                operations.append(Operation(operation, inputs, _facts([results])))
            return results

        monkeypatch.setattr(owner, name, call)

    for name in dir(paddle._C_ops):
        if not name.startswith("_"):
            record(paddle._C_ops, name, name)
    for name, operation in _OPERATORS.items():
        record(paddle.Tensor, name, operation)
    return operations


def _facts(values) -> list[TensorFacts]:
    """What the tensors among the values are, also those in lists and tuples among them."""
    facts = []
    for value in values:
        if isinstance(value, Tensor):
            facts.append(TensorFacts(value.shape, value.dtype))
        elif isinstance(value, list | tuple):
            facts.extend(_facts(value))
    return facts
