"""Sentences about the scenes of `demo`, and chatter about anything else."""
from vatt.data.datasets.demo.scenes import Scene
from vatt.data.datasets.sentences import expand
from vatt.data.ingest.plans import draw

# No phrase has a word of another value. {size}, {colour}, {shape}, {does} and
# {pace} stand for those of the scene; as some begin with a vowel, no article
# but "the" comes before any of them, and "a" before sizes only.

WORDS = {
    "shape": {
        "square": ("square", "box"),
        "triangle": ("triangle", "pyramid"),
        "star": ("star", "starfish"),
        "heart": ("heart", "love heart"),
        "moon": ("moon", "crescent"),
        "cross": ("cross", "plus sign"),
        "hourglass": ("hourglass", "egg timer"),
        "horseshoe": ("horseshoe", "magnet"),
        "bar": ("bar", "stick"),
        "mushroom": ("mushroom", "toadstool"),
    },
    "colour": {
        "red": ("red", "crimson"),
        "orange": ("orange", "carrot coloured"),
        "yellow": ("yellow", "lemon coloured"),
        "green": ("green", "grass coloured"),
        "turquoise": ("turquoise", "cyan"),
        "blue": ("blue", "ink coloured"),
        "pink": ("pink", "magenta"),
        "white": ("white", "snow coloured"),
    },
    "does": {
        "right": ("moves to the right", "drifts rightwards", "heads right"),
        "left": ("moves to the left", "drifts leftwards", "heads left"),
        "up": ("moves up", "rises", "climbs upwards"),
        "down": ("moves down", "sinks", "falls downwards"),
        "circles": ("moves in circles", "circles around", "runs in a ring"),
        "spins": ("spins", "rotates", "turns on the spot"),
        "grows": ("grows and shrinks", "swells and shrinks", "pulsates"),
        "blinks": ("blinks", "flashes", "appears and vanishes"),
    },
    "size": {
        "small": ("small", "little", "tiny"),
        "large": ("large", "big", "huge"),
    },
    "pace": {
        "slow": ("slowly", "without hurry", "at a slow pace"),
        "fast": ("quickly", "fast", "at high speed"),
    },
}
ALL = (
    "a {size} {colour} {shape} {does} {pace}",
    "the {size} {colour} {shape} {does} {pace}",
    "here a {size} {colour} {shape} {does} {pace}",
    "look how this {size} {colour} {shape} {does} {pace}",
    "you see a {size} {colour} {shape} that {does} {pace}",
)
SOME = (
    "the {colour} {shape} {does}",
    "this {shape} {does} {pace}",
    "this {size} {shape} is {colour} and it {does}",
    "look at the {colour} {shape}",
    "something {colour} {does}",
    "watch how the {shape} {does}",
    "the {shape} {does} and it is {colour}",
    "you see how it {does} {pace}",
    "it is {colour} and it {does} {pace}",
    "this is my {colour} {shape}",
)
CHATTER = (
    "please subscribe to {our} channel",
    "thank you for {listening} to {our} show",
    "{somebody} wrote us a {nice} letter {when}",
    "the weather was {nice} {when}",
    "I had {food} for {meal} {when}",
    "{somebody} phones me about the {food}",
    "let me tell you about {our} {nice} holiday",
    "{somebody} likes {food} for {meal}",
    "leave us a comment if you like {food}",
    "{our} sponsor sells {nice} {food}",
)
OTHERS = {
    "our": ("our", "my", "the"),
    "listening": ("listening", "tuning in", "coming"),
    "somebody": ("my sister", "our neighbour", "a friend", "my teacher",
                 "the postman"),
    "nice": ("nice", "strange", "long", "wonderful", "boring"),
    "when": ("yesterday", "this morning", "last week", "on Sunday"),
    "food": ("soup", "bread", "noodles", "cheese", "pancakes", "rice"),
    "meal": ("breakfast", "lunch", "dinner"),
}


def _phrases(scene):
  return OTHERS | {
      slot: WORDS[slot][value] for slot, value in (
          ("shape", scene.shape), ("colour", scene.colour),
          ("does", scene.motion), ("size", scene.size), ("pace", scene.speed))}


def describe(scene: Scene) -> str:
  """Writes a sentence that tells all of a scene's factors, of 16 words at most,
  as are all of this file."""
  return expand(ALL, _phrases(scene), scene.id, "describe")


def narrate(scene: Scene) -> list[str]:
  """Writes what somebody says during a clip: five different sentences.

  One tells all of the scene's factors, others some of them, and one or two are
  chatter that has nothing to do with it, in changing order.
  """
  kinds = [ALL, SOME, SOME, CHATTER,
           [ALL, SOME, CHATTER, CHATTER][draw(4, scene.id, "kind")]]
  sentences = []
  for kind in kinds:
    attempt = 0
    while (text := expand(kind, _phrases(scene), scene.id, len(sentences),
                          attempt)) in sentences:
      attempt += 1
    sentences.append(text)
  return sorted(sentences, key=lambda text: draw(2 ** 64, scene.id, text))
