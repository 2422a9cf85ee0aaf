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
        precision: of its matrix products. Ratios compare contenders in float32.
        grouped: whether its batches are other than ours: pairs of similar length. Then it is never the
            "fastest_peer".
        options: further arguments of the function that does its work.
        script: the benchmark of another checkout; by default the program that runs.
    """

    label: str
    environment: str = VENV
    precision: str = FLOAT32
    grouped: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    script: Path | None = None

    @property
    def is_ours(self) -> bool:
        """Whether it is this project, whose environment no peer has."""
        return self.environment == VENV

    @property
    def python(self) -> Path:
        """The interpreter that runs it."""
        return ROOT / self.environment / "bin/python"


# Name -> contender, of all benchmarks.
CONTENDERS = {
    OURS: Contender("ours"),
    "ours_bfloat16": Contender("ours, bfloat16", precision=BFLOAT16, options={"amp": "bf16"}),
    "ours_onnx": Contender("ours, ONNX Runtime", options={"engine": "onnx"}),
    "ours_onnx_int8": Contender(
        "ours, ONNX Runtime, int8", precision="int8", options={"engine": "onnx-int8"}
    ),
    # Training of XLM-R, which has the same shape. Of two releases and two kinds of attention these were the
    # fastest peer of some row.
    "hf_best_sdpa": Contender("transformers XLM-R, sdpa", PARITY),
    "hf_best_latest_sdpa": Contender("newest transformers, sdpa", LATEST),
    "hf_best_latest_eager": Contender("newest transformers, eager", LATEST, options={"attention": "eager"}),
    "hf_latest_bfloat16": Contender(
        "newest transformers, sdpa, bfloat16", LATEST, BFLOAT16, options={"bfloat16": True}
    ),
    "hf_gathered_latest_sdpa": Contender(
        "newest transformers, sdpa, gathered", LATEST, options={"gathered": True}
    ),
    "hf_grouped": Contender(
        "newest transformers, sdpa, grouped", LATEST, grouped=True, options={"order": "grouped"}
    ),
    "paddlenlp_best": Contender("PaddleNLP ERNIE-M", PARITY),
    "st_best_latest": Contender("newest sentence-transformers", LATEST),
}
