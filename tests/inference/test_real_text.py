"""Exported models equal the checkpoint on real sentences of 15 languages, and int8 decides as they do.

int8 with weights of 7 bits, whose products are exact on every CPU: those of 8 bits saturate without VNNI.
"""

import pytest

from model.checkpoint.folder import save_model
from reader.tokenization import Tokenizer
from tests.inference import toy_models
from tests.inference.conftest import run_export

SENTENCES = 14  # of each language


@pytest.mark.parametrize("kind", ["encode", "classify", "tag", "answer"])
def test_210_sentences_of_15_languages(data_dir, tmp_path, kind):
    pieces = data_dir / "vocab/xnli15-32k.model"
    files = sorted((data_dir / "pretrain/parallel-multiway").glob("ntrex.*"))
    assert len(files) == 15
    lines = [
        line
        for number, path in enumerate(files)
        for line in path.read_text(encoding="utf-8").splitlines()[number::50][:SENTENCES]
    ]
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(lines) + "\n", encoding="utf-8")
    shape = toy_models.config(Tokenizer(None, pieces).vocab_size, max_position_embeddings=514)
    model = toy_models.model(kind, shape)
    save_model(tmp_path / kind, model, shape, piece_model_path=pieces, extra=toy_models.EXTRA[kind])
    made = run_export(
        tmp_path / kind, tmp_path / "out", check_set=texts, int8="true", reduce_range="true"
    )["export"]  # fmt: skip
    assert made["checked_on"] == "210 texts of texts.txt"
    assert max(made["engines"]["paddle"], made["engines"]["onnx"]) < 1e-4
    agrees = made["int8"]["cosine" if kind == "encode" else "decisions"]
    assert 0.9 < agrees <= 1.0
