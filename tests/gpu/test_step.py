"""Two steps and a held-out loss of every objective and task in each precision, against float64 on a CPU."""

import pytest

from ernie_m.training.precision import DTYPES, Precision
from tests.gpu import toys
from tests.gpu.conftest import difference

HALF_BOUND = 3e-2  # of losses and gradient norms
FLOAT32_BOUND = 1e-4
PRECISIONS = [("none", "O1"), ("bf16", "O1"), ("fp16", "O1"), ("bf16", "O2"), ("fp16", "O2")]


@pytest.mark.parametrize(("amp", "level"), PRECISIONS)
def test_two_steps_equal_float64(exact, location, bound, check, amp, level):
    limit = bound(DTYPES.get(amp, "float32"))
    differences = []
    for name in toys.NAMES:
        results = toys.train_and_evaluate(name, "float32", Precision(amp, level, loss_scaling=toys.SCALING))
        differences.append(difference([[value] for value in results], [[value] for value in exact[name]]))
    check(max(differences), max(limit, FLOAT32_BOUND) if amp == "none" else HALF_BOUND)
