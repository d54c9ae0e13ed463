"""Text in the encodings that people have."""
import pytest

from vatt.data.ingest import charsets

SUBRIP = "1\n00:00:01,000 --> 00:00:03,000\n"
# Sentences for these tests, and what their languages are usually written in.
SENTENCES = {
    "cp1252 iso8859_15 cp850 mac_roman":
        "Le garçon a déjà mangé une crème brûlée, et là il préfère le thé.",
    "cp1252 latin_1": "Die Mädchen hören süße Lieder über große Vögel.",
    "cp1252": "“It’s a fiancé’s naïve café” – she said…",
    "cp1252 iso8859_1": "¿Dónde está el niño? Mañana comerá una manzana aquí.",
    "cp1250 iso8859_2 cp852":
        "Zażółć gęślą jaźń, powiedział chłopiec, i poszedł spać.",
    "cp1250 iso8859_2": "Příliš žluťoučký kůň úpěl ďábelské ódy, řekl děda.",
    "cp1250 latin2":
        "Az öreg hölgy sütött egy nagy tortát, és mindenki örült, főleg ő.",
    "cp1254 iso8859_9":
        "Küçük çocuk bahçede koşuyor, annesi de ağacın altında şarkı söylüyor.",
    "cp1257": "Ąžuolas auga šalia mūsų namų, o vaikai žaidžia kieme.",
    "cp1251 koi8_r cp866 iso8859_5":
        "Собака бежит по траве, а девочка читает книгу.",
    "cp1251 koi8_u": "Її пес біжить по траві, а дівчинка читає цікаву книжку.",
    "cp1253 iso8859_7": "Ο σκύλος τρέχει στο γρασίδι και το κορίτσι διαβάζει.",
    "cp1255": "הכלב רץ על הדשא והילדה קוראת ספר",
    "cp1256": "الكلب يجري على العشب والبنت تقرأ كتابا جديدا",
    "cp874": "สุนัขวิ่งอยู่บนสนามหญ้า และเด็กผู้หญิงกำลังอ่านหนังสือ",
    "cp932 euc_jp iso2022_jp":
        "犬が草の上を走っていて、女の子は本を読んでいます。",
    "gb18030 gbk": "狗在草地上跑，女孩在看书，我们都很高兴。",
    "big5": "狗在草地上跑，女孩在看書，我們都很高興。",
    "euc_kr": "개가 잔디 위를 달리고 있고 소녀는 책을 읽고 있어요.",
}


@pytest.mark.parametrize("encodings", SENTENCES)
def test_sentences(encodings):
  text = SUBRIP + SENTENCES[encodings]
  for encoding in encodings.split() + ["utf-8", "utf-8-sig"]:
    data = text.encode(encoding)
    assert data.decode(encoding) == text  # nothing is lost
    assert charsets.decode(data, "-->").removeprefix("\ufeff") == text


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("encoding", [
    "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_wide_encodings(encoding, mark):
  for sentence in SENTENCES.values():
    text = SUBRIP + sentence
    data = (mark + text).encode(encoding)
    assert charsets.decode(data, "-->") == text
    # Half a character at the end is one that is lost.
    assert charsets.decode(data[:-1], "-->") == text[:-1] + "\ufffd"


def test_what_cannot_be_known():
  """Too little, no words, or too much else."""
  for data in (b"\xe8", "да".encode("cp1251"), "dřevo".encode("cp1250"),
               b"\x1b$zzz", bytes(range(255, 127, -1)) * 9,
               b"one two three " * 99 + "הכלב רץ".encode("cp1255")):
    with pytest.raises(charsets.UnknownEncoding, match="cannot be known"):
      charsets.decode(SUBRIP.encode() + data, "-->")


def test_english_around_tells_more():
  """A letter may be of several languages, and a mark no letter at all."""
  assert charsets.likeliest(b"caf\xe9") == "cp1252"
  for word in ("voilà", "crème", "½ cup", "£5", "20°C", "señor"):
    text = f"{SUBRIP}{'Now what would we have to do with this?' * 9}\n{word}"
    assert charsets.decode(text.encode("cp1252"), "-->") == text


def test_files_of_two_encodings():
  first, second = "Un café là-bas, près de l’école\n", "et une crème brûlée\n"
  for one, other in (("utf-8", "cp1252"), ("cp1252", "utf-8")):
    data = SUBRIP.encode() + first.encode(one) + second.encode(other)
    assert charsets.decode(data, "-->") == SUBRIP + first + second


def test_only_the_start_of_long_files_is_judged():
  """It may be the same in several encodings, the rest not."""
  text = f"{SUBRIP}{'Il est né à la fin de l’été. ' * 3000}5 €, c’est cher"
  assert charsets.decode(text.encode("cp1252"), "-->") == text


@pytest.mark.parametrize("encoding,word", [("cp874", "เถก"), ("cp866", "рап")])
def test_characters_that_look_like_one_of_utf8(encoding, word):
  assert len(word.encode(encoding).decode()) == 1
  sentence, = (SENTENCES[key] for key in SENTENCES if encoding in key)
  text = SUBRIP + 2 * f"{sentence}\n" + f"{word}\n"
  assert charsets.decode(text.encode(encoding), "-->") == text


def test_damaged_utf8_stays_utf8():
  text = f"{SUBRIP}собака бежит"
  assert charsets.decode(text.encode()[:-1], "-->") == f"{text[:-1]}\ufffd"
  text = SUBRIP + "собака бежит\nпо траве, а кошка спит\n"
  data = text.encode()
  for cut in range(len(SUBRIP) + 8, len(data) - 1):
    lost = charsets.decode(data[:cut] + data[cut + 1:], "-->")
    if data[cut] < 128:
      assert lost == (data[:cut] + data[cut + 1:]).decode()
    else:  # half of a letter
      assert lost.count("\ufffd") == 1 and len(lost) == len(text)
      assert sum(a != b for a, b in zip(lost, text)) == 1
