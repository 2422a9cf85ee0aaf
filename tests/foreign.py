"""Models of random weights as others write them: the official code, PaddleNLP, fairseq, transformers.

Those who convert and read them compare with the weights that these functions return.
"""

import argparse
import base64
import json
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from ernie_m.model.checkpoint import lod_tensors, official
from ernie_m.model.checkpoint.weights import Weights
from ernie_m.model.config import ErnieMConfig
from ernie_m.reader.tokenization import Tokenizer
from tests import toys
from tests.helpers.files import write_file, write_files

# ---- The official layout.

_OFFICIAL_CONFIG = {
    "vocab_size": 50,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 514,
    "initializer_range": 0.02,
}


def official_config(**changes) -> dict:
    """The content of ernie_config.json, with `changes`."""
    return {**_OFFICIAL_CONFIG, **changes}


def make_official(folder: Path, config: dict, head: str | None = None, **kind) -> Path:
    """Write `folder/ernie_config.json` and `folder/params/`, and return the latter.

    `kind`: arguments of `toys.weights`.
    """
    params = folder / "params"
    params.mkdir(parents=True, exist_ok=True)
    official.write_config(folder / official.CONFIG, config)
    arrays = toys.weights(head, config={**config, "intermediate_size": 4 * config["hidden_size"]}, **kind)
    for row in official.OfficialFormat().list_tensors(config["num_hidden_layers"], head):
        if row.canonical in arrays:
            lod_tensors.write(params / row.in_format, arrays[row.canonical])
    return params


def write_as_official(
    folder: Path, weights: Mapping[str, np.ndarray], config: ErnieMConfig, head: str | None = None
) -> list[str]:
    """Write weights under our names as a conversion does, and return the names that it cannot store."""
    translated = official.OfficialFormat().from_native(Weights.from_arrays(weights), head)
    official.write_official(folder, translated.weights, config)
    return translated.unknown


# ---- PaddleNLP.

_PADDLENLP_CLASSES = {
    "classification": "ErnieMForSequenceClassification",
    "token-classification": "ErnieMForTokenClassification",
    "question-answering": "ErnieMForQuestionAnswering",
    "choice": "ErnieMForMultipleChoice",
}


def make_paddlenlp(folder: Path, head: str | None = None, old_names: bool = False) -> dict[str, np.ndarray]:
    """Write a folder as PaddleNLP does, and return the weights under our names.

    `old_names`: whether files and keys have the names of old PaddleNLP.
    """
    arrays = toys.weights(head)
    class_name = _PADDLENLP_CLASSES.get(head, "ErnieMModel")
    prefix = "" if head is None else "ernie_m."  # in a class with a head, the encoder is this attribute
    state = {
        name if name.startswith("classifier") else f"{prefix}{name}": array for name, array in arrays.items()
    }
    # Paddle saves its own names of the parameters.
    state["StructuredToParameterName@@"] = {name: f"p_{i}" for i, name in enumerate(state)}
    folder.mkdir(parents=True)
    file = "ernie_m_base.pdparams" if old_names else "model_state.pdparams"
    (folder / file).write_bytes(pickle.dumps(state, 4))
    # PaddleNLP writes its default as intermediate_size, whatever the weights are.
    config = {**toys.CONFIG, "intermediate_size": 3072, "type_vocab_size": 16}
    if old_names:
        config_name = "model_config.json"
        arguments = [{**config, "init_class": "ErnieMModel"}]
        config = {"init_args": arguments, "init_class": class_name, "num_classes": 3}
    else:
        config_name = "config.json"
        config |= {"architectures": [class_name], "model_type": "ernie_m", "paddlenlp_version": "2.8.1"}
    (folder / config_name).write_text(json.dumps(config))
    toys.write_piece_model(folder)
    return arrays


# ---- The release of PaddlePaddle on the Hugging Face Hub, by PaddleNLP.

