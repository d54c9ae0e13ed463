"""What was found in media, as a page: pictures, times, and a click that plays.

`write` makes a file of it, with the pictures in it and links to the media;
`results` are the part that `vatt/serve.py` shows for each query on the page
`app`. Nothing on them comes from elsewhere. What a browser cannot play, which
it says itself, it shows as pictures.
"""
import concurrent.futures
import os
import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any

from vatt.data.ingest import moments
from vatt.data.ingest.media import MediaError
from vatt.data.ingest.workers import Workers
from vatt.host import num_cores
from vatt.reports import pages
from vatt.reports.pages import clock, escape

LIMIT = 60.0  # seconds of processor time to read the pictures of a moment
CURVE = (256, 144)  # size of the picture of a sound

STYLE = """
p:empty { display: none; }
#said { margin-top: .75rem; }
ol { list-style: none; margin: 1rem 0 0; padding: 0; display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)); }
li { border: 1px solid var(--line); border-radius: .5rem; overflow: hidden;
  background: var(--card); display: flex; flex-direction: column; }
.shown { position: relative; display: block; aspect-ratio: 16/9;
  overflow: hidden; background: #000; }
.shown img, .shown video, .shown .frames { position: absolute; inset: 0;
  width: 100%; height: 100%; object-fit: contain; }
.shown audio { position: absolute; inset: auto 0 0; width: 100%; }
.shown .play { position: absolute; right: .4rem; bottom: .4rem;
  padding: 0 .5rem; border-radius: .25rem; background: #000c; color: #fff;
  font-size: .85rem; }
.frames { display: grid; grid: 1fr 1fr / 1fr 1fr; }
.frames[hidden] { display: none; }
.frames img { position: static; min-height: 0; }
li .text { padding: .6rem .75rem .75rem; }
li .text p { margin: .2rem 0 0; font-size: .9rem; }
meter { width: 5rem; vertical-align: middle; }
form { display: flex; flex-wrap: wrap; gap: .5rem .75rem; align-items: end; }
form label { display: flex; flex-direction: column; font-size: .85rem;
  color: var(--faint); }
form label.wide { flex: 1 1 16rem; }
form label.check { flex-direction: row; gap: .35rem; align-items: center;
  min-height: 2.4rem; }
input, select, button { font: inherit; color: var(--ink);
  background: var(--paper); border: 1px solid var(--line);
  border-radius: .375rem; padding: .4rem .6rem; min-height: 2.4rem;
  max-width: 100%; }
input[type=checkbox] { min-height: 0; width: 1.1rem; height: 1.1rem; }
input[type=number] { width: 5rem; }
input[type=file] { width: 100%; }
button { cursor: pointer; background: var(--link); color: var(--paper);
  border-color: var(--link); }
button.plain { background: var(--paper); color: var(--link); }
li a:focus-visible { outline-offset: -3px; }
body.over { outline: 3px dashed var(--link); outline-offset: -8px; }
main[aria-busy=true] ol { opacity: .5; }
"""

# A click on a picture plays the file there; see `card`.
PLAY = """
"use strict";
document.addEventListener("click", event => {
  const link = event.target.closest("a.shown");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  document.querySelectorAll("video, audio").forEach(other => other.pause());
  const {kind, start} = link.dataset, card = link.closest("li");
  const box = document.createElement("div"), frames =
    card.querySelector(".frames"), note = card.querySelector(".note");
  const player = document.createElement(kind);
  const pictures = () => {
    if (!player.isConnected) return;
    player.remove();
    note.textContent = kind === "video"
      ? "This browser cannot play the file: its pictures from this moment."
      : "This browser cannot play the file.";
    if (frames) { frames.hidden = false; box.append(frames); }
    else box.append(...link.querySelectorAll("img"));
  };
  box.className = "shown";
  player.controls = true;
  player.tabIndex = 0;
  player.setAttribute("aria-label", link.getAttribute("aria-label"));
  player.addEventListener("error", pictures);
  player.addEventListener("loadedmetadata", () => {
    if (kind === "video" && !player.videoWidth) { pictures(); return; }
    player.currentTime = Number(start);
    player.play().catch(() => {});
  }, {once: true});
  if (kind === "audio")
    box.append(...[...link.querySelectorAll("img")].map(
      one => one.cloneNode()));
  box.append(player);
  link.replaceWith(box);
  player.src = link.href;
  player.focus();
});
"""

