"""The page to search on, over HTTP."""
import http.client
import json
import os
import shutil
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request

import pytest

from tests.searching import tone
from vatt import queries, serve
from vatt.errors import UserError


@pytest.fixture(scope="module")
def server(indexed, tmp_path_factory):
  searcher = queries.Searcher(
      indexed.model, indexed.index, [str(indexed.folder)])
  folder = tmp_path_factory.mktemp("uploads")
  with serve.Server(searcher, 0, str(folder)) as server:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()


def ask(server, target, method="GET", body=None, **headers):
  """Status, headers and content of the answer to a request, sent as it is, of
  a browser that has been invited."""
  headers.setdefault("Cookie", cookie_of(server))
  connection = http.client.HTTPConnection("127.0.0.1", server.server_port,
                                          timeout=120)
  connection.putrequest(method, target, skip_host="Host" in headers)
  if body is not None:
    headers.setdefault("Content-Length", str(len(body)))
  for name, value in headers.items():
    connection.putheader(name.replace("_", "-"), value)
  connection.endheaders(body)
  answer = connection.getresponse()
  content = answer.read()
  connection.close()
  return answer.status, answer.headers, content


def cookie_of(server):
  return f"vatt-{server.server_port}={server.url.partition('?token=')[2]}"


def search(server, body=None, **values):
  target = "/search?" + urllib.parse.urlencode({"top": 5} | values)
  status, _, content = ask(server, target, "GET" if body is None else "POST",
                           body)
  assert status == 200
  return json.loads(content)


def file_of(server, name):
  return next(file for file in server.searcher.files
              if file.path.endswith(name))


def test_the_page_loads_nothing_from_elsewhere(server):
  browser = urllib.request.build_opener(
      urllib.request.HTTPCookieProcessor())
  with browser.open(server.url) as answer:
    assert answer.url == f"http://127.0.0.1:{server.server_port}/"
    text = answer.read().decode()
    policy = answer.headers["Content-Security-Policy"]
  assert "Search in 3 files" in text and "8 moments" in text
  assert "default-src 'none'" in policy and "http" not in policy
  nonce = policy.partition("script-src 'nonce-")[2].partition("'")[0]
  assert text.count(f'nonce="{nonce}"') == 2
  assert "http" not in text
  assert ask(server, "/")[2].decode() != text  # another nonce


def test_a_sentence_and_its_filters(server, indexed):
  word = indexed.model.task.words[0]
  found = search(server, query=f"{word} zyzzyva")
  assert not found["problem"] and found["html"].count("<li>") == 3
  assert found["line"] == ("3 moments, the nearest first. "
                           f"'{word} zyzzyva': not in the vocabulary: zyzzyva")
  for filters, names in (({"kind": "audio"}, ["sound.wav"]),
                         ({"name": "FILM"}, ["film.mkv"]),
                         ({"by": "audio"}, ["film.mkv", "sound.wav"]),
                         ({"name": "FILM", "each": "1"}, ["film.mkv"] * 3)):
    page = search(server, query=word, **filters)["html"]
    assert page.count("<li>") == len(names)
    assert all(name in page for name in names)
  # Pictures of the moment that is shown.
  address = page.partition('<img src="')[2].partition('"')[0]
  status, headers, picture = ask(server, address)
  assert (status, headers["Content-Type"]) == (200, "image/jpeg")
  assert picture.startswith(b"\xff\xd8")


@pytest.mark.parametrize("values, line", [
    ({"query": "zyzzyva"}, "sentence 'zyzzyva': of its words, zyzzyva, the voca"
     "bulary has none, expected words that the model knows"),
    ({"query": ""}, "sentence '': has no word, expected letters or digits"),
    ({}, "sentence '': has no word, expected letters or digits"),
    ({"query": "one", "top": "0"}, "results: '0', expected a number from 1 to "
     "200"),
    ({"query": "one", "top": "9" * 5000}, "results: '99999999999999999999', exp"
     "ected a number from 1 to 200"),
    ({"query": "one", "by": "smell"}, "by is 'smell', expected one of video, "
     "audio, both"),
    ({"query": "the", "name": "nowhere"}, "No file is of that kind and name."),
])
def test_errors_of_a_query_are_a_line(server, values, line):
  found = search(server, **values)
  assert found["problem"] and not found["html"]
  assert found["line"] == line


