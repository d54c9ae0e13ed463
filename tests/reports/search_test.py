"""Pages of what was found in media."""
import base64
import html.parser
import io
import os
import urllib.parse

import matplotlib.image
import numpy as np
import pytest
from scipy.io import wavfile

from tests.searching import tone
from vatt.data.ingest.workers import Workers
from vatt.errors import UserError
from vatt.index import File
from vatt.queries import Hit
from vatt.reports import pages, search


class Page(html.parser.HTMLParser):
  """The tags of a page, and the text of its headings."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.headings, self._open = [], [], False
    self.feed(text)

  def handle_starttag(self, tag, attributes):
    self.tags.append((tag, dict(attributes)))
    self._open = tag in ("h1", "h2")
    if self._open:
      self.headings.append("")

  def handle_endtag(self, tag):
    self._open = False

  def handle_data(self, data):
    if self._open:
      self.headings[-1] += data

  def all(self, name):
    return [attributes for tag, attributes in self.tags if tag == name]


def hit(path, start, kinds, name=""):
  file = File(7, str(path), 0, 0, "", np.array([[start, start + 1.0]]), kinds)
  return Hit(file, name or os.path.basename(path), 0, start, start + 1.0, 0.5)


@pytest.mark.parametrize("seconds, shown", [
    (0, "0:00.0"), (59.96, "1:00.0"), (75.25, "1:15.3"), (3723.4, "1:02:03.4"),
    (86399.99, "24:00:00.0")])
def test_times_are_shown_as_players_do(seconds, shown):
  assert pages.clock(seconds) == shown


def test_a_page_shows_the_moments_and_links_to_them(media, tmp_path):
  """Pictures are those of the moment, links lead to the files, nothing else is
  loaded."""
  odd = tmp_path / "media" / "50% <b>\"it's\" #1?&amp; é.mp4"
  odd.parent.mkdir()
  media.write_media(odd, [media.numbered(i) for i in range(24)], rate=8)
  sound = tmp_path / "media" / "sound.wav"
  wavfile.write(sound, 8000, np.concatenate([tone(1, 2000), 0 * tone(1, 1)]))
  gone = tmp_path / "media" / "gone.mp4"
  (tmp_path / "pages").mkdir()
  path = tmp_path / "pages" / "found.html"
  search.write(str(path), "<i>find</i>", "no word: &", [
      hit(odd, 1.0, ("video",)), hit(sound, 0.5, ("audio",)),
      hit(gone, 0.0, ("video", "audio"))])
  text = path.read_text()
  page = Page(text)
  assert page.headings == [
      "<i>find</i>", f"1. {odd.name}", "2. sound.wav", "3. gone.mp4"]
  links = page.all("a")
  for link, file, start in zip(links, (odd, sound, gone), (1.0, 0.5, 0.0)):
    address, _, moment = link["href"].partition("#")
    assert moment == f"t={start:.3f}" and float(link["data-start"]) == start
    assert os.path.normpath(path.parent / urllib.parse.unquote(address)) == (
        str(file))
  assert [link["data-kind"] for link in links] == ["video", "audio", "video"]
  assert links[0]["aria-label"] == f"Play {odd.name} from 0:01.0"
  images = [image["src"] for image in page.all("img")]
  assert len(images) == 1 + 4 + 1  # one that is shown and four; a curve
  pictures = [matplotlib.image.imread(io.BytesIO(base64.b64decode(
      image.removeprefix("data:image/jpeg;base64,"))), "jpeg")
      for image in images[:5]]
  # Of 24 pictures, 8 a second: those at 1, 1.25, 1.5 and 1.75 s.
  assert list(map(media.number_of, pictures)) == [12, 8, 10, 12, 14]
  assert images[5].startswith("data:image/svg+xml;base64,")
  loaded = [value for _, attributes in page.tags for name, value in
            attributes.items() if name in ("src", "href")]
  assert not [value for value in loaded if "//" in value.partition(",")[0]]
  assert "url(" not in text and "@import" not in text
  with pytest.raises(UserError, match="none/found.html: cannot be written"):
    search.write(str(tmp_path / "none" / "found.html"), "", "", [])


def test_the_curve_of_a_sound_follows_its_loudness(tmp_path):
  path = tmp_path / "sound.wav"
  wavfile.write(path, 8000, np.concatenate([0 * tone(1, 1), tone(1, 2000)]))
  (kind, picture), = search.pictures_of(
      Workers(), File(1, str(path), 0, 0, "", np.zeros([1, 2]), ("audio",)),
      0.5, 1.5)
  assert kind == "image/svg+xml"
  heights = [float(part.split('"')[0]) for part in picture.decode().split(
      'height="')[2:]]  # behind those of the picture and its ground
  assert len(heights) == 64
  assert max(heights[:30]) == 2.0  # silence has the least
  np.testing.assert_allclose(heights[34:62], 144 * 0.8, rtol=0.05)
