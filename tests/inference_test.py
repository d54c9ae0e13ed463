"""Trained models in use: files in, vectors and labels out."""
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from scipy.io import wavfile

from vatt import inference, restore, transfer
from vatt.config import replace
from vatt.data import sources
from vatt.data.ingest import media as media_lib
from vatt.errors import UserError
from vatt.tasks import make_task
from vatt.workdir import read_config

FIXTURES = pathlib.Path(__file__).parent / "fixtures"


@pytest.fixture
def workdir(tmp_path):
  """A copy of a pre-trained model's."""
  return pathlib.Path(shutil.copytree(
      FIXTURES / "specific", tmp_path / "specific"))


def test_words_that_are_not_the_models_are_refused(workdir):
  path = workdir / "vocabulary.txt"
  words = path.read_text()
  path.write_text(words + "another\n")
  with pytest.raises(UserError, match=r"vocabulary.txt: \d+ words, expected "
                     r"the \d+ of the model"):
    inference.Model(str(workdir)).require_text()
  path.write_text(words + words.splitlines()[0] + "\n")
  with pytest.raises(UserError, match="expected each word once"):
    inference.Model(str(workdir)).require_text()
  path.unlink()
  with pytest.raises(UserError, match="has no vocabulary.txt, expected the"):
    inference.Model(str(workdir)).require_text()
  # Towers need none.
  _, tower, step = restore.load_tower(str(workdir), "video")
  assert (tower.modality, step) == ("video", 10)


def test_other_shapes_and_towers_are_refused(workdir):
  config = read_config(str(workdir))
  with pytest.raises(UserError, match="data.size is 99, expected .*, which the "
                     "model of .* was trained with"):
    restore.load_model(str(workdir), replace(config, {"data.size": 99}))
  with pytest.raises(UserError, match="dtype is 'half', expected one of float"):
    restore.load_model(str(workdir), replace(config, {"dtype": "half"}))
  with pytest.raises(UserError, match="probe.modality is 'text', expected vid"):
    restore.load_tower(str(workdir), "text")


def test_a_model_that_starts_from_another_has_its_words(workdir):
  config = read_config(str(workdir))
  words = (workdir / "vocabulary.txt").read_text().split()
  task = make_task(replace(config, {"data.vocabulary": "other.txt"}),
                   [words[1], words[0], *words[2:]])
  with pytest.raises(UserError, match=f"vocabulary other.txt: number 0 is "
                     f"'{words[1]}', expected '{words[0]}' as in .*specific"):
    transfer.start_from(str(workdir), task, task.build_model())
  task = make_task(config, words)
  assert transfer.start_from(str(workdir), task, task.build_model()) == 10


def test_a_model_that_cannot_be_written_takes_nothing_with_it(workdir):
  """Not even what another program has put beside it meanwhile."""
  trained = restore.load_model(str(workdir))
  folder = workdir.parent / "new"

  class Beside(type(trained.task)):
    """Its words have no folder to lie in; whoever asks for them is seen."""
    WORDS_FILE = "nowhere/words.txt"

    @property
    def words(self):
      (folder / "notes.txt").touch()
      return ["word"]

    @words.setter
    def words(self, _):
      pass

  with pytest.raises(UserError, match="new: cannot be written: "):
    transfer.create(str(folder), Beside(trained.task.config), trained.model)
  assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_a_classifier_embeds_no_sentence():
  with pytest.raises(UserError, match="a model of the task finetune, expected"):
    inference.Model(str(FIXTURES / "tuned")).require_text()


# ---- what a model makes of files

@pytest.fixture(scope="module")
def model():
  """A pre-trained one, of windows of a second with four frames."""
  config = read_config(str(FIXTURES / "specific"))
  return inference.Model(FIXTURES / "specific", config=replace(
      config, {"eval.windows": 4, "data.cache": False}))


