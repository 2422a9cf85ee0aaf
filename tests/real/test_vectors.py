"""A real model's embeddings are those of sentence-transformers."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

import ernie_m
from tests.real.lines import converted, raw_lines

MODEL = Path(os.environ["REAL_MODEL"])
COUNT = 2_000
LONGEST = 64  # tokens
PROMPTS = {"query": "query: ", "passage": "passage: "}


def variant(folder: Path, pooling: str, normalize: bool) -> Path:
    """The model with another pooling, with or without a length of 1, and with a prompt; in a new folder."""
    folder.mkdir()
    for file in MODEL.iterdir():
        if file.is_file():
            os.link(file, folder / file.name)
    modules = []
    for number, kind in enumerate(("Transformer", "Pooling", "Normalize")[: 3 if normalize else 2]):
        path = f"{number}_{kind}" if number else ""
        kind = f"sentence_transformers.models.{kind}"
        modules.append({"idx": number, "name": str(number), "path": path, "type": kind})
        (folder / path).mkdir(exist_ok=True)
    settings = {"word_embedding_dimension": 384, "pooling_mode_mean_tokens": False}
    settings[f"pooling_mode_{pooling}"] = True
    write_json(folder / "modules.json", modules)
    write_json(folder / "1_Pooling/config.json", settings)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": LONGEST, "do_lower_case": False})
    write_json(
        folder / "config_sentence_transformers.json", {"prompts": PROMPTS, "default_prompt_name": "query"}
    )
    return folder


def write_json(path: Path, content) -> None:
    path.unlink(missing_ok=True)  # and not the file that it is a link to
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture(scope="module")
def lines(data_dir):
    return raw_lines(data_dir, COUNT)


@pytest.mark.parametrize(
    "pooling, normalize",
    [("mean_tokens", True), ("mean_tokens", False), ("cls_token", True), ("cls_token", False)],
)
def test_embeddings_on_all_lines(tmp_path, lines, pooling, normalize):
    """In its own format, and after a conversion to each format that can hold the model, and back."""
    folder = variant(tmp_path / "variant", pooling, normalize)
    reference = SentenceTransformer(str(folder), device="cpu")
    model = ernie_m.load(folder)
    # The fast tokenizer of transformers cuts some lines otherwise than the slow one, whose ids are ours.
    prompt = PROMPTS["query"]
    its_ids = reference.tokenizer([prompt + line for line in lines], truncation=True, max_length=LONGEST)[
        "input_ids"
    ]
    our_ids = [model.loaded.tokenizer.build_inputs(prompt + line, None, LONGEST) for line in lines]
    same = [number for number in range(len(lines)) if its_ids[number] == our_ids[number]]
    print(f"{pooling}: {len(lines) - len(same)} of {len(lines)} lines have other ids in the fast tokenizer")
    assert len(same) > 0.9 * len(lines)
    texts = [lines[number] for number in same]
    expected = reference.encode(texts, batch_size=32)
    np.testing.assert_allclose(model.encode(texts), expected, atol=1e-5)

    few = texts[:100]
    native = converted(folder, tmp_path / "native", "ernie-m")
    again = converted(native, tmp_path / "again", "xlm-roberta")
    for path in (native, again):
        np.testing.assert_allclose(ernie_m.load(path).encode(few), expected[:100], atol=1e-5)
    reference = SentenceTransformer(str(again), device="cpu")
    np.testing.assert_allclose(reference.encode(few), expected[:100], atol=1e-5)
    shutil.rmtree(native)
    shutil.rmtree(again)
