"""Russian: no articles, accusative objects, genitive after numerals, animate nouns apart."""

from scripts.sample import concepts
from scripts.sample.languages.common import adjuncts, phrase, sentence
from scripts.sample.scenes import Scene, Thing

SUBJECTS = {
    "man": "мужчина", "woman": "женщина", "boy": "мальчик", "girl": "девочка", "person": "человек",
    "dog": "собака", "cat": "кошка", "animal": "животное",
}  # fmt: skip
NOUNS = {  # gender, accusative singular, genitive singular, genitive plural
    "ball": ("m", "мяч", "мяча", "мячей"),
    "doll": ("f", "куклу", "куклы", "кукол"),
    "toy": ("f", "игрушку", "игрушки", "игрушек"),
    "book": ("f", "книгу", "книги", "книг"),
    "letter": ("n", "письмо", "письма", "писем"),
    "apple": ("n", "яблоко", "яблока", "яблок"),
    "dog": ("f", "собаку", "собаки", "собак"),
    "cat": ("f", "кошку", "кошки", "кошек"),
    "animal": ("n", "животное", "животного", "животных"),
}
ATTRIBUTES = {  # accusative singular m (of a thing), f, n; nominative plural; genitive plural
    "red": ("красный", "красную", "красное", "красные", "красных"),
    "white": ("белый", "белую", "белое", "белые", "белых"),
    "black": ("чёрный", "чёрную", "чёрное", "чёрные", "чёрных"),
    "big": ("большой", "большую", "большое", "большие", "больших"),
    "small": ("маленький", "маленькую", "маленькое", "маленькие", "маленьких"),
}
VERBS = {
    "buy": "покупает", "sell": "продаёт", "find": "находит", "lose": "теряет", "sit": "сидит",
    "stand": "стоит", "laugh": "смеётся", "cry": "плачет",
}  # fmt: skip
PLACES = {"garden": "в саду", "school": "в школе", "market": "на рынке"}
DAYS = {"monday": "в понедельник", "friday": "в пятницу", "sunday": "в воскресенье"}


def thing(what: Thing) -> str:
    gender, accusative, genitive, genitive_plural = NOUNS[what.noun]
    forms = what.attribute and ATTRIBUTES[what.attribute]
    if what.count == 1:
        return phrase(forms and forms["mfn".index(gender)], accusative)
    number = str(what.count)
    if what.count > 4 or concepts.is_animal(what.noun):  # the accusative of 3 living beings is its genitive
        return phrase(number, forms and forms[4], genitive_plural)
    return phrase(number, forms and forms[3 if gender == "f" else 4], genitive)


def realise(scene: Scene) -> str:
    """Subject, verb, object, place, day; or the place or day first."""
    first, place, day = adjuncts(scene, PLACES, DAYS)
    who = scene.subject if scene.subject in concepts.NAMES else SUBJECTS[scene.subject]
    return sentence(first, who, VERBS[scene.verb], scene.thing and thing(scene.thing), place, day)