def test_a_file_is_searched_with_and_forgotten(server, indexed):
  film = (indexed.folder / "film.mkv").read_bytes()
  found = search(server, film, called="mine.mkv", **{"as": "video"})
  assert not found["problem"] and "1. film.mkv" in found["html"]
  assert "1. b/sound.wav" in search(
      server, (indexed.folder / "b/sound.wav").read_bytes(), called="x",
      **{"as": "audio"})["html"]
  lines = [search(server, body, called=called, **{"as": kind})["line"]
           for body, called, kind in (
               (b"no film", "../../etc/passwd.mp4", "video"),
               (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "a.m3u8",
                "video"),
               (bytes(range(256)) * 40, "b.mp4", "audio"),
               ((indexed.folder / "b/mute.mp4").read_bytes(), "c.mp4", "audio"),
               (b"", "d.mp4", "video"))]
  assert lines[:2] == [
      "../../etc/passwd.mp4: text, expected a film or a sound",
      "a.m3u8: text, expected a film or a sound"]
  assert lines[2].startswith("b.mp4: no readable media")
  assert lines[3] == "c.mp4: has no audio, expected media that can be used"
  assert lines[4].startswith("d.mp4: 0 bytes, expected 1 to ")
  status, _, content = ask(server, "/search?top=3&called=e.mp4", "POST",
                           Content_Length=str(1 << 50))
  assert status == 200 and json.loads(content)["line"].startswith(
      "e.mp4: 1125899906842624 bytes, expected")
  # One that goes away while it sends.
  with socket.create_connection(("127.0.0.1", server.server_port)) as other:
    other.sendall(b"POST /search?top=3 HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
                  b"Cookie: %s\r\nContent-Length: 1000000\r\n\r\n\0" % (
                      server.server_port, cookie_of(server).encode()))
  assert search(server, query="the")["html"]
  assert os.listdir(server.folder) == []


def test_a_file_is_sent_once_for_all_filters(server, indexed, monkeypatch):
  film = (indexed.folder / "film.mkv").read_bytes()
  first = search(server, film, called="mine.mkv", **{"as": "video"})
  again = search(server, kept=first["kept"])
  assert again == first and first["html"].count("<li>") == 3
  other = search(server, kept=first["kept"], kind="audio")
  assert "1. b/sound.wav" in other["html"]
  none = search(server, film, name="nowhere", **{"as": "video"})
  assert none["problem"] and search(server, kept=none["kept"]) == (
      first | {"kept": none["kept"]})
  unknown = search(server, kept="x")
  assert unknown["problem"] and unknown["forgotten"]
  # Not of any number of files.
  monkeypatch.setattr(serve, "QUERIES", 2)
  last = search(server, film, **{"as": "video"})["kept"]
  assert search(server, kept=first["kept"])["forgotten"]
  assert not search(server, kept=last)["problem"]


def test_media_come_in_ranges(server, indexed):
  path = indexed.folder / "film.mkv"
  content, number = path.read_bytes(), file_of(server, "film.mkv").id
  size, target = len(content), f"/media/{number}"
  status, headers, found = ask(server, target)
  assert (status, found) == (200, content)
  assert headers["Accept-Ranges"] == "bytes"
  assert headers["Content-Type"] == "video/x-matroska"
  for given, part in (("0-0", (0, 1)), ("5-99", (5, 100)), ("7-", (7, size)),
                      ("-10", (size - 10, size)), (f"-{size + 9}", (0, size)),
                      (f"9-{10 ** 12}", (9, size))):
    status, headers, found = ask(server, target, Range=f"bytes={given}")
    assert (status, found) == (206, content[slice(*part)]), given
    assert headers["Content-Range"] == f"bytes {part[0]}-{part[1] - 1}/{size}"
    assert headers["Content-Length"] == str(part[1] - part[0])
  for given in (f"{size}-", f"{size + 5}-{size + 9}", "-0"):
    status, headers, found = ask(server, target, Range=f"bytes={given}")
    assert (status, found) == (416, b"")
    assert headers["Content-Range"] == f"bytes */{size}"
  for given in ("bytes=9-5", "bytes=-", "bytes=a-b", "bytes=0-1,4-5",
                "lines=1"):
    assert ask(server, target, Range=given)[::2] == (200, content)
  status, headers, found = ask(server, target, "HEAD", Range="bytes=0-9")
  assert (status, headers["Content-Length"], found) == (206, "10", b"")


@pytest.mark.parametrize("target", [
    "/media/../../etc/passwd", "/media//etc/passwd", "/etc/passwd",
    "//etc/passwd", "/media/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "/media/..%2f..%2fetc%2fpasswd", "file:///etc/passwd",
    "/media/99", "/media/-1", "/media/0", "/media/" + "9" * 18,
    "/media/" + "9" * 30, "/media/1/../2", "/media/", "/media", "/media/1x",
    "/media/%31", "/frames/99/0/0", "/frames/1/99/0", "/frames/1/0/9",
    "/frames/1/0/../0", "/search/", "/.vatt-index/index.sqlite3", "/index.html",
])
def test_nothing_else_is_sent(server, target):
  status, _, content = ask(server, target)
  assert status == 404 and content.startswith(b"There is no")
  assert ask(server, target, "POST", b"x")[0] == 404


def test_what_cannot_be_used_is_not_sent(server, indexed):
  listed = indexed.index.read()
  broken = next(file for file in listed if file.path.endswith("broken.mp4"))
  assert ask(server, f"/media/{broken.id}")[0] == 404


