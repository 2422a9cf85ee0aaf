"""Print the lowest confidence in labeled.csv, of `ernie-m predict`, above which 95 % of labels are right."""

import csv

import numpy as np

with open("labeled.csv", encoding="utf-8-sig", newline="") as file:
    rows = [row for row in csv.DictReader(file) if row["predicted_probability"]]
rows.sort(key=lambda row: -float(row["predicted_probability"]))
is_right = [row["predicted_label"] == row["label"] for row in rows]  # your label column
count = np.flatnonzero(np.cumsum(is_right) >= 0.95 * np.arange(1, len(rows) + 1))[-1] + 1
print(rows[count - 1]["predicted_probability"])
