"""What a test needs of the kernels of a CPU."""

import pytest

from ernie_m.model.kernel_selection import get_services

CpuMask = get_services().get_mask_class()  # None without MKL, or without `ernie_m/model/cpu`
needs_mkl = pytest.mark.skipif(CpuMask is None, reason="no unpadded attention here")
