"""Client libraries of others get from `ernie-m serve` the vectors and scores of the model.

`sh scripts/test.sh clients` runs them in an environment of their own, next to a server in .venv.
"""

import base64
import json
import os
import re
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ["bado lera", "kani", "da da lera bado"]
MAKE = """
import sys
from pathlib import Path
from tests import toys
folder = toys.make_models(Path(sys.argv[1]))
"""


def ask(address: str, body=None) -> dict:
    """A request by plain HTTP."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", "Authorization": "Bearer secret"}
    with urllib.request.urlopen(urllib.request.Request(address, data, headers), timeout=60) as reply:
        return json.load(reply)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The address of a server with an encoder, and with a token."""
    folder = tmp_path_factory.mktemp("models")
    python = str(ROOT / ".venv/bin/python")
    subprocess.run([python, "-c", MAKE, str(folder)], check=True, cwd=ROOT)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [python, "-m", "ernie_m", "serve", "--model", str(folder / "encode"), "--port", str(port)]
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | {"ERNIE_M_TOKEN": "secret"}) as process:
        address = f"http://127.0.0.1:{port}"
        for _ in range(240):
            try:
                ask(f"{address}/health")
                break
            except OSError:
                time.sleep(0.5)
        yield address
        process.terminate()


@pytest.fixture(scope="session")
def expected(server):
    """The vectors of TEXTS by plain HTTP, float32 [N, H]."""
    response = ask(f"{server}/v1/embeddings", {"input": TEXTS, "encoding_format": "base64"})
    rows = [np.frombuffer(base64.b64decode(entry["embedding"]), "<f4") for entry in response["data"]]
    assert len({row.tobytes() for row in rows}) == len(TEXTS)
    return np.array(rows)


def test_openai(server, expected):
    import openai

    (block,) = re.findall("```python\n(.*?)```", (ROOT / "docs/serving.md").read_text(), re.DOTALL)
    names: dict = {}
    exec(block.replace("http://127.0.0.1:8000", server), names)
    client = names["client"]
    for encoding_format in (openai.NOT_GIVEN, "float"):  # not given: it asks for base64
        response = client.embeddings.create(model="any", input=TEXTS, encoding_format=encoding_format)
        np.testing.assert_allclose([entry.embedding for entry in response.data], expected, atol=1e-6)
    (first, *_) = client.models.list().data
    assert client.models.retrieve(first.id).id == first.id
    with pytest.raises(openai.BadRequestError, match="input_typ") as caught:
        client.embeddings.create(model="any", input="bado", extra_body={"input_typ": "query"})
    assert caught.value.param == "input_typ"
    with pytest.raises(openai.AuthenticationError, match="token"):
        openai.OpenAI(base_url=f"{server}/v1", api_key="x").embeddings.create(model="any", input="bado")


def test_litellm(server, expected, monkeypatch):
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it asks another server
    import litellm

    response = litellm.embedding(
        model="openai/any", input=TEXTS, api_base=f"{server}/v1", api_key="secret", encoding_format="float"
    )
    np.testing.assert_allclose([entry["embedding"] for entry in response.data], expected, atol=1e-6)


def test_langchain_gets_the_vectors_of_the_model(server, expected):
    from langchain_openai import OpenAIEmbeddings

    client = OpenAIEmbeddings(
        base_url=f"{server}/v1", api_key="secret", model="any", check_embedding_ctx_length=False
    )
    np.testing.assert_allclose(client.embed_documents(TEXTS), expected, atol=1e-6)
    np.testing.assert_allclose(client.embed_query(TEXTS[0]), expected[0], atol=1e-6)


def test_llama_index(server, expected):
    from llama_index.embeddings.openai_like import OpenAILikeEmbedding

    client = OpenAILikeEmbedding(model_name="any", api_base=f"{server}/v1", api_key="secret")
    np.testing.assert_allclose(client.get_text_embedding_batch(TEXTS), expected, atol=1e-6)
