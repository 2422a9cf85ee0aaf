"""The run files of search, scored by the lines of docs/retrieval.md."""

import json

import numpy as np
import pytest

import ernie_m
from ernie_m.commands import predict
from tests import toys
from tests.helpers.pages import compile_python
from tests.launching import as_flags, call_main
from tests.toys import sentences, write_lines


def test_ndcg_and_mrr_follow_from_ranks(tmp_path, in_tmp_path):
    """By their definitions, of queries with two right passages each."""
    texts = sentences(40, seed=1)
    toys.make_models(tmp_path)
    corpus = write_lines(tmp_path / "passages.txt", texts)
    requests = [json.dumps({"text": text, "id": f"q{number}"}) for number, text in enumerate(texts[:3])]
    queries = write_lines(tmp_path / "queries.jsonl", requests)
    flags = {"task": "search", "model": "encode", "corpus": corpus, "input": queries, "top_k": 10}
    call_main(predict, as_flags(flags | {"output": "run.trec"}))
    model = ernie_m.load("encode")
    hits = [model.search(text, texts, top_k=10) for text in texts[:3]]
    locations = [(1, 4), (2, None), (9, 10)]  # of the right ones; None: not found
    lines, ndcg, mrr = [], [], []
    for query, (found, (first, second)) in enumerate(zip(hits, locations)):
        rest = next(line for line in range(1, 41) if line not in [hit["line"] for hit in found])
        right = [found[first - 1]["line"], rest if second is None else found[second - 1]["line"]]
        lines += [f"q{query} 0 {line} 1" for line in right]
        gain = sum(1 / np.log2(location + 1) for location in (first, second) if location)
        ndcg.append(gain / (1 + 1 / np.log2(3)))
        mrr.append(1 / first)
    write_lines(tmp_path / "qrels.txt", lines)
    names: dict = {}
    exec(compile_python("retrieval.md"), names)
    found = {str(measure): value for measure, value in names["scores"].items()}
    assert found == pytest.approx({"nDCG@10": np.mean(ndcg), "RR@10": np.mean(mrr)}, abs=1e-6)