def write_record(path, file, fps):
  """A TFRecord in DMVR's form of a file as ingest reads it, but that frames are
  PNG, which loses nothing."""
  clip = media_lib.read(file, fps=fps)
  example = tf.train.SequenceExample()
  lists = example.feature_lists.feature_list
  for frame in clip.frames:
    lists["image/encoded"].feature.add().bytes_list.value.append(
        tf.io.encode_png(frame).numpy())
  if clip.audio is not None:
    lists["WAVEFORM/feature/floats"].feature.add().float_list.value.extend(
        clip.audio / 32768)
  with tf.io.TFRecordWriter(str(path)) as writer:
    writer.write(example.SerializeToString())


@pytest.mark.parametrize("name", ["bigbuckbunny.mp4", "band.avi"])
def test_vectors_of_a_file_are_those_of_its_record_in_an_evaluation(
    tmp_path, test_data, model, name):
  file = str(test_data / "media" / name)
  write_record(tmp_path / "a.tfrecord", file, model.config.data.fps)
  source = sources.open_source(
      f"dmvr:{tmp_path}/a.tfrecord?fps=4&audio_rate=48000", "", "test")
  wanted = model.task.embed_split(model.model, model.strategy, source)
  found = model.embed_clip(file)
  assert found["video_va"].dtype == np.float32
  for space in ("video_va", "video_vt"):
    np.testing.assert_allclose(found[space], wanted[space][0], atol=1e-6)
    assert np.linalg.norm(found[space]) == pytest.approx(1, abs=1e-6)
  np.testing.assert_array_equal(
      model.embed_video(file, "va"), found["video_va"])
  # In a part of a longer file samples may lie half a sample elsewhere.
  close = 1e-6 if name == "bigbuckbunny.mp4" else 2e-3
  for space in ("audio_va", "audio_vt"):
    np.testing.assert_allclose(found[space], wanted[space][0], atol=close)
  np.testing.assert_allclose(
      model.embed_audio(file), found["audio_vt"], atol=1e-6)


def test_similarities_are_averaged_over_crops_too(tmp_path, test_data):
  """The mean of the cosines of all views is no mean of embeddings."""
  file = str(test_data / "media" / "bigbuckbunny.mp4")
  model = inference.Model(FIXTURES / "specific", config=replace(
      read_config(str(FIXTURES / "specific")), {
          "eval.windows": 2, "eval.crops": 3, "eval.average": "similarity",
          "data.cache": False}))
  write_record(tmp_path / "a.tfrecord", file, model.config.data.fps)
  wanted = model.task.embed_split(
      model.model, model.strategy, sources.open_source(
          f"dmvr:{tmp_path}/a.tfrecord?fps=4&audio_rate=48000", "", "test"))
  found = model.embed_clip(file, normalize=False)
  for space in ("video_va", "video_vt", "audio_va"):
    np.testing.assert_allclose(found[space], wanted[space][0], atol=1e-5)
  assert np.linalg.norm(model.embed_video(file)) == pytest.approx(1)


def test_arrays_are_what_files_are(model, films):
  clip = media_lib.read(films[0], fps=4.0)
  for array, wanted in (
      (clip.frames, model.embed_video(films[0])),
      (np.repeat(clip.frames, 2, axis=0), None)):
    fps = 4.0 if wanted is not None else 8.0
    np.testing.assert_allclose(
        model.embed_video(array, fps=fps), model.embed_video(films[0]),
        atol=0.02 if wanted is None else 1e-6)
  seconds = np.stack([clip.audio, clip.audio], axis=1)
  vectors = model.embed_audio(
      [clip.audio, seconds, clip.audio / 32768], "va", rate=48_000)
  assert vectors.shape == (3, 8)
  np.testing.assert_array_equal(vectors[1:], vectors[:1].repeat(2, axis=0))
  # Its windows are spread by samples, the file's by frames: here alike.
  np.testing.assert_allclose(
      model.embed_audio([clip.audio], "va", windows="all", each=True,
                        rate=48_000)[0][0][0],
      model.embed_audio(films[0], "va", windows="all", each=True)[0][0],
      atol=1e-5)


