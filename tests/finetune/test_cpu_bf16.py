"""--amp bf16 on a CPU: a training resumes exactly, and a search has embeddings made in bfloat16."""

import numpy as np

from ernie_m.commands import run_retrieval
from ernie_m.finetune.retrieval import search_bitexts
from tests import toys
from tests.helpers.checkpoints import assert_same_weights
from tests.launching import as_flags, call_main, error_of
from tests.toys import write_lines


def test_it_resumes_exactly(classify, tmp_path, cpu_with_bf16):
    """Dropout is on. A run in float32 does not resume it."""
    options = {"save_steps": 10, "keep_checkpoints": 9}
    classify(amp="bf16", **options)
    start = tmp_path / "out" / "step_10"
    classify(out="again", init_checkpoint=start, amp="bf16", **options)
    assert_same_weights(tmp_path / "again" / "step_24", tmp_path / "out" / "step_24")
    assert "amp: bf16 -> none" in error_of(classify, out="float32", init_checkpoint=start, **options)


def test_retrieval_searches_with_bfloat16_embeddings(random_encoder, tmp_path, monkeypatch, cpu_with_bf16):
    """The embeddings of the English sentences differ a little from those of float32."""
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    sentences = list(dict.fromkeys(row.text_a for row in toys.labeled_texts(20, seed=1)))  # each once
    for side in ("de", "en"):
        write_lines(pairs / f"de-en.{side}", sentences)
    search_both = search_bitexts.search_both
    searched: list[np.ndarray] = []  # the English embeddings of each search

    def record_and_search(english, foreign, score):
        searched.append(english)
        return search_both(english, foreign, score)

    monkeypatch.setattr(search_bitexts, "search_both", record_and_search)
    monkeypatch.chdir(tmp_path)
    embeddings = {}  # --amp -> the first embeddings that the command searches with
    for amp in ("none", "bf16"):
        searched.clear()
        flags = {
            "init_pretraining_params": random_encoder,
            "pairs": pairs,
            "checkpoints": tmp_path / amp,
            "max_seq_len": 64,
            "amp": amp,
        }
        call_main(run_retrieval, as_flags(flags))
        embeddings[amp] = searched[0]
    difference = np.linalg.norm(embeddings["bf16"] - embeddings["none"]) / np.linalg.norm(embeddings["none"])
    assert 1e-4 < difference < 0.02  # bfloat16 has 8 significant bits, and 2^-8 is 0.004
