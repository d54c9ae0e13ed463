"""Text of an encoding that nobody has told."""
import codecs
import collections
import functools
import itertools
import math
import re
import unicodedata

# What the text is most like decides, if nothing else is nearly as likely: a
# file is better left out than read as nonsense.
MARGIN = 4.0  # nats between the likeliest text and the next other one
WORST = -6.2  # nats a byte
SAMPLE = 2**13  # bytes
REASON = "its encoding cannot be known, expected UTF-8"
MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"),
         (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
         (codecs.BOM_UTF16_BE, "utf-16"))
WIDE = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")
ESCAPED = ("iso2022_jp_2", "iso2022_kr")  # bytes of ASCII alone

# What people's files are in, and the languages that are written in it. Where
# all that was looked at is the same in several, the first is taken.
WESTERN = "en fr de es pt it nl sv da fi is"
CENTRAL = "en pl cs sk hu ro hr sq"
USUAL = {
    "cp1252": WESTERN, "iso8859_15": WESTERN, "cp1250": CENTRAL,
    "iso8859_2": CENTRAL, "cp1251": "ru uk bg sr", "koi8_u": "ru uk bg",
    "cp1253": "el", "cp1254": "en tr", "cp1255": "he", "cp1256": "ar fa",
    "cp1257": "en lt lv et", "cp1258": "vi", "cp874": "th",
    "iso8859_7": "el", "cp932": "ja", "euc_jp": "ja",
    "gb18030": "zh", "cp950": "tw", "cp949": "ko",
}
RARE = {
    "cp850": WESTERN, "mac_roman": WESTERN, "cp852": CENTRAL, "cp857": "tr",
    "cp866": "ru bg", "iso8859_5": "ru bg sr", "iso8859_6": "ar",
}
# Here bytes of several characters happen to be one of UTF-8.
LIKE_UTF8 = frozenset((
    "cp866", "cp874", "cp932", "euc_jp", "gb18030", "cp950", "cp949"))
# The letters of each, about as often as they stand here.
LETTERS = {
    "en": "etaoinshrdlcumwfgypbvkjxqzéèïñêçöüàáâôûîäíóúëãå",
    "fr": "esaitnrulodcmpévqfbghjàxèêyzçkùwâîôûœëïüÿæñ",
    "de": "enisratdhulcgmobwfkzvüpäßjöyxqéàèêáçñ",
    "es": "eaosrnidlctumpbgvyqóhífjzéáñxúkwüçàè",
    "pt": "aeosrindmutclpvghqbfzãçéjáóxíêõúâôàkwyüñ",
    "it": "eaionlrtscdupmvghfbqzòàùèìéjkwxyóí",
    "nl": "enatirodslghvkmubpwjczfxyqëéïèóöüáç",
    "sv": "eantrslidomgkvhfupäbcåöyjxwzéqàüæø",
    "da": "erntsiadlogkmfvubhpåyøæcjwzxqéòôöäü",
    "fi": "aintesloukämvrjhypdögbfcåwzxqšžé",
    "is": "anrieusltðgmkfhvoáþídjóbyæöúpéýxcqwz",
    "pl": "aioeznrwcstykdpmułjlbgęhąóżśfćńźvqxéö",
    "cs": "oeantivlsrdkpíumcázhjyěbéřýžščůgfúňxťóďwq",
    "sk": "aoeinrvstlkdmcupzáhyjbíčéžýšgúľťfôňäďóxwĺŕq",
    "hu": "eatlnskráiéozmgdvbyjőfuphöcóüíúűxwq",
    "ro": "eiartnulcsopmădfşvţgbîâzhjxkwyqéö",
    "hr": "aionerstjudkvmlpgzbčšžchfćđqwxy",
    "sq": "etaëinrshkumdoplçgjvqbfyzcxwéäüö",
    "tr": "aeinrlıkdtsmyuobüşzgğçhvcöpfjwxqâîû",
    "lt": "iasotrnekumlpdvjgėbyšžąūįųčęzcfhqwx",
    "lv": "aisteruknlodmpvājīēbgzšcūķņļžfhčģŗqwxy",
    "et": "aeistlukndmrovhgpäjõbüöfcšyxzwžq",
    "ru": "оеаинтсрвлкмдпуяыьгзбчйхжшюцщэфъё",
    "uk": "оаниіветрслкудмпзяьбгйчхцїжшюєщфґ",
    "bg": "аоиентрсвлкдпмъзуябгчйщхцжшюьф",
    "sr": "аоиенрстјудквмлпгзбчшцхжњћљђџф",
    "el": "αοιετσνηυρπκμλςάωίδγέόήχθώύφβξζψϊϋΐΰ",
    "he": "יוהלאתרבשמנדקעחפםגטכןזצסךףץ",
    "ar": "اليمونرتبهعدسفكقحجذشصىخةأضزطإثءغظئؤآ",
    "fa": "اينردهتومسبكشزلگفپخجقعحچطصآذغضثژظئءۀأؤ",
    "vi": "nhtcigaumlđrovpsykbôơưêxqdeàáảãạâăấầẩẫậắằẳẵặéèẻẽẹếềểễệíìỉĩịóòỏõọốồổ"
          "ỗộớờởỡợúùủũụứừửữựýỳỷỹỵzwfj",
    "th": "านรอกเ่งมย้ัีวลทสิตะบปคดจขพหชไแใ็์ูืโุผำธณึศถภซญฟษฉฎฐฏๆฆฮ",
    "ja": "のにたいとしるをはでかなてがんっもれらうりすこまさくあきよだけどせ"
          "そえわじつめちおみばや、。ーンスルトイラリクアドッロシレタジフマテ",
    "zh": "的一是我不了在人有他这你们来个上到说大要就会着时那得去没可以子为好"
          "和过地也道出家多能看心后什么然用天生下里都自还很想起把事样对开面吗吧，。",
    "tw": "的一是我不了在人有他這你們來個上到說大要就會著時那得去沒可以子為好"
          "和過地也道出家多能看心後什麼然用天生下裡都自還很想起把事樣對開面嗎吧，。",
    "ko": "이다는을가에고하지의그어나도아를리은한로기있거사라서들안니여게내것자"
          "해수으만면보과일정인스요네시대야러무우전저주당제말어부",
}
# What besides these characters of Asian languages is common: the rows of a
# character set, by their first bytes, and how much of a text is listed above.
ROWS = {"ja": ("euc_jp", 0xa4, 0xcf, 0.6), "zh": ("gb2312", 0xb0, 0xd7, 0.4),
        "tw": ("big5", 0xa4, 0xc6, 0.4), "ko": ("euc_kr", 0xb0, 0xc8, 0.6)}
