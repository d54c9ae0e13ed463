"""JSON objects read a member at a time, against Python's json."""
import json

import numpy as np
import pytest

from vatt.data.ingest import json_stream
from vatt.errors import UserError

OBJECT = {
    "a": {"start": [0, 1.5e-3, -2.0], "text": ["é \U0001f600", "}{\"\\,:"]},
    "": [], "\u00e9\"": "x" * 50, "null": None, "last": 12345}


def forms():
  """Of one object: ASCII or not, on one line or many, blanks, a mark."""
  for ascii_only in (True, False):
    for indent in (None, 1):
      yield json.dumps(OBJECT, ensure_ascii=ascii_only, indent=indent).encode()
  yield b"\xef\xbb\xbf \r\n" + json.dumps(OBJECT).encode() + b"\n\t "


@pytest.mark.parametrize("chunk", [1, 2, 7, 64, 1 << 20])
def test_members_and_their_places(tmp_path, monkeypatch, chunk):
  """Wherever the text is cut: within a character, a number, an escape."""
  monkeypatch.setattr(json_stream, "CHUNK", chunk)
  path = tmp_path / "x.json"
  for data in forms():
    path.write_bytes(data)
    found = list(json_stream.members(str(path)))
    assert [(m.name, m.value) for m in found] == list(OBJECT.items())
    for member in found:
      assert json.loads(data[member.offset:member.offset + member.size]) == (
          member.value)
      assert json_stream.value_at(
          str(path), member.offset, member.size) == member.value
  path.write_bytes(b" {} ")
  assert not list(json_stream.members(str(path)))


WRONG = (
    ("", 0, "ends too soon"), ("[]", 0, "'\\['"), ("nul", 0, "'n'"),
    ('{"é":1,}', 8, "no name"), ('{"é" 1}', 1, "no name"),
    ('{"a":1 "b":2}', 7, "expected a comma"), ('{"é":1} x', 9, "more behind"),
    ('{"a":', 5, "Expecting value"), ('{"é": [1, 2', 12, "delimiter"),
    ('{"a":[1, x]}', 9, "Expecting value"), ('{"a":"b', 5, "Unterminated"),
    ('{"a\\q":1}', 3, "escape"), ('{"a":1', 6, "ends too soon"),
    ('{"a":' + "[" * 100_000, 5, "recursion"),
    ('{"a":' + "1" * 5000 + "}", 5, "digits"))


@pytest.mark.parametrize("text, byte, what", WRONG, ids=range(len(WRONG)))
def test_what_is_no_object_is_told_with_its_byte(
    tmp_path, monkeypatch, text, byte, what):
  path = tmp_path / "x.json"
  path.write_text(text)
  for chunk in (1, 1 << 20):
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    with pytest.raises(UserError, match=f"x.json: byte {byte}: .*{what}") as e:
      list(json_stream.members(str(path)))
    assert "\n" not in str(e.value)


def test_bytes_that_are_no_text(tmp_path, monkeypatch):
  path = tmp_path / "x.json"
  with pytest.raises(UserError, match="x.json: cannot be read: "):
    list(json_stream.members(str(path)))
  for chunk in (1, 3, 1 << 20):
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    path.write_bytes('{"é":"'.encode() + b'\xe9"}')
    with pytest.raises(UserError, match="byte 7: 0xe9 is not UTF-8"):
      list(json_stream.members(str(path)))
    path.write_bytes('{"é":"'.encode() + b"\xc3")  # half a character
    with pytest.raises(UserError, match="byte 7: 0xc3 is not UTF-8"):
      list(json_stream.members(str(path)))


def test_a_member_without_an_end_is_not_read_for_ever(tmp_path, monkeypatch):
  """As of a quote that is lost early in gigabytes."""
  monkeypatch.setattr(json_stream, "CHUNK", 100)
  monkeypatch.setattr(json_stream, "LARGEST", 1000)
  path = tmp_path / "x.json"
  path.write_text('{"a": 1, "b": "' + "x" * 1_000_000)
  with open(path, "rb", buffering=0) as file:
    with pytest.raises(UserError, match="byte 14: .* Unterminated string"):
      list(json_stream._Text(str(path), file).members())
    assert file.tell() < 5000


def test_damaged_files_are_what_json_says(tmp_path, monkeypatch):
  """Bytes changed, lost and cut off: read as Python's json does, or an error in
  a line where it has one."""
  chance = np.random.default_rng(0)
  path = tmp_path / "x.json"
  good = json.dumps(OBJECT, ensure_ascii=False).encode()
  whole = 0
  for _ in range(1500):
    data = bytearray(good)
    at = int(chance.integers(len(data)))
    match chance.integers(4):
      case 0:
        data[at] ^= 1 << int(chance.integers(8))
      case 1:
        data[at] = int(chance.choice(list(b'{}[]":,\\1e- \n')))
      case 2:
        del data[at]
      case 3:
        del data[at:]
    path.write_bytes(data)
    monkeypatch.setattr(
        json_stream, "CHUNK", int(chance.choice([1, 5, 30, 1000])))
    try:
      want = json.loads(data.decode(), strict=False)
    except ValueError:
      want = None
    try:
      found = {m.name: m.value for m in json_stream.members(str(path))}
    except UserError as error:
      assert want is None and "\n" not in str(error)
    else:
      assert repr(found) == repr(want)
      assert all(
          repr(json_stream.value_at(str(path), m.offset, m.size)) == repr(
              m.value) for m in json_stream.members(str(path)))
      whole += 1
  assert 200 < whole < 1000
