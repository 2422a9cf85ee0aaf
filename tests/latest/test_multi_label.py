"""Several labels a text: transformers' pipeline gives the labels and scores of a converted model."""

import numpy as np
import transformers

import ernie_m
from ernie_m.commands import convert
from ernie_m.model.checkpoint.open import open_checkpoint
from tests.helpers.checkpoints import change_config, stored
from tests.toys import CONFIG, make_ours, train_piece_model

LABELS = ["Rechnung", "возврат", "投诉"]
WORDS = "the man buys a book am Markt und liest мужчина покупает книгу в старом доме 买 一本 书 然后"


def test_the_same_labels_and_scores(tmp_path):
    random = np.random.default_rng(1)
    texts = [" ".join(random.choice(WORDS.split(), random.integers(1, 20))) for _ in range(60)]
    piece_model = train_piece_model(
        tmp_path / "piece.model", texts * 9, vocab_size=120, normalization_rule_name="nmt_nfkc"
    )
    config = {**CONFIG, "max_position_embeddings": 130, "hidden_size": 32}
    make_ours(tmp_path / "plain", "classification", LABELS, config, piece_model)
    change_config(tmp_path / "plain", pipeline=stored(multi_label=True))
    convert.main([str(tmp_path / "plain"), str(tmp_path / "native")])
    convert.main([str(tmp_path / "plain"), str(tmp_path / "reference"), "--to", "xlm-roberta"])

    predictions = ernie_m.load(tmp_path / "native").classify(texts)
    reference = transformers.pipeline("text-classification", model=str(tmp_path / "reference"), device="cpu")
    of_peer = reference(texts, top_k=None)
    for prediction, scores in zip(predictions, of_peer, strict=True):
        score_of = {score["label"]: score["score"] for score in scores}
        assert prediction["labels"] == [label for label in LABELS if score_of[label] > 0.5]
        assert max(abs(score_of[label] - got) for label, got in prediction["probabilities"].items()) < 1e-5

    # What transformers saves of it is read as a model for several labels again.
    reference.model.save_pretrained(tmp_path / "again")
    again = open_checkpoint(tmp_path / "again")
    assert (again.labels, again.pipeline_config.to_json()) == (LABELS, {"multi_label": True})
    change_config(tmp_path / "again", pipeline=None)
    assert open_checkpoint(tmp_path / "again").pipeline_config.multi_label
