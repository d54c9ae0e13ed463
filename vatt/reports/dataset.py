"""A dataset on a page: what is in its splits, and some clips of each."""
from collections.abc import Iterable, Sequence

import numpy as np

from vatt.reports import dataset_clips, pages
from vatt.reports.dataset_facts import KINDS, Facts
from vatt.reports.pages import escape

BARS = 40  # of a histogram
COMMON = 6  # sizes and rates that are told
OPEN = 40  # classes that are shown at once

STYLE = """
nav { display: flex; flex-wrap: wrap; gap: .25rem 1rem; margin: .5rem 0; }
a { color: var(--link); }
section { border-top: 2px solid var(--line); margin-top: 1.5rem;
  padding-top: .75rem; }
section > h2 { font-size: 1.15rem; }
.facts { display: grid; gap: 1rem; grid-template-columns:
  repeat(auto-fit, minmax(min(100%, 15rem), 1fr)); }
.facts h3, details summary { font-size: .95rem; margin: 0 0 .25rem;
  font-weight: 600; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th { text-align: left; font-weight: 400; color: var(--faint);
  vertical-align: top; padding: .1rem .75rem .1rem 0; white-space: nowrap; }
td { padding: .1rem 0; overflow-wrap: anywhere; vertical-align: top; }
td.number { text-align: right; white-space: nowrap; padding-right: .5rem;
  font-variant-numeric: tabular-nums; }
meter { width: 100%; min-width: 4rem; }
.lengths svg { display: block; width: 100%; height: 5rem; color: var(--link);
  border-bottom: 1px solid var(--line); }
.ends { display: flex; justify-content: space-between; font-size: .8rem;
  color: var(--faint); }
.classes { list-style: none; margin: .5rem 0 0; padding: 0; display: grid;
  gap: .1rem 1rem; font-size: .85rem; max-height: 24rem; overflow-y: auto;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); }
.classes li { display: grid; grid-template-columns: 2.5rem 1fr 4.5rem;
  gap: .4rem; align-items: baseline; }
.classes b { font-weight: 400; color: var(--faint); text-align: right; }
.classes span { overflow-wrap: anywhere; }
.classes em { font-style: normal; text-align: right; padding: 0 .25rem;
  border-radius: .2rem; font-variant-numeric: tabular-nums;
  background: linear-gradient(to left, color-mix(in srgb, var(--link) 30%,
  transparent) var(--share), transparent var(--share)); }
.classes .none em { color: var(--warn); }
details { margin-top: 1rem; }
summary { cursor: pointer; }
"""


def write(path: str, name: str, directory: str,
          lists: dict[str, tuple[int, list[tuple[str, int]]]],
          splits: Iterable[tuple[Facts, Sequence[str]]]) -> None:
  """Writes the sheet of a dataset.

  Args:
    path: of the file.
    name: of the dataset.
    directory: where it lies.
    lists: of `dataset_facts.read_lists`.
    splits: of each its facts, and clips as `dataset_clips.card` has them.

  Raises:
    UserError: it cannot be written.
  """
  splits = list(splits)
  body = (f"<h1>{escape(name)}</h1>\n<p>{escape(directory)}</p>\n<nav>"
          + "".join(f'<a href="#split-{escape(facts.split)}">'
                    f"{escape(facts.split)}: {_plural(facts.records, 'clip')}"
                    "</a>" for facts, _ in splits)
          + "</nav>\n" + _lists(lists)
          + "".join(section(facts, cards) for facts, cards in splits))
  pages.write(path, pages.page(
      name, f"<main>{body}</main>\n", STYLE + dataset_clips.STYLE,
      dataset_clips.SCRIPT))


def section(facts: Facts, cards: Sequence[str]) -> str:
  """A split, as HTML."""
  name, whole = escape(facts.split), facts.looked == facts.records
  note = "" if whole else (
      f"<p>What follows is of {facts.looked:,} clips, drawn evenly from all "
      f"{facts.records:,}.</p>\n")
  if facts.unreadable:
    note += (f'<p class="problem">{facts.unreadable:,} of {facts.looked:,} '
             "records cannot be read; scripts/check_records.py names them.</p>")
  shown = (f"<h3>{len(cards)} of the clips</h3>\n" if cards else "")
  return (f'<section id="split-{name}"><h2>{name}</h2>\n'
          f"<p>{_plural(facts.records, 'clip')} in "
          f"{_plural(facts.files, 'file')} of {_bytes(facts.bytes)}</p>\n{note}"
          f'<div class="facts">{_kinds(facts)}{_lengths(facts)}'
          f"{_signals(facts)}</div>\n{_classes(facts)}{shown}"
          + "".join(cards) + "</section>\n")


def _lists(lists):
  """What the lists beside a dataset say."""
  parts = []
  for name, (count, reasons) in lists.items():
    kind = name.removesuffix(".csv")
    rows = "".join(
        f'<tr><td class="number">{number:,}</td><td>{escape(reason)}</td></tr>'
        for reason, number in reasons)
    parts.append(f"<details><summary>{_plural(count, 'clip')} {kind} "
                 f"({name})</summary><table>{rows}</table></details>\n"
                 if rows else f"<p>no clip {kind} ({name})</p>\n")
  return "".join(parts)


