"""Costs against every figure that was counted on the release's own models."""
import math
import re

import pytest
from ml_collections import ConfigDict

from configs import common
from scripts import paper_tables
from tests.golden import layouts
from vatt.models import cost
from vatt.models.convert import released
from vatt.models.vatt import SIZES, VARIANTS

SHAPES = dict(video=(32, 224, 224, 3), audio=(153_600, 1), text=(16,))


@pytest.fixture
def params(golden):
  return golden.json("released/params.json")


@pytest.fixture
def flops(golden):
  return golden.json("released/flops.json")


def pretrained(variant, **encoders):
  """The `model` of a config of the released flavour."""
  model = common.pretraining(variant, "released").model
  model.encoders.update(encoders)
  return model


def classifier(modality, size, drop_rate=0.0):
  model = pretrained("bbs")
  model.encoders = {modality: dict(SIZES[size])}
  model.drop_rate = drop_rate
  return model


def parameters(model, **arguments):
  """Of all that are counted, and of those that are trained."""
  return [cost.parameters(model, SHAPES, trainable_only=trainable, **arguments)
          for trainable in (False, True)]


def totals(everything, trained, table):
  return {"total": cost.total(everything),
          "total_trainable": cost.total(trained),
          "total_without_text_table": cost.total(everything) - table}


# ---- Parameters ------------------------------------------------------------


def test_parameters_with_three_encoders(params):
  counts = params["counts"]
  assert set(VARIANTS) - {"ma"} < set(counts)
  for variant in sorted(set(VARIANTS) - {"ma"}):
    everything, trained = parameters(pretrained(variant))
    tower = {modality: everything[f"{modality} tokenizer"]
             + everything[f"{modality} encoder"] for modality in SHAPES}
    table = everything["text tokenizer"] - trained["text tokenizer"]
    agg = 300  # as wide as a word's vector
    assert counts[variant] == totals(everything, trained, table) | {
        "video_backbone": tower["video"],
        "video_tx": everything["video encoder"],
        "audio_backbone": tower["audio"],
        "audio_tx": everything["audio encoder"],
        "text_backbone_all": tower["text"],
        "text_embedding_table_frozen": table,
        "text_backbone_without_table": tower["text"] - table,
        "text_tx": everything["text encoder"],
        "text_pre_proj": trained["text tokenizer"] - agg,
        "head": everything["heads"], "head_trainable": trained["heads"]}


def test_parameters_with_one_encoder(params):
  names = {name for name in params["counts"] if name.startswith("ma_")}
  assert names == {f"ma_ut_{size}" for size in ("base", "medium", "large")}
  for name in names:
    size = SIZES[name.removeprefix("ma_ut_")]
    model = pretrained("ma", shared=size)
    everything, trained = parameters(model)
    table = everything["text tokenizer"] - trained["text tokenizer"]
    tokenizers = sum(trained[f"{modality} tokenizer"] for modality in SHAPES)
    model.pre_projection = False  # of video and audio; that of text stays
    without = cost.total(cost.parameters(model, SHAPES))
    pre_proj = cost.total(everything) - without + 300 * size["width"] + (
        size["width"])
    backbone = cost.total(everything) - everything["heads"]
    assert params["counts"][name] == totals(everything, trained, table) | {
        "backbone": backbone, "backbone_without_text_table": backbone - table,
        "tx": everything["shared encoder"],
        "text_embedding_table_frozen": table, "pre_proj": pre_proj,
        "post_proj": sum(everything[f"{modality} post-projection"]
                         for modality in SHAPES),
        # AGG is in none of theirs.
        "patch_and_pos": tokenizers - pre_proj - 3 * size["width"],
        "head": everything["heads"]}


def video_parameters(size, num_classes):
  return cost.total(cost.parameters(
      classifier("video", size), {"video": SHAPES["video"]}, num_classes))


def test_parameters_of_classifiers(params):
  figures = params["counts"]["finetune"]
  for name, figure in figures.items():
    tower, size, classes = re.fullmatch(
        r"(vit|wat)_(\w+)_(\d+)classes", name).groups()
    modality = {"vit": "video", "wat": "audio"}[tower]
    parts = cost.parameters(
        classifier(modality, size), {modality: SHAPES[modality]}, int(classes))
    assert cost.total(parts) == figure, name
  assert len(figures) == 14


