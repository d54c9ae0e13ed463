"""Linear probes on frozen features: what follows pre-training in the paper.

  python scripts/linear_probe.py --workdir=PRETRAINED \\
      --config=configs/linear_probe.py:ucf101 --config.data.data_dir=DATA

PRETRAINED is the workdir of a model that was pre-trained, of one fine-tuned, or
of a released one (scripts/convert_checkpoint.py; no words are needed). The
features are its tower's AGG token; the shape of a window and its augmentation
are those that the model was trained with. The frames of ucf101 and hmdb51 have
a stride of 2 at 25 a second, as the paper evaluates (appendix B.1), whatever
the model was trained with: 32 of them are 2.56 s, to train and to test on. DATA
has the official splits:

  python scripts/prepare_dataset.py --dataset=ucf101 --data_dir=DATA \\
      --annotations=ucfTrainTestlist --manual_dir=UCF-101

Any built dataset with labels will do: --config.probe.dataset=NAME, and
--config.probe.splits="('',)" if it has just train and test.

The paper's scores (appendix C), the means over the official splits:

                          ucf101   hmdb51   esc50
  mbs, LRC                  89.6     65.2    84.7
  mbs, SVM                  89.2     63.3    82.5
  ma, LRC                   84.4     63.1    81.2

and of configs/spoken_digits.py:specific,spectrogram, 250 test clips:

                          LRC    SVM    k-NN
  digits_video           94.8   95.2    96.0
  digits_audio           99.2   99.6    99.2

k-NN is not in the paper. ESC-50 is probed by its sound, the others by their
video. A window costs a forward pass of the tower (scripts/paper_tables.py), and
each clip has one of each kind however many splits it is in: for ucf101 14
windows of 13,320 clips. LRC is 50,000 steps a split, a minute or so on a core.
"""
from ml_collections import ConfigDict

from vatt import recipes

# Dataset, modality, frames a second (0: as the model was trained), its official
# splits, windows of a training and a test clip.
DATASETS = {
    "ucf101": ("ucf101", "video", 12.5, ("1", "2", "3"), 10, 4),
    "hmdb51": ("hmdb51", "video", 12.5, ("1", "2", "3"), 10, 4),
    "esc50": ("esc50", "audio", 0.0, ("1", "2", "3", "4", "5"), 10, 4),
    # A clip is hardly longer than a window.
    "digits_video": ("spoken_digits/official", "video", 0.0, ("",), 4, 1),
    "digits_audio": ("spoken_digits/official", "audio", 0.0, ("",), 4, 1),
    "demo": ("demo/default", "video", 0.0, ("",), 4, 2),
}


def get_config(arg: str | None = None) -> ConfigDict:
  """The config of one of DATASETS."""
  chosen = recipes.parse_arg(arg, dataset=tuple(DATASETS))["dataset"]
  dataset, modality, fps, splits, train_windows, test_windows = (
      DATASETS[chosen])
  config = ConfigDict()
  config.seed = 0
  config.strategy = recipes.one_device()
  config.data = ConfigDict(dict(data_dir=""))  # default: the workdir's
  config.probe = ConfigDict(dict(
      dataset=dataset, modality=modality,
      fps=fps,  # of the frames of a window; 0: as the model was trained
      # Each trains on train{i} and tests on test{i}.
      splits=splits,
      probes=("lrc", "svm", "knn"),
      train_windows=train_windows, test_windows=test_windows, test_crops=1,
      batch_size=64))  # of windows whose features are made at once
  # Appendix B.8.
  config.lrc = ConfigDict(dict(
      components=128, kept=13, lr=5e-4, batch_size=64, steps=50_000))
  # Chosen of these on a fifth of the training clips.
  config.svm = ConfigDict(dict(cs=(1e-4, 1e-3, 1e-2, 1e-1)))
  config.knn = ConfigDict(dict(k=20, temperature=0.07))
  return config
