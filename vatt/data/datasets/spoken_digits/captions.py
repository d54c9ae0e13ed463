"""Sentences about a digit that is written, moves and is spoken."""
from vatt.data.datasets.sentences import expand
from vatt.data.ingest.plans import draw

# {d} is the digit's word and {a} its article; the other names in braces stand
# for any of their phrases. No phrase has another digit's word in it.

PHRASES = {
    "name": ("the digit {d}", "the number {d}", "the figure {d}", "{a} {d}"),
    "hand": ("handwritten", "hand drawn", "neatly written", "white"),
    "person": ("a voice", "somebody", "a person", "a speaker"),
    "says": ("says", "pronounces", "utters"),
    "moves": ("moves", "drifts", "slides", "glides", "travels"),
    "place": ("on a dark background", "on a black screen", "in the picture",
              "in this clip"),
}
WRITING = (
    "{a} {d} written by hand {place}",
    "somebody has written {name} by hand",
    "this is {name} in white ink on black",
    "you can see {name} {place}",
    "the picture shows {name}",
    "here is {a} {d} in handwriting",
    "look at the {hand} {d}",
    "white strokes that form {name}",
)
MOVING = (
    "{name} {moves} {way}",
    "the {hand} {d} {moves} {way}",
    "{name} {moves} {way} {place}",
    "look how {name} {moves} {way}",
    "{name} is moving {way}",
    "going {way} you see {name}",
)
STILL = (
    "{name} stays in its place",
    "the {hand} {d} keeps still",
    "{name} does not move at all",
    "look how {name} rests {place}",
    "{name} is standing still",
)
SAYING = (
    "{person} {says} {d}",
    "{person} {says} the word {d}",
    "you can hear the word {d}",
    "the spoken word is {d}",
    "listen to {person} saying {d}",
    "{d} is what {person} {says}",
    "{name} is spoken aloud",
    "the recording says {d}",
    "there is a voice and it says {d}",
)
BOTH = (
    "{person} {says} {d} and {name} appears",
    "{name} is shown and spoken",
    "you see and hear {name}",
    "{person} {says} the word {d} over a {hand} digit",
    "{a} {d} for the eye and {a} {d} for the ear",
    "{name} {place} while {person} {says} {d}",
)
WAYS = {
    (0, 1): ("to the right", "rightwards", "from left to right"),
    (0, -1): ("to the left", "leftwards", "from right to left"),
    (1, 0): ("down", "downwards", "from top to bottom"),
    (-1, 0): ("up", "upwards", "from bottom to top"),
    (1, 1): ("down and to the right", "to the lower right"),
    (1, -1): ("down and to the left", "to the lower left"),
    (-1, 1): ("up and to the right", "to the upper right"),
    (-1, -1): ("up and to the left", "to the upper left"),
}


def write(clip_id: str, word: str, direction: tuple[int, int]) -> list[str]:
  """Writes five different sentences about a clip.

  One is about the writing, one about the voice, one about what is seen and
  heard, one about any of these, and one about any of these or the movement, in
  changing order. The movement is in few of them: it tells clips apart more
  easily than the digit does, and would be learned in its place.

  Args:
    clip_id: the clip's id, the seed of the choices.
    word: the digit's word, which is in each sentence.
    direction: (dy, dx) of the movement, each of -1, 0, 1, y pointing down.

  Returns:
    The sentences, of 16 words at most.
  """
  kinds = [WRITING, SAYING, BOTH]
  movement = MOVING if any(direction) else STILL
  kinds += [kinds[draw(3, clip_id, "kind")],
            [*kinds, movement][draw(4, clip_id, "kind or movement")]]
  phrases = PHRASES | {
      "d": (word,),
      "a": ("an" if word == "eight" else "a",),
      "way": WAYS.get(direction),
  }
  sentences = []
  for kind in kinds:
    attempt = 0
    while (text := expand(kind, phrases, clip_id, len(sentences), attempt)
           ) in sentences:
      attempt += 1
    sentences.append(text)
  return sorted(sentences, key=lambda text: draw(2 ** 64, clip_id, text))