def test_parameters_of_the_papers_table(params):
  table, found = params["paper_table1_millions"], params["reproduction"]
  assert paper_tables.PARAMETERS == table
  assert "600-class" in found["rule"]
  for size in ("base", "medium", "large"):
    assert video_parameters(size, 600) == found[size]
    assert round(found[size] / 1e6, 1) == table[size]
  small = dict(found["small"])
  assert small.pop("paper") == table["small"]
  note = small.pop("note")
  assert f"{video_parameters('small', 600) / 1e6:.2f}M" in note
  assert f"{video_parameters('small', 700) / 1e6:.2f}M" in note
  everything, trained = parameters(pretrained("bbs"))
  by_words = {"without": trained, "with ": everything, "600": 600, "700": 700}
  assert len(small) == 4
  for what, figure in small.items():
    key = next(key for key in ("700", "600", "without", "with ") if key in what)
    of = by_words[key]
    assert figure == (video_parameters("small", of) if isinstance(of, int) else
                      of["text tokenizer"] + of["text encoder"]), what


@pytest.mark.parametrize("name", layouts())
def test_parameters_of_the_released_layouts(golden, name):
  """At full size, of what their variables say."""
  layout = golden.json(f"released/variables_{name}.json")
  shapes = {key: tuple(facts["shape"])
            for key, facts in layout["checkpoint"].items()}
  facts = released.describe(shapes, name)
  of = dict(SHAPES)
  if "modality" in facts:
    of = {facts["modality"]: SHAPES[facts["modality"]]}
  for trainable in (False, True):
    ours = cost.total(cost.parameters(
        ConfigDict(facts["model"]), of, facts.get("num_classes", 0), trainable))
    assert ours == sum(
        math.prod(v["shape"])
        for v in layout["keras_weights_in_order"]
        if v["trainable"] or not trainable)


# ---- FLOPs -----------------------------------------------------------------


def test_flops_of_video_classifiers(flops):
  """Each figure of each setting: by part, and their sums."""
  entries = flops["video_finetune"]
  assert len(entries) == 9
  for entry in entries:
    setting, theirs = entry["setting"], entry["analytic"]
    size, frames, pixels = re.match(
        r"ViT-(\w+) (\d+)x(\d+)x\d+", setting).groups()
    drop = re.search(r"(\d+)% drop", setting)
    views = int((re.search(r"(\d+) views", setting) or [0, 1])[1])
    model = classifier("video", size.lower(), int(drop[1]) / 100 if drop else 0)
    shape = (int(frames), int(pixels), int(pixels), 3)
    encoder = cost.encoder_of(model, "video")
    n = cost.num_tokens(model, "video", shape, training=True)
    assert n == entry["tokens_incl_AGG"] == theirs["tokens"]
    classes = theirs["macs_cls"] // encoder.width
    assert classes in (400, 600)
    paper, true = (cost.flops(
        model, {"video": shape}, num_classes=classes, training=True, paper=way)
        for way in (True, False))
    linear, qk, av, patch, cls, scores = (theirs[key] for key in (
        "macs_linear", "macs_qk", "macs_av", "macs_patch", "macs_cls",
        "elem_softmax_etc"))
    assert paper == {"video tokenizer": 2 * patch, "classifier": 2 * cls,
                     "video encoder": 2 * (linear + av) + scores}
    # Ours projects what DropToken keeps; there is no token but AGG besides.
    kept = 2 * (n - 1) * 4 * 16 * 16 * 3 * encoder.width
    assert kept == 2 * patch or drop
    assert true == {"video tokenizer": kept, "classifier": 2 * cls,
                    "video encoder": 2 * (linear + qk + av)}
    found = {
        "GFLOPs_without_QK_plus_7NNh": cost.total(paper),
        "GFLOPs_2xMACs_without_QK": cost.total(paper) - scores,
        "GFLOPs_2xMACs": cost.total(true) - kept + 2 * patch,
        "GMACs": (cost.total(true) - kept + 2 * patch) / 2,
        "GFLOPs_2xMACs_no_attention":
            cost.total(true) - kept + 2 * patch - 2 * (qk + av)}
    found = {key: views * value / 1e9 for key, value in found.items()}
    for key, value in found.items():
      assert theirs[key] == pytest.approx(value, rel=1e-12), (setting, key)
    found["tf_profiler"] = entry["tf_profiler"]
    assert {key: round(100 * (value / entry["paper"] - 1), 3)
            for key, value in found.items()} == pytest.approx(
                entry["error_pct_vs_paper"], abs=1.1e-3)
    # What the profiler said of the release's graph has small terms more.
    assert entry["tf_profiler"] == pytest.approx(
        found["GFLOPs_without_QK_plus_7NNh"], rel=5e-3)


