"""paddlenlp and transformers load what we write, nothing missing or left over, with our numbers; and back."""

import json

import numpy as np
import paddle
import paddlenlp.transformers as paddlenlp
import pytest
import torch
import transformers

import convert
from model.checkpoint.formats import tables
from model.checkpoint.formats import torch as torch_file
from model.checkpoint.read import open_checkpoint
from tests.helpers.torch_peers import XLM_R_HEADS, assert_close, batch, load_torch, make, of_ours, of_torch
from tests.helpers.toy_models import CONFIG, fairseq_args, fairseq_state, weights

HEADS = [None, "classification", "tagging", "question_answering", "choice", "uie"]


@pytest.mark.parametrize(
    "library, target, head",
    [(tables.HUGGING_FACE, "huggingface", head) for head in HEADS]
    + [(tables.XLM_R, "xlm-roberta", head) for head in XLM_R_HEADS],
)
def test_transformers(tmp_path, library, target, head):
    ids, mask = batch()
    make(tmp_path / "ours", head)
    convert.main([str(tmp_path / "ours"), str(tmp_path / "theirs"), "--to", target])
    peer = load_torch(library, head, tmp_path / "theirs")
    expected = of_torch(peer, head, ids, mask)
    if head == "uie":  # transformers leaves the sigmoid to the caller
        expected = [1 / (1 + np.exp(-value)) for value in expected]
    assert_close(of_ours(tmp_path / "ours", head, ids), expected, mask)
    for safe, name, shard in ((True, "safe", "1GB"), (False, "bin", "1GB"), (False, "parts", "20KB")):
        peer.save_pretrained(tmp_path / name, safe_serialization=safe, max_shard_size=shard)
        found = open_checkpoint(tmp_path / name)
        assert found.format == library and not found.unknown
        assert found.task == (None if head == "lm" else head)
        assert_close(of_ours(tmp_path / name, head, ids), expected, mask)


def of_paddle(model, head: str | None, ids, mask) -> list[np.ndarray]:
    arguments = {"input_ids": paddle.to_tensor(ids), "attention_mask": paddle.to_tensor(mask)}
    if head == "choice":
        arguments = {name: tensor.unsqueeze(0) for name, tensor in arguments.items()}
    model.eval()
    with paddle.no_grad():
        out = model(**arguments)
    out = out if isinstance(out, tuple | list) else [out]
    return [value.numpy() for value in out]


@pytest.mark.parametrize("head", HEADS)
def test_paddlenlp(tmp_path, head):
    ids, mask = batch()
    make(tmp_path / "ours", head)
    convert.main([str(tmp_path / "ours"), str(tmp_path / "theirs"), "--to", "paddlenlp"])
    model_class = getattr(paddlenlp, tables.CLASSES[tables.PADDLENLP][head].name)
    written = paddle.load(str(tmp_path / "theirs/model_state.pdparams"))
    more = {"num_choices": len(ids)} if head == "choice" else {}  # which no file of PaddleNLP says
    peer = model_class.from_pretrained(str(tmp_path / "theirs"), **more)
    assert set(peer.state_dict()) == set(written)  # nothing missing, nothing left over
    for name, tensor in peer.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), np.asarray(written[name]))
    expected = of_paddle(peer, head, ids, mask)
    if head == "choice":
        expected = [expected[0].reshape(1, -1)]
    assert_close(of_ours(tmp_path / "ours", head, ids), expected, mask)
    forms = {"whole": {}, "parts": {"max_shard_size": "20KB"}, "safe": {"safe_serialization": True}}
    for name, options in forms.items():
        peer.save_pretrained(str(tmp_path / name), **options)
        found = open_checkpoint(tmp_path / name)
        assert found.format == "paddlenlp" or (name == "safe" and head is None)
        assert not found.unknown
        assert_close(of_ours(tmp_path / name, head, ids), expected, mask)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_of_paddlenlp(tmp_path, dtype):
    peer = paddlenlp.ErnieMModel(paddlenlp.ErnieMConfig(**CONFIG))
    peer.to(dtype=dtype)
    peer.save_pretrained(str(tmp_path / "half"))
    convert.main([str(tmp_path / "half"), str(tmp_path / "ours"), "--to", "ernie-m"])
    found = open_checkpoint(tmp_path / "ours").tensors
    for name, tensor in peer.state_dict().items():
        np.testing.assert_array_equal(found[name], tensor.astype("float32").numpy())


