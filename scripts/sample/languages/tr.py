"""Turkish: the verb last, no gender, singular nouns after numerals, bare indefinite objects."""

from scripts.sample import concepts
from scripts.sample.languages.common import phrase, sentence
from scripts.sample.scenes import Scene, Thing

SUBJECTS = {
    "man": "adam", "woman": "kadın", "boy": "oğlan", "girl": "kız", "king": "kral", "queen": "kraliçe",
    "person": "bir kişi", "dog": "köpek", "cat": "kedi", "horse": "at", "cow": "inek",
    "animal": "bir hayvan",
}  # fmt: skip
NOUNS = {
    "ball": "top", "doll": "oyuncak bebek", "toy": "oyuncak", "rose": "gül", "tulip": "lale",
    "flower": "çiçek", "book": "kitap", "letter": "mektup", "chair": "sandalye", "table": "masa",
    "apple": "elma", "dog": "köpek", "cat": "kedi", "horse": "at", "cow": "inek", "animal": "hayvan",
}  # fmt: skip
ATTRIBUTES = {
    "red": "kırmızı", "blue": "mavi", "white": "beyaz", "black": "siyah", "big": "büyük", "small": "küçük",
}  # fmt: skip
VERBS = {
    "buy": "satın alıyor", "sell": "satıyor", "find": "buluyor", "lose": "kaybediyor", "hide": "saklıyor",
    "show": "gösteriyor", "sit": "oturuyor", "stand": "ayakta duruyor", "laugh": "gülüyor", "cry": "ağlıyor",
    "work": "çalışıyor", "rest": "dinleniyor", "play": "oynuyor",
}  # fmt: skip
PLACES = {
    "garden": "bahçede", "kitchen": "mutfakta", "school": "okulda", "park": "parkta", "market": "pazarda",
    "forest": "ormanda",
}  # fmt: skip
DAYS = {
    "monday": "pazartesi günü", "wednesday": "çarşamba günü", "friday": "cuma günü", "sunday": "pazar günü",
}  # fmt: skip


def thing(what: Thing) -> str:
    adjective = what.attribute and ATTRIBUTES[what.attribute]
    if what.count == 1:
        return phrase(adjective, "bir", NOUNS[what.noun])
    return phrase(str(what.count), adjective, NOUNS[what.noun])


def realise(scene: Scene) -> str:
    """Subject, day, place, object, verb."""
    who = scene.subject if scene.subject in concepts.NAMES else SUBJECTS[scene.subject]
    return sentence(
        "İ" + who[1:] if who[0] == "i" else who,  # the capital of i has a dot
        scene.day and DAYS[scene.day],
        scene.place and PLACES[scene.place],
        scene.thing and thing(scene.thing),
        VERBS[scene.verb],
    )
