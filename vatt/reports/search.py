"""What was found in media, as a page: pictures, times, and a click that plays.

`write` makes a file of it, with the pictures in it and links to the media;
`results` are the part that `vatt/serve.py` shows for each query on the page
`app`. Nothing on them comes from elsewhere. What a browser cannot play, which
it says itself, it shows as pictures.
"""
import base64
import concurrent.futures
import html
import os
import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any

from vatt import files
from vatt.data.ingest import moments
from vatt.data.ingest.media import MediaError
from vatt.data.ingest.workers import Workers
from vatt.errors import UserError, one_line
from vatt.host import num_cores

LIMIT = 60.0  # seconds of processor time to read the pictures of a moment
CURVE = (256, 144)  # size of the picture of a sound

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1f2328;
  --faint: #59636e; --line: #d1d9e0; --card: #f6f8fa; --link: #0a58ca;
  --warn: #9a3412; }
@media (prefers-color-scheme: dark) { :root { --paper: #0d1117;
  --ink: #e6edf3; --faint: #9da7b3; --line: #3d444d; --card: #161b22;
  --link: #79b8ff; --warn: #ffb077; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 76rem;
  background: var(--paper); color: var(--ink);
  font: 1rem/1.45 system-ui, sans-serif; }
h1 { font-size: 1.3rem; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: .95rem; margin: 0; overflow-wrap: anywhere; }
p { margin: .25rem 0 .75rem; color: var(--faint); overflow-wrap: anywhere; }
p.problem { color: var(--warn); }
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
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
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


def clock(seconds: float) -> str:
  """A time as players show it: 1:02:03.4, or 2:03.4."""
  tenths = int(seconds * 10 + 0.5)
  minutes, tenths = divmod(tenths, 600)
  hours, minutes = divmod(minutes, 60)
  rest = f"{minutes:02}" if hours else f"{minutes}"
  return (f"{hours}:" if hours else "") + (
      f"{rest}:{tenths // 10:02}.{tenths % 10}")


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
  name, times = _escape(hit.name), f"{clock(hit.start)} – {clock(hit.end)}"
  images = [f'<img src="{_escape(each)}" alt="" loading="lazy">'
            for each in pictures]
  frames = (f'<div class="frames" hidden>{"".join(images)}</div>'
            if kind == "video" else "")
  shown = images[len(images) // 2] if images else ""
  address = _escape(f"{media}#t={hit.start:.3f}")
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
  return _page(
      "Search", f"<h1>Search in {num_files} files</h1>\n"
      f"<p>{num_windows} moments are indexed.</p>\n{FORM}"
      '<p id="said" role="status"></p>\n<main aria-busy="false" '
      'aria-label="Results"><ol id="hits"></ol></main>\n',
      PLAY + APP, nonce)


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
    return [f"data:{kind};base64,{base64.b64encode(data).decode()}"
            for kind, data in looks[id(hit)]]

  text = _page(title, f"<h1>{_escape(title)}</h1>\n<p>{_escape(note)}</p>\n"
               f'<main><ol id="hits">{results(hits, media, pictures)}</ol>'
               "</main>\n", PLAY)
  try:
    files.write_whole(path, text.encode(errors="replace"))
  except files.REFUSED as error:
    raise UserError(f"{path}: cannot be written ({one_line(error)}), expected "
                    "a file that can be") from None


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


def _page(title, body, script, nonce=""):
  with_nonce = f' nonce="{nonce}"' if nonce else ""
  return (
      '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
      '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
      f'<link rel="icon" href="data:,">\n<title>{_escape(title)}</title>\n'
      f"<style{with_nonce}>{STYLE}</style>\n</head>\n<body>\n{body}"
      f"<script{with_nonce}>{script}</script>\n</body>\n</html>\n")


def _escape(text):
  """Text in HTML; bytes of names that are no UTF-8 are shown as "?"."""
  return html.escape(text.encode(errors="replace").decode())
