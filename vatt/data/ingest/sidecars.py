"""Finds the subtitle files of media files by their names, and reads them."""
import collections
import os
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from vatt import stopping
from vatt.data.ingest import stores, subtitles
from vatt.errors import UserError, one_line, visible

SUBTITLES = (".vtt", ".srt")
FOLDERS = frozenset(("subs", "subtitles"))
LARGEST = 2**26  # bytes
SHOWN = 10  # names in a line

# The languages that have other names in the names of files.
LANGUAGES = {
    name: names.split()[0] for names in (
        "ar ara arabic", "bg bul bulgarian", "cs cze ces czech",
        "da dan danish", "de ger deu german", "el gre ell greek",
        "en eng english", "es spa spanish", "et est estonian",
        "fa per fas persian", "fi fin finnish", "fr fre fra french",
        "he heb hebrew", "hi hin hindi", "hr hrv croatian", "hu hun hungarian",
        "id ind indonesian", "it ita italian", "ja jpn japanese",
        "ko kor korean", "lt lit lithuanian", "lv lav latvian",
        "nl dut nld dutch", "no nor norwegian", "pl pol polish",
        "pt por portuguese", "ro rum ron romanian", "ru rus russian",
        "sk slo slk slovak", "sl slv slovenian", "sr srp serbian",
        "sv swe swedish", "th tha thai", "tr tur turkish", "uk ukr ukrainian",
        "vi vie vietnamese", "zh chi zho chinese")
    for name in names.split()}
# What else stands in names; of several, those of the first are taken.
KINDS = ("default", "full", "orig", "auto", "asr", "cc", "sdh", "forced")

# A field of what cameras that fly write in place of speech: "[iso : 100]",
# "GPS (8.1,", "EV 0".
FIELD = re.compile(
    r"\b(?:[A-Za-z_][A-Za-z_.]{0,19} ?[:(]|ISO|EV|SS|DZOOM|[DH]|[HV]\.S) ?"
    r"[-+]?\d")
FIELDS = 3  # in most cues


class _Fit(NamedTuple):
  """A subtitle file that fits a media file, in the order of preference."""
  forced: bool  # only what is said in another language
  choice: int  # of the language: the first is 0
  language: str
  inside: bool  # a folder of subtitles
  kind: int
  length: int  # of what follows the media file's name
  suffix: int
  path: str


def language_of(tag: str) -> str:
  """The language of a part of a name, such as "en" of "en-US", "eng" and
  "English"; "" if it is none."""
  base, *more = re.split("[-_]", tag.casefold(), maxsplit=1)
  if not all(re.fullmatch(r"[a-z0-9_-]+", part) for part in more):
    return ""
  two = re.fullmatch("[a-z]{2}", base) is not None
  return LANGUAGES.get(base, base if two else "")


def read_cues(manual_dir: str, files: Collection[str],
              suffixes: Collection[str], language: str = ""
              ) -> "CuesBeside":
  """Reads what is said in media files from the subtitle files beside them.

  Those of `talk.mp4` are `talk.vtt` and `talk.srt`, in the same folder or one
  in it that is called `Subs` or `Subtitles`, with a language and more before
  the suffix (`talk.en-US.vtt`, `talk_de.srt`, `talk.forced.eng.srt`), or after
  the whole name (`talk.mp4.srt`); capital letters do not matter. Of several
  that can be used, the best one is taken: without a language, else in English,
  else in the first other one by its code; or in `language`, else without one.

  Prints the number and the first of: subtitle files that fit no media file,
  those that cannot be used and why, media files without captions for that, and
  what is taken of several.

  Args:
    manual_dir: folder of the media.
    files: the media files, relative to `manual_dir` or absolute.
    suffixes: of media, in small letters.
    language: the one to take, as `language_of` has it; "" for any.

  Returns:
    What is said in each file. It is not kept in memory, but read again where it
    is asked for.
  """
  fits, orphans, foreign = _find(manual_dir, files, suffixes, language)
  taken, several, unusable, damaged, without = {}, [], [], [], []
  for file in sorted(files):
    stopping.check()
    taken[file], paths = "", [fit.path for fit in sorted(fits[file])]
    for path in paths:
      try:
        found = _read(stores.join(manual_dir, path))
      except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or one_line(error)
        unusable.append(f"{path} ({why})")
        continue
      taken[file] = path
      if found.damaged:
        damaged.append(f"{path} ({found.damaged})")
      if len(paths) > 1:
        others = ", ".join(other for other in paths if other != path)
        several.append(f"{path} (not {others})")
      break
    else:
      without += [file] if paths else []
  tell(manual_dir, "subtitle files that fit no media file", orphans)
  tell(manual_dir, f"subtitle files that are not in {language}", foreign)
  tell(manual_dir, "subtitle files that cannot be used", unusable)
  tell(manual_dir, "media files without captions for it", without)
  tell(manual_dir, "subtitle files with damaged sentences, which are left out",
        damaged)
  tell(manual_dir, "subtitle files taken of several", several)
  return CuesBeside(manual_dir, taken)