def test_flops_by_operation(flops):
  """What the profiler said of a view, operation by operation."""
  entry = next(entry for entry in flops["video_finetune"]
               if entry["setting"] == "ViT-Medium 32x224x224, no drop")
  by_op = flops["profiler_op_breakdown_medium_32x224_GFLOP"]
  parts = cost.flops(classifier("video", "medium"), {"video": SHAPES["video"]},
                     num_classes=600, paper=True)
  scores = 12 * 16 * 1569 ** 2  # layers, heads, tokens
  assert 1e9 * by_op["Conv3D"] == pytest.approx(parts["video tokenizer"])
  assert 1e9 * (by_op["MatMul"] + by_op["BatchMatMulV2"]) == pytest.approx(
      parts["video encoder"] - cost.PAPER_SCORE_FLOPS * scores
      + parts["classifier"])
  assert 1e9 * by_op["Softmax"] == 5 * (scores + 600)  # classes
  # One for scaling; one for the mask, beside sums of tokens.
  assert 1e9 * by_op["RealDiv"] == pytest.approx(scores, rel=0.17)
  assert 1e9 * by_op["AddV2"] > scores
  assert sum(by_op.values()) == pytest.approx(entry["tf_profiler"], rel=1e-3)


def test_multimodal_flops(flops):
  entries = flops["multimodal_mbs_table13"]
  assert [entry["drop"] for entry in entries] == [0.75, 0.5, 0.25, 0]
  for entry in entries:
    model = pretrained("mbs")
    model.drop_rate = entry["drop"]
    all_patches = {}
    for texts in (1, 5):
      paper, true = (cost.flops(model, SHAPES, texts, training=True, paper=way)
                     for way in (True, False))
      # There, the heads are counted as a video classifier of 600 classes.
      other = 2 * 600 * 1024 - paper["heads"]
      for modality in ("video", "audio"):
        all_patches[modality] = paper[f"{modality} tokenizer"]
        true[f"{modality} tokenizer"] = all_patches[modality]
      closed, exact = ((cost.total(way) + other) / 1e9 for way in (paper, true))
      assert closed == pytest.approx(
          entry[f"analytic_without_QK_plus_7NNh_{texts}texts"], rel=1e-12)
      assert exact == pytest.approx(
          entry[f"analytic_true_2xMACs_{texts}texts"], rel=1e-12)
      assert 100 * (exact / entry["paper"] - 1) == pytest.approx(
          entry[f"error_pct_true_2xMACs_{texts}texts"], abs=6e-3)
      for key in (f"tf_profiler_{texts}texts_trainTrue",
                  f"tf_profiler_{texts}texts_trainFalse"):
        if key in entry:
          assert closed == pytest.approx(entry[key], rel=5e-3)
          assert 100 * (entry[key] / entry["paper"] - 1) == pytest.approx(
              entry[f"error_pct_{key}"], abs=6e-3)


def test_the_papers_figures(flops):
  """Those that the script compares with are those of the folder."""
  figures = [entry["paper"] for entry in flops["video_finetune"]]
  views = [1e3 * figure for figure in paper_tables.VIEWS_TFLOPS.values()]
  assert sorted([*paper_tables.VIEW_GFLOPS.values(), *views]) == pytest.approx(
      sorted(figures))
  assert paper_tables.MULTIMODAL_GFLOPS == {
      entry["drop"]: entry["paper"]
      for entry in flops["multimodal_mbs_table13"]}
  assert f"{paper_tables.FLOPS_TOLERANCE}%" in flops["conclusion"]
