"""What pages have in common: a file each, that loads nothing from elsewhere."""
import base64
import html

from vatt import files
from vatt.errors import UserError, one_line

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
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
"""


def page(title: str, body: str, style: str, script: str, nonce: str = ""
         ) -> str:
  """A page.

  Args:
    title: text.
    body: HTML.
    style: CSS behind that of all pages.
    script: JavaScript.
    nonce: of style and script, where a server names it.
  """
  with_nonce = f' nonce="{nonce}"' if nonce else ""
  return (
      '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
      '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
      f'<link rel="icon" href="data:,">\n<title>{escape(title)}</title>\n'
      f"<style{with_nonce}>{STYLE}{style}</style>\n</head>\n<body>\n{body}"
      f"<script{with_nonce}>{script}</script>\n</body>\n</html>\n")


def escape(text: str) -> str:
  """Text in HTML; bytes of names that are no UTF-8 are shown as "?"."""
  return html.escape(text.encode(errors="replace").decode())


def inline(kind: str, data: bytes) -> str:
  """The address of a file within a page.

  Args:
    kind: MIME type.
    data: of the file.
  """
  return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def write(path: str, text: str) -> None:
  """Writes a page, whole or not at all.

  Raises:
    UserError: it cannot be written.
  """
  try:
    files.write_whole(path, text.encode(errors="replace"))
  except files.REFUSED as error:
    raise UserError(f"{path}: cannot be written ({one_line(error)}), expected "
                    "a file that can be") from None


def clock(seconds: float) -> str:
  """A time as players show it: 1:02:03.4, or 2:03.4."""
  tenths = int(seconds * 10 + 0.5)
  minutes, tenths = divmod(tenths, 600)
  hours, minutes = divmod(minutes, 60)
  rest = f"{minutes:02}" if hours else f"{minutes}"
  return (f"{hours}:" if hours else "") + (
      f"{rest}:{tenths // 10:02}.{tenths % 10}")
