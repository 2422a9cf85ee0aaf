"""Files and folders of weights, and their configs."""

import json
import pickle
from pathlib import Path

import numpy as np

from inference.requests import reading_of
from model.checkpoint.formats import configs, fluid
from model.checkpoint.formats import paddle as paddle_file
from model.checkpoint.formats import safetensors as safe
from model.checkpoint.formats import torch as torch_file
from model.checkpoint.read import read_weights
from model.config import ErnieMConfig
from tests.fuzz.attempt import Target, each
from tests.fuzz.edits import json_edit, pickle_edit, safetensors_edit
from tests.helpers.official_layout import make_official_weights, official_config
from tests.helpers.toy_models import CONFIG, fairseq_args, fairseq_state, make_ours, make_paddlenlp, weights
from tests.helpers.xlm_r_layout import legacy_bytes, write_torch_file, zip_bytes

TINY = {**CONFIG, "vocab_size": 7, "hidden_size": 4, "num_attention_heads": 2, "num_hidden_layers": 1,
        "intermediate_size": 16, "max_position_embeddings": 6}  # fmt: skip
WORDS = "embeddings.word_embeddings.weight"


def _all(found) -> None:
    for name in found:
        assert found[name].shape == found.shape(name)


def _folder(path: Path) -> None:
    _all(read_weights(path.parent).weights)


def _tensor_seeds(folder: Path) -> list[bytes]:
    seeds = []
    for array in (
        np.arange(6, dtype="f4").reshape(2, 3),
        np.zeros([0, 5], "i8"),
        np.float64(3),
        np.ones(9, "?"),
    ):
        fluid.write(folder / "x", array)
        seeds.append((folder / "x").read_bytes())
    levels = (2).to_bytes(8, "little") + 2 * ((16).to_bytes(8, "little") + bytes(16))
    return [*seeds, seeds[0][:4] + levels + seeds[0][12:]]


def _official_seeds(folder: Path) -> list[bytes]:
    config = official_config("tiny", vocab_size=7, num_hidden_layers=1)
    params = make_official_weights(folder, config, seed=1)
    return [(params / "word_embedding").read_bytes()]


def _official_config_seeds(folder: Path) -> list[bytes]:
    _official_seeds(folder)
    return [(folder / "ernie_config.json").read_bytes()]


def _official_config(path: Path) -> None:
    each(lambda: read_weights(path.parent / "params"), lambda: ErnieMConfig.from_json(path))


def _config_seeds(folder: Path) -> list[bytes]:
    made = folder / "made"
    make_ours(made, "classification", ["a", "b", "c"], config=TINY)
    (made / "model.safetensors").rename(folder / "model.safetensors")
    ours = json.loads((made / "config.json").read_text())
    ours["reading"] = {"max_seq_len": 128, "layer": 1, "pooling": "mean", "pseudo_proportion": 0.2}
    nested = {"init_class": "ErnieMForSequenceClassification", "num_classes": 3,
              "init_args": [{**CONFIG, "init_class": "ErnieMModel"}]}  # fmt: skip
    theirs = {**TINY, "architectures": ["ErnieMForSequenceClassification"], "model_type": "ernie_m",
              "id2label": {"0": "a", "1": "b", "2": "c"}}  # fmt: skip
    return [json.dumps(value).encode() for value in (ours, nested, theirs)]


def _config(path: Path) -> None:
    each(
        lambda: ErnieMConfig.from_json(path),
        lambda: configs.labels_of(configs.read_json(path)),
        lambda: reading_of(configs.read_json(path), path.parent),
        lambda: read_weights(path.parent),
    )


def _pdparams_seeds(folder: Path) -> list[bytes]:
    seeds = []
    for protocol in (2, 4):
        make_paddlenlp(folder / f"p{protocol}", "classification", protocol)
        whole = pickle.loads((folder / f"p{protocol}" / "model_state.pdparams").read_bytes())
        small = {name: array[:2] for name, array in list(whole.items())[:3] if hasattr(array, "shape")}
        seeds.append(pickle.dumps({**small, "StructuredToParameterName@@": {"a": "b"}}, protocol))
    paddle_file.write(folder / "x", {"a": np.ones([2, 3], "f4"), "long": np.zeros([40, 40], "f4")})
    nested = {
        "a": ("name", np.arange(3, dtype=np.uint16)),
        "n": [1, 2.5, None, {"k": b"x"}],
        "s": np.float32(2),
    }
    return [*seeds, (folder / "x").read_bytes(), pickle.dumps(nested, 0), pickle.dumps(nested, 5)]


