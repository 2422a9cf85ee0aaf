"""Fine-tuning whose products are in bfloat16: it learns, resumes exactly, and searches with such vectors."""

import numpy as np
import pytest
from safetensors.numpy import load_file

import run_retrieval
from finetune import search
from tests.finetune import toy
from tests.launching import as_flags, call_main
from utils.errors import UserError


def test_it_learns(classify, cpu_with_bf16):
    assert classify(cpu_bf16="true", **toy.LEARNS)["tables"][0]["mean"]["avg"] == 100.0


def test_it_resumes_exactly(classify, tmp_path, cpu_with_bf16):
    """Dropout is on. A run in float32 does not go on from it."""
    options = {"save_steps": 10, "keep_checkpoints": 9}
    classify(cpu_bf16="true", **options)
    start = tmp_path / "out" / "step_10"
    classify(out="again", init_checkpoint=start, cpu_bf16="true", **options)
    straight, resumed = (
        load_file(tmp_path / folder / "step_24" / "model.safetensors") for folder in ("out", "again")
    )
    for name, value in straight.items():
        np.testing.assert_array_equal(resumed[name], value, err_msg=name)
    with pytest.raises(UserError, match="cpu_bf16: True -> False"):
        classify(out="float32", init_checkpoint=start, **options)


def test_retrieval_compares_such_vectors(random_encoder, tmp_path, monkeypatch, cpu_with_bf16):
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    sentences = list(dict.fromkeys(row[1] for row in toy.rows(20, seed=1)))
    for side in ("de", "en"):
        (pairs / f"de-en.{side}").write_text("".join(f"{sentence}\n" for sentence in sentences))
    search_both, vectors = search.search_both, []

    def search_vectors(queries, targets, score):
        vectors.append(queries)
        return search_both(queries, targets, score)

    monkeypatch.setattr(search, "search_both", search_vectors)
    monkeypatch.chdir(tmp_path)
    for cpu_bf16 in ("false", "true"):
        flags = {
            "init_pretraining_params": random_encoder,
            "pairs": pairs,
            "checkpoints": tmp_path / cpu_bf16,
            "max_seq_len": 64,
            "cpu_bf16": cpu_bf16,
        }
        call_main(run_retrieval, as_flags(flags))
    float32, bfloat16 = vectors[0], vectors[len(vectors) // 2]  # the first that each run searches with
    assert 1e-4 < np.linalg.norm(bfloat16 - float32) / np.linalg.norm(float32) < 0.02
