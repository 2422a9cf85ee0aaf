"""Several runs one after the other, in each of several processes: for test_four_processes.py.

<corpus> <output> <flags of the runs as JSON: name of the run -> changes>
"""

import json
import sys
from pathlib import Path

from tests.pretrain.tiny_run import pretrain

if __name__ == "__main__":
    corpus, output, runs = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    for name, changes in runs.items():
        pretrain(corpus, output / name, **changes)
