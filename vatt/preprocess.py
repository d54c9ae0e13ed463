"""On the device: a batch of raw signals to the model's inputs."""
import tensorflow as tf
from ml_collections import ConfigDict

from vatt import seeds
from vatt.data import audio, video


def input_shapes(config: ConfigDict) -> dict[str, tuple[int, ...]]:
  """Shapes of what the tokenizers see, by modality.

  Args:
    config: of a run.

  Returns:
    (T, H, W, 3) of `video`; (S, 1) of `audio` as waveform, (frames, bins, 1) as
    spectrogram; (W,) of `text`.
  """
  data = config.data
  sound = (data.audio_samples, 1)
  if config.model.audio_input == "spectrogram":
    frames = audio.mel_frames(
        data.audio_samples, data.audio_rate, data.spectrogram.step_s)
    sound = (frames, data.spectrogram.bins, 1)
  return dict(video=(data.frames, data.size, data.size, 3), audio=sound,
              text=(data.words,))


def signal_of(batch: dict[str, tf.Tensor], modality: str
              ) -> dict[str, tf.Tensor]:
  """What of a batch `model_inputs` makes the input of one modality of."""
  return {name: batch[name] for name in (modality, f"{modality}_part")
          if name in batch}


def model_inputs(batch: dict[str, tf.Tensor], config: ConfigDict,
                 training: bool = False, seed: tf.Tensor | None = None
                 ) -> dict[str, tf.Tensor]:
  """Turns a batch of raw signals into the model's inputs.

  Args:
    batch: batch dict; any of `video` uint8 [B, T, H, W, 3], `audio` int16
      [B, S, 1], `text` int32 [B, K, W] and the masks; with `video_part` int32
      [B, 2], only so much of the video is there, and enlarged first.
    config: of the run.
    training: whether to augment.
    seed: int32 [2], needed when training.

  Returns:
    The batch with video and audio in [-1, 1] (but for `data.audio_rms`), audio
    as the model wants it.
  """
  inputs = dict(batch)
  if "video" in batch:
    frames = batch["video"]
    if "video_part" in batch:
      frames = video.enlarge(frames, inputs.pop("video_part"))
    if training:
      inputs["video"] = video.augment_video(
          frames, seeds.fold(seed, "video"), config.augment)
    else:
      inputs["video"] = video.normalize_video(frames)
  if "audio" in batch:
    if training:
      wave = audio.augment_audio(
          batch["audio"], seeds.fold(seed, "audio"), config.augment)
    else:
      wave = audio.normalize_audio(batch["audio"])
    if config.data.audio_rms:
      wave = audio.scale_loudness(wave, config.data.audio_rms)
    if config.model.audio_input == "spectrogram":
      wave = audio.log_mel(
          wave, config.data.audio_rate, **config.data.spectrogram)
      if training:
        wave = audio.augment_spectrogram(
            wave, seeds.fold(seed, "spectrogram"), config.augment)
    inputs["audio"] = wave
  return inputs
