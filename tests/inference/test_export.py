"""export.py: every graph equals the model on sentences of mixed length; int8; what cannot be exported."""

import json
import shutil

import numpy as np
import onnx
import paddle
import pytest

from inference import onnx as onnx_graph
from inference.export import Checked, agreement, largest_difference, made_up_rows, run_all
from inference.loading import Files, load
from inference.onnx import quantised, write_onnx
from inference.requests import is_per_token
from model.checkpoint.folder import load_from
from model.task_names import OUTPUTS, task_named
from reader.features import pad, padded_batches
from tests.inference import toy_models
from tests.inference.conftest import run_export
from tests.launching import ROOT, run_script
from utils import runtime
from utils.errors import UserError

HEADS = ("encode", "classify", "tag", "answer")


def rows_of(model, count=200):
    """Rows of 3 to the greatest number of tokens."""
    tokenizer = model.tokenizer
    ordinary = np.setdiff1d(np.arange(tokenizer.vocab_size), tokenizer.special_ids)
    rows = made_up_rows(count, model.longest, ordinary, tokenizer.cls_id, tokenizer.sep_id, seed=3)
    assert len({len(row) for row in rows}) > 20 and max(map(len, rows)) == toy_models.LONGEST
    return rows


def directly(models, kind, rows):
    """The model's own outputs, a row at a time, without anything of `inference`."""
    model = toy_models.model(kind, toy_models.config(load(models / kind).config["vocab_size"]))
    load_from(model, models / kind)
    with paddle.no_grad():
        for row in rows:
            found = model(paddle.to_tensor([row]))
            if kind == "encode":
                found = found.sequence, found.pooled
            found = found if isinstance(found, tuple) else (found,)
            yield [x.numpy()[0] for x in found]


@pytest.mark.parametrize("engine", ["dygraph", "paddle", "onnx"])
@pytest.mark.parametrize("kind", HEADS)
def test_every_engine_equals_the_model(models, exported, kind, engine):
    model = load(models / kind) if engine == "dygraph" else load(exported / kind, engine=engine)
    rows = rows_of(model)
    wanted = list(directly(models, kind, rows))
    batches = 0
    task = task_named(kind)
    for numbers, ids in padded_batches(rows, 1, 512):
        outputs = model.engine(task)(ids)
        assert tuple(outputs) == OUTPUTS[task]
        batches += 1
        for number, *found in zip(numbers, *outputs.values()):
            for ours, theirs in zip(found, wanted[number]):
                ours = ours[: len(rows[number])] if len(ours) == ids.shape[1] else ours
                np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert batches > 10


def test_settings_and_report(exported):
    sizes = [(exported / f"encode/{name}.data").stat().st_size for name in ("model.int8.onnx", "model.onnx")]
    assert sizes[0] < sizes[1]
    settings = json.loads((exported / "classify/config.json").read_text())
    made = settings["export"]
    assert (made["task"], made["layer"], made["outputs"]) == ("classification", 2, ["logits"])
    assert settings["labels"] == toy_models.LABELS and made["checked_on"] == "64 made-up sentences"
    assert made["engines"]["paddle"] < 1e-4 and made["engines"]["onnx"] < 1e-4
    assert 1e-4 < made["engines"]["onnx-int8"] < 1.0  # it is another model
    assert 0.9 < made["int8"]["decisions"] <= 1.0
    card = (exported / "classify/README.md").read_text()
    assert "--task classification" in card and "Largest difference: paddle" in card
    int8 = json.loads((exported / "encode/config.json").read_text())["export"]["int8"]
    assert 0.99 < int8["cosine"] < 1.0


def test_accuracy_before_and_after_int8(models, exported, tmp_path, capsys):
    texts = ["bado kani", "lera mo", "tan ga"] * 5
    answers = load(exported / "classify", engine="onnx")
    from inference.tasks import make

    task = make("classify", answers)
    labels = [found["label"] for found in task.answer([task.parse({"text": text}) for text in texts])]
    labels[0] = next(label for label in toy_models.LABELS if label != labels[0])  # one is wrong
    table = tmp_path / "dev.tsv"
    table.write_text("text_a\tlabel\n" + "".join(f"{a}\t{b}\n" for a, b in zip(texts, labels)))
    settings = run_export(models / "classify", tmp_path / "out", int8="true", formats="onnx", check_set=table)
    before, after = settings["export"]["int8"]["accuracy"]
    said = capsys.readouterr().out
    assert "onnx: largest difference to the checkpoint" in said
    assert f"accuracy {before:.2f} -> {after:.2f}" in said
    assert before == pytest.approx(100 * 14 / 15) and 0 <= after <= 100
    assert settings["export"]["checked_on"] == "15 texts of dev.tsv"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md", "config.json", "model.int8.onnx", "model.int8.onnx.data", "model.onnx",
        "model.onnx.data",
        "piece.model", "vocab.txt",
    ]  # fmt: skip


