"""PaddleNLP and transformers load what we write, whole and with our numbers; and we load what they write."""

import json

import numpy as np
import paddle
import paddlenlp.transformers as paddlenlp
import pytest
import torch
import transformers

from ernie_m.commands import convert
from ernie_m.model.checkpoint.foreign import torch_files
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.checkpoint.write_foreign import TARGETS
from ernie_m.reader.tokenization import Tokenizer
from tests.foreign import fairseq_args, fairseq_state
from tests.helpers.arrays import assert_same_bits
from tests.helpers.torch_peers import XLM_R_HEADS, assert_close, batch, load_torch, make, run_ours, run_torch
from tests.toys import CONFIG, OUTPUTS, weights, write_piece_model

HEADS = [None, "classification", "token-classification", "question-answering", "choice"]


@pytest.mark.parametrize(
    "target, head",
    [("huggingface", head) for head in HEADS] + [("xlm-roberta", head) for head in XLM_R_HEADS],
)
def test_transformers_computes_our_numbers(tmp_path, target, head):
    ids, mask = batch()
    make(tmp_path / "native", head)
    convert.main([str(tmp_path / "native"), str(tmp_path / "converted"), "--to", target, "--allow_lossy"])
    reference = load_torch(target, head, tmp_path / "converted")
    expected = run_torch(reference, head, ids, mask)
    assert_close(run_ours(tmp_path / "native", head, ids), expected, mask)
    save_options = {
        "safe": {"safe_serialization": True},
        "bin": {"safe_serialization": False},
        "parts": {"safe_serialization": False, "max_shard_size": "20KB"},
        "safe parts": {"safe_serialization": True, "max_shard_size": "20KB"},
    }
    for name, options in save_options.items():
        reference.save_pretrained(tmp_path / name, **options)
        checkpoint = open_checkpoint(tmp_path / name)
        task = None if head == "lm" else head
        assert (checkpoint.format, checkpoint.task, checkpoint.unknown) == (TARGETS[target].name, task, [])
        assert_close(run_ours(tmp_path / name, head, ids), expected, mask)


BERT = {
    "BertModel": None,
    "BertForMaskedLM": "lm",
    "BertForSequenceClassification": "classification",
    "BertForTokenClassification": "token-classification",
    "BertForQuestionAnswering": "question-answering",
}


@pytest.mark.parametrize(("class_name", "head"), BERT.items())
def test_bert_equals_transformers(tmp_path, class_name, head):
    """With XLM-R's vocabulary."""
    torch.manual_seed(0)
    config = transformers.BertConfig(**CONFIG | {"initializer_range": 0.3}, num_labels=OUTPUTS.get(head, 2))
    reference = getattr(transformers, class_name)(config)
    with torch.no_grad():
        # New biases are all 0, and scales of norms all 1: if they were mixed up, no number would change.
        for parameter in reference.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    reference.save_pretrained(tmp_path)
    (tmp_path / "sentencepiece.bpe.model").write_bytes(b"")
    checkpoint = open_checkpoint(tmp_path)
    task = None if head == "lm" else head
    assert (checkpoint.format, checkpoint.task, checkpoint.unknown) == ("bert", task, [])
    ids, mask = batch()
    assert_close(run_ours(tmp_path, head, ids), run_torch(reference, head, ids, mask), mask)


def run_paddlenlp(model, head: str | None, ids, mask) -> list[np.ndarray]:
    """The outputs of a model of PaddleNLP. For "choice" the batch is one question with three choices."""
    arguments = {"input_ids": paddle.to_tensor(ids), "attention_mask": paddle.to_tensor(mask)}
    if head == "choice":
        arguments = {name: tensor.unsqueeze(0) for name, tensor in arguments.items()}
    model.eval()
    with paddle.no_grad():
        outputs = model(**arguments)
    if not isinstance(outputs, tuple | list):
        outputs = [outputs]
    return [output.numpy() for output in outputs]


@pytest.mark.parametrize("head", HEADS)
def test_paddlenlp_computes_our_numbers(tmp_path, head):
    ids, mask = batch()
    make(tmp_path / "native", head)
    convert.main(
        [str(tmp_path / "native"), str(tmp_path / "converted"), "--to", "paddlenlp", "--allow_lossy"]
    )
    model_class = getattr(paddlenlp, TARGETS["paddlenlp"].classes[head].name)
    written = paddle.load(str(tmp_path / "converted/model_state.pdparams"))
    options = {"num_choices": len(ids)} if head == "choice" else {}  # no file of PaddleNLP says this number
    reference = model_class.from_pretrained(str(tmp_path / "converted"), **options)
    assert set(reference.state_dict()) == set(written)  # nothing missing, nothing left over
    for name, tensor in reference.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), np.asarray(written[name]))
    expected = run_paddlenlp(reference, head, ids, mask)
    if head == "choice":
        expected = [expected[0].reshape(1, -1)]
    assert_close(run_ours(tmp_path / "native", head, ids), expected, mask)
    save_options = {"whole": {}, "parts": {"max_shard_size": "20KB"}, "safe": {"safe_serialization": True}}
    for name, options in save_options.items():
        reference.save_pretrained(str(tmp_path / name), **options)
        checkpoint = open_checkpoint(tmp_path / name)
        # The names in safetensors of a bare encoder have no prefix, so they are those of our own format.
        assert checkpoint.format == "paddlenlp" or (name == "safe" and head is None)
        assert checkpoint.unknown == []
        assert_close(run_ours(tmp_path / name, head, ids), expected, mask)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_convert_half_precision_from_paddlenlp(tmp_path, dtype):
    reference = paddlenlp.ErnieMModel(paddlenlp.ErnieMConfig(**CONFIG))
    reference.to(dtype=dtype)
    reference.save_pretrained(str(tmp_path / "half"))
    write_piece_model(tmp_path / "half")
    convert.main([str(tmp_path / "half"), str(tmp_path / "ours"), "--to", "ernie-m"])
    expected = {name: tensor.astype("float32").numpy() for name, tensor in reference.state_dict().items()}
    assert_same_bits(open_checkpoint(tmp_path / "ours").tensors, expected)


