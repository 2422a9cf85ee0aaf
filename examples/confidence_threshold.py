"""Print the lowest confidence in labeled.csv, of `ernie-m predict`, above which 95 % of labels are right."""

import csv

import numpy as np

with open("labeled.csv", encoding="utf-8-sig", newline="") as file:
    rows = [row for row in csv.DictReader(file) if row["predicted_probability"]]
rows.sort(key=lambda row: -float(row["predicted_probability"]))
right_counts = np.cumsum([row["predicted_label"] == row["label"] for row in rows])  # your label column
confident = [
    row["predicted_probability"]
    for count, (row, right) in enumerate(zip(rows, right_counts), 1)
    if right / count >= 0.95
]
print(confident[-1] if confident else None)
