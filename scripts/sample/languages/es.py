"""Spanish: two genders, adjectives after the noun, agreement of "sentado"."""

from scripts.sample import concepts
from scripts.sample.languages.common import adjuncts, phrase, sentence
from scripts.sample.scenes import Scene, Thing

SUBJECTS = {  # gender, with article
    "man": ("m", "el hombre"), "woman": ("f", "la mujer"), "boy": ("m", "el chico"),
    "girl": ("f", "la chica"), "person": ("f", "una persona"), "dog": ("m", "el perro"),
    "cat": ("m", "el gato"), "animal": ("m", "un animal"),
}  # fmt: skip
NOUNS = {  # gender, singular, plural
    "ball": ("f", "pelota", "pelotas"), "doll": ("f", "muñeca", "muñecas"),
    "toy": ("m", "juguete", "juguetes"), "book": ("m", "libro", "libros"), "letter": ("f", "carta", "cartas"),
    "apple": ("f", "manzana", "manzanas"), "dog": ("m", "perro", "perros"), "cat": ("m", "gato", "gatos"),
    "animal": ("m", "animal", "animales"),
}  # fmt: skip
ATTRIBUTES = {  # masculine, feminine; the plural adds -s
    "red": ("rojo", "roja"), "white": ("blanco", "blanca"), "black": ("negro", "negra"),
    "big": ("grande", "grande"), "small": ("pequeño", "pequeña"),
}  # fmt: skip
VERBS = {
    "buy": "compra", "sell": "vende", "find": "encuentra", "lose": "pierde", "sit": "está sentado",
    "stand": "está de pie", "laugh": "ríe", "cry": "llora",
}  # fmt: skip
PLACES = {"garden": "en el jardín", "school": "en la escuela", "market": "en el mercado"}
DAYS = {"monday": "el lunes", "friday": "el viernes", "sunday": "el domingo"}


def thing(what: Thing) -> str:
    gender, singular, plural = NOUNS[what.noun]
    many = what.count > 1
    form = "mf".index(gender)
    adjective = what.attribute and ATTRIBUTES[what.attribute][form] + ("s" if many else "")
    number = str(what.count) if many else ("un", "una")[form]
    return phrase(number, plural if many else singular, adjective)


def realise(scene: Scene) -> str:
    """Subject, verb, object, place, day; or the place or day first."""
    first, place, day = adjuncts(scene, PLACES, DAYS)
    name = scene.subject
    gender, who = (concepts.NAMES[name], name) if name in concepts.NAMES else SUBJECTS[name]
    verb = VERBS[scene.verb]
    if scene.verb == "sit" and gender == "f":
        verb = "está sentada"
    return sentence(
        first,
        who,
        verb,
        scene.thing and thing(scene.thing),
        place,
        day,
    )
