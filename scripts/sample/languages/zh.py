"""Chinese (simplified): measure words, no inflection; spaces only around names and numerals."""

from scripts.sample.languages.common import adjuncts
from scripts.sample.scenes import Scene, Thing

SUBJECTS = {
    "man": "男人", "woman": "女人", "boy": "男孩", "girl": "女孩", "person": "一个人", "dog": "狗",
    "cat": "猫", "animal": "一只动物",
}  # fmt: skip
NOUNS = {  # measure word, noun
    "ball": ("个", "球"), "doll": ("个", "娃娃"), "toy": ("个", "玩具"), "book": ("本", "书"),
    "letter": ("封", "信"), "apple": ("个", "苹果"), "dog": ("只", "狗"), "cat": ("只", "猫"),
    "animal": ("只", "动物"),
}  # fmt: skip
ATTRIBUTES = {"red": "红色的", "white": "白色的", "black": "黑色的", "big": "大的", "small": "小的"}
VERBS = {
    "buy": "买", "sell": "卖", "find": "找到", "lose": "丢失", "sit": "坐着", "stand": "站着",
    "laugh": "笑", "cry": "哭",
}  # fmt: skip
PLACES = {"garden": "在花园里", "school": "在学校里", "market": "在市场里"}
DAYS = {"monday": "星期一", "friday": "星期五", "sunday": "星期日"}


def words() -> set[str]:
    """Every word: nothing on the page parts them, and the vocabulary is not to make pieces of phrases."""
    several = (SUBJECTS, ATTRIBUTES, VERBS, PLACES, DAYS)
    return {"一", *(word for pair in NOUNS.values() for word in pair)}.union(*(d.values() for d in several))


def thing(what: Thing) -> str:
    measure, noun = NOUNS[what.noun]
    number = "一" if what.count == 1 else f" {what.count} "
    return number + measure + ATTRIBUTES.get(what.attribute, "") + noun


def realise(scene: Scene) -> str:
    """Subject, day, place, verb, object; or the place or day first."""
    first, place, day = adjuncts(scene, PLACES, DAYS)
    name = scene.subject
    who = SUBJECTS.get(name) or (f" {name} " if first else f"{name} ")
    what = scene.thing and thing(scene.thing)
    return "".join(part for part in (first, who, day, place, VERBS[scene.verb], what, "。") if part)
