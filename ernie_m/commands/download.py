"""Download public data sets, released weights, multilingual E5-small, or text.

ernie-m download data xnli mlqa
ernie-m download weights vocab base
ernie-m download e5-small
ernie-m download text data/public
"""

import sys
from importlib import import_module

from ernie_m.utils.errors import UserError, say

# Kind of download -> the module whose `main` runs it.
KINDS = {
    "data": "download_data_sets",
    "weights": "download_weights",
    "e5-small": "download_e5_small",
    "text": "download_text",
}


def main() -> None:
    """Run `ernie-m download`.

    Raises:
        UserError: the kind of download is unknown, or the download fails.
    """
    kind, *words = sys.argv[1:] or ["--help"]
    if kind in ("-h", "--help"):
        say(f"usage: ernie-m download {'|'.join(KINDS)} ... (each has a --help)", "", __doc__)
        return
    if kind not in KINDS:
        raise UserError(f"download: invalid choice '{kind}' (choose from {', '.join(KINDS)})")
    sys.argv[:] = [f"download {kind}", *words]
    import_module(f"ernie_m.data.{KINDS[kind]}").main()
