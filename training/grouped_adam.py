"""AdamW on many parameters in one kernel, for a GPU, where starting a kernel takes longest."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from typing import NamedTuple

import paddle
from paddle import Tensor

CHUNK = 1 << 16  # numbers that a block of the kernel updates


class AdamState(NamedTuple):
    """A parameter and its state in AdamW."""

    parameter: Tensor
    moment1: Tensor
    moment2: Tensor
    beta1_power: Tensor  # [1], on the CPU: beta1 ** (updates so far + 1)
    beta2_power: Tensor  # [1], on the CPU: the same of beta2


class AdamGroup(NamedTuple):
    """Parameters that one kernel updates.

    They have the same rate, the same decay and equal powers, because the kernel reads only the powers of the
    first one. Gradients must have the dtype of their parameters, which the kernel does not check
    (paddle/phi/kernels/gpu/fused_adam_kernel.cu).
    """

    states: list[AdamState]
    decay: float  # the coefficient of weight decay

    def update(
        self, gradients: Mapping[str, Tensor], rate: Tensor, beta1: float, beta2: float, epsilon: float
    ) -> None:
        """Update all parameters.

        Args:
            gradients: name of a parameter -> its gradient.
            rate: the learning rate, [1].
            beta1, beta2, epsilon: of Adam.
        """
        paddle._C_ops.fused_adam_(
            [state.parameter for state in self.states],
            [gradients[state.parameter.name] for state in self.states],
            rate,
            [state.moment1 for state in self.states],
            [state.moment2 for state in self.states],
            None,  # the largest second moments, of AMSGrad
            [state.beta1_power for state in self.states],
            [state.beta2_power for state in self.states],
            None,  # the master weights
            None,  # whether a gradient is not finite
            beta1,
            beta2,
            epsilon,
            CHUNK,
            self.decay,
            True,  # decoupled decay
            False,  # multi-precision
            False,  # global powers of the betas
            False,  # AMSGrad
        )


def grouped(states: Iterable[tuple[Hashable, float, AdamState]]) -> list[AdamGroup]:
    """Groups of parameters with the same key and the same decay, in the order of their first parameters.

    Args:
        states: for each parameter (key, coefficient of decay, state). Parameters whose rates or powers differ
            must have different keys.
    """
    groups: dict[tuple[Hashable, float], list[AdamState]] = defaultdict(list)
    for key, decay, state in states:
        groups[key, decay].append(state)
    return [AdamGroup(of_group, decay) for (_, decay), of_group in groups.items()]
