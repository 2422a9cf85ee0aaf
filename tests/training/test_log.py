"""TensorBoard gets the numbers of metrics.jsonl, also when a run resumes."""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

from ernie_m.training.log import MetricsFile
from ernie_m.utils.errors import get_install_command
from tests.launching import check_error
from tests.pretrain.tiny_run import SPEEDS, records


def numbers(record: dict, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Each number of a record, under its path."""
    for name, value in record.items():
        if isinstance(value, dict):
            yield from numbers(value, f"{prefix}{name}/")
        elif isinstance(value, list):
            yield from numbers(dict(enumerate(value)), f"{prefix}{name}/")
        elif isinstance(value, int | float):
            yield f"{prefix}{name}", value


def test_tags_of_lists_and_of_keys_with_points(tmp_path):
    """A tag is divided only between keys."""
    drawn = {}
    curves = SimpleNamespace(add_scalar=lambda tag, value, step: drawn.update({(tag, step): value}))
    record = {"step": 3, "held_out": {"dev.en.tsv": {"layers": [0.5, [0, None]]}, "tagged": [], "text": "1"}}
    MetricsFile(tmp_path / "metrics.jsonl", curves).append(record)
    assert drawn == {
        ("step", 3): 3,
        ("held_out/dev.en.tsv/layers/0", 3): 0.5,
        ("held_out/dev.en.tsv/layers/1/0", 3): 0,
    }


def test_the_curves_are_the_records(pretrain, refused, monkeypatch):
    drawn = []

    class Writer(AbstractContextManager):
        def __init__(self, folder, purge_step, flush_secs):
            drawn[:] = [point for point in drawn if point[2] < purge_step]  # as TensorBoard does
            assert folder.endswith("out/tensorboard")

        def add_scalar(self, name, value, step):
            drawn.append((name, value, step))

        def __exit__(self, *_):
            drawn.append("closed")

    stand_in = ModuleType("tensorboardX")
    stand_in.SummaryWriter = Writer
    stand_in.__spec__ = ModuleSpec("tensorboardX", None)
    monkeypatch.setitem(sys.modules, "tensorboardX", stand_in)
    flags = {
        "run__tensorboard": True,
        "run__log_steps": 1,
        "optimizer__steps": 6,
        "model__num_hidden_layers": 1,
    }
    pretrain(**flags, run__stop_after_steps=4)
    assert drawn.pop() == "closed"
    drawn.append(("loss", 0.0, 5))  # of a step that was lost
    out = pretrain(**flags)
    assert drawn.pop() == "closed"
    points = [(name, value, record["step"]) for record in records(out) for name, value in numbers(record)]
    assert [point for point in drawn if point[0] not in SPEEDS] == points
    assert any(name.startswith("held_out/btmlm/") for name, *_ in points)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    # Before any file is read.
    check_error(refused(corpus="absent", **flags), "--run.tensorboard ", get_install_command("tensorboard"))
