"""Convert a table of labeled texts or pairs to train.tsv and label_map.json of run_classifier.py.

    python examples/official_format.py reviews.csv my --text Body --label Team

Columns, formats and labels are those of `ernie-m fit`, also other options of tables such as --delimiter.
"""

import sys
from pathlib import Path

from ernie_m.fit.labeled_rows import load_dataset
from ernie_m.model.tasks import CLASSIFICATION
from ernie_m.reader.files.find_files import NamedFile
from ernie_m.reader.files.table_options import LabelOptions
from ernie_m.reader.labels import write_indices
from ernie_m.utils.args import parse_options
from ernie_m.utils.errors import run


def main():
    table, folder, *flags = sys.argv[1:]
    options = parse_options(LabelOptions, flags)
    rows = load_dataset([NamedFile(Path(table), "train", None)], options, CLASSIFICATION)
    with open(f"{folder}/train.tsv", "w", encoding="utf-8") as file:
        file.write("text_a\ttext_b\tlabel\n" if rows.are_pairs else "text_a\tlabel\n")
        for example in rows.examples:
            texts = [example.text_a, example.text_b] if rows.are_pairs else [example.text_a]
            cells = [" ".join(text.split()) for text in texts]
            file.write("\t".join([*cells, rows.names[example.label]]) + "\n")
    write_indices(f"{folder}/label_map.json", rows.names)


if __name__ == "__main__":
    run(main)