# The keys of its files in their order. Those of large have other numbers.
RELEASED_CONFIG = {
    "architectures": ["ErnieMModel"],
    "attention_probs_dropout_prob": 0.1,
    "dtype": "float32",
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "max_position_embeddings": 514,
    "model_type": "ernie_m",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "paddlenlp_version": None,
    "type_vocab_size": 16,
    "vocab_size": 250002,
}
_SPECIAL_TOKENS = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")}
_RELEASED_TOKENIZER = {
    "do_lower_case": False,
    "encoding": "utf8",
    **_SPECIAL_TOKENS,
    "model_max_length": 514,
    "tokenizer_class": "ErnieMTokenizer",
}


def make_released(
    folder: Path, piece_model: Path, prefix: str = "", pooler: bool = True, **changes
) -> dict[str, np.ndarray]:
    """Write a folder with the names of the release, and return the weights, which are random.

    The JSON files have its bytes except for `changes`. Vocabulary and SentencePiece model are not its files,
    which are not public here.

    Args:
        prefix: of the tensor names, "ernie_m." or "".
        changes: of config.json, such as smaller sizes.
    """
    tokenizer = Tokenizer(None, piece_model)
    config = {**RELEASED_CONFIG, "vocab_size": tokenizer.vocab_size, **changes}
    shapes = {**toys.CONFIG, **config, "intermediate_size": 4 * config["hidden_size"]}  # PaddleNLP's rule
    arrays = toys.weights(pooler=pooler, config=shapes)
    tokens = sorted(tokenizer.vocab, key=tokenizer.vocab.__getitem__)  # a line for each id
    contents = {
        "config.json": json.dumps(config, indent=2) + "\n",
        "tokenizer_config.json": json.dumps(_RELEASED_TOKENIZER),
        "special_tokens_map.json": json.dumps(_SPECIAL_TOKENS),
        "vocab.txt": "".join(f"{token}\n" for token in tokens),
    }
    write_files(folder, contents)
    shutil.copy(piece_model, folder / "sentencepiece.bpe.model")
    state = {f"{prefix}{name}": array for name, array in arrays.items()}
    (folder / "model_state.pdparams").write_bytes(pickle.dumps(state, 4))
    return arrays


# ---- fairseq.


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
    for i in range(toys.CONFIG["num_hidden_layers"]):
        layer = f"encoder.layers.{i}"
        fairseq_layer = f"{inner}layers.{i}"
        for name, fairseq_name in names.items():
            weight = arrays[f"{layer}.{name}.weight"]
            state[f"{fairseq_layer}.{fairseq_name}.weight"] = np.ascontiguousarray(weight.T)
            state[f"{fairseq_layer}.{fairseq_name}.bias"] = arrays[f"{layer}.{name}.bias"]
        if fused:
            for part in ("weight", "bias"):
                projections = [arrays[f"{layer}.self_attn.{c}_proj.{part}"].T for c in "qkv"]
                in_proj = np.concatenate(projections)
                state[f"{fairseq_layer}.self_attn.in_proj_{part}"] = np.ascontiguousarray(in_proj)
    return state


def fairseq_args(**changes) -> argparse.Namespace:
    """The flags of the training that fairseq saves with the weights."""
    return argparse.Namespace(arch="roberta_base", encoder_attention_heads=4, activation_fn="gelu", **changes)


# ---- XLM-R in the format of Hugging Face.


def xlm_r_config(**changes) -> dict:
    """The content of config.json, with `changes`."""
    return {
        "model_type": "xlm-roberta",
        "vocab_size": 60,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 40,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "pad_token_id": 1,
        "type_vocab_size": 1,
        **changes,
    }


