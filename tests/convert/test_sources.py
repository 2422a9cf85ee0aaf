"""Every format that is only read, and the old forms of the others: the same tensors, found and reported."""

import json
import pickle
import struct

import numpy as np
import pytest
from safetensors.numpy import save_file

import convert
from model.checkpoint.formats import pickles
from model.checkpoint.formats import safetensors as safe
from model.checkpoint.read import open_checkpoint
from tests.helpers.official_layout import make_official_weights, official_config
from tests.helpers.toy_models import fairseq_args, fairseq_state, make_paddlenlp, weights
from tests.helpers.xlm_r_layout import make_xlm_r, write_torch_file
from utils.errors import UserError


def same(found, expected) -> bool:
    return set(found) == set(expected) and all(
        found[name].tobytes() == expected[name].tobytes() for name in expected
    )


@pytest.mark.parametrize("head", [None, "classification", "tagging", "question_answering", "choice", "uie"])
@pytest.mark.parametrize("old_names", [False, True])
def test_paddlenlp(tmp_path, head, old_names, caplog):
    made = make_paddlenlp(tmp_path / "pn", head, old_names=old_names)
    found = open_checkpoint(tmp_path / "pn")
    assert found.format == "paddlenlp" and found.task == head and not found.unknown
    assert same(found.tensors, made)
    assert found.config.intermediate_size == 64  # the file says 3072
    assert "the weights win" not in caplog.text


def test_paddlenlp_old_tokenizer_names_and_a_file_by_its_name(tmp_path):
    make_paddlenlp(tmp_path / "pn", old_names=True)
    for name in ("ernie_m.vocab.txt", "ernie_m.sentencepiece.bpe.model"):
        (tmp_path / "pn" / name).write_text("")
    found = open_checkpoint(tmp_path / "pn/ernie_m_base.pdparams")
    assert found.vocab_path.name == "ernie_m.vocab.txt"
    assert found.piece_model_path.name == "ernie_m.sentencepiece.bpe.model"


def test_bfloat16_of_paddle_and_of_safetensors(tmp_path):
    bits = np.array([[0x3F80, 0xC020], [0x7F61, 0x0001]], np.uint16)
    expected = (bits.astype(np.uint32) << 16).view(np.float32)
    (tmp_path / "x.pdparams").write_bytes(pickle.dumps({"x": bits}, 4))
    header = json.dumps({"x": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}}).encode()
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(header)) + header + bits.tobytes())
    for found in (pickles.read_pdparams(tmp_path / "x.pdparams"), safe.read(tmp_path / "x")):
        np.testing.assert_array_equal(found["x"], expected)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("prefix, new_norm", [("decoder.", False), ("encoder.", True)])
def test_fairseq(tmp_path, legacy, prefix, fused, new_norm, capsys):
    made = weights(lm_head=True, pooler=False)
    state = fairseq_state(made, prefix, fused, new_norm)
    (tmp_path / "xlmr").mkdir()
    args = fairseq_args(dropout=0.2)
    write_torch_file(tmp_path / "xlmr/model.pt", state, lambda s: {"args": args, "model": s}, legacy)
    for source in (tmp_path / "xlmr", tmp_path / "xlmr/model.pt"):
        found = open_checkpoint(source)
        assert found.format == "fairseq" and not found.unknown
        assert same(found.tensors, made)
        assert (found.config.num_attention_heads, found.config.hidden_dropout_prob) == (4, 0.2)
    convert.main([str(tmp_path / "xlmr"), str(tmp_path / "ours"), "--to", "ernie-m"])
    assert same(open_checkpoint(tmp_path / "ours").tensors, made)
    shown = capsys.readouterr().out
    query = "in_proj_weight [q]" if fused else "q_proj.weight"
    assert f"<- {prefix}sentence_encoder.layers.1.self_attn.{query}  (transposed)\n" in shown
    assert f"not taken: {prefix}lm_head.weight (the word embeddings once more)\n" in shown


def test_the_report_names_every_tensor(tmp_path, capsys):
    theirs = make_xlm_r(tmp_path / "x")
    convert.main([str(tmp_path / "x"), str(tmp_path / "hf"), "--to", "huggingface"])
    lines = capsys.readouterr().out.splitlines()
    table = {line.split()[0]: line for line in lines if "<-" in line}
    assert set(table) == set(safe.read(tmp_path / "hf/model.safetensors"))
    name = "encoder.layers.1.self_attn.self_attn.k_proj.weight"
    # turned on the way in and on the way out: as it was
    assert table[name].split("  <- ")[1] == "roberta.encoder.layer.1.attention.self.key.weight"
    assert "[16, 16]" in table[name]
    positions = table["embeddings.position_embeddings.weight"]
    assert positions.endswith("position_embeddings.weight + roberta.embeddings.token_type_embeddings.weight")
    sources = {source for line in table.values() for source in line.split("  <- ")[1].split(" + ")}
    left_out = {line.split(": ")[1] for line in lines if line.startswith("no place for it in huggingface")}
    assert sources | left_out == set(theirs)
    assert f"not in {tmp_path / 'x'}: pooler.dense.weight (the library that" in "\n".join(lines)


def test_the_pooler_of_xlm_r(tmp_path):
    """With a masked-LM head it is the untrained one of the first upload; without one it is the model's."""
    theirs = make_xlm_r(tmp_path / "x")
    pooler = {
        "pooler.dense.weight": np.full((16, 16), 2, np.float32),
        "pooler.dense.bias": np.ones(16, np.float32),
    }
    with_head = theirs | {f"roberta.{name}": array for name, array in pooler.items()}
    save_file(with_head, tmp_path / "x/model.safetensors")
    found = open_checkpoint(tmp_path / "x")
    assert found.dropped["roberta.pooler.dense.bias"] == "beside a masked-LM head: it was never trained"
    bare = {name.removeprefix("roberta."): array for name, array in theirs.items() if "lm_head" not in name}
    save_file(bare | pooler, tmp_path / "x/model.safetensors")
    np.testing.assert_array_equal(open_checkpoint(tmp_path / "x").tensors["pooler.dense.weight"], 2)


def test_a_folder_without_its_config(tmp_path):
    make_official_weights(tmp_path / "base", official_config("tiny"), seed=1)
    (tmp_path / "base" / "ernie_config.json").unlink()
    with pytest.raises(UserError, match="base: no ernie_config.json or config.json is beside the weights"):
        convert.main([str(tmp_path / "base"), str(tmp_path / "out"), "--to", "huggingface"])