def _torch_seeds(folder: Path, legacy: bool) -> list[bytes]:
    arrays = {"a.weight": np.arange(6, dtype="f4").reshape(2, 3), "b": np.ones(2, "f4")}
    write_torch_file(folder / "x", arrays, legacy=legacy)
    write_torch_file(
        folder / "y", arrays, wrap=lambda state: {"args": fairseq_args(), "model": state}, legacy=legacy
    )
    return [(folder / name).read_bytes() for name in "xy"]


def _torch_pickle_seeds(folder: Path) -> list[bytes]:
    import io
    import zipfile

    found = [zipfile.ZipFile(io.BytesIO(data)) for data in _torch_seeds(folder, legacy=False)]
    return [archive.read("archive/data.pkl") for archive in found]


def _torch_pickle(path: Path) -> None:
    """The pickle, in an archive whose checksums are right; then in the layout before."""
    storages = {"0": np.arange(6, dtype="f4"), "1": np.ones(2, "f4")}
    data, file = path.read_bytes(), path.with_name("model.bin")

    def read(wrap) -> None:
        file.write_bytes(wrap(data, storages))
        _all(torch_file.read(file))

    each(lambda: read(zip_bytes), lambda: read(legacy_bytes))


def _safetensors_seeds(folder: Path) -> list[bytes]:
    arrays = {"a": np.arange(6, dtype="f4").reshape(2, 3), "b": np.zeros([0, 3], "f8"), "c": np.ones(3, "u1"),
              "d": np.float16(1)}  # fmt: skip
    safe.write(folder / "x", arrays, metadata={"format": "pt"})
    half = b'{"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}'
    return [(folder / "x").read_bytes(), len(half).to_bytes(8, "little") + half + b"\x80\x3f\x80\x3f"]


def _checkpoint_seeds(folder: Path) -> list[bytes]:
    make_ours(folder / "made", "classification", config=TINY)
    (folder / "made/config.json").rename(folder / "config.json")
    whole = (folder / "made/model.safetensors").read_bytes()
    safe.write(folder / "x", fairseq_state(weights(lm_head=True, pooler=False)))
    return [whole, whole.replace(b'"embeddings.', b'"roberta.x.')]


def _index_seeds(folder: Path) -> list[bytes]:
    made = make_ours(folder / "made", config=TINY)
    (folder / "made/config.json").rename(folder / "config.json")
    parts = {"model-1.safetensors": [WORDS], "model-2.safetensors": [name for name in made if name != WORDS]}
    for file, names in parts.items():
        safe.write(folder / file, {name: made[name] for name in names})
    place = {name: file for file, names in parts.items() for name in names}
    return [json.dumps({"metadata": {"total_size": 1}, "weight_map": place}).encode()]


_NAMES = (
    b"float32",
    b"<f4",
    b"F32",
    b"BF16",
    b"collections\nOrderedDict",
    b"numpy.core.multiarray\n_reconstruct",
)
TARGETS = {
    "lodtensor": Target("fc_0.w_0", _tensor_seeds, fluid.read),
    "official_folder": Target("params/word_embedding", _official_seeds, lambda path: _folder(path)),
    "official_config": Target("ernie_config.json", _official_config_seeds, _official_config, json_edit),
    "config": Target("config.json", _config_seeds, _config, json_edit, (b'"init_class"', b'"model_type"')),
    "pdparams": Target(
        "model_state.pdparams",
        _pdparams_seeds,
        lambda path: _all(paddle_file.read(path)),
        pickle_edit,
        _NAMES,
    ),
    "torch_zip": Target(
        "pytorch_model.bin", lambda f: _torch_seeds(f, False), lambda path: _all(torch_file.read(path))
    ),
    "torch_legacy": Target(
        "model.pt", lambda f: _torch_seeds(f, True), lambda path: _all(torch_file.read(path))
    ),
    "torch_pickle": Target("data.pkl", _torch_pickle_seeds, _torch_pickle, pickle_edit, _NAMES),
    "safetensors": Target(
        "model.safetensors", _safetensors_seeds, lambda path: _all(safe.read(path)), safetensors_edit, _NAMES
    ),
    "checkpoint": Target("model.safetensors", _checkpoint_seeds, _folder, safetensors_edit, _NAMES),
    "index": Target("model.safetensors.index.json", _index_seeds, _folder, json_edit),
}
