"""Arabic: the verb first, agreeing in gender; written accusatives; plurals of things are feminine."""

from scripts.sample import concepts
from scripts.sample.languages.common import adjuncts, phrase, sentence
from scripts.sample.scenes import Scene, Thing

SUBJECTS = {  # gender, word
    "man": ("m", "الرجل"), "woman": ("f", "المرأة"), "boy": ("m", "الولد"), "girl": ("f", "البنت"),
    "person": ("m", "شخص"), "dog": ("m", "الكلب"), "cat": ("f", "القطة"), "animal": ("m", "حيوان"),
}  # fmt: skip
NOUNS = {  # gender, indefinite accusative singular, plural
    "ball": ("f", "كرة", "كرات"), "doll": ("f", "دمية", "دمى"), "toy": ("f", "لعبة", "ألعاب"),
    "book": ("m", "كتابا", "كتب"), "letter": ("f", "رسالة", "رسائل"), "apple": ("f", "تفاحة", "تفاحات"),
    "dog": ("m", "كلبا", "كلاب"), "cat": ("f", "قطة", "قطط"), "animal": ("m", "حيوانا", "حيوانات"),
}  # fmt: skip
ATTRIBUTES = {  # indefinite accusative masculine; feminine, which serves plurals of things and animals
    "red": ("أحمر", "حمراء"), "white": ("أبيض", "بيضاء"), "black": ("أسود", "سوداء"),
    "big": ("كبيرا", "كبيرة"), "small": ("صغيرا", "صغيرة"),
}  # fmt: skip
VERBS = {  # masculine; the feminine has t- for y-
    "buy": "يشتري", "sell": "يبيع", "find": "يجد", "lose": "يفقد", "sit": "يجلس", "stand": "يقف",
    "laugh": "يضحك", "cry": "يبكي",
}  # fmt: skip
PLACES = {"garden": "في الحديقة", "school": "في المدرسة", "market": "في السوق"}
DAYS = {"monday": "يوم الاثنين", "friday": "يوم الجمعة", "sunday": "يوم الأحد"}


def thing(what: Thing) -> str:
    gender, singular, plural = NOUNS[what.noun]
    forms = what.attribute and ATTRIBUTES[what.attribute]
    if what.count == 1:
        return phrase(singular, forms and forms["mf".index(gender)])
    return phrase(str(what.count), plural, forms and forms[1])


def realise(scene: Scene) -> str:
    """Verb, subject, object, place, day; or the place or day first."""
    first, place, day = adjuncts(scene, PLACES, DAYS)
    name = scene.subject
    gender, who = (concepts.NAMES[name], name) if name in concepts.NAMES else SUBJECTS[name]
    verb = VERBS[scene.verb]
    return sentence(
        first,
        "ت" + verb[1:] if gender == "f" else verb,
        who,
        scene.thing and thing(scene.thing),
        place,
        day,
    )
