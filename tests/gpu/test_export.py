"""An exported graph on this device, against the model that it was made of."""

import paddle

from inference.engines import FILES, PaddleEngine
from inference.graph import ExportedGraph
from inference.paddle_model import DygraphEngine
from model.heads import SequenceClassifier
from model.tasks import CLASSIFICATION
from tests.gpu import toys
from tests.gpu.bounds import BOUNDS, compare


def test_export(device, fact, tmp_path):
    """An exported graph on this device, against the model that it was made of."""
    paddle.seed(1)
    model = SequenceClassifier(toys.config_of(), num_labels=3).eval()
    layers = toys.SHAPE["num_hidden_layers"]  # a classifier reads the top layer
    ids = toys.padded_ids(rows=8, longest=24, words=toys.VOCABULARY.mask_id, seed=1)
    dygraph = DygraphEngine(model, CLASSIFICATION, layers)
    exact = dygraph(ids)
    graph = ExportedGraph(model, CLASSIFICATION, layers)
    spec = [paddle.static.InputSpec([None, None], "int64", "input_ids")]
    paddle.jit.save(graph, str((tmp_path / FILES["paddle"]).with_suffix("")), input_spec=spec)
    outputs = PaddleEngine(tmp_path, graph.outputs)(ids)
    values = [outputs[name] for name in exact]  # in the order of the exact ones
    bound = BOUNDS["tf32" if device.is_card else "float32"]  # a GPU may multiply in TF32
    largest = compare(
        "an exported graph", values, list(exact.values()), bound=bound, advice="predict with the checkpoint"
    )
    fact(f"the exported graph is within {largest:.0e} of its model")
