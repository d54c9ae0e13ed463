"""What the paper's datasets share: official lists, and media found by name."""

from vatt.data.datasets import clips
from vatt.data.ingest import (
    annotations,
    clip_sources,
    clips_csv,
    coverage,
    matching,
    plans,
    stores,
)
from vatt.data.ingest.workers import Workers
from vatt.errors import UserError

TRIMMED = (  # of the programs
    "Whether files that are called like a video are clips alone, so that the "
    "times in the annotations are not times in them: --trimmed or --notrimmed; "
    "without it, each is measured.")


class Official(clips.Clips, skip_registration=True):
  """A dataset of official lists.

  Built from `annotations`, or without them from a `clips.csv` in the
  manual_dir, as scripts/list_clips.py writes it. Nothing is written into the
  manual_dir; what of the lists is not there is in the missing.csv of the
  dataset, and counted by split and label in its coverage.csv.

  Attributes:
    FORMAT: of the annotations.
  """

  VERSION = None  # of a dataset
  FORMAT: annotations.Format

  def __init__(self, *, annotations: str | None = None,
               trimmed: bool | None = None, **options):
    """Describes a build.

    Args:
      annotations: a file of official lists, or the folder of all.
      trimmed: whether files called like a video are clips alone; None to
        measure them.
      **options: of ClipsBuilder.
    """
    self._annotations, self._trimmed = annotations, trimmed
    super().__init__(**options)

  def has_sources(self, manual_dir: str | None) -> bool:
    return bool(manual_dir and (self._annotations or stores.exists(
        f"{manual_dir}/{clips_csv.LIST}")))

  def find(self, manual_dir: str, options: clips.Options, workers: Workers
           ) -> clip_sources.Found:
    if not self.has_sources(manual_dir):
      raise UserError(
          f"--annotations is missing: the official lists of {self.name} "
          f"({self.FORMAT.expected}), or --manual_dir with the clips.csv "
          "that scripts/list_clips.py makes of them")
    if not self._annotations:
      if self._trimmed is not None:
        raise UserError(f"--trimmed: the times in {manual_dir}/clips.csv are "
                        "those in the files; it is for --annotations")
      found = super().find(manual_dir, options, workers)
      if found.classes and not stores.exists(
          f"{manual_dir}/{clips_csv.CLASSES}"):
        raise UserError(
            f"{manual_dir}/{clips_csv.CLASSES}: no such file, expected the "
            f"classes of {self.name} in the order of their numbers, as "
            f"scripts/list_clips.py writes them with {clips_csv.LIST}")
      return found
    if stores.exists(f"{manual_dir}/{clips_csv.LIST}"):
      print(f"{manual_dir}/{clips_csv.LIST}: not read, as --annotations is "
            "given")
    listing = annotations.read(self.name, self.FORMAT, self._annotations)
    matches = matching.find(
        listing.clips, self.FORMAT, manual_dir, self._trimmed, self.lengths())
    print(f"{manual_dir}: {coverage.line(listing, matches)}")
    usable, rejected, silent = [], [], set()
    for match in sorted(matches.found, key=lambda match: match.path):
      span = _span(match)
      why = span.why_unusable()
      if why:
        rejected.append((span.id, span.file, why))
      else:
        usable.append(match)
        if not span.captions:
          silent.add(span.file)
    if not usable:  # all times are no clip's
      raise UserError(f"--manual_dir={manual_dir}: none of {len(rejected)} "
                      f"clips can be built; the first: {rejected[0][1]}: "
                      f"{rejected[0][2]}")
    return clip_sources.Found(
        lambda: map(_span, usable), {match.path for match in usable}, silent,
        rejected, listing.classes, coverage.tables(listing, matches))


def _span(match):
  """The Span of a Match."""
  return clip_sources.Span(
      match.path, round(match.start or 0.0, 3),
      None if match.end is None else round(match.end, 3),
      "_".join(sorted(match.clip.splits, key=plans.split_order)),
      match.clip.labels, match.clip.captions, match.sound)
