"""OpenAI's client gets from `ernie-m predict --serve` the vectors of sentence-transformers."""

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from ernie_m.commands import convert
from tests.toys import CONFIG, make_ours, train_pieces

openai = pytest.importorskip("openai")
from tests.inference.served import serving  # noqa: E402 - needs websockets, which comes with openai here

TEXTS = [
    "The quick brown fox jumps over the lazy dog near a river.",
    "Два слова и ещё три",
    "敏捷的棕色狐狸跳过懒狗。",
    "नमस्ते दुनिया",
    "x",
]


def test_the_client_gets_the_vectors_of_sentence_transformers(tmp_path):
    pieces = train_pieces(
        tmp_path / "piece.model", TEXTS * 20, vocab_size=130, normalization_rule_name="nmt_nfkc"
    )
    make_ours(tmp_path / "plain", config={**CONFIG, "max_position_embeddings": 130}, pieces=pieces)
    for target in ("ernie-m", "xlm-roberta"):
        convert.main([str(tmp_path / "plain"), str(tmp_path / target), "--to", target])
    peer = SentenceTransformer(str(tmp_path / "xlm-roberta"), device="cpu")
    expected = peer.encode(TEXTS, normalize_embeddings=True)
    flags = ["--model", str(tmp_path / "ernie-m"), "--pooling", "specials", "--token", "secret"]
    with serving(*flags) as (address, _):
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="secret")
        for encoding_format in (openai.NOT_GIVEN, "float"):  # not given: the client asks for base64
            answer = client.embeddings.create(model="any", input=TEXTS, encoding_format=encoding_format)
            vectors = [entry.embedding for entry in answer.data]
            np.testing.assert_allclose(vectors, expected, atol=1e-5)
        with pytest.raises(openai.BadRequestError, match="input"):
            client.embeddings.create(model="any", input=[""])
        with pytest.raises(openai.AuthenticationError, match="token"):
            openai.OpenAI(base_url=f"{address}/v1", api_key="x").embeddings.create(model="any", input="x")