def _kinds(facts):
  """Which clips have pictures, sound, captions, labels; what is missing."""
  total = max(facts.readable, 1)

  def row(name, count):
    return (f'<tr><th>{name}</th><td class="number">{count:,}</td><td><meter '
            f'max="{total}" value="{count}" aria-label="{name}"></meter></td>'
            "</tr>")

  rows = "".join(row(kind, facts.count(kind)) for kind in KINDS)
  having = "".join(
      f'<tr><td class="number">{count:,}</td><td>'
      f'{" + ".join(kinds) or "nothing"}{_without(kinds)}</td></tr>'
      for kinds, count in facts.having.most_common())
  return (f'<div><h3>Clips with</h3><table class="kinds">{rows}</table></div>'
          f'<div><h3>Together</h3><table class="having">{having}</table></div>')


def _without(kinds):
  missing = [kind for kind in KINDS if kind not in kinds]
  return f", no {' or '.join(missing)}" if missing else ""


def _lengths(facts):
  """How long the clips are."""
  lengths = np.sort(np.frombuffer(facts.lengths, np.float32).astype(float))
  if not len(lengths):
    return ""
  total = lengths.sum() * facts.records / facts.looked
  about = "" if facts.looked == facts.records else "about "
  low, high = lengths[0], lengths[-1]
  svg = ""
  if high > low:
    counts, _ = np.histogram(lengths, BARS, (low, high))
    svg = ('<svg viewBox="0 0 40 100" preserveAspectRatio="none" '
           'aria-hidden="true"><path fill="currentColor" d="' + "".join(
               f"M{i} 100v-{100 * count / counts.max():.1f}h.9V100z"
               for i, count in enumerate(counts) if count) + '"/></svg>'
           f'<div class="ends"><span>{low:.4g} s</span><span>{high:.4g} s'
           "</span></div>")
  middle = f"{np.median(lengths):.4g}"
  return (f'<div class="lengths"><h3>Lengths</h3><table><tr><th>in all</th><td>'
          f"{about}{_hours(total)}</td></tr><tr><th>median</th><td>{middle} s"
          f"</td></tr><tr><th>mean</th><td>{lengths.mean():.4g} s</td></tr>"
          f"<tr><th>range</th><td>{low:.4g} to {high:.4g} s</td></tr></table>"
          f"{svg}</div>")


def _signals(facts):
  """Sizes and rates."""
  readable = max(facts.readable, 1)
  rows = [
      ("frame sizes", _common(facts.sizes, lambda size: "{} x {}".format(
          *size))),
      ("pictures a second", _common(facts.fps, "{:g}".format)),
      ("sound", _common(facts.rates, "{} Hz".format)),
      ("captions", f"{facts.captions:,} ({facts.captions / readable:.3g} a "
       "clip)" if facts.captions else ""),
      ("around clips", f"{facts.around:,} captions" if facts.around else ""),
      ("a record", f"{_bytes(facts.record_bytes / readable)}, of which pictures"
       f" {facts.picture_bytes / max(facts.record_bytes, 1):.0%}")]
  return '<div><h3>Kept as</h3><table class="kept">' + "".join(
      f"<tr><th>{name}</th><td>{said}</td></tr>" for name, said in rows if said
  ) + "</table></div>"


def _common(counter, show):
  """The most frequent values, and how many there are more."""
  shown = [show(value) + (f" ({count:,})" if len(counter) > 1 else "")
           for value, count in counter.most_common(COMMON)]
  more = len(counter) - len(shown)
  return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _classes(facts):
  """Clips of each class, also of those without any."""
  names, counts = facts.label_names, facts.labels
  numbers = sorted(set(range(len(names))) | set(counts))
  if not numbers:
    return ""
  most = max(counts.values(), default=1)

  def row(number):
    count = counts[number]
    name = names[number] if number < len(names) else (
        "not in the list of classes" if names else "")
    return (f'<li{"" if count else " class=none"}><b>{number}</b>'
            f"<span>{escape(name)}</span>"
            f'<em style="--share:{100 * count / most:.0f}%">{count:,}</em>'
            "</li>")

  known = [counts[number] for number in range(len(names))] or list(
      counts.values())
  line = (f"{_plural(len(known), 'class', 'classes')}, {known.count(0):,} "
          f"without a clip; from {min(known):,} to {max(known):,} clips")
  if len(known) < len(numbers):
    line += f"; {len(numbers) - len(known)} not in the list of classes"
  is_open = " open" if len(numbers) <= OPEN else ""
  return (f"<details{is_open}><summary>{line}</summary>"
          f'<ol class="classes" tabindex="0">{"".join(map(row, numbers))}</ol>'
          "</details>\n")


def _plural(count, one, more=None):
  return f"{count:,} {one if count == 1 else more or one + 's'}"


def _bytes(count):
  """12 B, 3.4 kB, 5.6 GB."""
  for unit in ("B", "kB", "MB", "GB", "TB"):
    if count < 1000 or unit == "TB":
      return f"{count:.0f} B" if unit == "B" else f"{count:.3g} {unit}"
    count /= 1000


def _hours(seconds):
  """1.5 s, 12 min, 3.4 h."""
  if seconds < 120:
    return f"{seconds:.3g} s"
  return (f"{seconds / 60:.0f} min" if seconds < 7200
          else f"{seconds / 3600:,.1f} h")
