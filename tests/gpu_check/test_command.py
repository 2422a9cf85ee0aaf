"""scripts/gpu_check.py on a CPU: what it runs and skips, and how it ends."""

import pytest

from scripts.gpu.report import Failed, compare, difference, run_checks
from tests.gpu_check.conftest import results
from tests.launching import ROOT, run_script
from utils import __version__

NEEDS_A_GPU = ("device", "flash mask", "overflow", "step")


@pytest.mark.slow
def test_a_cpu_passes(tmp_path):
    process = run_script([ROOT / "scripts" / "gpu_check.py", "--quick"], tmp_path)
    assert (process.returncode, process.stderr) == (0, ""), process.stdout + process.stderr
    of_checks = results(process.stdout)
    for name, result in of_checks.items():
        assert result["result"] == ("skipped" if name in NEEDS_A_GPU else "ok"), name
    assert "when one is killed the other ends" in of_checks["processes"]["message"]
    assert "% of the speed of a large product" in of_checks["speed"]["message"]
    for fact in (f"ernie-m {__version__}, commit ", "paddlepaddle ", " cores, ", "OMP_NUM_THREADS="):
        assert fact in of_checks["environment"]["message"]


def test_the_largest_difference_counts():
    """Relative to the largest exact value of its array: 0.5 of 2, and not 10 of 110."""
    assert difference([[1.0, 2.5], [100.0]], [[1.0, 2.0], [110.0]]) == 0.25


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_values_that_are_not_finite_differ_from_all(number):
    finite = [1.0, 2.0]
    not_finite = [number, 2.0]
    for values, exact in ((not_finite, finite), (finite, not_finite), (not_finite, not_finite)):
        with pytest.raises(Failed, match="the loss is off by inf"):
            compare("the loss", [values], [exact], bound=1.0, advice="stop")


# Three checks, with the argument that the command gives them.
def broken(quick: bool) -> str:
    raise Failed("the card is on fire; fetch water")


def surprising(quick: bool) -> str:
    raise OSError("CUDA error(700), an illegal memory access was encountered")


def well(quick: bool) -> str:
    return "well"


def test_a_failed_check_ends_with_1_and_the_others_run(capsys):
    checks = {"first": broken, "second": surprising, "third": well}
    assert run_checks(quick=True, checks=checks) == 1
    printed = capsys.readouterr().out
    assert printed.startswith("1 of 3 first: failed: ")
    first, second, third = results(printed).values()
    assert first["message"] == "the card is on fire; fetch water"
    assert second["result"] == "failed" and "error(700)" in second["message"]
    assert third["result"] == "ok"


def test_without_the_right_paddle_the_other_checks_are_left_out(capsys):
    """The check "device" is needed: after it has failed no other one runs."""
    checks = {"device": broken, "then": well}
    assert run_checks(quick=True, checks=checks, needed=["device"]) == 1
    assert list(results(capsys.readouterr().out)) == ["device"]
