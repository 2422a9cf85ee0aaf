"""The files of scripts/deploy/ start the server with flags that it has, and keep its bounds."""

import re
import shlex
import subprocess
import sys

import pytest
import yaml

from ernie_m.commands.serve import ServeFlags
from ernie_m.inference.load import load
from ernie_m.inference.server.app import LONGEST_TEXT, MOST_KEYS, MOST_TEXTS, THIS_MACHINE
from ernie_m.inference.server.middleware import LONGEST_BODY, LONGEST_WAIT
from ernie_m.inference.server.request_queue import MOST_CHARACTERS
from ernie_m.utils.args import parse_options
from tests.inference.served import running
from tests.launching import ROOT

DEPLOY = ROOT / "scripts/deploy"
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in DEPLOY.iterdir()}
COMPOSE = yaml.safe_load(TEXTS["compose.yaml"])["services"]["ernie-m"]
UNIT_COMMAND = re.search("^ExecStart=.*/ernie-m (.*)$", TEXTS["ernie-m.service"], re.MULTILINE)[1]


@pytest.mark.parametrize(
    ("command", "seconds"),
    [
        (UNIT_COMMAND, re.search(r"TimeoutStopSec=(\d+)", TEXTS["ernie-m.service"])[1]),
        (COMPOSE["command"], COMPOSE["stop_grace_period"].removesuffix("s")),
        ("serve --model m", re.search(r"proxy_read_timeout (\d+)s;", TEXTS["nginx.conf"])[1]),
    ],
    ids=["systemd", "compose", "nginx"],
)
def test_a_stop_waits_for_requests(command, seconds):
    name, *flags = shlex.split(command)
    assert name == "serve" and int(seconds) > parse_options(ServeFlags, flags).timeout


def test_the_proxy_keeps_the_bounds():
    assert int(re.search(r"client_max_body_size (\d+)m;", TEXTS["nginx.conf"])[1]) << 20 == LONGEST_BODY
    assert re.search("proxy_set_header Host (.*);", TEXTS["nginx.conf"])[1] in THIS_MACHINE


def test_the_manual_names_the_limits():
    flags = vars(parse_options(ServeFlags, ["--model", "m"]))
    limits = [
        *(
            f"`--{name}` {flags[name]}"
            for name in ("host", "port", "max_queue", "timeout", "max_batch_tokens")
        ),
        f" {LONGEST_BODY >> 20} MiB per body",
        f" {LONGEST_WAIT} seconds to receive it",
        f" {MOST_KEYS} keys, {MOST_TEXTS:,} texts of {LONGEST_TEXT:,} characters",
        f" {MOST_CHARACTERS >> 20} Mi characters in a request",
    ]
    page = (ROOT / "docs/serving.md").read_text(encoding="utf-8")
    assert [limit for limit in limits if limit not in page] == []


def test_the_health_check(models):
    _, *command = COMPOSE["healthcheck"]["test"]
    address = "http://127.0.0.1:8000"
    assert address in command[-1]
    with running([load(models / "classify")]) as served:
        for path, code in ((served, 0), (f"{served}/none", 1)):
            words = [sys.executable, *command[1:-1], command[-1].replace(address, path)]
            assert subprocess.run(words, capture_output=True, check=False).returncode == code
