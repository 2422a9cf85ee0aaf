"""The paper's Table 6 from the runs of scripts/base/ablation.sh, beside the paper's figures.

python -m experiments.ablation output/ablation
"""

import sys
from pathlib import Path

from experiments.study import Study
from finetune.report import in_markdown
from utils.errors import UserError, run
from utils.files import atomic_file, read_json


def table(runs: Path) -> str:
    """Mean and deviation over the seeds of the average over the test languages, in Markdown.

    Args:
        runs: folder with <model>/<task>/results.json, as the fine-tuning writes it. A missing one leaves its
            cell empty.
    """
    study = Study.read("table6")
    lines = [["", "XNLI (accuracy)", "paper", "CoNLL (F1)", "paper"]]
    for model in study.models:
        cells = [model]
        for task, measure in (("xnli", "xnli"), ("conll", "ner")):
            path = runs / model / task / "results.json"
            tables = read_json(path)["tables"] if path.is_file() else []
            test = [one for one in tables if "test" in one["title"]]
            cells.append(f"{test[0]['mean']['avg']:.2f} ± {test[0]['deviation']['avg']:.2f}" if test else "")
            cells.append(f"{study.paper[measure][model]:.1f}")
        lines.append(cells)
    return in_markdown(lines)


def main() -> None:
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        raise UserError("usage: python -m experiments.ablation <the output of scripts/base/ablation.sh>")
    text = table(Path(sys.argv[1]))
    print(text)
    with atomic_file(Path(sys.argv[1], "table6.md"), "w") as file:
        file.write(f"{text}\n")


if __name__ == "__main__":
    run(main)
