"""The Python of docs/architecture.md gives the ids and states of `ernie_m.load`."""

import shutil

import pytest

import ernie_m
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.reader.tokenization import Tokenizer
from tests.helpers.checkpoints import changed_copy, stored
from tests.helpers.pages import compile_python
from tests.toys import make_model, sentences, train_piece_model

# What ERNIE-M's rules for text change, and XLM-R's do not.
TEXTS = [
    "“Bado” kani",
    "bado — kani’s lera",
    "10, 20, 30",
    "tan\u00adga",
    *sentences(20, seed=3),
    "lera mo " * 60,
]
PROMPTS = {"query": "query: ", "passage": "passage: "}
OF_XLM_R = {"text_rules": "none", "separators": 2, "split_han": False, "label_pieces": "leading"}
PIPELINES = {
    "ernie-m": {},
    "e5": {**OF_XLM_R, "pooling": "mean", "normalize": True, "prompts": PROMPTS},
    "bge": {**OF_XLM_R, "pooling": "cls", "max_seq_len": 12, "prompts": PROMPTS, "default_prompt": "query"},
}


@pytest.fixture(scope="module")
def with_pipelines(module_folder):
    """The folder of a model of each of PIPELINES."""
    piece_model = train_piece_model(
        module_folder / "piece.model", [*TEXTS, *PROMPTS.values()] * 20, vocab_size=120
    )
    make_model(module_folder / "made", "encode", piece_model)
    for name, pipeline_config in PIPELINES.items():
        changed_copy(module_folder / "made", module_folder / name, pipeline=stored(**pipeline_config))
    return module_folder


@pytest.mark.parametrize("name", PIPELINES)
def test_run_tokenizer_block_from_docs(with_pipelines, tmp_path, in_tmp_path, name):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/best").symlink_to(with_pipelines / name)
    (tmp_path / "configs").mkdir()
    for target in ("configs/piece.model", "sentencepiece.bpe.model"):
        shutil.copy(with_pipelines / "piece.model", tmp_path / target)
    Tokenizer(None, with_pipelines / "piece.model").write_vocab(tmp_path / "configs/vocab.txt")
    names: dict = {}
    exec(compile_python("architecture.md", "Tokenizer"), names)
    expected = ernie_m.load("checkpoints/best").tokenizer
    assert names["tokenizer"].encode_batch(TEXTS) == expected.encode_batch(TEXTS)
    assert names["tokenizer"].digest == expected.digest
    assert open_checkpoint("checkpoints/best").pipeline_config.text_rules == names["tokenizer"].text_rules


def test_run_layer_block_from_docs(models, tmp_path, in_tmp_path):
    (tmp_path / "pretrained").mkdir()
    (tmp_path / "pretrained/full").symlink_to(models / "full")
    names: dict = {}
    exec(compile_python("architecture.md", "The model in your own Paddle code"), names)
    states = names["states"].numpy()
    assert states.shape[:2] == (2, 4) and states[0].all() and not states[1, 3].any()
