"""Time the server under load, beside `encode` on the same texts and beside the server of another checkout.

    .venv/bin/python scripts/benchmarks/serve.py WEIGHTS TEXT
    .venv/bin/python scripts/benchmarks/serve.py WEIGHTS TEXT --amp bf16 --before ../another-checkout
    .venv/bin/python scripts/benchmarks/serve.py WEIGHTS TEXT --soak 20000    # does its memory grow?

Each client sends one text, waits for its vector, and sends the next; no text is sent twice. Meanwhile a probe
asks for the state of the server. The load comes from this machine and is bounded by --texts.
"""

from ernie_m.utils.first_import import run

import asyncio
import contextlib
import itertools
import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

from ernie_m.tokenizer.tokenizer import Tokenizer
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import read_text
from ernie_m.utils.load_config import load_config
from ernie_m.utils.options import PositiveInt, option
from ernie_m.utils.text_tables import in_markdown
from scripts.benchmarks.turns import OURS, ROOT, WORK, Contender, started, turn

LARGEST = 1 << 30  # bytes of TEXT
LENGTHS = range(10, 201)  # tokens of a text of the load
LONG = 256  # texts of the long request, beside which a short one is sent
SHORT = "Good morning."
STATE = "/health"  # what the probe asks for
BETWEEN_PROBES = 0.02  # seconds
SOAK_CLIENTS = 64
WARM_SOAK = 2000  # requests before the first look at the memory
START = 120  # seconds within which a server has loaded its model


@dataclass
class ServeBenchmark:
    """What is timed."""

    weights: str = option(positional=True)
    """A folder of weights, with its tokenizer."""

    text: str = option(positional=True)
    """A file with a text in each line."""

    clients: str = "1,8,64"
    """How many clients ask at the same time, one figure after the other."""

    texts: PositiveInt = 400
    """Texts of a turn; one client sends an eighth of them."""

    turns: PositiveInt = 2
    """Turns of each contender, with other texts in each."""

    amp: Literal["none", "bf16"] = "none"
    """The precision of all contenders."""

    before: str | None = None
    """Another checkout of this project, of the same layout, whose server is timed, too."""

    soak: int = 0
    """So many requests more, between whose beginning and end the memory of the server is compared."""


class Running(NamedTuple):
    """A server that runs.

    Attributes:
        pid: its process.
    """

    port: int
    pid: int


def main() -> None:
    flags = load_config(ServeBenchmark, None, __doc__)
    try:
        levels = [int(count) for count in flags.clients.split(",")]
    except ValueError as error:
        raise UserError(f"--clients {flags.clients}: give numbers with commas between them") from error
    texts = texts_of(flags, flags.texts * flags.turns * len(levels) + LONG)
    asyncio.run(compare(flags, levels, texts))