PUNCTUATION = frozenset(
    "’‘“”„–—…«»‹›°·¿¡€£©®™§½¼¾ªº\xa0♪♫、。，！？「」『』・：；（）～《》،؟؛№´")
# Natural logarithms of probabilities.
MARK = math.log(1 / 200)  # one of these marks
ENGLISH = -0.5  # a letter of an English word in another script
OTHER = math.log(1 / 20)  # another language than English
STRANGE = math.log(1e-5)  # any other letter of an alphabet
NONSENSE = math.log(1e-6)  # anything else
ODD = math.log(1 / 400)  # a word of an odd form, or a rare encoding
CAPITAL = -0.5  # a capital letter that is not the first of its word

BEYOND = bytes(range(128, 256))
BAD = re.compile("[\udc80-\udcff]")  # for surrogateescape
GOOD = re.compile("[^\0-\x7f\udc80-\udcff]")
TAG = re.compile(rb"<[^<>]*>")
WORD = re.compile(r"[^\W\d_]+")
# What is rare: marks within words and in a row, three accents in a row, two
# alphabets in a word, a single Asian character behind a Latin one.
MISPLACED = re.compile(
    r"(?<=[^\W\d_])[„«»‹›°¿¡€£©®™§½¼¾ªº№“‚](?=[^\W\d_])|"
    r"(?<!\w)[’·](?=[^\W\d_])|[’‘“”„…–—·¿¡]{3}|"
    r"[À-ÖØ-öø-ÿ]{3}|"
    r"[A-Za-z](?=[\u0370-\u1dff])|[\u0370-\u1dff](?=[A-Za-z])|"
    r"[A-Za-z][\u3000-\uffef](?![\u3000-\uffef])")


class UnknownEncoding(ValueError):
  """Bytes whose characters cannot be known."""


def decode(data: bytes, sign: str) -> str:
  """Decodes a text file.

  Marks of Unicode are obeyed. Without one it is UTF-8 where that can be; lines
  that are not, are in the encoding that makes the likeliest words of them.

  Args:
    data: the file.
    sign: ASCII that is in any such file, to know UTF-16 and UTF-32 by.

  Returns:
    Its text, with U+FFFD for each damaged character.

  Raises:
    UnknownEncoding: no encoding makes words of it, or several do.
  """
  for mark, encoding in MARKS:
    if data.startswith(mark):
      return data.decode(encoding, "replace")
  for encoding in WIDE:
    first = data.find(sign.encode(encoding))
    if first >= 0 and first % len("x".encode(encoding)) == 0:
      return data.decode(encoding, "replace")
  if b"\x1b$" in data:
    for encoding in ESCAPED:
      try:
        return data.decode(encoding)
      except UnicodeDecodeError:
        pass
    raise UnknownEncoding(REASON)
  try:
    return data.decode()
  except UnicodeDecodeError:
    return _decode_lines(data.splitlines(keepends=True), sign.encode())


