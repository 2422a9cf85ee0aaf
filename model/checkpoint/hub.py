"""Names on a hub in place of a folder: hf://organisation/name, paddlenlp://ernie-m-base.

Both use the hub's own library, if it is installed, and its cache. Without the library or a network, one line
says what to download by hand.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from utils.errors import UserError
from utils.files import atomic_file

_HF, _PADDLENLP = "hf://", "paddlenlp://"
_HF_ANY = ("config.json", "vocab.txt", "*.model")
# One form of the weights is enough, so the next form is fetched only if the one before does not exist.
_HF_WEIGHTS = (
    ("model*.safetensors", "model.safetensors.index.json"),
    ("pytorch_model*.bin", "pytorch_model.bin.index.json"),
    ("model_state*.pdparams", "model_state.pdparams.index.json"),
)
_PADDLENLP_FILES = {
    "model_state": "model_state.pdparams",
    "vocab_file": "vocab.txt",
    "sentencepiece_model_file": "sentencepiece.bpe.model",
}


def local_folder(path: str | os.PathLike) -> Path:
    """The folder behind a name on a hub, fetched if needed; any other path is returned unchanged.

    `hf://organisation/name@revision` names a revision.

    Raises:
        UserError: the library is not installed, there is no such name, or no network and nothing cached.
    """
    text = os.fspath(path)
    if text.startswith(_HF):
        return _hugging_face(text)
    return _paddlenlp(text) if text.startswith(_PADDLENLP) else Path(path)


def _hugging_face(address: str) -> Path:
    name, _, revision = address.removeprefix(_HF).partition("@")
    if name.count("/") != 1 or not all(name.split("/")):
        raise UserError(f"{address}: a name on the hub is {_HF}organisation/name")
    by_hand = (
        f"download https://huggingface.co/{name} (config.json, model.safetensors or pytorch_model.bin or "
        "model_state.pdparams, the tokenizer's vocab.txt and .model file) into a folder and give that folder"
    )
    with _or_by_hand(address, by_hand):
        import huggingface_hub

        for patterns in _HF_WEIGHTS:
            wanted = [*_HF_ANY, *patterns]
            fetched = huggingface_hub.snapshot_download(
                name, revision=revision or None, allow_patterns=wanted
            )
            if any(fnmatch(file.name, patterns[0]) for file in Path(fetched).iterdir()):
                return Path(fetched)
    raise UserError(f"{address}: no weights in a form that is read here (model.safetensors, "
                    "pytorch_model.bin, model_state.pdparams)")  # fmt: skip


def _paddlenlp(address: str) -> Path:
    name = address.removeprefix(_PADDLENLP)
    by_hand = (
        "download model_state.pdparams, config.json, vocab.txt and sentencepiece.bpe.model of that name from "
        "PaddleNLP's model zoo into a folder and give that folder, or get the official weights: "
        "sh scripts/data/get_weights.sh"
    )
    with _or_by_hand(address, by_hand):
        from paddlenlp.transformers import ErnieMModel, ErnieMTokenizer
        from paddlenlp.utils.downloader import get_path_from_url_with_filelock
        from paddlenlp.utils.env import MODEL_HOME

        urls = {**ErnieMModel.pretrained_resource_files_map, **ErnieMTokenizer.pretrained_resource_files_map}
        known = urls["model_state"]
        if name not in known:
            raise UserError(f"{address}: PaddleNLP has no such ERNIE-M; it has {', '.join(known)}")
        folder = Path(MODEL_HOME) / name
        for key, file in _PADDLENLP_FILES.items():
            if not (folder / file).is_file():
                os.replace(get_path_from_url_with_filelock(urls[key][name], str(folder)), folder / file)
        if not (folder / "config.json").is_file():
            config = {"model_type": "ernie_m", **ErnieMModel.pretrained_init_configuration[name]}
            with atomic_file(folder / "config.json", "w") as file:
                file.write(json.dumps(config, indent=2) + "\n")
    return folder


@contextmanager
def _or_by_hand(address: str, by_hand: str) -> Iterator[None]:
    """Turn any error of a hub's library, which may lack its own libraries or a network, into one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines()
        why = lines[0][:200] if lines else type(error).__name__
        if isinstance(error, ImportError):
            library = "huggingface_hub" if address.startswith(_HF) else "paddlenlp"
            why = f"{library} is not installed, or does not import: {why}; pip install {library}"
        raise UserError(f"{address}: cannot be fetched ({why}); {by_hand}") from error
