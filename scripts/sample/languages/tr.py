"""Turkish: the verb last, no gender, singular nouns after numerals, bare indefinite objects."""

from scripts.sample import concepts
from scripts.sample.languages.common import adjuncts, phrase, sentence
from scripts.sample.scenes import Scene, Thing

SUBJECTS = {
    "man": "adam", "woman": "kadın", "boy": "oğlan", "girl": "kız", "person": "bir kişi", "dog": "köpek",
    "cat": "kedi", "animal": "bir hayvan",
}  # fmt: skip
NOUNS = {
    "ball": "top", "doll": "oyuncak bebek", "toy": "oyuncak", "book": "kitap", "letter": "mektup",
    "apple": "elma", "dog": "köpek", "cat": "kedi", "animal": "hayvan",
}  # fmt: skip
ATTRIBUTES = {"red": "kırmızı", "white": "beyaz", "black": "siyah", "big": "büyük", "small": "küçük"}
VERBS = {
    "buy": "satın alıyor", "sell": "satıyor", "find": "buluyor", "lose": "kaybediyor", "sit": "oturuyor",
    "stand": "ayakta duruyor", "laugh": "gülüyor", "cry": "ağlıyor",
}  # fmt: skip
PLACES = {"garden": "bahçede", "school": "okulda", "market": "pazarda"}
DAYS = {"monday": "pazartesi günü", "friday": "cuma günü", "sunday": "pazar günü"}


def thing(what: Thing) -> str:
    adjective = what.attribute and ATTRIBUTES[what.attribute]
    if what.count == 1:
        return phrase(adjective, "bir", NOUNS[what.noun])
    return phrase(str(what.count), adjective, NOUNS[what.noun])


def realise(scene: Scene) -> str:
    """Subject, day, place, object, verb; or the place or day first."""
    first, place, day = adjuncts(scene, PLACES, DAYS)
    who = scene.subject if scene.subject in concepts.NAMES else SUBJECTS[scene.subject]
    return sentence(first, who, day, place, scene.thing and thing(scene.thing), VERBS[scene.verb])
