"""Lists as spreadsheets, editors and scripts save them."""
import pytest

from vatt.data.ingest import tables
from vatt.errors import UserError

ROWS = [["video_path", "start", "end", "label", "caption"],
        ["a.mp4", "0", "2.5", "café", "a dog, asleep"],
        ["b c.mp4", "", "", "", 'she says "no"'],
        ["a.mp4", "2.5", "4.125", "12\" disc", ""]]
READ = [
    {"video_path": "a.mp4", "start": 0, "end": 2.5, "label": "café",
     "caption": "a dog, asleep"},
    {"video_path": "b c.mp4", "start": None, "end": None, "label": "",
     "caption": 'she says "no"'},
    {"video_path": "a.mp4", "start": 2.5, "end": 4.125, "label": '12" disc',
     "caption": ""}]


def saved(rows, separator=",", line_end="\n", quote=lambda cell: False):
  """The text of a CSV file; RFC 4180's rules, written out."""
  def cell_of(cell):
    if quote(cell) or any(c in cell for c in f'{separator}"\r\n'):
      cell = '"' + cell.replace('"', '""') + '"'
    return cell
  return "".join(separator.join(map(cell_of, row)) + line_end for row in rows)


def decimal_commas(rows):
  return [[cell.replace(".", ",") if cell[:1].isdigit() and '"' not in cell
           else cell for cell in row] for row in rows]


def read(path, data):
  path.write_bytes(data if isinstance(data, bytes) else data.encode())
  return list(tables.read_table(
      str(path), ("video_path", "start", "end"), ("label", "caption"),
      times=("start", "end"), sentences=("caption",)))


@pytest.mark.parametrize("data", [
    saved(ROWS),
    saved(ROWS, line_end="\r\n"),
    saved(ROWS, line_end="\r"),
    saved(ROWS).rstrip("\n"),
    b"\xef\xbb\xbf" + saved(ROWS).encode(),
    saved(ROWS, quote=lambda cell: True),
    # Excel's "Unicode text"; this and "CSV UTF-8" where people write 2,5.
    b"\xff\xfe" + saved(ROWS, "\t", "\r\n").encode("utf-16-le"),
    b"\xfe\xff" + saved(ROWS, "\t", "\r\n").encode("utf-16-be"),
    b"\xff\xfe\0\0" + saved(ROWS).encode("utf-32-le"),
    b"\xff\xfe" + saved(decimal_commas(ROWS), "\t").encode("utf-16-le"),
    b"\xef\xbb\xbf" + saved(decimal_commas(ROWS), ";", "\r\n").encode(),
    saved(ROWS, ";"),
    # Columns and rows of nothing, as spreadsheets add them.
    saved([[*row, "", ""] for row in [*ROWS, [""] * 5, [""] * 5]]),
    saved(ROWS) + ",,,,,\n\n,,\n",
    # Blanks around cells, before quotes too.
    saved([[f"  {cell}" for cell in row] for row in ROWS[:1]]) + (
        'a.mp4, 0, 2.5 , café, "a dog, asleep"\n'
        'b c.mp4,,  ,, "she says ""no"""\n'
        'a.mp4\u00a0,2.5,4.125,12" disc,\n'),
    saved([["Video Path", "START", " End ", "Label", "caption"], *ROWS[1:]]),
    saved([["video-path", *ROWS[0][1:]], *ROWS[1:]]),
    # Other columns in another order.
    saved([row[::-1] for row in ROWS]),
])
def test_a_list_is_the_same_however_it_is_saved(tmp_path, data):
  found = read(tmp_path / "clips.csv", data)
  assert [row for _, row in found] == READ
  assert [number for number, _ in found] == [2, 3, 4]


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_rows_are_those_of_a_spreadsheet(tmp_path, line_end):
  """Where captions have line breaks, which become blanks; empty ones too."""
  text = ('video_path,start,end,caption|a.mp4,0,1,"one|  two||three"||'
          'b.mp4,0,1,four|c.mp4,soon,1,five|').replace("|", line_end)
  with pytest.raises(UserError, match="row 5, column start: 'soon', expected "
                     "seconds"):
    read(tmp_path / "clips.csv", text)
  assert [(row, cells["caption"]) for row, cells in read(
      tmp_path / "clips.csv", text.replace("soon", "0"))] == [
          (2, "one two three"), (4, "four"), (5, "five")]


HEADER = "video_path,start,end,label,caption\n"


