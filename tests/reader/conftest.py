"""A small SentencePiece model of many scripts, its tokenizer, and a server of files."""

import http.server
import threading
from pathlib import Path

import pytest

from ernie_m.reader.tokenization import Tokenizer
from tests.toys import train_piece_model

SENTENCES = [
    "The quick brown fox jumps over the lazy dog near a river, and 1,000 people saw it in 2000, 2010, 2025.",
    "Le renard brun saute par-dessus le chien paresseux près de la rivière, où l'été dure.",
    "Der schnelle braune Fuchs springt über den faulen Hund in der Nähe des Flusses.",
    "Быстрая коричневая лиса перепрыгивает через ленивую собаку у реки.",
    "敏捷的棕色狐狸跳过懒狗。他说,妈妈,我回来了。",
    "الثعلب البني السريع يقفز فوق الكلب الكسول.",
    "तेज भूरी लोमड़ी आलसी कुत्ते के ऊपर कूदती है।",
    "สุนัขจิ้งจอกสีน้ำตาลกระโดดข้ามสุนัขขี้เกียจ",
    "Con cáo nâu nhanh nhẹn nhảy qua con chó lười.",
    "Η γρήγορη καφέ αλεπού πηδάει πάνω από το τεμπέλικο σκυλί.",
    'She said "yes" - it\'s 12345 67890.',
]


@pytest.fixture(scope="session")
def piece_model(tmp_path_factory):
    """A model trained on SENTENCES, with subwords that are cut again: digits and commas, Han characters."""
    options = {"normalization_rule_name": "nmt_nfkc", "user_defined_symbols": ["0,", "▁25,", "妈妈"]}
    path = tmp_path_factory.mktemp("pieces") / "piece.model"
    return train_piece_model(path, SENTENCES * 20, vocab_size=400, **options)


@pytest.fixture(scope="session")
def tokenizer(piece_model):
    return Tokenizer(piece_model_path=piece_model)


def files(folder: Path) -> list[str]:
    """The names of all files below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


class Server(http.server.ThreadingHTTPServer):
    """Serves bytes by their paths.

    Attributes:
        files: path -> what is there.
        requests: the (path, Range header) of all requests so far.
        drop_at: where the server breaks off in every file; None: nowhere.
        ranges: whether it can send the rest of a file.
        tag: the ETag of every file, which changes with its content.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.drop_at: int | None = None
        self.ranges = True
        self.tag = '"first version"'
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers the requests to a `Server`."""

    def do_GET(self):
        """Send a file, or what it has from the byte on that the header Range names."""
        byte_range = self.headers["Range"]
        self.server.requests.append((self.path, byte_range))
        if self.path not in self.server.files:
            self.send_error(404)
            return
        data = self.server.files[self.path]
        is_same_version = self.headers.get("If-Range") in (None, self.server.tag)
        start = 0
        if byte_range and self.server.ranges and is_same_version:
            start = int(byte_range.removeprefix("bytes=").removesuffix("-"))
        if start >= len(data) > 0:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("ETag", self.server.tag)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start : self.server.drop_at])

    def log_message(self, *_):
        """Print nothing."""


@pytest.fixture
def server():
    """A running `Server`."""
    with Server() as server:
        # 0.02: seconds in which it notices `shutdown`.
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()
