"""sentence-transformers makes the embeddings of a converted static model."""

import numpy as np
import paddle
import pytest
from sentence_transformers import SentenceTransformer

import ernie_m
from ernie_m.commands import convert
from ernie_m.model.ernie import ErnieMConfig, ErnieMModel
from ernie_m.model.pipeline_config import PIPELINE
from tests.helpers.checkpoints import save_model, stored
from tests.toys import train_piece_model

TEXTS = [
    "The quick brown fox jumps over the lazy dog near a river.",
    "Два слова и ещё три",
    "敏捷的棕色狐狸跳过懒狗。",
    "नमस्ते दुनिया",
    "x",
    "a «quoted» word\tand ½ of ﬁve",
]


@pytest.mark.parametrize("normalize", [False, True])
def test_sentence_transformers_gives_the_same_static_embeddings(tmp_path, normalize):
    piece_model = train_piece_model(
        tmp_path / "piece.model", TEXTS * 20, vocab_size=150, normalization_rule_name="nmt_nfkc"
    )
    config = ErnieMConfig(160, 8, 0, 1, initializer_range=1.0, max_position_embeddings=34)  # 32 tokens
    paddle.seed(1)
    model = ErnieMModel(config)
    pipeline_config = stored(layer=0, pooling="mean_without_special", normalize=normalize)
    settings = {"task": "retrieval", PIPELINE: pipeline_config}
    save_model(tmp_path / "table", model, config, piece_model_path=piece_model, settings=settings)
    convert.main([str(tmp_path / "table"), str(tmp_path / "static"), "--to", "sentence-transformers"])
    reference = SentenceTransformer(str(tmp_path / "static"), device="cpu")
    texts = [*TEXTS, " ".join(TEXTS)]  # the last one is truncated
    expected = reference.encode(texts)
    np.testing.assert_allclose(ernie_m.load(tmp_path / "table").encode(texts), expected, rtol=0, atol=1e-6)
    assert np.abs(expected).max() > 0.3
