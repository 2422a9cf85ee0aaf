"""The encoder of examples/mteb_encoder.py in mteb: its scores are those of the embeddings themselves."""

import numpy as np
import pytest
from scipy.stats import spearmanr

import ernie_m
from tests import toys
from tests.toys import sentences


def test_mteb_sts_task(tmp_path, in_tmp_path):
    import mteb
    from datasets import Dataset, DatasetDict
    from mteb.abstasks.sts import AbsTaskSTS
    from mteb.abstasks.task_metadata import TaskMetadata

    from examples.mteb_encoder import ErnieM

    texts = sentences(40, seed=1)
    first, second = texts[:20], texts[20:]
    scores = np.random.default_rng(0).permutation(20).astype(float).tolist()

    class Own(AbsTaskSTS):
        metadata = TaskMetadata(
            name="Own", description="made up", type="STS", category="t2t", modalities=["text"],
            dataset={"path": "none/none", "revision": "1"}, eval_splits=["test"], eval_langs=["eng-Latn"],
            main_score="cosine_spearman", reference=None, date=None, domains=None, task_subtypes=None,
            license=None, annotations_creators=None, dialect=None, sample_creation=None, bibtex_citation=None,
        )  # fmt: skip
        min_score, max_score = 0, 19

        def load_data(self, **options):
            rows = {"sentence1": first, "sentence2": second, "score": scores}
            self.dataset = DatasetDict({"test": Dataset.from_dict(rows)})
            self.data_loaded = True

    toys.make_models(tmp_path)
    results = mteb.evaluate(ErnieM("encode"), [Own()], cache=None)
    (found,) = results.task_results[0].scores["test"]
    cosines = np.diag(ernie_m.load("encode").similarity(first, second))
    assert found["main_score"] == pytest.approx(spearmanr(cosines, scores).statistic, abs=1e-6)