def test_a_clip_in_hand_is_what_its_file_is(model, films):
  """Both of its signals, of one of which it may be longer."""
  clip = media_lib.read(films[0], fps=4.0)
  frames, sound = clip.frames, clip.audio
  for windows in 3, "all":
    wanted = model.embed_clip(films[0], windows=windows, each=True)
    found, _ = model.embed_clip([(frames, sound), frames], windows=windows,
                                each=True, rate=48_000)["audio_va"]
    assert len(found[0]) == len(wanted["audio_va"][0]) > 2
    for name, (vectors, times) in model.embed_clip(
        (frames, sound), windows=windows, each=True, rate=48_000).items():
      np.testing.assert_allclose(vectors, wanted[name][0], atol=1e-6)
      np.testing.assert_array_equal(times, wanted[name][1])
  # Windows of two seconds of pictures and four of sound.
  both = model.embed_clip((frames[:8], sound[:4 * 48_000]), windows="all",
                          each=True, rate=48_000)
  assert both["video_vt"][1].tolist() == [[0, 1], [1, 2]]
  assert both["audio_vt"][1].tolist() == [[i, i + 1] for i in range(4)]
  assert {*model.embed_clip(sound, rate=48_000)} >= {"audio_va", "video_va"}
  with pytest.raises(UserError, match="rate is 0, expected the samples a seco"):
    model.embed_clip((frames, sound))


def test_an_image_is_a_film_that_stands_still(tmp_path, model, films):
  frame, *_ = media_lib.read(films[0], fps=4.0).frames
  (tmp_path / "a.png").write_bytes(tf.io.encode_png(frame).numpy())
  vectors, times = model.embed_video(tmp_path / "a.png", each=True)
  assert times.tolist() == [[0, 1]] * 4 and vectors.shape == (4, 8)
  np.testing.assert_allclose(
      vectors[0], model.embed_video(np.stack([frame] * 4)), atol=1e-6)


@pytest.mark.parametrize("array, rate, said", [
    (np.zeros([4, 8, 8, 3], np.float32), 0, r"array 0: float32 \[4, 8, 8, 3\], "
     "expected frames, uint8"),
    (np.zeros([0], np.float32), 48_000, "expected frames, .*, or samples, i"),
    (np.zeros([9], np.float32), 0, "rate is 0, expected the samples a second"),
    (np.float32([0, 16_000]), 48_000, "samples from 0 to 16000, expected finit"
     "e ones within -1 and 1"),
    (np.float32([0, np.nan]), 48_000, "expected finite ones within"),
    (np.zeros([9], np.int64), 48_000, "int64 .*, expected frames"),
    (np.zeros([2, 9], np.float32), 48_000, r"look like \[channels, S\]"),
])
def test_arrays_of_another_kind_are_refused(model, array, rate, said):
  with pytest.raises(UserError, match=said):
    model.embed_audio(array, rate=rate)


def test_windows_lie_end_to_end_and_bear_their_times(model, films):
  vectors, times = model.embed_video(films[1], windows="all", each=True)
  np.testing.assert_array_equal(
      times, [[i, i + 1] for i in range(10)])  # ten seconds at four frames
  # In the middle of a file a window of its own is the same.
  alone = media_lib.read(films[1], 3.0, 4.0, fps=4.0)
  np.testing.assert_allclose(
      model.embed_video(alone.frames), vectors[3], atol=1e-6)
  mean = model.embed_video(films[1], windows="all", normalize=False)
  each, _ = model.embed_video(films[1], windows="all", each=True,
                              normalize=False)
  np.testing.assert_allclose(mean, each.mean(axis=0), atol=1e-6)
  _, times = model.embed_video(films[0], windows=3, each=True)
  # 5.25 s of pictures, 21 frames: the last of 18 starts is 17 frames later.
  np.testing.assert_array_equal(times[:, 0], [0.0, 8 / 4, 17 / 4])
  np.testing.assert_array_equal(
      model.embed_video(films[0], windows=np.int64(3), each=True)[1], times)
  for windows in (0, "some", 1.5):
    with pytest.raises(UserError, match="expected a number from 1 or 'all'"):
      model.embed_video(films[1], windows=windows)


