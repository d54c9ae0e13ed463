"""A page to search media on: a web server for the browsers of this machine.

It answers on 127.0.0.1 alone, and only who calls it by that name: a page from
elsewhere whose name was made to lead here (DNS rebinding) is refused. So is
whoever does not have the token of the address that is printed: other users of
the machine reach that port, too. The first visit gets it as a cookie. Media are
asked for by their numbers in the index; no path comes from a browser, and no
file is sent that is not the one that was indexed.
"""
import functools
import http.server
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
import threading
import urllib.parse
from http import HTTPStatus
from typing import Any

from absl import logging

from vatt import queries, stopping
from vatt.data.ingest import clip_sources
from vatt.data.ingest.workers import Workers
from vatt.errors import UserError, one_line
from vatt.queries import BY, KINDS, Hit, Query, Searcher
from vatt.reports import search as page

HOST = "127.0.0.1"
LARGEST = 4 << 30  # bytes of a file that is searched with
CHUNK = 1 << 18  # bytes read at once
MOST = 200  # results
KEPT = 512  # moments whose pictures are kept
QUERIES = 64  # of files that were sent, which are kept
PATHS = re.compile(
    r"/(?:(?P<media>media)/(?P<id>\d{1,18})|"
    r"(?P<frames>frames)/(?P<file>\d{1,18})/(?P<window>\d{1,9})/(?P<n>\d)|"
    r"(?P<search>search)|(?P<app>))")
# By the file's name; browsers look at the content too.
TYPES = {
    ".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/mp4",
    ".webm": "video/webm", ".ogv": "video/ogg", ".mkv": "video/x-matroska",
    ".mp3": "audio/mpeg", ".m4a": "audio/mp4", ".aac": "audio/aac",
    ".wav": "audio/wav", ".flac": "audio/flac", ".ogg": "audio/ogg",
    ".oga": "audio/ogg", ".opus": "audio/ogg", ".weba": "audio/webm"}


class Server(http.server.ThreadingHTTPServer):
  """The server; a context that ends it.

  Args:
    searcher: that answers queries.
    port: 0 for one that is free.
    folder: for the files that queries send, each removed when it is answered.

  Raises:
    UserError: the port is taken.
  """

  daemon_threads = True

  def __init__(self, searcher: Searcher, port: int, folder: str):
    try:
      super().__init__((HOST, port), Handler)
    except OSError as error:
      raise UserError(f"--port={port}: cannot be used ({one_line(error)}), "
                      "expected one that is free") from None
    self.searcher, self.folder = searcher, folder
    self.files = {file.id: file for file in searcher.files}
    self.names = [f"{name}:{self.server_port}" for name in (HOST, "localhost")]
    self.token = secrets.token_urlsafe(24)
    # Cookies are a host's, whatever the port.
    self.cookie = f"vatt-{self.server_port}"
    self.workers = Workers()
    self.pictures = functools.lru_cache(KEPT)(self._pictures)
    self._queries, self._lock = {}, threading.Lock()

  @property
  def url(self) -> str:
    """Where browsers find it, with the token."""
    return f"http://{HOST}:{self.server_port}/?token={self.token}"

  def knows(self, token: str) -> bool:
    """Whether a token is that of the address."""
    return secrets.compare_digest(
        token.encode(errors="replace"), self.token.encode())

  def keep(self, query: Query) -> str:
    """Keeps the query of a file, in place of the oldest of too many; returns
    its name, by which the file need not be sent again."""
    name = secrets.token_urlsafe(16)
    with self._lock:
      self._queries[name] = query
      while len(self._queries) > QUERIES:
        del self._queries[next(iter(self._queries))]
    return name

  def kept(self, name: str) -> Query | None:
    """The query of that name, if it is still kept."""
    return self._queries.get(name)

  def _pictures(self, number, window):
    """The pictures of a window of a file; [] without any."""
    file = self.files[number]
    return page.pictures_of(self.workers, file, *map(float, file.times[window]))

  def handle_error(self, request: Any, address: Any) -> None:
    """Says what went wrong, unless the browser just went away."""
    logging.log(logging.DEBUG, "%s", address, exc_info=True)


