"""What the paper's datasets share: official lists, and media found by name."""
import os

from vatt.data.datasets import clips
from vatt.data.ingest import annotations, clip_sources, matching
from vatt.data.ingest.workers import Workers
from vatt.errors import UserError


class Official(clips.Clips, skip_registration=True):
  """A dataset of official lists.

  Built from `annotations`, or without them from a `clips.csv` in the
  manual_dir, as scripts/list_clips.py writes it.

  Attributes:
    FORMAT: of the annotations.
  """

  VERSION = None  # of a dataset
  FORMAT: annotations.Format

  def __init__(self, *, annotations: str | None = None, trimmed: bool = False,
               **options):
    """Describes a build.

    Args:
      annotations: a file of official lists, or the folder of all.
      trimmed: whether every file is no more than its clip.
      **options: of ClipsBuilder.
    """
    self._annotations, self._trimmed = annotations, trimmed
    super().__init__(**options)

  def find(self, manual_dir: str, options: clips.Options, workers: Workers
           ) -> clip_sources.Found:
    if not self._annotations:
      if not os.path.exists(f"{manual_dir}/clips.csv"):
        raise UserError(
            f"--annotations is missing: the official lists of {self.name} "
            f"({self.FORMAT.expected}), or --manual_dir with the clips.csv "
            "that scripts/list_clips.py makes of them")
      return super().find(manual_dir, options, workers)
    listing = annotations.read(self.name, self.FORMAT, self._annotations)
    used = [clip for clip in listing.clips if clip.splits]
    found, missing = matching.find(used, manual_dir, self._trimmed)
    matching.check_times(found, manual_dir, self._trimmed)
    spans, rejected = [], []
    for path, clip in found:
      span = clip_sources.Span(
          path, round(clip.start or 0.0, 3),
          None if clip.end is None else round(clip.end, 3), 0,
          "_".join(sorted(clip.splits, key=clip_sources.split_order)),
          clip.labels, clip.captions)
      why = span.why_unusable()
      if why:
        rejected.append((span.id, path, why))
      else:
        spans.append(span)
    return clip_sources.Found(spans, rejected, listing.classes)
