"""Convert, and print by how many MiB the process grew: python memory_script.py FROM TO --to FORMAT."""

import resource
import sys

from ernie_m.commands import convert

# What ernie-m convert imports in `main`, so that its memory is not counted.
from ernie_m.model.checkpoint import write_foreign  # noqa: F401

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
convert.main(sys.argv[1:])
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(f"grew by {(after - before) / 1024:.1f} MiB, to {after / 1024:.0f} MiB", file=sys.stderr)
