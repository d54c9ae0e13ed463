"""A small object store for tests: S3 by its addresses and lists, and the web.

python object_store.py FOLDER DELAY says the port that it serves on. An object
/BUCKET/KEY is the file FOLDER/BUCKET/KEY; each answer waits DELAY seconds. In
the bucket `unlisted` nobody may look for what is there.
GET /?log returns what was asked since the last of these. After GET /?refuse=N
the next N requests for objects by ranges are refused (403).
"""
import asyncio
import email.utils
import json
import pathlib
import re
import subprocess
import sys
import urllib.parse
import urllib.request
from xml.sax.saxutils import escape


class Store:
  """A store in a process of its own."""

  def __init__(self, folder, delay=0.0):
    self._process = subprocess.Popen(
        [sys.executable, __file__, str(folder), str(delay)],
        stdout=subprocess.PIPE, text=True)
    self.address = f"http://127.0.0.1:{self._process.stdout.readline().strip()}"

  def environment(self):
    """What tensorflow-io looks for to find this store as s3://."""
    return dict(
        S3_ENDPOINT=self.address, AWS_ACCESS_KEY_ID="x",
        AWS_SECRET_ACCESS_KEY="x", AWS_REGION="us-east-1",
        AWS_EC2_METADATA_DISABLED="true",
        # A machine that is busy is slow, and is not to be asked again.
        S3_REQUEST_TIMEOUT_MSEC="60000")

  def log(self):
    """Lists of method, path, range and status, of all requests since."""
    with urllib.request.urlopen(f"{self.address}/?log") as answer:
      return json.load(answer)

  def refuse(self, count):
    """Has the next requests for objects refused."""
    urllib.request.urlopen(f"{self.address}/?refuse={count}").close()

  def close(self):
    self._process.terminate()
    self._process.wait()


async def read_request(reader):
  head = (await reader.readuntil(b"\r\n\r\n")).decode()
  first, *lines = head.splitlines()
  headers = {name.lower(): value.strip() for name, _, value in (
      line.partition(":") for line in lines if line)}
  method, path, _ = first.split(" ")
  return method, urllib.parse.unquote(path), headers


def answer(folder, method, path, headers, body):
  """Status, headers and content for a request."""
  path, _, query = path.partition("?")
  query = dict(part.partition("=")[::2] for part in query.split("&"))
  file = folder / path.strip("/")
  bucket = path.split("/")[1]
  if not (folder / bucket).is_dir():
    return 404, {}, error("NoSuchBucket")
  if bucket == "unlisted" and method in ("GET", "HEAD") and (
      not file.is_file()):
    return 403, {}, error("AccessDenied")
  if "list-type" in query:
    return 200, {}, listing(file, query)
  if method == "PUT" and "x-amz-copy-source" in headers:
    source = urllib.parse.unquote(headers["x-amz-copy-source"]).strip("/")
    body = (folder / source).read_bytes()
  if method == "PUT":
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(body)
    return 200, {"ETag": '"x"'}, b""
  if method == "HEAD" and file.is_dir() and path.count("/") == 1:  # a bucket
    return 200, {}, b""
  if not file.is_file() or path.endswith("/"):
    return 404, {}, b""
  if method == "DELETE":
    file.unlink()
    return 204, {}, b""
  wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", headers.get("range", ""))
  changed = {"Last-Modified": email.utils.formatdate(
      file.stat().st_mtime, usegmt=True)}
  if not wanted:
    return 200, changed, file.read_bytes()
  start, end = map(int, wanted.groups())
  with open(file, "rb") as opened:
    opened.seek(start)
    content = opened.read(end + 1 - start)
  return (206 if content else 416), {}, content


def error(code):
  return f"<Error><Code>{code}</Code><Message>No</Message></Error>".encode()


def listing(bucket, query):
  """The answer of ListObjectsV2."""
  prefix, most = query.get("prefix", ""), int(query.get("max-keys", 1000))
  keys = sorted(str(path.relative_to(bucket)) for path in bucket.rglob("*")
                if path.is_file())
  found = {}
  for key in keys:
    if key.startswith(prefix) and key > query.get("continuation-token", ""):
      rest, slash, _ = key[len(prefix):].partition("/")
      is_folder = slash and query.get("delimiter")
      found.setdefault(prefix + rest + "/" if is_folder else key, is_folder)
  items = list(found.items())
  parts = [f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
           if is_folder else f"<Contents><Key>{escape(name)}</Key></Contents>"
           for name, is_folder in items[:most]]
  more = len(items) > most
  last = items[most - 1][0] if more else ""
  return (f"<ListBucketResult><KeyCount>{len(parts)}</KeyCount><IsTruncated>"
          f"{str(more).lower()}</IsTruncated><NextContinuationToken>"
          f"{escape(last)}</NextContinuationToken>{''.join(parts)}"
          "</ListBucketResult>").encode()


async def serve(folder, delay):
  requests, refused = [], 0

  async def talk(reader, writer):
    nonlocal refused
    try:
      while True:
        method, path, headers = await read_request(reader)
        if headers.get("expect") == "100-continue":
          writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        if path == "/?log":
          status, more, content = 200, {}, json.dumps(requests).encode()
          requests.clear()
        elif path.startswith("/?refuse="):
          status, more, content = 200, {}, b""
          refused = int(path.partition("=")[2])
        elif refused and "range" in headers:
          refused -= 1
          status, more, content = 403, {}, b""
          requests.append([method, path, headers["range"], status])
        else:
          await asyncio.sleep(delay)
          status, more, content = answer(folder, method, path, headers, body)
          requests.append([method, path, headers.get("range", ""), status])
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(content)}",
                 *(f"{name}: {value}" for name, value in more.items())]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
        if method != "HEAD":
          writer.write(content)
        await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
      pass
    finally:
      writer.close()

  server = await asyncio.start_server(talk, "127.0.0.1", 0)
  print(server.sockets[0].getsockname()[1], flush=True)
  await server.serve_forever()


if __name__ == "__main__":
  asyncio.run(serve(pathlib.Path(sys.argv[1]), float(sys.argv[2])))