def test_files_that_cannot_be_used_are_left_out_and_named(
    tmp_path, model, films, caplog):
  (tmp_path / "empty.mp4").touch()
  (tmp_path / "text.mp4").write_text("no film")
  wavfile.write(tmp_path / "silent.wav", 8000, np.zeros([9000], np.int16))
  files = [films[1], *(str(tmp_path / name) for name in (
      "empty.mp4", "text.mp4", "silent.wav", "none.mp4", ".")), films[0]]
  vectors = model.embed_video(files)
  assert list(np.isnan(vectors).all(axis=1)) == [
      False, True, True, True, True, True, False]
  alone = model.embed_video([films[1]])
  np.testing.assert_allclose(vectors[:1], alone, atol=1e-6)
  said = [record.getMessage() for record in caplog.records]
  for name, reason in (("empty.mp4", "no readable media"),
                       ("text.mp4", "no readable media"),
                       ("silent.wav", "has no video"),
                       ("none.mp4", "No such file"), (".", "irectory")):
    assert any(line.startswith(str(tmp_path / name)) and reason in line
               for line in said), (name, said)
  with pytest.raises(UserError, match="silent.wav: its sound is silent in all"):
    model.embed_audio(files[3])
  with pytest.raises(UserError, match="mute.mp4: has no audio, expected"):
    model.embed_audio(films[1])
  with pytest.raises(UserError, match=r"empty.mp4: .* \(and 1 more\), exp"):
    model.embed_video(files[1:3])
  with pytest.raises(UserError, match="no file, expected at least one"):
    model.embed_video([])
  found = model.embed_clip(files)
  assert list(np.isnan(found["audio_va"]).all(axis=1)) == [True] * 6 + [False]


def test_lists_are_of_any_kind(tmp_path, monkeypatch, model, films):
  wanted = model.embed_video(films[:1])
  monkeypatch.chdir(tmp_path)
  pathlib.Path("12:30.mp4").symlink_to(films[0])  # no protocol named 12
  for files in (np.array(films[:1]), np.array(films[:1], object),
                (film for film in films[:1]), ["12:30.mp4"]):
    np.testing.assert_allclose(model.embed_video(files), wanted, atol=1e-6)
  word = model.task.words[0]
  np.testing.assert_array_equal(
      model.embed_text(each for each in [word]), model.embed_text([word]))


def test_many_shapes_are_no_matter_for_a_warning(model, films, caplog):
  for windows in (1, 2, 4, 8):
    model.embed_video(films[1], windows=windows)
    model.embed_audio(films[0], windows=windows)
  assert "retracing" not in caplog.text


def test_similarity_is_the_cosine(model):
  a, b = np.float32([[3, 4], [0, 2]]), np.float32([[1, 0], [4, 3], [0, -1]])
  np.testing.assert_allclose(
      model.similarity(a, b), [[0.6, 0.96, -0.8], [0, 0.6, -1]], atol=1e-6)
  assert model.similarity(a[0], b).shape == (1, 3)
  with pytest.raises(UserError, match="of 2 and 3 numbers, expected those of"):
    model.similarity(a, b.T)


def test_sentences(model, caplog):
  words = model.task.words
  vector = model.embed_text(f"{words[0]} {words[1]} zyzzyva")
  assert vector.shape == (8,) and np.linalg.norm(vector) == pytest.approx(1)
  assert any("not in the vocabulary: zyzzyva" in record.getMessage()
             for record in caplog.records)
  with pytest.raises(UserError, match="'zyzzyva': of its words, zyzzyva, the"):
    model.embed_text([words[0], "zyzzyva"])
  with pytest.raises(UserError, match="no sentence, expected at least one"):
    model.embed_text([])


