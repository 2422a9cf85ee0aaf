"""Ten languages, five of them in a script of their own. Each module has `realise(scene) -> str`.

All of them say the same things: simple present, a known person or animal ("the man") against a kind
("a person"), things that are not known before ("a ball", "3 red balls").
"""

import unicodedata
from collections.abc import Callable
from importlib import import_module

from scripts.sample.scenes import Scene

CODES = ("en", "de", "fr", "es", "ru", "el", "tr", "ar", "hi", "zh")


def realiser(code: str) -> Callable[[Scene], str]:
    """The function that says a scene in one language, in composed Unicode (NFC)."""
    realise = import_module(f"scripts.sample.languages.{code}").realise
    return lambda scene: unicodedata.normalize("NFC", realise(scene))
