"""Serve a demo page and an HTTP API until Ctrl-C. See docs/serving.md.

ernie-m serve --model checkpoints/best,pretrained/full --corpus corpus.txt
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from ernie_m.inference.prediction_options import PredictorFlags
from ernie_m.utils.args import option, parse_options
from ernie_m.utils.errors import UserError, get_install_command
from ernie_m.utils.logging import logger, setup_console
from ernie_m.utils.value_types import Names, PositiveInt, Range


@dataclass(kw_only=True)
class ServeFlags(PredictorFlags):
    """Command-line options of `ernie-m serve`."""

    model: Names
    """Checkpoints in any supported format, or directories of ernie-m export, each for a different task."""

    corpus: Names | None = option(None, needed=True)
    """Text files to search, one text per line, optionally with their languages, as in
    de<=de.txt,fr<=fr.txt."""

    host: str = "127.0.0.1"
    """Address to listen on (127.0.0.1: reachable from this machine only)."""

    port: Annotated[int, Range(at_least=1, at_most=65535)] = option(8000, needed=True)
    """Port to listen on."""

    allowed_hosts: Names | None = None
    """Names that a proxy sends in the header Host, such as ml.example.org (default: only those of this
    machine, if --host is this machine, otherwise any)."""

    token_file: str | None = None
    """File with the bearer token that requests must send (alternative: the environment variable
    ERNIE_M_TOKEN)."""

    max_queue: PositiveInt = 4096
    """Maximum number of queued texts; further requests get status 503."""

    max_batch_tokens: PositiveInt = 1024
    """Approximate maximum number of tokens per batch and thread."""

    timeout: PositiveInt = 300
    """Request timeout in seconds."""

    log_level: Literal["info", "warning"] = "info"
    """Log level (info: one line per request, without its texts)."""


def main() -> None:
    """Run `ernie-m serve`."""
    flags = parse_options(ServeFlags, None, __name__)
    # Imported here, so that --help is fast.
    try:
        from ernie_m.inference.server.app import read_token, serve
    except ImportError as error:
        raise UserError(f"ernie-m serve requires {error.name}: {get_install_command('serve')}") from error
    from ernie_m.inference.load import load

    options = flags.get_prediction_options()
    setup_console()  # also shows the progress of encoding the corpus
    token = read_token(flags.token_file)
    logger.setLevel(flags.log_level.upper())
    models = [load(folder, engine=flags.engine, amp=flags.amp) for folder in flags.model.split(",")]
    serve(
        models,
        options,
        flags.host,
        flags.port,
        token,
        max_queue=flags.max_queue,
        max_batch_tokens=flags.max_batch_tokens,
        timeout=flags.timeout,
        allowed_hosts=flags.allowed_hosts.split(",") if flags.allowed_hosts else (),
    )
