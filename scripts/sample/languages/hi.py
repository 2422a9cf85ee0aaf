"""Hindi: the verb last, agreeing in gender; adjectives in -a agree in gender and number; postpositions."""

from scripts.sample import concepts
from scripts.sample.languages.common import adjuncts, phrase, sentence
from scripts.sample.scenes import Scene, Thing

SUBJECTS = {  # gender, word
    "man": ("m", "आदमी"), "woman": ("f", "औरत"), "boy": ("m", "लड़का"), "girl": ("f", "लड़की"),
    "person": ("m", "एक व्यक्ति"), "dog": ("m", "कुत्ता"), "cat": ("f", "बिल्ली"),
    "animal": ("m", "एक जानवर"),
}  # fmt: skip
NOUNS = {  # gender, singular, plural, both direct
    "ball": ("f", "गेंद", "गेंदें"), "doll": ("f", "गुड़िया", "गुड़ियाँ"), "toy": ("m", "खिलौना", "खिलौने"),
    "book": ("f", "किताब", "किताबें"), "letter": ("f", "चिट्ठी", "चिट्ठियाँ"), "apple": ("m", "सेब", "सेब"),
    "dog": ("m", "कुत्ता", "कुत्ते"), "cat": ("f", "बिल्ली", "बिल्लियाँ"), "animal": ("m", "जानवर", "जानवर"),
}  # fmt: skip
ATTRIBUTES = {  # a stem that takes -a, -e, -i, or a whole word
    "red": "लाल", "white": "सफ़ेद", "black": "काल-", "big": "बड़-", "small": "छोट-",
}  # fmt: skip
VERBS = {  # before the auxiliary; "-" takes the ending of gender
    "buy": "खरीदत-", "sell": "बेचत-", "find": "ढूँढ लेत-", "lose": "खो देत-", "sit": "बैठ-", "stand": "खड़-",
    "laugh": "हँसत-", "cry": "रोत-",
}  # fmt: skip
PLACES = {"garden": "बगीचे में", "school": "स्कूल में", "market": "बाज़ार में"}
DAYS = {"monday": "सोमवार को", "friday": "शुक्रवार को", "sunday": "रविवार को"}


def agree(form: str, gender: str, many: bool = False) -> str:
    """-a for a masculine, -e for several, -i for feminines."""
    return form.replace("-", "ी" if gender == "f" else "े" if many else "ा")


def thing(what: Thing) -> str:
    gender, singular, plural = NOUNS[what.noun]
    many = what.count > 1
    adjective = what.attribute and agree(ATTRIBUTES[what.attribute], gender, many)
    return phrase(str(what.count) if many else "एक", adjective, plural if many else singular)


def realise(scene: Scene) -> str:
    """Subject, day, place, object, verb; or the place or day first."""
    first, place, day = adjuncts(scene, PLACES, DAYS)
    name = scene.subject
    gender, who = (concepts.NAMES[name], name) if name in concepts.NAMES else SUBJECTS[name]
    return sentence(
        first,
        who,
        day,
        place,
        scene.thing and thing(scene.thing),
        agree(VERBS[scene.verb], gender),
        "है",
        stop="।",
    )