class Handler(http.server.BaseHTTPRequestHandler):
  """Answers the requests of a connection."""

  protocol_version = "HTTP/1.1"
  server_version, sys_version = "vatt", ""
  timeout = 120  # seconds without a byte
  server: Server

  def do_GET(self) -> None:
    """The page, an answer, pictures, a file."""
    self._answer("GET")

  def do_HEAD(self) -> None:
    """As GET, without the content."""
    self._answer("GET")

  def do_POST(self) -> None:
    """An answer to a file."""
    self._answer("POST")

  def log_message(self, format: str, *args: Any) -> None:
    """Says nothing of each request."""
    logging.debug(format, *args)

  def _answer(self, method):
    try:
      url = urllib.parse.urlsplit(self.path)
    except ValueError:
      self.close_connection = True
      self._send_text(HTTPStatus.BAD_REQUEST, "This is no address.")
      return
    found = PATHS.fullmatch(url.path)
    values = dict(urllib.parse.parse_qsl(url.query))
    invited = self.server.knows(values.get("token", ""))
    refused = self._refused(found, invited)
    if method == "POST" or refused:
      self.close_connection = True  # its content may not have been read
    if refused:
      self._send_text(HTTPStatus.FORBIDDEN, refused)
    elif not found or (method == "POST") > bool(found["search"]):
      self._send_text(HTTPStatus.NOT_FOUND, "There is nothing here.")
    elif found["media"]:
      self._send_media(int(found["id"]))
    elif found["frames"]:
      self._send_frame(*(int(found[name]) for name in ("file", "window", "n")))
    elif found["search"]:
      self._send(HTTPStatus.OK, "application/json", json.dumps(
          self._search(values, method)).encode())
    elif invited:  # without it the address can be shown and kept
      self._send(HTTPStatus.SEE_OTHER, "text/plain; charset=utf-8", b"", {
          "Location": "/", "Set-Cookie": f"{self.server.cookie}="
          f"{self.server.token}; Path=/; HttpOnly; SameSite=Strict"})
    else:
      nonce = secrets.token_urlsafe(16)
      searcher = self.server.searcher
      self._send(
          HTTPStatus.OK, "text/html; charset=utf-8", page.app(
              len(searcher.files), searcher.num_windows, nonce).encode(), {
                  "Content-Security-Policy":
                  f"default-src 'none'; script-src 'nonce-{nonce}'; style-src "
                  f"'nonce-{nonce}'; img-src 'self' data:; media-src 'self'; "
                  "connect-src 'self'; base-uri 'none'; form-action 'none'; "
                  "frame-ancestors 'none'"})

  def _refused(self, found, invited):
    """Why a request is not answered, or None."""
    host, port = self.headers.get("Host", ""), self.server.server_port
    if host not in self.server.names:
      return (f"Expected the host {self.server.names[0]}; through an SSH "
              f"tunnel, the same port: -L {port}:localhost:{port}.")
    origin = self.headers.get("Origin")
    site = self.headers.get("Sec-Fetch-Site", "none")
    if origin not in (None, f"http://{host}") or (
        site not in ("same-origin", "none") and not (found and found["app"]
                                                     is not None)):
      return "Expected a request of this page."
    if not (invited or self._has_cookie()):
      return ("Expected the token: open the address that the program has "
              "printed.")
    return None

  def _has_cookie(self):
    """Whether the browser has been here with the token."""
    cookies = (part.strip().partition("=") for header in self.headers.get_all(
        "Cookie", ()) for part in header.split(";"))
    return any(name == self.server.cookie and self.server.knows(value)
               for name, _, value in cookies)

  # ---- Queries --------------------------------------------------------------
  def _search(self, values, method):
    """What is found, or why nothing is: {html, line, problem}; of a file also
    the name of its query, `kept`; or `forgotten`, where that is no longer
    known and the file has to be sent."""
    kept = values.get("kept", "")
    try:
      asked = values.get("top", "")
      top = int(asked) if re.fullmatch("[0-9]{1,4}", asked) else 0
      if not 1 <= top <= MOST:
        raise UserError(f"results: {asked[:20]!r}, expected a number from 1 to "
                        f"{MOST}")
      for name, known in (("by", BY), ("kind", KINDS), ("as", KINDS)):
        if values.get(name, "") not in ("", *known):
          raise UserError(f"{name} is {values[name][:20]!r}, expected one of "
                          f"{', '.join(known)}")
      searcher = self.server.searcher
      if method == "POST":
        query = self._query_of_upload(values)
        kept = self.server.keep(query)
      elif kept:
        query = self.server.kept(kept)
        if query is None:
          return {"html": "", "line": "The file has to be sent again.",
                  "problem": True, "forgotten": True}
      else:
        query = queries.of_text(searcher.model, values.get("query", ""))
      hits = searcher.find(
          query, top, values.get("by", ""), values.get("kind", ""),
          values.get("name", ""), bool(values.get("each")))
    except UserError as error:
      return {"html": "", "line": str(error), "problem": True}
    except ConnectionError:
      raise
    except Exception:  # a fault of ours
      logging.exception("a query failed")
      return {"html": "", "line": "The query failed by a fault of the program, "
              "which its terminal tells.", "problem": True}
    if not hits:
      return {"html": "", "line": "No file is of that kind and name.",
              "problem": True, "kept": kept}
    line = f"{len(hits)} moments, the nearest first." if (
        len(hits) > 1) else "1 moment."
    return {"html": page.results(hits, _media, self._frames),
            "line": f"{line} {query.note}".strip(), "problem": False,
            "kept": kept}

  def _query_of_upload(self, values):
    """The query of the file that is sent."""
    called = values.get("called", "") or "the file"
    length = self.headers.get("Content-Length", "")
    if not length.isdecimal() or not 0 < int(length) <= LARGEST:
      raise UserError(f"{called}: {length or 'unknown'} bytes, expected 1 to "
                      f"{LARGEST}")
    # Some formats are known by the name alone.
    suffix = os.path.splitext(called)[1].lower()
    try:
      with tempfile.NamedTemporaryFile(
          dir=self.server.folder,
          suffix=suffix if suffix in clip_sources.SUFFIXES else "") as file:
        self._receive(file, int(length), called)
        try:
          return queries.of_file(self.server.searcher.model, file.name,
                                 values.get("as") or "video")
        except UserError as error:
          raise UserError(str(error).replace(file.name, called)) from None
    except ConnectionError:
      raise
    except OSError as error:
      raise UserError(f"{called}: cannot be kept ({one_line(error)}), expected "
                      "room for it") from None

  def _receive(self, file, left, called):
    """Writes the content of the request to a file."""
    first = True
    while left:
      data = self.rfile.read(min(CHUNK, left))
      if not data:
        raise ConnectionAbortedError("the browser went away")
      # A list of media, which has FFmpeg open other files, is nothing but text.
      if first and re.fullmatch(rb"[\t\n\r -~]*", data[:512]):
        raise UserError(f"{called}: text, expected a film or a sound")
      file.write(data)
      left, first = left - len(data), False
    file.flush()

  def _frames(self, hit: Hit):
    """The addresses of a moment's pictures."""
    count = page.moments.COUNT if "video" in hit.file.kinds else 1
    return [f"/frames/{hit.file.id}/{hit.window}/{i}" for i in range(count)]

  # ---- What is sent ---------------------------------------------------------
  def _send_frame(self, number, window, i):
    known = self.server.files.get(number)
    pictures = []
    if known and window < len(known.times):
      opened = _open_indexed(known)
      if opened:
        opened.close()
        pictures = self.server.pictures(number, window)
    if i >= len(pictures):
      self._send_text(HTTPStatus.NOT_FOUND, "There is no such picture.")
    else:
      self._send(HTTPStatus.OK, *pictures[i],
                 {"Cache-Control": "private, max-age=3600",
                  "Content-Security-Policy": "default-src 'none'"})

  def _send_media(self, number):
    """Sends a file, or the part of it that is asked for."""
    known = self.server.files.get(number)
    opened = known and _open_indexed(known)
    if not opened:
      self._send_text(HTTPStatus.NOT_FOUND, "There is no such file, or it is "
                      "not what was indexed.")
      return
    with opened as file:
      span = _span(self.headers.get("Range", ""), known.size)
      kind = TYPES.get(os.path.splitext(known.path)[1].lower(),
                       "application/octet-stream")
      headers = {"Accept-Ranges": "bytes"}
      if span == ():
        self._send(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, kind, b"",
                   headers | {"Content-Range": f"bytes */{known.size}"})
        return
      first, last = span or (0, known.size - 1)
      status = HTTPStatus.PARTIAL_CONTENT if span else HTTPStatus.OK
      if span:
        headers["Content-Range"] = f"bytes {first}-{last}/{known.size}"
      self._send_headers(status, kind, last - first + 1, headers)
      if self.command == "HEAD":
        return
      file.seek(first)
      left = last - first + 1
      while left and (data := file.read(min(CHUNK, left))):
        self.wfile.write(data)
        left -= len(data)
      if left:  # it has become shorter
        self.close_connection = True

  def _send_text(self, status, text):
    self._send(status, "text/plain; charset=utf-8", f"{text}\n".encode())

  def _send(self, status, kind, data, headers=()):
    self._send_headers(status, kind, len(data), headers)
    if self.command != "HEAD":
      self.wfile.write(data)

  def _send_headers(self, status, kind, length, headers=()):
    self.send_response(status)
    for name, value in ({
        "Content-Type": kind, "Content-Length": str(length),
        "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-store"} | dict(headers)).items():
      self.send_header(name, value)
    if self.close_connection:
      self.send_header("Connection", "close")
    self.end_headers()


