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


def test_overflow_is_skipped(location, bound, check):
    """In float16 an infinite loss changes no weight and halves the scale; the next step is applied."""
    bound("float16")
    engine = toys.engine_for(
        toys.make_model("float32"), Precision("fp16", loss_scaling=toys.OVERFLOW_SCALING)
    )
    compute_loss = toys.make_objectives_loss()
    scales, skipped, norms = [], [], []
    for factor in (1.0, float("inf"), 1.0):

        def compute_scaled_loss(model, batch, factor=factor):
            total, sums = compute_loss(model, batch)
            return total * factor, sums

        skipped.append(engine.step(toys.send_micro_batches(engine, "mmlm"), compute_scaled_loss).skipped)
        scales.append(float(engine.scaler.state_dict()["scale"]))
        norms.append([float(parameter.square().sum()) for parameter in engine.model.parameters()])
    assert skipped == [False, True, False] and scales[1:] == [scales[0] / 2] * 2
    assert norms[2] != norms[1]
    check(difference([norms[1]], [norms[0]]), 0.0)
