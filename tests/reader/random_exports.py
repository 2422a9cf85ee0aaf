"""Tables as JSON: what annotation tools give out, and what scripts write."""

from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

# The records; where the parts of a row stand in each; why a reader has to ask, or nothing; which are rows.
Made = tuple[list[Any], tuple[Any, ...], str, list[int]]


class Export(NamedTuple):
    weight: int
    make: Callable[[Random, list[list[str]], list[str], list[str]], Made]
    forms: tuple[str, ...] = ("json lines",)


def _value(label: str) -> Any:
    """A label as a script keeps it: a number, where it looks like one."""
    return int(label) if label.lstrip("-").isdigit() else label


def _records(random: Random, texts, labels, languages) -> Made:
    text, label = random.choice(
        ("text label", "text label", "sentence label", "content category", "review sentiment",
         "utterance intent", "txt_roh klasse_x", "内容 标签")
    ).split()  # fmt: skip
    more = random.choice((None, None, "id", "meta", "lang"))
    values: dict[str, Callable[[int], Any]] = {
        "id": lambda i: i,
        "meta": lambda i: {"source": "web", "page": i, "tags": []},
        "lang": lambda i: languages[0],
    }
    records = []
    for i, (said, drawn) in enumerate(zip(texts[0], labels, strict=True)):
        record = {more: values[more](i)} if more else {}
        records.append(record | {text: said, label: _value(drawn)})
    return records, (text, label), "", list(range(len(records)))


def _several(random: Random, texts, labels, languages) -> Made:
    names = sorted(set(labels))
    records = [
        {"text": said, "labels": random.sample(names, random.randint(1, len(names)))} for said in texts[0]
    ]
    return records, ("text", "labels"), "", list(range(len(records)))


def _label_studio(random: Random, texts, labels, languages) -> Made:
    records = []
    kept = []
    for i, (said, drawn) in enumerate(zip(texts[0], labels, strict=True)):
        value = {"choices": [drawn]}
        result = {"id": f"{random.getrandbits(40):x}", "type": "choices", "value": value, "origin": "manual"}
        result |= {"from_name": "sentiment", "to_name": "text"}
        cancelled = i > 1 and random.random() < 0.05
        annotation = {
            "id": 40 + i,
            "completed_by": 1,
            "result": [] if cancelled else [result],
            "was_cancelled": cancelled,
        }
        annotation |= {"ground_truth": False, "lead_time": 3.1}
        records.append(
            {
                "id": 100 + i,
                "annotations": [annotation],
                "drafts": [],
                "predictions": [],
                "data": {"text": said},
            }
        )
        records[-1] |= {"meta": {}, "created_at": "2024-05-02T10:00:07.1Z", "project": 3}
        if not cancelled:
            kept.append(i)
    return records, (("data", "text"), ("annotations", 0, "result", 0, "value", "choices")), "", kept


def _label_studio_min(random: Random, texts, labels, languages) -> Made:
    name = random.choice(("sentiment", "topic"))
    several = random.random() < 0.4
    names = sorted(set(labels))
    records = []
    for i, (said, drawn) in enumerate(zip(texts[0], labels, strict=True)):
        value: Any = {"choices": random.sample(names, 2)} if several and random.random() < 0.5 else drawn
        record = {"text": said, "id": 100 + i, name: value, "annotator": 1, "annotation_id": 40 + i}
        records.append(record | {"created_at": f"2024-05-02T10:{i % 60:02}:07.1Z", "lead_time": 3.1 + i})
    return records, ("text", name), "", list(range(len(records)))


def _doccano(random: Random, texts, labels, languages) -> Made:
    several = random.random() < 0.3
    names = sorted(set(labels))
    records = []
    for i, (said, drawn) in enumerate(zip(texts[0], labels, strict=True)):
        chosen = random.sample(names, 2) if several and random.random() < 0.4 else [drawn]
        records.append({"id": 4000 + i, "text": said, "label": chosen, "Comments": []})
    return records, ("text", "label"), "", list(range(len(records)))


def _prodigy(random: Random, texts, labels, languages) -> Made:
    names = sorted(set(labels))
    records = []
    for said, drawn in zip(texts[0], labels, strict=True):
        record: dict[str, Any] = {
            "text": said,
            "_input_hash": random.getrandbits(31),
            "_task_hash": -random.getrandbits(31),
        }
        record |= {
            "options": [{"id": name, "text": name} for name in names],
            "_view_id": "choice",
            "accept": [drawn],
        }
        answer = random.choices(("accept", "ignore"), (19, 1))[0]
        records.append(
            record | {"config": {"choice_style": "single"}, "answer": answer, "_timestamp": 1714644007}
        )
    return (
        records,
        ("text", "accept"),
        "",
        [i for i, record in enumerate(records) if record["answer"] == "accept"],
    )


def _massive(random: Random, texts, labels, languages) -> Made:
    records = []
    for i, said in enumerate(texts[0]):
        scenario = random.choice(("alarm", "music", "weather"))
        record = {
            "id": str(i),
            "locale": f"{languages[0]}-XX",
            "partition": random.choice(("train", "dev", "test")),
        }
        record |= {"scenario": scenario, "intent": scenario + random.choice(("_set", "_query")), "utt": said}
        records.append(
            record | {"annot_utt": f"[date : today] {said}", "worker_id": str(random.randint(1, 90))}
        )
    return records, ("utt", "intent"), "intent or scenario", list(range(len(records)))


def _translation(random: Random, texts, labels, languages) -> Made:
    one, two = languages
    sides = [{one: source, two: target} for source, target in zip(*texts, strict=True)]
    every = list(range(len(sides)))
    if random.random() < 0.5:
        return sides, (one, two), "", every
    nested = [{"id": str(i), "translation": side} for i, side in enumerate(sides)]
    return nested, (("translation", one), ("translation", two)), "", every


def _pair_records(random: Random, texts, labels, languages) -> Made:
    names = random.choice(
        ("source target", "src tgt", "anchor positive", "query answer", "Quelle_x Ziel_x", "左 右")
    )
    one, two = names.split()
    scored = random.random() < 0.3
    records = [
        {one: source, two: target} | ({"score": round(random.uniform(1, 1.3), 4)} if scored else {})
        for source, target in zip(*texts, strict=True)
    ]
    return records, (one, two), "", list(range(len(records)))


def _pair_lists(random: Random, texts, labels, languages) -> Made:
    return [list(pair) for pair in zip(*texts, strict=True)], (0, 1), "", list(range(len(texts[0])))


def _judged(random: Random, texts, labels, languages) -> Made:
    records = []
    for i, (one, two) in enumerate(zip(*texts, strict=True)):
        records.append({"sentence1": one, "sentence2": two, "label": i % 2})
    return records, ("sentence1", "sentence2"), "a column judges the pairs", list(range(1, len(records), 2))


EXPORTS: dict[str, dict[str, Export]] = {
    "labels": {
        "records": Export(45, _records, ("json lines", "json lines", "json list", "json columns")),
        "several labels": Export(8, _several, ("json lines", "json list")),
        "label studio": Export(10, _label_studio, ("json list",)),
        "label studio min": Export(8, _label_studio_min, ("json list",)),
        "doccano": Export(12, _doccano),
        "prodigy": Export(10, _prodigy),
        "massive": Export(4, _massive),
    },
    "pairs": {
        "translation": Export(10, _translation, ("json lines", "json list")),
        "pair records": Export(10, _pair_records, ("json lines", "json list")),
        "pair lists": Export(3, _pair_lists, ("json lines", "json list")),
        "judged records": Export(3, _judged),
    },
}