def test_a_file_of_paddle_save(tmp_path):
    peer = paddlenlp.ErnieMModel(paddlenlp.ErnieMConfig(**CONFIG))
    paddle.save(peer.state_dict(), str(tmp_path / "model_state.pdparams"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "ernie_m", **CONFIG}))
    found = open_checkpoint(tmp_path)
    assert set(found.tensors) == set(peer.state_dict()) and not found.unknown
    for name, tensor in peer.state_dict().items():
        np.testing.assert_array_equal(found.tensors[name], tensor.numpy())


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("fused", [True, False])
def test_fairseq_of_torch(tmp_path, zipped, fused):
    made = weights(lm_head=True, pooler=False)
    state = {name: torch.tensor(array) for name, array in fairseq_state(made, fused=fused).items()}
    saved = {"args": fairseq_args(), "model": state, "extra_state": {"epoch": 1}, "optimizer_history": [{}]}
    torch.save(saved, tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
    found = open_checkpoint(tmp_path)
    assert set(found.tensors) == set(made) and not found.unknown
    assert all(found.tensors[name].tobytes() == array.tobytes() for name, array in made.items())


def test_views_and_shared_storages_of_torch(tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "whole": base, "turned": base.T, "part": base[1:3, 2:5], "step": base[::2, ::3], "one": base[2, 3],
        "spread": base[:1].expand(5, 6), "none": base[:0], "parameter": torch.nn.Parameter(base[0]),
    }  # fmt: skip
    for zipped in (True, False):
        torch.save(tensors, tmp_path / "x.bin", _use_new_zipfile_serialization=zipped)
        found = torch_file.read(tmp_path / "x.bin")
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(found[name], tensor.detach().numpy())


def test_tokenizers(tmp_path, data_dir):
    """The files are taken by the tokenizers of both libraries, with our ids for pieces and special tokens."""
    from reader.tokenization import Tokenizer

    pieces = data_dir / "vocab/xnli15-32k.model"
    tokenizer = Tokenizer(piece_model_path=pieces)
    for target in ("paddlenlp", "huggingface", "xlm-roberta"):
        convert.main([str(pieces), str(tmp_path / target), "--to", target])
    slow = transformers.ErnieMTokenizer.from_pretrained(tmp_path / "huggingface")
    other = paddlenlp.ErnieMTokenizer.from_pretrained(str(tmp_path / "paddlenlp"))
    fast = transformers.AutoTokenizer.from_pretrained(tmp_path / "xlm-roberta")
    old = transformers.XLMRobertaTokenizer.from_pretrained(tmp_path / "xlm-roberta")
    for text in ("the quick brown fox", "слово за слово", "नमस्ते दुनिया"):
        ids = tokenizer.build(text)
        assert fast(text)["input_ids"] == old(text)["input_ids"] == ids
        pieces = tokenizer.tokenize(text)  # ErnieM cuts words by rules of its own: the ids are compared
        for peer in (slow, other):
            assert peer.convert_tokens_to_ids(["[CLS]", *pieces, "[SEP]"]) == ids
    assert slow("the")["input_ids"] == other("the")["input_ids"] == tokenizer.build("the")
    assert fast("the fox", "слово")["input_ids"] == tokenizer.build("the fox", "слово")
    assert fast.mask_token_id == tokenizer.mask_id and fast.pad_token_id == tokenizer.pad_id