def xlm_r_weights(settings: dict, seed: int = 0) -> dict[str, np.ndarray]:
    """A state dict with matrices [out, in], as in torch."""
    rng = np.random.default_rng(seed)
    h = settings["hidden_size"]
    inner = settings["intermediate_size"]
    shapes = {
        "roberta.embeddings.word_embeddings.weight": (settings["vocab_size"], h),
        "roberta.embeddings.position_embeddings.weight": (settings["max_position_embeddings"], h),
        "roberta.embeddings.token_type_embeddings.weight": (1, h),
        **_affine("roberta.embeddings.LayerNorm", h),
        **_affine("lm_head.dense", h, h),
        **_affine("lm_head.layer_norm", h),
        "lm_head.bias": (settings["vocab_size"],),
    }
    for i in range(settings["num_hidden_layers"]):
        layer = f"roberta.encoder.layer.{i}"
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            shapes |= _affine(f"{layer}.attention.{name}", h, h)
        shapes |= {
            **_affine(f"{layer}.attention.output.LayerNorm", h),
            **_affine(f"{layer}.output.LayerNorm", h),
            **_affine(f"{layer}.intermediate.dense", inner, h),
            **_affine(f"{layer}.output.dense", h, inner),
        }
    return {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}


def _affine(name: str, size: int, *inputs: int) -> dict[str, tuple[int, ...]]:
    """The shapes of weight and bias: of a linear layer with `inputs` inputs, or of a norm without."""
    return {f"{name}.weight": (size, *inputs), f"{name}.bias": (size,)}


def make_xlm_r(folder: Path, piece_model: Path | None = None, **changes) -> dict[str, np.ndarray]:
    """Write config.json and model.safetensors, and return the weights.

    Args:
        piece_model: a SentencePiece model with the model's vocabulary, which is copied next to it.
        changes: of config.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if piece_model is not None:
        changes["vocab_size"] = Tokenizer(None, piece_model).vocab_size
        shutil.copy(piece_model, folder / "sentencepiece.bpe.model")
    settings = xlm_r_config(**changes)
    (folder / "config.json").write_text(json.dumps(settings))
    arrays = xlm_r_weights(settings)
    save_file(arrays, folder / "model.safetensors")
    return arrays


def make_bert(folder: Path, arrays=(), **changes) -> dict[str, np.ndarray]:
    """Write a BERT with random weights and a file of subwords, and return the weights.

    Args:
        arrays: more tensors, such as those of a head.
        changes: of config.json.
    """
    settings = xlm_r_config(**{"model_type": "bert", "pad_token_id": 0, "type_vocab_size": 2, **changes})
    state = {
        name.removeprefix("roberta."): array
        for name, array in xlm_r_weights(settings).items()
        if not name.startswith("lm_head.")
    }
    types = "embeddings.token_type_embeddings.weight"
    state[types] = np.concatenate([state[types], state[types] + 1])
    state |= dict(arrays)
    write_file(folder / "config.json", json.dumps(settings))
    (folder / "sentencepiece.bpe.model").write_bytes(b"")
    save_file(state, folder / "model.safetensors")
    return state


def tokenizer_json(piece_model: Path) -> dict:
    """The tokenizer.json that transformers 5 writes for XLM-R with a SentencePiece model."""
    model = ModelProto.FromString(piece_model.read_bytes())
    charsmap = base64.b64encode(model.normalizer_spec.precompiled_charsmap).decode()
    return xlm_r_json([[subword.piece, subword.score] for subword in model.pieces[3:]], charsmap)


def xlm_r_json(subwords: list, charsmap: str = "") -> dict:
    """XLM-R's tokenizer.json with these subwords, [text, score], and its table of characters, base64."""
    special_tokens = ["<s>", "<pad>", "</s>", "<unk>"]
    vocab = [*([name, 0.0] for name in special_tokens), *subwords, ["<mask>", 0.0]]
    added = [*enumerate(special_tokens), (len(vocab) - 1, "<mask>")]
    begin, end = ({"SpecialToken": {"id": name, "type_id": 0}} for name in ("<s>", "</s>"))
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    return {
        "version": "1.0",
        "added_tokens": [{"id": id_, "content": name, "special": True} for id_, name in added],
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": charsmap},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [begin, first, end],
            "pair": [begin, first, end, end, second, end],
            "special_tokens": {
                name: {"id": name, "ids": [id_], "tokens": [name]} for name, id_ in (("<s>", 0), ("</s>", 2))
            },
        },
        "model": {"type": "Unigram", "unk_id": 3, "vocab": vocab, "byte_fallback": False},
    }