@pytest.mark.parametrize("data, match", [
    ("", "row 1: no column 'video_path' in '', expected"),
    ("\n\nvideo_path,start\n", "row 3: no column 'end' in 'video_path, start', "
     "expected video_path, start, end and of label, caption what there is"),
    ("video_path|start|end\n", "row 1: no column 'video_path' in 'video_path"),
    ("sep=;\nvideo_path;start;end\n", "row 1: no column 'video_path' in 'sep="),
    ("video_path,start,end,Start\n", "row 1: column 'start' is there twice"),
    ("video_path,start,end,,label\n", "row 1: unknown column ''"),
    ("video_path,start,end,note\n", "row 1: unknown column 'note'"),
    # Breaks that editors, terminals or Python see.
    (f'{HEADER}"a\n.mp4",0,1,x,y', r"row 2, column video_path: 'a\\n.mp4', "
     "expected no line break"),
    (f'{HEADER}a.mp4,0,1,"x\ry",y', r"column label: 'x\\ry', expected no"),
    (f"{HEADER}a.mp4,0,1,x\u2028y,y", r"label: 'x\\u2028y', expected no"),
    (f"{HEADER}a.mp4,0,1,x\x85y,y", r"label: 'x\\x85y', expected no"),
    (f"{HEADER}a.mp4,0,1,x\0y,y", "row 2: has NUL bytes, expected UTF-8"),
    (HEADER.encode("utf-16-le"), "row 1: has NUL bytes, expected UTF-8"),
    (HEADER.encode("utf-16-be"), "row 1: has NUL bytes, expected UTF-8"),
    (saved(ROWS).encode("cp1252"), "line 2: byte 0xe9 is not utf-8, expected "
     "UTF-8, which spreadsheets save as 'CSV UTF-8'"),
    (b"\xff\xfe" + saved(ROWS).encode("utf-16-le")[:-1], "is not utf-16"),
    # Decimal commas where commas separate, digits grouped, other units.
    (f'{HEADER}a.mp4,0,"2,5",x,y', "row 2, column end: '2,5', expected sec"),
    (f"{HEADER}a.mp4,0,2,5,x,y", "row 2: 6 cells, expected 5 as in the first "
     "row; a cell with ',' in it needs quotes"),
    ("video_path;start;end\na.mp4;0;1.000,5", "column end: '1.000,5', exp"),
    ("video_path;start;end\na.mp4,0,1", "row 2: 1 cells, expected 3"),
    (f"{HEADER}a.mp4,0:10,1,x,y", "row 2, column start: '0:10', expected sec"),
    (f"{HEADER}a.mp4,0,inf,x,y", "row 2, column end: 'inf', expected seconds"),
    (f"{HEADER}a.mp4,0,1_0,x,y", "row 2, column end: '1_0', expected seconds"),
    # Quotes: the row in which they begin.
    (f'{HEADER}a.mp4,0,1,x,y\na.mp4,0,1,"x,y\n' + "b.mp4,0,1,x,y\n" * 9,
     r"row 3: cannot be read as CSV \(unexpected end of data\), expected quot"),
    (f'{HEADER}a.mp4,0,1,"12" disc",y', "row 2: cannot be read as CSV"),
    (f'{HEADER}a.mp4,0,1,"x,y\n\nb.mp4,0,1,"x",y\n', "row 2: cannot be read"),
])
def test_lists_that_are_refused(tmp_path, data, match):
  path = tmp_path / "clips.csv"
  with pytest.raises(UserError, match=match) as error:
    read(path, data)
  assert str(error.value).startswith(f"{path}: ")
  assert len(str(error.value).splitlines()) == 1


def test_large_lists_that_are_refused(tmp_path):
  """Where the fault is far from the start."""
  rows = [ROWS[0], *[ROWS[2]] * 20000, ROWS[1]]
  with pytest.raises(UserError, match="line 20002: byte 0xe9 is not utf-8, "):
    read(tmp_path / "clips.csv", saved(rows, line_end="\r").encode("latin-1"))
  with pytest.raises(UserError, match="row 2: cannot be read as CSV .field la"):
    read(tmp_path / "clips.csv", f"{HEADER}a.mp4,0,1,x,{'y' * 200000}")


def test_other_columns_are_not_read(tmp_path):
  """Those of official lists, whatever is in them."""
  path = tmp_path / "list.csv"
  path.write_text(',id,note,note\n0,x,"a\nb",c\n1,y,,\n')
  assert list(tables.read_table(str(path), ("id",), others=True)) == [
      (2, {"id": "x"}), (3, {"id": "y"})]


def test_lines(tmp_path):
  path = tmp_path / "list.txt"
  for data in (b"\xef\xbb\xbfa 1\r\n\r\n b 2 ", "a 1\n\nb 2\n".encode("utf-16"),
               b"a 1\r\rb 2\r"):
    path.write_bytes(data)
    assert list(tables.read_lines(str(path))) == [(1, "a 1"), (3, "b 2")]
  path.write_bytes(b"a 1\n\nb \xe9")
  with pytest.raises(UserError, match="list.txt: line 3: byte 0xe9 is not ut"):
    list(tables.read_lines(str(path)))
  with pytest.raises(UserError, match="none.txt: cannot be read: .*No such"):
    list(tables.read_lines(str(tmp_path / "none.txt")))
