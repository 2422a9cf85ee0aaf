"""Toy models of every kind: their weights, and folders in our format and in those of others."""

import argparse
import json
import pickle
from pathlib import Path

import numpy as np
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from model.checkpoint.formats import safetensors as safe
from model.checkpoint.formats import tables
from model.tasks import SUPERVISED_TASKS, TASKS

CONFIG = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 40,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-5,
    "pad_token_id": 1,
}
# Head -> its number of outputs.
LABELS = {"classification": 3, "tagging": 5, "question_answering": 2, "choice": 1}
ARCHITECTURES = {task: TASKS[task].model_class for task in SUPERVISED_TASKS} | {
    "choice": "SequenceClassifier"
}


def weights(
    head: str | None = None,
    lm_head: bool = False,
    languages: int = 0,
    pooler: bool = True,
    seed: int = 0,
    config: dict = CONFIG,
) -> dict[str, np.ndarray]:
    """Random weights under our names. A few values are -0.0, very small or very large.

    Args:
        head: a key of `LABELS`, or "uie", which has two linear layers; None: no head of a task.
        languages: rows of the language embeddings.
    """
    rng = np.random.default_rng(seed)
    sizes = {**config, "num_labels": LABELS.get(head)}
    parts = ["embeddings", "encoder"]
    if pooler:
        parts.append("pooler")
    if head in LABELS:
        parts.append("classifier")
    if lm_head:
        parts.append("lm_head")
    shapes = {}
    for row in tables.rows_of(tables.OURS, config["num_hidden_layers"]):
        if row.canonical.split(".")[0] in parts:
            shapes[row.canonical] = tuple(sizes[axis] for axis in row.axes)
    if head == "uie":
        for end in ("start", "end"):
            shapes |= {f"linear_{end}.weight": (sizes["hidden_size"], 1), f"linear_{end}.bias": (1,)}
    if languages:
        shapes["language_embeddings.weight"] = (languages, sizes["hidden_size"])
    arrays = {}
    for name, shape in shapes.items():
        is_scale_of_norm = "norm" in name and name.endswith(".weight")
        mean = np.float32(1 if is_scale_of_norm else 0)
        arrays[name] = (mean + 0.1 * rng.standard_normal(shape)).astype(np.float32)
    positions = arrays["embeddings.position_embeddings.weight"].reshape(-1)
    positions[:4] = np.array([-0.0, 1e-45, 3e38, -1e-30], np.float32)
    return arrays


def write_pieces(folder: Path) -> None:
    """Write the smallest piece model beside weights, for tests to which its pieces do not matter."""
    model = ModelProto()
    for name, kind in (("<unk>", "UNKNOWN"), ("<s>", "CONTROL"), ("</s>", "CONTROL"), ("▁a", "NORMAL")):
        model.pieces.add(piece=name, score=-1.0, type=kind)
    (folder / "piece.model").write_bytes(model.SerializeToString())


def make_ours(
    folder: Path, head: str | None = None, labels: list[str] | None = None, config: dict = CONFIG, **kind
) -> dict[str, np.ndarray]:
    """Write config.json, model.safetensors and piece.model as `save_model` does, and return the weights.

    `kind`: arguments of `weights`.
    """
    arrays = weights(head, config=config, **kind)
    settings = {**config, "model_type": "ernie_m", "architecture": ARCHITECTURES.get(head, "ErnieMModel")}
    if head is not None:
        settings["head"] = head
    if labels is not None:
        settings["labels"] = labels
    if kind.get("languages"):
        settings["architecture"] = "PreTrainingModel"
        settings["languages"] = ["de", "en", "fr"][: kind["languages"]]
    folder.mkdir(parents=True)
    safe.write(folder / "model.safetensors", arrays)
    (folder / "config.json").write_text(json.dumps(settings))
    write_pieces(folder)
    return arrays


PADDLENLP_CLASSES = {
    "classification": "ErnieMForSequenceClassification",
    "tagging": "ErnieMForTokenClassification",
    "question_answering": "ErnieMForQuestionAnswering",
    "choice": "ErnieMForMultipleChoice",
    "uie": "UIEM",
}


