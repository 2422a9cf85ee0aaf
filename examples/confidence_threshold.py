"""Print the lowest confidence in labeled.csv, of `ernie-m predict`, above which 95 % of labels are right."""

import csv

with open("labeled.csv", encoding="utf-8-sig", newline="") as file:
    rows = [row for row in csv.DictReader(file) if row["predicted_probability"]]
rows.sort(key=lambda row: -float(row["predicted_probability"]))
threshold, correct = None, 0
for count, row in enumerate(rows, 1):
    correct += row["predicted_label"] == row["label"]  # your label column
    if correct / count >= 0.95:
        threshold = float(row["predicted_probability"])
print(threshold)
