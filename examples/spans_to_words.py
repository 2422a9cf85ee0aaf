"""Convert character spans of doccano or Prodigy to tagged words, as JSON lines for `ernie-m fit`.

    python examples/spans_to_words.py doccano.jsonl > words.jsonl
    python examples/spans_to_words.py doccano.jsonl --utf_16 > words.jsonl

With --utf_16, offsets count UTF-16 code units, as in JavaScript, where an emoji has two. Words are split at
the ends of spans. Of overlapping spans, the first one is kept, the longest of those that begin together.
"""

import json
import sys
import unicodedata
from itertools import pairwise

source, *options = sys.argv[1:]
with open(source, encoding="utf-8") as lines:
    rows = [json.loads(line) for line in lines]
within = left_out = 0
for row in rows:
    words, tags, spans = [], [], []
    text = row["text"]
    of_prodigy = [[span["start"], span["end"], span["label"]] for span in row.get("spans", [])]
    kinds = ["Z" if sign.isspace() else unicodedata.category(sign)[0] for sign in f" {text} "]
    edges = {index for index in range(len(text) + 1) if {*kinds[index : index + 2]} & {*"PSZ"}}
    longest_first = sorted(row.get("label", of_prodigy), key=lambda span: (span[0], -span[1]))
    for *span, label in longest_first:
        if "--utf_16" in options:
            units = text.encode("utf-16-le")
            span = [len(units[: 2 * offset].decode("utf-16-le", "ignore")) for offset in span]
        within += not edges.issuperset(span)
        if spans and span[0] < spans[-1][1]:
            left_out += 1
        else:
            spans.append([*span, label])
    boundaries = sorted(edges.union(*(span[:2] for span in spans)))
    for start, end in pairwise(boundaries):
        tag = [f"{'IB'[start == first]}-{label}" for first, last, label in spans if first <= start < last]
        if text[start:end].strip():
            words.append(text[start:end])
            tags.append(tag[0] if tag else "O")
    print(json.dumps({"words": words, "tags": tags}, ensure_ascii=False))
print(f"{within} spans do not begin and end with a word; {left_out} overlap: left out", file=sys.stderr)