def test_a_file_that_is_another_now_is_not_sent(indexed, tmp_path):
  """Neither what took its place, nor what a link there leads to."""
  from vatt import index as index_lib

  folder = shutil.copytree(indexed.folder, tmp_path / "films")
  searcher = queries.Searcher(indexed.model, index_lib.Index(
      folder / ".vatt-index", indexed.model), [str(folder)])
  secret = tmp_path / "secret.wav"
  secret.write_bytes(b"secret")
  path = folder / "b/sound.wav"
  known = next(file for file in searcher.files if file.path == str(path))
  film = next(file for file in searcher.files if "video" in file.kinds)
  with serve._open_indexed(known) as file:
    assert file.read() == path.read_bytes()
  path.unlink()
  assert serve._open_indexed(known) is None
  path.symlink_to(secret)
  assert serve._open_indexed(known) is None
  shutil.copy(folder / film.path, secret)  # nor a picture of what can be seen
  with serve.Server(searcher, 0, str(tmp_path)) as server:
    threading.Thread(target=server.serve_forever).start()
    assert ask(server, f"/frames/{film.id}/0/0")[0] == 200
    assert ask(server, f"/frames/{known.id}/0/0")[0] == 404
    server.shutdown()
  path.unlink()
  os.mkfifo(path)
  assert serve._open_indexed(known) is None


@pytest.mark.parametrize("headers, status", [
    ({"Host": "127.0.0.1:{port}"}, 200),
    ({"Host": "localhost:{port}"}, 200),
    ({"Host": "evil.example:{port}"}, 403),
    ({"Host": "evil.example"}, 403),
    ({"Host": "127.0.0.1"}, 403),
    ({"Host": "127.0.0.1:{port}.evil.example"}, 403),
    ({"Host": ""}, 403),
    ({"Origin": "http://127.0.0.1:{port}"}, 200),
    ({"Origin": "http://evil.example"}, 403),
    ({"Origin": "null"}, 403),
    ({"Sec_Fetch_Site": "cross-site"}, 403),
    ({"Sec_Fetch_Site": "same-origin"}, 200),
])
def test_pages_from_elsewhere_are_refused(server, headers, status):
  headers = {name: value.format(port=server.server_port)
             for name, value in headers.items()}
  number = file_of(server, "sound.wav").id
  assert ask(server, f"/media/{number}", **headers)[0] == status
  assert ask(server, "/search?top=3&query=the", **headers)[0] == status
  if status == 403:
    assert ask(server, "/search?top=3", "POST", tone(1, 9).tobytes(),
               **headers)[0] == 403


def test_who_has_no_token_is_refused(server):
  """Other users of the machine reach the port, too."""
  number = file_of(server, "sound.wav").id
  name, _, token = cookie_of(server).partition("=")
  assert len(token) >= 32
  other = "y" if token[0] == "x" else "x"
  for cookie in ("", f"{name}=", f"{name}={other}{token[1:]}", f"{name}=\xff",
                 f"{name}={token[:-1]}", f"vatt-1={token}",
                 f"x={name}={token}"):
    for target in ("/", "/?token=", "/?token=%FFx", f"/media/{number}",
                   f"/frames/{number}/0/0", "/search?top=3&query=the", "/none"):
      status, _, content = ask(server, target, Cookie=cookie)
      assert status == 403 and content == (
          b"Expected the token: open the address that the program has printed."
          b"\n")
    assert ask(server, "/search?top=3", "POST", tone(1, 9).tobytes(),
               Cookie=cookie)[0] == 403
  assert ask(server, "/", Cookie=f"a=b; {name}={token}; c")[0] == 200
  assert ask(server, f"/media/{number}?token={token}", Cookie="")[0] == 200
  for method in "GET", "HEAD":
    status, headers, content = ask(server, f"/?token={token}", method,
                                   Cookie="")
    assert (status, headers["Location"], content) == (303, "/", b"")
    assert headers["Set-Cookie"] == (
        f"{name}={token}; Path=/; HttpOnly; SameSite=Strict")
  assert ask(server, f"/?token={token}", Host="evil.example")[0] == 403
  other = ask(server, "/", Host="localhost:9")[2].decode()
  port = server.server_port
  assert other == (f"Expected the host 127.0.0.1:{port}; through an SSH tunnel,"
                   f" the same port: -L {port}:localhost:{port}.\n")


def test_what_is_no_address_is_told(server):
  with socket.create_connection(("127.0.0.1", server.server_port)) as other:
    other.sendall(b"GET http://[ HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = other.makefile("rb").read()
  assert answer.startswith(b"HTTP/1.1 400 ")
  assert answer.endswith(b"\r\nThis is no address.\n")


def test_no_other_address_is_listened_at(server):
  assert server.server_address[0] == "127.0.0.1"
  with pytest.raises(UserError, match=f"--port={server.server_port}: cannot be "
                     "used .*, expected one that is free"):
    serve.Server(server.searcher, server.server_port, "")
