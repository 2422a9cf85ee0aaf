"""Convert a CSV with the columns text and label to train.tsv and label_map.json of run_classifier.py.

python examples/official_format.py reviews.csv my
"""

import csv
import json
import sys

table, folder = sys.argv[1:]
with open(table, encoding="utf-8-sig", newline="") as file:
    rows = [[" ".join(row[name].split()) for name in ("text", "label")] for row in csv.DictReader(file)]
with open(f"{folder}/train.tsv", "w", encoding="utf-8") as file:
    file.writelines(f"{text}\t{label}\n" for text, label in [["text_a", "label"], *rows])
labels = sorted({label for _, label in rows})
with open(f"{folder}/label_map.json", "w", encoding="utf-8") as file:
    json.dump({label: number for number, label in enumerate(labels)}, file)