def texts_of(flags: ServeBenchmark, needed: int) -> list[tuple[str, int]]:
    """So many different texts of all lengths of LENGTHS, each with its number of tokens.

    Of each of ten groups of lengths there are as many, as far as TEXT has them.

    Raises:
        UserError: TEXT has too few.
    """
    lines = dict.fromkeys(line.strip() for line in read_text(flags.text, LARGEST).splitlines())
    tokenizer = Tokenizer.from_folder(Path(flags.weights))
    counted = [(line, len(ids) + 2) for line, ids in zip(lines, tokenizer.encode_batch(list(lines)))]
    usable = [pair for pair in counted if pair[1] in LENGTHS]
    if len(usable) < needed:
        raise UserError(f"{flags.text}: {len(usable)} texts of 10 to 200 tokens; {needed} are needed")
    draw = random.Random(1)
    groups: dict[int, list[tuple[str, int]]] = {}
    for pair in draw.sample(usable, len(usable)):
        groups.setdefault(10 * (pair[1] - LENGTHS.start) // len(LENGTHS), []).append(pair)
    in_turns = [pair for row in itertools.zip_longest(*groups.values()) for pair in row if pair]
    return draw.sample(in_turns[:needed], needed)


async def compare(flags: ServeBenchmark, levels: list[int], texts: list[tuple[str, int]]) -> None:
    """Run all turns, and print a table and, as the last line, its figures in JSON."""
    checkouts = {"server": ROOT} | ({"before": Path(flags.before)} if flags.before else {})
    rows: dict[str, dict[str, Any]] = {}
    parts = iter_parts(flags, levels, texts)
    batches = [[text for text, _ in part] for _, part in parts]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        given = {"weights": flags.weights, "amp": flags.amp, "batches": batches}
        (Path(folder) / WORK).write_text(json.dumps(given), encoding="utf-8")
        encoder = stack.enter_context(started("serve", OURS, CONTENDERS[OURS], folder))
        servers = {
            name: stack.enter_context(serving(command_of(flags), checkout))
            for name, checkout in checkouts.items()
        }
        for server in servers.values():
            await ready(server)
        turn(OURS, encoder, 0)  # the first batch touches fresh memory
        for number, (clients, part) in enumerate(parts):
            tokens = sum(count for _, count in part)
            seconds = turn(OURS, encoder, number)["seconds"]
            note(
                rows,
                f"encode, {clients} clients",
                {"tokens/s": tokens / seconds, "texts/s": len(part) / seconds},
            )
            for name, server in servers.items():
                note(rows, f"{name}, {clients} clients", await load(server, clients, part))
        long_texts = [text for text, _ in texts[-LONG:]]
        for name, server in servers.items():
            row = {"short beside long ms": 1000 * await short_beside_long(server, long_texts)}
            note(rows, f"{name}, a text beside {LONG}", row | {"memory MB": memory_of(server)})
            if flags.soak:
                row = await soak(server, texts, flags.soak)
                note(rows, f"{name}, {flags.soak} requests of {SOAK_CLIENTS} clients", row)
    print_table(rows)


def iter_parts(flags: ServeBenchmark, levels: list[int], texts: list[tuple[str, int]]) -> list:
    """(number of clients, the texts of a turn) for each turn."""
    parts = []
    first = 0
    for _ in range(flags.turns):
        for clients in levels:
            count = flags.texts if clients > 1 else max(1, flags.texts // 8)
            parts.append((clients, texts[first : first + count]))
            first += count
    return parts


def command_of(flags: ServeBenchmark) -> list[str]:
    """The command that serves, in the folder of a checkout."""
    weights = str(Path(flags.weights).resolve())
    return [sys.executable, "-m", "ernie_m", "predict", "--serve", "--model", weights, "--amp", flags.amp]


@contextlib.contextmanager
def serving(command: list[str], folder: Path) -> Iterator[Running]:
    """Start a server on a free port; it is ended afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    with subprocess.Popen(
        [*command, "--port", str(port)], cwd=folder, env=environment, stdout=sys.stderr
    ) as process:
        try:
            yield Running(port, process.pid)
        finally:
            process.kill()


async def ready(server: Running) -> None:
    """Wait until a server answers."""
    end = time.monotonic() + START
    while time.monotonic() < end:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            status, _ = await Client(server.port).ask(STATE)
            if status == 200:
                return
        await asyncio.sleep(0.5)
    raise UserError(f"the server on port {server.port} does not answer")


class Client:
    """A connection to the server, which is kept. So little is done here that the server has the cores."""

    def __init__(self, port: int):
        self.port = port
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, path: str, body: dict | None = None) -> tuple[int, bytes]:
        """Send a request, and return the status and the body of its answer."""
        if self.streams is None:
            self.streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self.streams
        data = b"" if body is None else json.dumps(body).encode()
        method = "GET" if body is None else "POST"
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", answer, re.IGNORECASE)
        content = await reader.readexactly(int(length[1]))
        if re.search(rb"connection: close", answer, re.IGNORECASE):
            self.close()
        return int(answer[9:12]), content

    def close(self) -> None:
        if self.streams is not None:
            self.streams[1].close()
            self.streams = None


def request_of(texts: str | list[str]) -> tuple[str, dict]:
    """The path and the body of a request for vectors."""
    return "/v1/embeddings", {"input": texts, "model": "any", "encoding_format": "base64"}


async def load(server: Running, clients: int, part: list[tuple[str, int]]) -> dict[str, float]:
    """Let so many clients send the texts of a part; returns the figures of the turn.

    Raises:
        UserError: an answer has another status than 200.
    """
    waiting = iter(part)
    seconds: list[float] = []

    async def send() -> None:
        client = Client(server.port)
        for text, _ in waiting:
            start = time.perf_counter()
            status, answer = await client.ask(*request_of(text))
            seconds.append(time.perf_counter() - start)
            if status != 200:
                raise UserError(f"the server answered {status}: {answer[:300]!r}")
        client.close()

    probe = asyncio.create_task(probes(server))
    start = time.perf_counter()
    await asyncio.gather(*[send() for _ in range(clients)])
    whole = time.perf_counter() - start
    probe.cancel()
    probed = sorted(await probe)
    tokens = sum(count for _, count in part)
    return {
        "tokens/s": tokens / whole,
        "texts/s": len(part) / whole,
        "p50 ms": 1000 * median(seconds),
        "p95 ms": 1000 * sorted(seconds)[int(0.95 * (len(seconds) - 1))],
        "probe p50 ms": 1000 * median(probed),
        "probe p99 ms": 1000 * probed[int(0.99 * (len(probed) - 1))],
    }


async def probes(server: Running) -> list[float]:
    """Ask for the state of the server until this is cancelled; returns the seconds of each answer."""
    client = Client(server.port)
    seconds = []
    start = time.perf_counter()
    try:
        while True:
            start = time.perf_counter()
            await client.ask(STATE)
            seconds.append(time.perf_counter() - start)
            await asyncio.sleep(BETWEEN_PROBES)
    except asyncio.CancelledError:
        return seconds or [time.perf_counter() - start]


async def short_beside_long(server: Running, long_texts: list[str]) -> float:
    """The median of the seconds of five short requests that come while a long one is answered."""
    seconds = []
    for _ in range(5):
        long_client, client = Client(server.port), Client(server.port)
        long_answer = asyncio.create_task(long_client.ask(*request_of(long_texts)))
        await asyncio.sleep(0.3)
        start = time.perf_counter()
        await client.ask(*request_of(SHORT))
        seconds.append(time.perf_counter() - start)
        long_client.close()  # it need not be answered
        client.close()
        long_answer.cancel()
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await long_answer
        await Client(server.port).ask(*request_of(SHORT))  # a server that computes for nobody still does
    return median(seconds)


async def soak(server: Running, texts: list[tuple[str, int]], requests: int) -> dict[str, float]:
    """The memory of a server before and after so many requests, of which each asks for one of the texts."""
    endless = itertools.cycle(texts)
    await load(server, SOAK_CLIENTS, list(itertools.islice(endless, WARM_SOAK)))
    before = memory_of(server)
    figures = await load(server, SOAK_CLIENTS, list(itertools.islice(endless, requests)))
    return figures | {"memory before MB": before, "memory MB": memory_of(server)}


def memory_of(server: Running) -> float:
    """The resident memory of a server in MB."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1000


def note(rows: dict[str, dict[str, Any]], name: str, figures: dict[str, float]) -> None:
    """Add the figures of a turn to those of its row of the table."""
    row = rows.setdefault(name, {})
    for key, value in figures.items():
        row.setdefault(key, []).append(value)


def print_table(rows: dict[str, dict[str, Any]]) -> None:
    """Print the median of each figure over the turns."""
    medians = {
        name: {key: round(median(values), 1) for key, values in row.items()} for name, row in rows.items()
    }
    keys = list(dict.fromkeys(key for row in medians.values() for key in row))
    lines = [["", *keys]]
    for name, row in medians.items():
        lines.append([name, *[f"{row[key]:,g}" if key in row else "" for key in keys]])
    print(in_markdown(lines))
    print(json.dumps({"benchmark": "serve", "contenders": medians}))


def encode(given: dict[str, Any]) -> Callable[[list[str]], Any]:
    """What `ernie_m.load(...).encode` does, in one call for all texts of a turn."""
    from ernie_m.inference.load import load as load_model
    from ernie_m.inference.tasks import make_answerer

    return partial(make_answerer("encode", load_model(given["weights"], amp=given["amp"])).vectors)


CONTENDERS = {OURS: Contender(encode)}


if __name__ == "__main__":
    run(main)