def test_agreement_by_hand():
    before = [{"logits": np.array([1.0, 0.0])}, {"logits": np.array([0.0, 2.0])}]
    after = [{"logits": np.array([0.9, 0.0])}, {"logits": np.array([3.0, 2.0])}]
    found = agreement("classification", Checked("two", [[], []], [0, 1]), before, after)
    assert found == {"decisions": 0.5, "accuracy": (100.0, 50.0)}
    vectors = (
        [{"sequence": np.array([[1.0, 0.0], [1.0, 0.0]])}],
        [{"sequence": np.array([[0.0, 1.0], [2.0, 1.0]])}],
    )
    assert agreement("encoding", Checked("one", [[]]), *vectors)["cosine"] == pytest.approx(0.5**0.5)


def test_logits_of_rows_are_no_logits_of_tokens():
    """As many labels as the batch is long."""

    def engine(ids):
        return {"logits": np.tile(np.arange(4.0), (len(ids), 1))}

    found = run_all(engine, [[0, 5, 6, 2], [0, 2]], 1)
    assert [row["logits"].tolist() for row in found] == [[0.0, 1.0, 2.0, 3.0]] * 2


def test_quantised():
    weight = np.array([[1.27, 0.0], [-0.5, 0.0]], np.float32)
    whole, scale = quantised(weight, axis=0, largest=127)
    assert whole.dtype == np.int8 and whole.tolist() == [[127, 0], [-50, 0]]
    np.testing.assert_allclose(scale, [[0.01, 1.0]], rtol=1e-6)
    random = np.random.default_rng(0).standard_normal((50, 30)).astype(np.float32)
    for largest in (127, 63):
        whole, scale = quantised(random, axis=1, largest=largest)
        assert scale.shape == (50, 1) and np.abs(whole).max() == largest
        assert (np.abs(whole * scale - random) <= scale / 2 + 1e-7).all()


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("engine", ["onnx", "onnx-int8"])
def test_pads_change_nothing(exported, kind, engine):
    """Nor do they widen the range that int8 quantises: its rows would move by a hundredth."""
    model = load(exported / kind, engine=engine)
    rows = rows_of(model)[-9:]
    narrow, wide = run_on_wide_batches(model.engine(task_named(kind)), rows)
    assert largest_difference(narrow, wide) < 1e-5


def run_on_wide_batches(engine, rows):
    """All rows in one batch, as it is and with 7 more columns of pads: the outputs of real tokens."""
    ids = pad(rows, 1)
    for batch in (ids, np.pad(ids, ((0, 0), (0, 7)), constant_values=1)):
        outputs = engine(batch)
        yield [
            {name: x[i][: len(row)] if is_per_token(name, x) else x[i] for name, x in outputs.items()}
            for i, row in enumerate(rows)
        ]


@pytest.mark.parametrize(("given", "flags", "largest"), [
    (None, {"avx2"}, 63), (None, {"avx2", "avx_vnni"}, 127), ("false", {"avx2"}, 127),
    ("true", {"avx_vnni"}, 63),
])  # fmt: skip
def test_int8_follows_the_cpu(models, tmp_path, monkeypatch, given, flags, largest):
    """Without VNNI the weights have 7 bits, unless the user says otherwise."""
    monkeypatch.setattr(runtime, "read_cpu", lambda: runtime.Cpu("", frozenset(flags), 1, 0))
    monkeypatch.setattr(runtime, "prepare", lambda: None)
    settings = run_export(
        models / "classify", tmp_path / "out", formats="onnx", int8="true", reduce_range=given
    )
    tensors = onnx.load(str(tmp_path / "out/model.int8.onnx")).graph.initializer
    weights = [onnx.numpy_helper.to_array(x) for x in tensors if x.name.endswith("linear1.weight")]
    assert {np.abs(weight).max() for weight in weights} == {largest}
    if largest == 63:  # the products are exact on every CPU
        assert settings["export"]["int8"]["decisions"] >= 0.95