def test_convert_paddle_save_file(tmp_path):
    reference = paddlenlp.ErnieMModel(paddlenlp.ErnieMConfig(**CONFIG))
    paddle.save(reference.state_dict(), str(tmp_path / "model_state.pdparams"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "ernie_m", **CONFIG}))
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.unknown == []
    assert_same_bits(checkpoint.tensors, {name: x.numpy() for name, x in reference.state_dict().items()})


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("fused", [True, False])
def test_convert_fairseq_file_saved_by_torch(tmp_path, zipped, fused):
    expected = weights(lm_head=True, pooler=False)
    state = {name: torch.tensor(array) for name, array in fairseq_state(expected, fused=fused).items()}
    contents = {
        "args": fairseq_args(),
        "model": state,
        "extra_state": {"epoch": 1},
        "optimizer_history": [{}],
    }
    torch.save(contents, tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.unknown == []
    assert_same_bits(checkpoint.tensors, expected)


def test_read_torch_views_and_shared_storages(tmp_path):
    """Each tensor is read with its own shape and numbers, though all share one storage in the file."""
    base = torch.arange(24.0).reshape(4, 6)
    views = {
        "base": base,
        "transposed": base.T,
        "part": base[1:3, 2:5],
        "step": base[::2, ::3],
        "number": base[2, 3],
        "expanded": base[:1].expand(5, 6),
        "none": base[:0],
        "parameter": torch.nn.Parameter(base[0]),
    }
    for zipped in (True, False):
        torch.save(views, tmp_path / "x.bin", _use_new_zipfile_serialization=zipped)
        tensors = torch_files.read(tmp_path / "x.bin")
        for name, view in views.items():
            np.testing.assert_array_equal(tensors[name], view.detach().numpy())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_read_other_torch_dtypes(tmp_path, dtype):
    numbers = torch.randn(7, 5).to(dtype)
    torch.save({"x": numbers}, tmp_path / "x.bin")
    np.testing.assert_array_equal(torch_files.read(tmp_path / "x.bin")["x"], numbers.double().numpy())


def test_the_tokenizers_have_our_ids(tmp_path, data_dir):
    """The tokenizers of both libraries read the files, with our ids for subwords and special tokens."""
    piece_model = data_dir / "vocab/xnli15-32k.model"
    tokenizer = Tokenizer(piece_model_path=piece_model)
    for target in ("paddlenlp", "huggingface", "xlm-roberta"):
        convert.main([str(piece_model), str(tmp_path / target), "--to", target])
    of_transformers = transformers.ErnieMTokenizer.from_pretrained(tmp_path / "huggingface")
    of_paddlenlp = paddlenlp.ErnieMTokenizer.from_pretrained(str(tmp_path / "paddlenlp"))
    fast_xlm_r = transformers.AutoTokenizer.from_pretrained(tmp_path / "xlm-roberta")
    slow_xlm_r = transformers.XLMRobertaTokenizer.from_pretrained(tmp_path / "xlm-roberta")
    for text in ("the quick brown fox", "слово за слово", "नमस्ते दुनिया"):
        ids = tokenizer.build_inputs(text)
        assert fast_xlm_r(text)["input_ids"] == slow_xlm_r(text)["input_ids"] == ids
        # ErnieM's tokenizers cut words by rules of their own, so only the ids of our tokens are compared.
        tokens = ["[CLS]", *tokenizer.tokenize(text), "[SEP]"]
        for reference in (of_transformers, of_paddlenlp):
            assert reference.convert_tokens_to_ids(tokens) == ids
    expected = tokenizer.build_inputs("the")
    assert of_transformers("the")["input_ids"] == of_paddlenlp("the")["input_ids"] == expected
    assert fast_xlm_r("the fox", "слово")["input_ids"] == tokenizer.build_inputs("the fox", "слово")
    assert (fast_xlm_r.mask_token_id, fast_xlm_r.pad_token_id) == (tokenizer.mask_id, tokenizer.pad_id)
