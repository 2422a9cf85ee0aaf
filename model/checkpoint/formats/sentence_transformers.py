"""The files with which sentence-transformers loads a folder of transformers as a model of sentence vectors.

modules.json lists the parts of the model, and 1_Pooling/config.json says how tokens become one vector.
"""

from pathlib import Path

from utils.files import as_json

MODULES = "modules.json"
_POOLING = "1_Pooling"  # the library's name for the folder of the second module


def write(folder: Path, hidden_size: int) -> list[str]:
    """Write what says that a text's vector is the mean over all its tokens, [CLS] and [SEP] included.

    This is our pooling `specials` at the top layer. The library has no other layer, and no mean without the
    special tokens.

    Args:
        folder: holds the encoder in the form of transformers.

    Returns:
        The names of the files.
    """
    library = "sentence_transformers.models"
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": f"{library}.Transformer"},  # "": the folder itself
        {"idx": 1, "name": "1", "path": _POOLING, "type": f"{library}.Pooling"},
    ]
    pooling = {
        "word_embedding_dimension": hidden_size,
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": True,
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
    }
    (folder / MODULES).write_text(as_json(modules), encoding="utf-8")
    (folder / _POOLING).mkdir()
    (folder / _POOLING / "config.json").write_text(as_json(pooling), encoding="utf-8")
    return [MODULES, f"{_POOLING}/config.json"]
