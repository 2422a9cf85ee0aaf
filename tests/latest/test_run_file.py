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
    """The only right passage of each query is found at another rank, and that of the last one is not."""
    texts = sentences(40, seed=1)
    toys.make_models(tmp_path)
    corpus = write_lines(tmp_path / "passages.txt", texts)
    requests = [json.dumps({"text": text, "id": f"q{number}"}) for number, text in enumerate(texts[:3])]
    queries = write_lines(tmp_path / "queries.jsonl", requests)
    flags = {"task": "search", "model": "encode", "corpus": corpus, "input": queries, "top_k": 10}
    call_main(predict, as_flags(flags | {"output": "run.trec"}))
    model = ernie_m.load("encode")
    first, second, third = (model.search(text, texts, top_k=10) for text in texts[:3])
    missing = min({*range(1, 41)} - {hit["line"] for hit in third})
    right = [first[1]["line"], second[8]["line"], missing]
    write_lines(tmp_path / "qrels.txt", [f"q{query} 0 {line} 1" for query, line in enumerate(right)])
    names: dict = {}
    exec(compile_python("retrieval.md"), names)
    found = {str(measure): value for measure, value in names["scores"].items()}
    ndcg = (1 / np.log2(3) + 1 / np.log2(10)) / 3
    assert found == pytest.approx({"nDCG@10": ndcg, "RR@10": (1 / 2 + 1 / 9) / 3}, abs=1e-6)