class CuesBeside(Mapping):
  """The cues (text, start, end) of each media file, times in seconds, from the
  subtitle file beside it; [] without one.

  Args:
    manual_dir: folder of the media.
    taken: the path in it of the subtitle file of each media file, or "".
  """

  def __init__(self, manual_dir: str, taken: dict[str, str]):
    self._manual_dir, self._taken = manual_dir, taken

  def __len__(self) -> int:
    return len(self._taken)

  def __iter__(self) -> Iterator[str]:
    return iter(self._taken)

  def __getitem__(self, file: str) -> list[tuple[str, float, float]]:
    path = self._taken[file] and stores.join(
        self._manual_dir, self._taken[file])
    try:
      return _read(path).cues if path else []
    except (OSError, ValueError) as error:
      raise UserError(f"{path}: has changed since this command began "
                      f"({one_line(error)}); run it again") from error


def tell(folder: str, what: str, names: Iterable[str]) -> None:
  """Prints how many names there are of something, and the first; no line
  without any."""
  names = list(dict.fromkeys(names))  # one may be of two media files
  if names:
    shown = ", ".join(names[:SHOWN])
    more = f" and {len(names) - SHOWN} more" * (len(names) > SHOWN)
    line = f"{folder}: {what}, {len(names)}: {shown}{more}"
    print(visible(line.encode(errors="backslashreplace").decode()))


def _read(path):
  """What a subtitle file says, or an error that says why it is of no use."""
  if "://" not in path and not os.path.isfile(path):
    raise ValueError("no file")
  data = stores.read(path, 0, LARGEST + 1)
  if len(data) > LARGEST:
    raise ValueError(f"more than {LARGEST >> 20} MiB")
  found = subtitles.read(data)
  if not found.cues:
    raise ValueError("no sentence with a time in it")
  texts = [text for text, _, _ in found.cues]
  if 2 * sum(len(FIELD.findall(text)) >= FIELDS for text in texts) > len(texts):
    raise ValueError("a camera's data, no speech")
  return found


def _find(manual_dir, files, suffixes, language):
  """{media file: [_Fit]}, subtitle files of no media file, and those of other
  languages than the one that is wanted."""
  listed = {}  # folder -> names of its files
  for parent, _, names in stores.walk(manual_dir, suffixes):
    listed[_join("", os.path.relpath(parent, manual_dir))] = names
  for folder in {os.path.dirname(file) for file in files} - set(listed):
    top = stores.join(manual_dir, folder)  # elsewhere, or behind a link
    for parent, inner, names in stores.walk(top, suffixes):
      listed[_join(folder, os.path.relpath(parent, top))] = names
      inner[:] = [name for name in inner if name.casefold() in FOLDERS]
  stems = {folder: _stems(names, suffixes) for folder, names in listed.items()}
  fits, orphans, foreign = collections.defaultdict(list), [], []
  for folder, names in sorted(listed.items()):
    above, last = os.path.split(folder)
    places = [folder, above] if last.casefold() in FOLDERS else [folder]
    for name in sorted(names):
      base, suffix = os.path.splitext(name)
      if suffix.lower() not in SUBTITLES:
        continue
      path = os.path.join(folder, name)
      for place in places:
        owners, rest = _owners(base, stems.get(place, {}))
        if owners:
          break
      else:
        orphans.append(path)
        continue
      own, kind = _tags(rest)
      order = (language, "") if language else ("", "en")
      if language and own not in order:
        foreign.append(path)
        continue
      fit = _Fit(KINDS[kind - 1:kind] == ("forced",),
                 order.index(own) if own in order else len(order), own,
                 place != folder, kind, len(rest),
                 SUBTITLES.index(suffix.lower()), path)
      for owner in owners:
        fits[os.path.join(place, owner)].append(fit)
  return fits, orphans, foreign


def _join(folder, inner):
  return folder if inner == "." else os.path.join(folder, inner)


def _stems(names, suffixes):
  """What subtitle files may be called: {that in small letters: [(it, media
  file)]}."""
  stems = collections.defaultdict(list)
  for name in names:
    stem, suffix = os.path.splitext(name)
    if suffix.lower() in suffixes:
      for each in map(_composed, (stem, name)):
        stems[each.casefold()].append((each, name))
  return stems


def _composed(name):
  """As it is on any system: some decompose names."""
  return unicodedata.normalize("NFC", name)


def _owners(base, stems):
  """The media files that a name belongs to, the longest of those that it may,
  and what follows theirs in it."""
  base = _composed(base)
  for end in (len(base), *(i for i in range(len(base) - 1, 0, -1)
                           if base[i] in "._-")):
    known = stems.get(base[:end].casefold())
    if known and _tags(base[end:]):
      exact = [name for stem, name in known if stem == base[:end]]
      return exact or [name for _, name in known], base[end:]
  return [], ""


def _tags(rest):
  """The language, "" without one, and the rank of the kind of ".en.forced";
  None if it is something else."""
  language, kind = "", 0
  for tag in rest[1:].casefold().split(".") if rest else []:
    found = language_of(tag)
    if tag in KINDS:
      kind = max(kind, KINDS.index(tag) + 1)
    elif found and (rest[0] == "." or re.split("[-_]", tag)[0] in LANGUAGES):
      language = language or found
    else:
      return None
  return language, kind