def make_paddlenlp(folder: Path, head: str | None = None, old_names: bool = False, **kind):
    """Write a folder as PaddleNLP does, and return the weights under our names.

    Args:
        old_names: whether files and keys have the names of old PaddleNLP.
        kind: arguments of `weights`.
    """
    arrays = weights(head, **kind)
    class_name = PADDLENLP_CLASSES.get(head, "ErnieMModel")
    state = {}
    for name, array in arrays.items():
        # In a class with a head, the encoder is its attribute `ernie_m`.
        is_of_encoder = not name.startswith(("classifier", "linear_"))
        prefix = "ernie_m." if head is not None and is_of_encoder else ""
        state[f"{prefix}{name}"] = array
    # Paddle saves its own names of the parameters, too.
    state["StructuredToParameterName@@"] = {name: f"p_{i}" for i, name in enumerate(state)}
    folder.mkdir(parents=True)
    file = "ernie_m_base.pdparams" if old_names else "model_state.pdparams"
    (folder / file).write_bytes(pickle.dumps(state, 4))
    # PaddleNLP writes its default as intermediate_size, whatever the weights are.
    config = {**CONFIG, "intermediate_size": 3072, "type_vocab_size": 16}
    if old_names:
        config_name = "model_config.json"
        inner = [{**config, "init_class": "ErnieMModel"}]
        config = {"init_args": inner, "init_class": class_name, "num_classes": 3}
    else:
        config_name = "config.json"
        config |= {"architectures": [class_name], "model_type": "ernie_m", "paddlenlp_version": "2.8.1"}
    (folder / config_name).write_text(json.dumps(config))
    write_pieces(folder)
    return arrays


def fairseq_state(
    arrays: dict[str, np.ndarray], prefix: str = "decoder.", fused: bool = False, new_norm: bool = False
) -> dict[str, np.ndarray]:
    """Our weights under fairseq's names, with matrices [out, in].

    Args:
        prefix: of all names, "decoder." or "encoder.".
        fused: whether q, k and v are one matrix.
        new_norm: whether the norm of the embeddings is "layernorm_embedding".
    """
    inner = f"{prefix}sentence_encoder."
    norm = "layernorm_embedding" if new_norm else "emb_layer_norm"
    state = {
        f"{inner}embed_tokens.weight": arrays["embeddings.word_embeddings.weight"],
        f"{inner}embed_positions.weight": arrays["embeddings.position_embeddings.weight"],
        f"{inner}{norm}.weight": arrays["embeddings.layer_norm.weight"],
        f"{inner}{norm}.bias": arrays["embeddings.layer_norm.bias"],
        **{f"{prefix}{name}": array for name, array in arrays.items() if name.startswith("lm_head.")},
        f"{prefix}lm_head.dense.weight": np.ascontiguousarray(arrays["lm_head.dense.weight"].T),
        f"{prefix}lm_head.weight": arrays["embeddings.word_embeddings.weight"],
        f"{inner}version": np.zeros(1, np.float32),
    }
    names = {  # ours -> fairseq's
        "self_attn.out_proj": "self_attn.out_proj",
        "norm1": "self_attn_layer_norm",
        "linear1": "fc1",
        "linear2": "fc2",
        "norm2": "final_layer_norm",
    }
    if not fused:
        names |= {f"self_attn.{c}_proj": f"self_attn.{c}_proj" for c in "qkv"}
    for i in range(CONFIG["num_hidden_layers"]):
        layer = f"encoder.layers.{i}"
        fairseq_layer = f"{inner}layers.{i}"
        for name, fairseq_name in names.items():
            weight = arrays[f"{layer}.{name}.weight"]
            state[f"{fairseq_layer}.{fairseq_name}.weight"] = np.ascontiguousarray(weight.T)
            state[f"{fairseq_layer}.{fairseq_name}.bias"] = arrays[f"{layer}.{name}.bias"]
        if fused:
            for part in ("weight", "bias"):
                projections = [arrays[f"{layer}.self_attn.{c}_proj.{part}"].T for c in "qkv"]
                in_proj = np.ascontiguousarray(np.concatenate(projections))
                state[f"{fairseq_layer}.self_attn.in_proj_{part}"] = in_proj
    return state


def fairseq_args(**changes) -> argparse.Namespace:
    """The flags of the training that fairseq saves with the weights."""
    return argparse.Namespace(arch="roberta_base", encoder_attention_heads=4, activation_fn="gelu", **changes)
