"""The trainer fits real pairs: a small model knows 512 of them by heart."""

import json

import pytest

from tests.finetune import toy


@pytest.mark.slow
def test_512_real_pairs_are_fitted(classify, data_dir, tmp_path):
    lines = (data_dir / "nli" / "train-en.tsv").read_text(encoding="utf-8").splitlines()[:512]
    path = toy.write_tsv(tmp_path / "train.tsv", [("", *line.split("\t")) for line in lines], qid=False)
    (tmp_path / "labels.json").write_text('{"contradiction": 0, "entailment": 1, "neutral": 2}')
    config = {"vocab_size": 32005, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.05}
    (tmp_path / "config.json").write_text(json.dumps(config))
    results = classify(
        train_set=path, dev_set=path, lang_map_config=None, label_map_config=tmp_path / "labels.json",
        ernie_config_path=tmp_path / "config.json", piece_model_path=data_dir / "vocab" / "xnli15-32k.model",
        batch_size=32, epoch=12, learning_rate=3e-3, max_seq_len=128, validation_steps=1000, skip_steps=50,
    )  # fmt: skip
    assert results["tables"][0]["mean"]["all"] >= 99.0
