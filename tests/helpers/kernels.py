"""What a test needs of the kernels of a CPU."""

import pytest

from ernie_m.model.cpu import mkl

needs_mkl = pytest.mark.skipif(not mkl.is_supported(), reason="the installed Paddle has no MKL")