def _decode_lines(lines, sign):
  """Decodes text that is not UTF-8, or not all of it: files are joined, and
  changed by programs that take them for another encoding's."""
  ours = [line.isascii() or _is_utf8(line) for line in lines]
  others = [line for line, own in zip(lines, ours) if not own]
  known = sum(not line.isascii() for line in lines) - len(others)
  encoding = likeliest(b"".join(others), b"".join(
      line for line in lines if line.isascii() and sign not in line)
                       ) if others else None
  if others and not encoding and len(others) > known:
    raise UnknownEncoding(REASON)
  if encoding in LIKE_UTF8 and len(others) > known:
    ours = [False] * len(lines)
  return "".join(
      b"".join(line for line, _ in run).decode(
          "utf-8" if own or not encoding else encoding, "replace")
      for own, run in itertools.groupby(zip(lines, ours), lambda each: each[1]))


def _is_utf8(line):
  """Whether half of what a line has beyond ASCII is UTF-8, or more."""
  text = line.decode("utf-8", "surrogateescape")
  bad = len(BAD.findall(text))
  return 2 * bad <= bad + len(GOOD.findall(text))


def likeliest(data: bytes, others: bytes = b"") -> str | None:
  """The encoding in which bytes make the likeliest words.

  A character is as likely as the languages of an encoding have it, see
  LETTERS; that of rank r of n has about ln((n + 1) / r) / n of a text
  (Gusein-Zade's law).

  Args:
    data: with bytes beyond ASCII.
    others: without, from the same file: they tell more of its language.

  Returns:
    Its name in Python; None if the best is unlikely, or another one that makes
    another text is nearly as likely.
  """
  start = max(0, re.search(rb"[\x80-\xff]", data).start() - SAMPLE // 2)
  data = TAG.sub(b"", data[start:start + SAMPLE])
  others = TAG.sub(b"", others[:SAMPLE]).decode().lower()
  found = {}  # score and encoding of each text, and how likely its best is
  for rank, (encoding, languages) in enumerate((USUAL | RARE).items()):
    text = unicodedata.normalize("NFC", data.decode(encoding, "replace"))
    form = _form(text) + ODD * (encoding in RARE)
    count = collections.Counter(text.replace("İ", "i").lower() + others)
    for language in languages.split():
      beyond, ascii_letters = _scores(count, language)
      best = (beyond + ascii_letters + form + OTHER * (language != "en"),
              -rank, encoding)
      known, likely = found.get(text, (best, -math.inf))
      found[text] = max(known, best), max(likely, beyond + form)
  ((best, _, encoding), likely), ((second, *_), _), *_ = *sorted(
      found.values(), reverse=True), ((-math.inf,), 0)
  total = len(data) - len(data.translate(None, BEYOND))
  sure = best - second >= MARGIN and likely >= WORST * total
  return encoding if sure else None


def _form(text):
  """The logarithm of how likely the forms of words beyond ASCII are."""
  total = ODD * len(MISPLACED.findall(text))
  for word, count in collections.Counter(WORD.findall(text)).items():
    if not word.isascii():
      capitals = sum(map(str.isupper, word[1:]))
      odd = capitals > 0 and word != word.upper()
      total += count * (capitals * CAPITAL + odd * ODD)
  return total


def _scores(count, language):
  """The logarithms of the likelihood of characters beyond ASCII, and in it."""
  known, scores = _likelihoods(language), [0.0, 0.0]
  for each, number in count.items():
    scores[each.isascii()] += number * (
        known[each] if each in known else _unlisted(each))
  return scores


def _unlisted(each):
  if each.isascii():
    return 0.0
  if each in PUNCTUATION:
    return MARK
  return STRANGE if each.isalpha() and each < "\u3000" else NONSENSE


@functools.cache
def _likelihoods(language):
  """The logarithms of the likelihoods of the characters of a language."""
  letters, share, known = LETTERS[language], 1.0, {}
  if "a" not in letters:
    known = {letter: likelihood + ENGLISH for letter, likelihood
             in _likelihoods("en").items() if letter.isascii()}
  if language in ROWS:
    encoding, first, last, share = ROWS[language]
    pairs = (bytes((row, cell)).decode(encoding, "ignore")
             for row in range(first, last + 1) for cell in range(0x40, 0xff))
    common = [pair for pair in pairs if not pair.isascii()]
    known |= dict.fromkeys(common, math.log((1 - share) / len(common)))
  n = len(letters)
  return known | {letter: math.log(share * math.log((n + 1) / rank) / n)
                  for rank, letter in enumerate(letters, 1)}
