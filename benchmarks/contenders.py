"""Who is compared: this project and its peers, each in its environment and setting.

A benchmark names those that take part, and which of its functions does their work.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# The folders of the environments.
VENV = ".venv"
PARITY = ".venv-parity"
LATEST = ".venv-latest"
OURS = "ours"
PREVIOUS = "previous"  # ours in another checkout
FLOAT32 = "float32"
BFLOAT16 = "bfloat16"


@dataclass(frozen=True)
class Contender:
    """One program in one setting.

    Attributes:
        label: its name in tables.
        environment: the folder of its Python.
        is_ours: False for a peer.
        tuned: whether it has scripts/env.sh and our settings for threads and memory; otherwise as installed.
        precision: of its matrix products. Ratios compare contenders in float32.
        counts: whether it may be the "fastest_peer"; a peer with other batches than ours may not.
        options: further arguments of the function that does its work.
        script: the benchmark of another checkout; by default the program that runs.
    """

    label: str
    environment: str = VENV
    is_ours: bool = False
    tuned: bool = True
    precision: str = FLOAT32
    counts: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    script: Path | None = None

    @property
    def python(self) -> Path:
        """The interpreter that runs it."""
        return ROOT / self.environment / "bin/python"


def _ours(label: str, precision: str = FLOAT32, **options: Any) -> Contender:
    return Contender(label, is_ours=True, precision=precision, options=options)


def _peer(
    label: str,
    environment: str,
    tuned: bool = True,
    precision: str = FLOAT32,
    counts: bool = True,
    **options: Any,
) -> Contender:
    return Contender(label, environment, False, tuned, precision, counts, options)


# Name -> contender, of all benchmarks.
CONTENDERS = {
    OURS: _ours("ours"),
    "ours_bfloat16": _ours("ours, bfloat16", BFLOAT16, amp="bf16"),
    "ours_onnx": _ours("ours, ONNX Runtime", engine="onnx"),
    "ours_onnx_int8": _ours("ours, ONNX Runtime, int8", "int8", engine="onnx-int8"),
    "ours_deduplicated": _ours("ours, duplicates removed", deduplicate="true"),
    # Training of XLM-R, which has the same shape, with each kind of attention.
    "hf_installed_sdpa": _peer(
        "transformers XLM-R, sdpa, as installed", PARITY, tuned=False, attention="sdpa", fused=False
    ),
    "hf_best_sdpa": _peer("transformers XLM-R, sdpa", PARITY, attention="sdpa"),
    "hf_best_eager": _peer("transformers XLM-R, eager", PARITY),
    "hf_best_latest_sdpa": _peer("newest transformers, sdpa", LATEST, attention="sdpa"),
    "hf_best_latest_eager": _peer("newest transformers, eager", LATEST),
    "hf_latest_bfloat16": _peer(
        "newest transformers, sdpa, bfloat16", LATEST, precision=BFLOAT16, attention="sdpa", bfloat16=True
    ),
    "hf_gathered_sdpa": _peer("transformers XLM-R, sdpa, gathered", PARITY, attention="sdpa", gathered=True),
    "hf_gathered_latest_sdpa": _peer(
        "newest transformers, sdpa, gathered", LATEST, attention="sdpa", gathered=True
    ),
    "paddlenlp_installed": _peer("PaddleNLP ERNIE-M, as installed", PARITY, tuned=False),
    "paddlenlp_best": _peer("PaddleNLP ERNIE-M", PARITY),
    # With other batches than ours: pairs of similar length.
    "hf_grouped": _peer(
        "newest transformers, sdpa, grouped", LATEST, counts=False, attention="sdpa", order="grouped"
    ),
    "paddlenlp_grouped": _peer("PaddleNLP ERNIE-M, grouped", PARITY, counts=False, order="grouped"),
    "st_installed": _peer("sentence-transformers, as installed", PARITY, tuned=False),
    "st_best": _peer("sentence-transformers", PARITY),
    "st_best_latest": _peer("newest sentence-transformers", LATEST),
    "hf_rust": _peer("tokenizers", PARITY),
    "hf_latest_rust": _peer("newest tokenizers", LATEST),
    "hf_latest_processes": _peer("newest tokenizers, processes", LATEST),
    "paddlenlp": _peer("PaddleNLP ErnieM", PARITY),
    "numpy": _peer("numpy", VENV),
}