def _media(hit):
  """The address of a file."""
  return f"/media/{hit.file.id}"


def _open_indexed(known):
  """A file of the index, open; None if it is not the one that was indexed."""
  try:
    # Not to wait for whoever writes, if a pipe has taken its place.
    file = open(known.path, "rb", opener=lambda path, flags: os.open(
        path, flags | os.O_NONBLOCK))
  except OSError:
    return None
  facts = os.fstat(file.fileno())
  if stat.S_ISREG(facts.st_mode) and (
      facts.st_size, facts.st_mtime_ns) == (known.size, known.mtime_ns):
    return file
  file.close()
  return None


def _span(header, size):
  """(first, last) byte of a Range; None without one, or of a form that is not
  known; () if the file has none of it."""
  found = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", header.strip())
  if not found or found[0].strip() == "bytes=-":
    return None
  if not found[1]:  # the last so many
    first, last = size - min(int(found[2]), size), size - 1
  else:
    first = int(found[1])
    last = min(int(found[2]), size - 1) if found[2] else size - 1
    if found[2] and int(found[2]) < first:
      return None
  return (first, last) if first <= last and first < size else ()


def run(searcher: Searcher, port: int = 0) -> None:
  """Serves the page until Ctrl-C; prints where.

  Args:
    searcher: that answers queries.
    port: 0 for one that is free.

  Raises:
    UserError: the port is taken.
  """
  stopping.listen()  # so that SIGTERM, too, leaves no file behind
  folder = tempfile.mkdtemp(prefix="vatt-search-")
  try:
    with Server(searcher, port, folder) as server:
      print(f"{server.url} searches {len(searcher.files)} files; Ctrl-C ends "
            "it", flush=True)
      server.serve_forever()
  except KeyboardInterrupt:
    print("ended")
  finally:
    shutil.rmtree(folder, ignore_errors=True)