def test_a_model_has_the_spaces_that_it_has(model, films):
  assert model.modalities == ("video", "audio", "text")
  assert model.embed_video(films[0], "features").shape == (8,)
  with pytest.raises(UserError, match="space is 'text_vt', expected one of"):
    model.embed_video(films[0], "text_vt")
  with pytest.raises(UserError, match="a pre-trained model, expected a fine-t"):
    model.classify(films)
  with pytest.raises(UserError, match="fps is -3, expected the frames a secon"):
    model.embed_video(np.zeros([4, 8, 8, 3], np.uint8), fps=-3)


def test_a_classifier_names_what_it_sees(films):
  """The probabilities are those of the logits of an evaluation."""
  tuned = inference.Model(FIXTURES / "tuned")
  labels = (FIXTURES / "tuned" / "labels.txt").read_text().split("\n")[:-1]
  scores = tuned.classify(films[0], top=None)
  assert sorted(name for name, _ in scores) == sorted(labels)
  values = [value for _, value in scores]
  assert values == sorted(values, reverse=True)
  assert sum(values) == pytest.approx(1, abs=1e-6)
  one, = tuned.infer([films[0]], ["video"])
  logits = dict(zip(labels, one.values["logits"].mean(axis=0)))
  for name, value in scores:
    assert value == pytest.approx(
        np.exp(logits[name]) / sum(map(np.exp, logits.values())), rel=1e-5)
  assert tuned.classify(films[0], top=0) == []
  assert [len(each) for each in tuned.classify(
      [films[1], "/none.mp4"], top=1)] == [1, 0]
  assert {*tuned.embed_clip(films[0])} == {"video_features"}
  assert tuned.embed_video(films[0]).shape == tuned.embed_video(
      films[0], "features").shape
  with pytest.raises(UserError, match="a model of video, expected one that has "
                     "audio"):
    tuned.embed_audio(films[0])


def test_classes_without_names_have_numbers(tmp_path, films):
  """As those of a released model."""
  folder = pathlib.Path(shutil.copytree(FIXTURES / "tuned", tmp_path / "tuned"))
  labels = (folder / "labels.txt").read_text().split()
  named = inference.Model(folder).classify(films[0], top=None)
  (folder / "labels.txt").unlink()
  assert [(labels[int(name)], score) for name, score in inference.Model(
      folder).classify(films[0], top=None)] == [
          (name, pytest.approx(score)) for name, score in named]
  with pytest.raises(UserError, match="task finetune, expected one that under"):
    inference.Model(folder, vocabulary="words.txt")


def test_a_model_without_words_takes_them(tmp_path, films):
  folder = pathlib.Path(shutil.copytree(
      FIXTURES / "specific", tmp_path / "specific"))
  words = folder / "vocabulary.txt"
  kept = words.rename(tmp_path / "words.txt")
  bare = inference.Model(folder)
  assert bare.embed_video(films[0]).shape == (8,)
  with pytest.raises(UserError, match="has no vocabulary.txt, expected the"):
    bare.embed_text("one")
  first, *others = kept.read_text().split()
  whole = inference.Model(folder, vocabulary=str(kept))
  vector = inference.Model(FIXTURES / "specific").embed_text(first)
  np.testing.assert_array_equal(whole.embed_text(first), vector)
  # However the letters of a word are composed.
  kept.write_text("\n".join(["no\u0323\u0302i", *others]))
  whole = inference.Model(folder, vocabulary=str(kept))
  words = "n\u1ed9i", "n\xf4\u0323i", "No\u0323\u0302i", "NO\u0302\u0323I"
  np.testing.assert_allclose(
      whole.embed_text(words), [vector] * 4, rtol=0, atol=1e-6)
  kept.write_text("one\ntwo\n")
  with pytest.raises(UserError, match="words.txt: 2 words, expected the"):
    inference.Model(folder, vocabulary=str(kept))


def test_the_package_is_there_at_once(python_env):
  code = "import sys, vatt; assert 'tensorflow' not in sys.modules; vatt.load"
  subprocess.run([sys.executable, "-c", code], env=python_env, check=True)