# The page of vatt/serve.py.
APP = """
const form = document.querySelector("form"), main = document.querySelector(
  "main"), said = document.getElementById("said"), list =
  document.getElementById("hits"), chosen = form.elements.file;
const clear = document.getElementById("clear");
// Names of the file's queries, by what of it counts: it is sent once for each.
let last = null, file = null, kept = {};
const say = (line, wrong) => {
  said.textContent = line;
  said.className = wrong ? "problem" : "";
};
const setFile = one => {
  file = one;
  kept = {};
  clear.hidden = !file;
  if (file) { form.elements.query.value = ""; ask(); }
};
async function ask() {
  const query = form.elements.query.value.trim();
  if (last) last.abort();
  if (!file && !query) { list.replaceChildren(); say("", false); return; }
  const mine = last = new AbortController();
  const values = new URLSearchParams();
  for (const name of ["by", "kind", "name", "top"])
    values.set(name, form.elements[name].value);
  values.set("each", form.elements.each.checked ? "1" : "");
  main.setAttribute("aria-busy", "true");
  say("Searching …", false);
  try {
    let answer;
    const as = form.elements.as.value;
    if (file && kept[as]) {
      values.set("kept", kept[as]);
      answer = await fetch("search?" + values, {signal: mine.signal});
    } else if (file) {
      values.set("as", as);
      values.set("called", file.name);
      answer = await fetch("search?" + values,
        {method: "POST", body: file, signal: mine.signal});
    } else {
      values.set("query", query);
      answer = await fetch("search?" + values, {signal: mine.signal});
    }
    if (!answer.ok) throw new Error(await answer.text());
    const found = await answer.json();
    if (file && last === mine) kept[as] = found.kept;
    if (found.forgotten) { ask(); return; }
    list.innerHTML = found.html;
    say(found.line, found.problem);
  } catch (error) {
    if (error.name === "AbortError") return;
    list.replaceChildren();
    say("The program does not answer: " + error.message, true);
  }
  if (last === mine) main.setAttribute("aria-busy", "false");
}
form.addEventListener("submit", event => { event.preventDefault(); ask(); });
form.addEventListener("change", event => {
  if (event.target === chosen) setFile(chosen.files[0] || null);
  else if (event.target.name !== "query") ask();
});
form.elements.query.addEventListener("input", () => {
  if (file) { chosen.value = ""; setFile(null); }
});
clear.addEventListener("click", () => {
  chosen.value = ""; setFile(null); ask(); form.elements.query.focus();
});
let depth = 0;
addEventListener("dragenter", () => {
  ++depth; document.body.classList.add("over"); });
addEventListener("dragleave", () => {
  if (!--depth) document.body.classList.remove("over"); });
addEventListener("dragover", event => event.preventDefault());
addEventListener("drop", event => {
  event.preventDefault();
  depth = 0;
  document.body.classList.remove("over");
  const dropped = event.dataTransfer.files;
  if (dropped.length) { chosen.files = dropped; setFile(dropped[0]); }
});
"""

FORM = """<form role="search">
<label class="wide">Sentence
<input type="search" name="query" autocomplete="off" autofocus></label>
<button>Search</button>
<label class="wide">or a file, chosen or dropped here
<input type="file" name="file" accept="video/*,audio/*"></label>
<label>of which counts
<select name="as"><option value="video">its pictures</option>
<option value="audio">its sound</option></select></label>
<button type="button" class="plain" id="clear" hidden>Without the file</button>
<label>Compared by
<select name="by"><option value="">what there is</option>
<option value="video">pictures</option><option value="audio">sound</option>
<option value="both">both</option></select></label>
<label>Kind of file
<select name="kind"><option value="">any</option>
<option value="video">with pictures</option>
<option value="audio">sound alone</option></select></label>
<label>Name has <input name="name" autocomplete="off"></label>
<label>Results
<input type="number" name="top" value="12" min="1" max="200"></label>
<label class="check"><input type="checkbox" name="each">
several moments of a file</label>
</form>
"""