def test_paddles_warnings_do_not_reach_the_user(models, tmp_path):
    done = run_script(
        [ROOT / "export.py", "--model", models / "classify", "--output", tmp_path / "out"], tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_encoder_up_to_a_layer(models, tmp_path):
    settings = run_export(models / "classify", tmp_path / "out", task="encode", layer=1)
    assert settings["export"]["outputs"] == ["sequence"]
    graph = onnx.load(str(tmp_path / "out/model.onnx"), load_external_data=False).graph
    assert not any("layers.1" in tensor.name for tensor in graph.initializer)
    checkpoint = load(models / "classify")
    rows = rows_of(checkpoint, 40)
    ids = pad(rows[:5], 1)
    with paddle.no_grad():
        output = checkpoint.model.ernie_m(paddle.to_tensor(ids), output_hidden_states=True)
    for engine in ("paddle", "onnx"):
        found = load(tmp_path / "out", engine=engine).engine("encoding")(ids)["sequence"]
        real = ids != 1
        np.testing.assert_allclose(found[real], output.hidden_states[1].numpy()[real], atol=1e-4)
    with pytest.raises(UserError, match="exported up to layer 1, not 2: export it with --layer 2"):
        load(tmp_path / "out").engine("encoding", 2)


def test_the_encoder_of_a_pretrained_model(models, tmp_path):
    settings = run_export(models / "full", tmp_path / "out", formats="onnx")
    assert settings["export"]["task"] == "encoding" and "languages" not in settings


def test_a_graph_that_does_not_agree_is_not_left(models, tmp_path, monkeypatch, refused):
    monkeypatch.setattr(onnx_graph, "CLOSED", 0.0)  # pads are seen
    line = refused(lambda: run_export(models / "tag", tmp_path / "out"))
    assert line.startswith("error: onnx: the exported model differs from the checkpoint by ")
    assert line.endswith("allowed are 1e-04; nothing was written")
    assert list(tmp_path.iterdir()) == []


def test_what_has_no_place_in_the_graph(models, tmp_path):
    shape = toy_models.config(40)
    weights = {name: x.numpy() for name, x in toy_models.model("encode", shape).named_parameters()}
    weights["adapter.weight"] = np.zeros(3, np.float32)
    with pytest.raises(
        UserError, match="the encoding model cannot be exported to ONNX: adapter.weight have no"
    ):
        write_onnx(tmp_path / "a.onnx", weights, shape.to_dict(), "encoding")
    del weights["adapter.weight"]
    with pytest.raises(UserError, match=r"classification cannot be exported: the model has no classifier"):
        write_onnx(tmp_path / "b.onnx", weights, shape.to_dict(), "classification")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"task": "tag"}, "--task tagging needs another model; it has a head for classification"),
        ({"layer": "1"}, "--layer 1: only --task encoding can end below the top layer"),
        ({"layer": "9", "task": "encode"}, "--layer 9: no such layer"),
        ({"formats": "paddle,tflite"}, "--formats paddle,tflite: no tflite; there are paddle, onnx"),
        ({"max_seq_len": 5}, "--max_seq_len 5: between 8 and the model's 62"),
        ({"max_seq_len": 63}, "--max_seq_len 63: between 8 and the model's 62"),
        ({"reduce_range": "true"}, "--reduce_range is of --int8 true"),
        ({"check_set": "nowhere.txt"}, "nowhere.txt: cannot read it"),
        ({"model": "nowhere"}, "nowhere: "),
    ],
)
def test_bad_flags(models, tmp_path, refused, flags, said):
    flags = {"model": models / "classify"} | flags
    line = refused(lambda: run_export(flags.pop("model"), tmp_path / "out", **flags))
    assert said in line
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_not_replaced(models, tmp_path, refused):
    line = refused(lambda: run_export(models / "tag", models / "encode"))
    assert "it exists and is no exported folder" in line
    shutil.copytree(models / "tag", tmp_path / "with_graph")
    (tmp_path / "with_graph/model.onnx").write_bytes(b"")
    line = refused(lambda: run_export(models / "tag", tmp_path / "with_graph"))
    assert "it exists and is no exported folder" in line
    assert (tmp_path / "with_graph/model.safetensors").is_file()
    assert (models / "encode/model.safetensors").is_file()


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "inference.pdiparams", "inference.json"])
def test_damaged_files(exported, tmp_path, name):
    folder = tmp_path / "copy"
    shutil.copytree(exported / "classify", folder)
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 3])
    engine = "onnx" if "onnx" in name else "paddle"
    with pytest.raises(UserError, match="cannot load it .*; export it again"):
        load(folder, engine=engine).engine("classification")


@pytest.mark.parametrize(
    "change",
    [{"export": {}}, {"export": 3}, {"export": {"task": "x", "layer": 2}}, {"export": {"task": "classify"}}],
)
def test_settings_that_are_damaged(exported, tmp_path, change):
    folder = tmp_path / "copy"
    shutil.copytree(exported / "classify", folder)
    settings = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match='its "export" is not as export.py wrote it'):
        load(folder)


def test_an_exported_folder_has_its_own_tokenizer(exported, models):
    with pytest.raises(UserError, match="--piece_model_path: .* is an exported folder, which has its own"):
        load(exported / "tag", files=Files(piece_model_path=str(models / "piece.model")))


def test_engines_that_are_not_there(models, exported, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(exported / "tag", folder)
    (folder / "model.onnx").unlink()
    assert load(folder).engine_name == "paddle"
    with pytest.raises(UserError, match=r"no model.onnx in it for --engine onnx; it has paddle, onnx-int8"):
        load(folder, engine="onnx")
    with pytest.raises(UserError, match="--engine dygraph needs the checkpoint it came from"):
        load(folder, engine="dygraph")
    with pytest.raises(UserError, match=r"--engine onnx needs an exported folder: python export.py"):
        load(models / "tag", engine="onnx")
    with pytest.raises(UserError, match="exported for tagging, not for classification"):
        load(folder).engine("classification")
