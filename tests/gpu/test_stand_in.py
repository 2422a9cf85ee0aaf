"""The checks on a stand-in for a card, which computes on this machine in memory that only it may touch."""

import re
import shutil
import subprocess

import paddle
import pytest

from scripts.gpu_check import END
from tests.launching import ROOT, check_success, run_script

BOUND = 1e-6  # of all losses and norms in float32, relative to those in float64 on a CPU


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile the device")
def test_the_checks_on_a_stand_in(tmp_path):
    """A segmentation fault is a program that takes the card's memory for its own; the lines say where."""
    command = ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", ROOT / "tests" / "gpu" / "stand_in.cc"]
    command += [f"-I{paddle.sysconfig.get_include()}", f"-L{paddle.sysconfig.get_lib()}"]
    command += ["-l:libphi_core.so", "-l:libcommon.so", "-o", tmp_path / "libstand_in.so"]
    subprocess.run(command, check=True)
    # Without the flag a reshape shares memory, for which a device needs three more kernels. A CPU
    # makes workers of two threads, and a card must not.
    device = {"CUSTOM_DEVICE_ROOT": str(tmp_path), "FLAGS_use_stride_kernel": "0", "OMP_NUM_THREADS": "2"}
    # Every type and level once; what the stand-in cannot do is skipped.
    chosen = "-k 'attention or loss or none-O1 or bf16-O1 or fp16-O2 or stage or export'"
    command = [ROOT / "scripts" / "gpu_check.py"]
    process = check_success(run_script(command, tmp_path, **device, PYTEST_ADDOPTS=chosen))
    checks = [line for line in process.stdout.splitlines() if ", at most " in line]
    assert len(checks) == 10 and all(": ok (" in line for line in checks), process.stdout
    assert process.stdout.splitlines()[-2:] == ["10 ok, 4 skipped, 0 failed", END], process.stdout
    (figure,) = re.findall(r"^two steps equal float64\[none-O1\]: ([^,]+),", process.stdout, re.MULTILINE)
    assert float(figure) < BOUND
