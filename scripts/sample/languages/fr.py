"""French: two genders, colours after and sizes before the noun, agreement of "assis"."""

from scripts.sample import concepts
from scripts.sample.languages.common import adjuncts, phrase, sentence
from scripts.sample.scenes import Scene, Thing

SUBJECTS = {  # gender, with article
    "man": ("m", "l'homme"), "woman": ("f", "la femme"), "boy": ("m", "le garçon"), "girl": ("f", "la fille"),
    "person": ("f", "une personne"), "dog": ("m", "le chien"), "cat": ("m", "le chat"),
    "animal": ("m", "un animal"),
}  # fmt: skip
NOUNS = {  # gender, singular, plural
    "ball": ("f", "balle", "balles"), "doll": ("f", "poupée", "poupées"), "toy": ("m", "jouet", "jouets"),
    "book": ("m", "livre", "livres"), "letter": ("f", "lettre", "lettres"), "apple": ("f", "pomme", "pommes"),
    "dog": ("m", "chien", "chiens"), "cat": ("m", "chat", "chats"), "animal": ("m", "animal", "animaux"),
}  # fmt: skip
COLOURS = {  # masculine, feminine
    "red": ("rouge", "rouge"), "white": ("blanc", "blanche"), "black": ("noir", "noire"),
}  # fmt: skip
SIZES = {"big": ("grand", "grande"), "small": ("petit", "petite")}
VERBS = {
    "buy": "achète", "sell": "vend", "find": "trouve", "lose": "perd", "sit": "est assis",
    "stand": "est debout", "laugh": "rit", "cry": "pleure",
}  # fmt: skip
PLACES = {"garden": "dans le jardin", "school": "à l'école", "market": "au marché"}
DAYS = {"monday": "lundi", "friday": "vendredi", "sunday": "dimanche"}


def thing(what: Thing) -> str:
    gender, singular, plural = NOUNS[what.noun]
    many = what.count > 1
    form, ending = "mf".index(gender), "s" if many else ""
    size = SIZES[what.attribute][form] + ending if what.attribute in SIZES else None
    colour = COLOURS[what.attribute][form] + ending if what.attribute in COLOURS else None
    number = str(what.count) if many else ("un", "une")[form]
    return phrase(number, size, plural if many else singular, colour)


def realise(scene: Scene) -> str:
    """Subject, verb, object, place, day; or the place or day first."""
    first, place, day = adjuncts(scene, PLACES, DAYS)
    name = scene.subject
    gender, who = (concepts.NAMES[name], name) if name in concepts.NAMES else SUBJECTS[name]
    verb = VERBS[scene.verb]
    if scene.verb == "sit" and gender == "f":
        verb += "e"
    return sentence(
        first and f"{first},",
        who,
        verb,
        scene.thing and thing(scene.thing),
        place,
        day,
    )
