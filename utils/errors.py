"""A user's mistake is one line and exit code 2, never a traceback."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """Input that the user can put right. The message is one line: what, where, what to do."""


def run(main: Callable[[], None]) -> None:
    """Call `main()`. A `UserError` is printed as one line and ends the process with 2, Ctrl-C with 130."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        sys.exit(130)