def curve(bars: Sequence[float]) -> bytes:
  """The picture of a sound, an SVG file.

  Args:
    bars: loudness of its parts, 0 to 1.
  """
  width, height = CURVE
  step, loudest = width / max(1, len(bars)), max([*bars, 1e-3])
  parts = []
  for i, bar in enumerate(bars):
    size = max(2.0, bar / loudest * height * 0.8)
    parts.append(f'<rect x="{i * step + step / 4:.1f}" '
                 f'y="{(height - size) / 2:.1f}" width="{step / 2:.1f}" '
                 f'height="{size:.1f}"/>')
  return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} '
          f'{height}"><rect width="{width}" height="{height}" fill="#111820"/>'
          f'<g fill="#79b8ff">{"".join(parts)}</g></svg>').encode()


def card(hit: Any, rank: int, media: str, pictures: Sequence[str]) -> str:
  """A moment on the page.

  Args:
    hit: of `queries.Hit`.
    rank: its place, from 1.
    media: address of the file.
    pictures: addresses of its pictures, or of that of its sound.
  """
  kind = "video" if "video" in hit.file.kinds else "audio"
  name, times = escape(hit.name), f"{clock(hit.start)} – {clock(hit.end)}"
  images = [f'<img src="{escape(each)}" alt="" loading="lazy">'
            for each in pictures]
  frames = (f'<div class="frames" hidden>{"".join(images)}</div>'
            if kind == "video" else "")
  shown = images[len(images) // 2] if images else ""
  address = escape(f"{media}#t={hit.start:.3f}")
  return (
      f'<li><a class="shown" href="{address}" data-kind="{kind}" '
      f'data-start="{hit.start:.3f}" aria-label="Play {name} from '
      f'{clock(hit.start)}">{shown}<span class="play">▶ {clock(hit.start)}'
      '</span></a>'
      f'<div class="text"><h2>{rank}. {name}</h2><p>{times} · '
      f'<meter min="0" max="1" value="{max(0.0, hit.score):.3f}" '
      f'aria-label="Similarity"></meter> {hit.score:.3f}</p>'
      f'<p class="note" role="status"></p></div>{frames}</li>\n')


def results(hits: Sequence[Any], media: Callable[[Any], str],
            pictures: Callable[[Any], Sequence[str]]) -> str:
  """The moments, the best first; see `card`."""
  return "".join(card(hit, rank, media(hit), pictures(hit))
                 for rank, hit in enumerate(hits, 1))


def app(num_files: int, num_windows: int, nonce: str) -> str:
  """The page to search on.

  Args:
    num_files, num_windows: that are searched.
    nonce: of its style and script, which the server names.
  """
  return pages.page(
      "Search", f"<h1>Search in {num_files} files</h1>\n"
      f"<p>{num_windows} moments are indexed.</p>\n{FORM}"
      '<p id="said" role="status"></p>\n<main aria-busy="false" '
      'aria-label="Results"><ol id="hits"></ol></main>\n',
      STYLE, PLAY + APP, nonce)


def write(path: str, title: str, note: str, hits: Sequence[Any]) -> None:
  """Writes the page of a query.

  Args:
    path: of the file. Media are linked from there.
    title: what was looked for.
    note: what of it was not understood, or "".
    hits: of `queries.Searcher.find`.

  Raises:
    UserError: it cannot be written.
  """
  folder, workers = os.path.realpath(os.path.dirname(path) or "."), Workers()

  def look(hit):
    return pictures_of(workers, hit.file, hit.start, hit.end)

  with concurrent.futures.ThreadPoolExecutor(num_cores()) as pool:
    looks = dict(zip(map(id, hits), pool.map(look, hits)))

  def media(hit):
    return urllib.parse.quote(os.fsencode(
        os.path.relpath(hit.file.path, folder)))

  def pictures(hit):
    return [pages.inline(kind, data) for kind, data in looks[id(hit)]]

  text = pages.page(title, f"<h1>{escape(title)}</h1>\n<p>{escape(note)}</p>\n"
               f'<main><ol id="hits">{results(hits, media, pictures)}</ol>'
               "</main>\n", STYLE, PLAY)
  pages.write(path, text)


def pictures_of(workers: Workers, file: Any, start: float, end: float
                ) -> list[tuple[str, bytes]]:
  """The pictures of a moment, or that of its sound: (MIME type, content)s; []
  if it cannot be read any more.

  Args:
    workers: to read in.
    file: of `index.File`.
    start, end: seconds.
  """
  try:
    moment = workers.call(LIMIT, moments.read_moment, file.path, start, end)
  except MediaError:
    return []
  if moment.pictures:
    return [("image/jpeg", picture) for picture in moment.pictures]
  return [("image/svg+xml", curve(moment.bars))]
