import functools

import numpy as np
import pytest
import tensorflow as tf

from tests.tiny import (
    AUDIO,
    VOCABULARY,
    WIDTHS,
    loss_and_gradients,
    make_batch,
    make_model,
)

# ---- Gradients -------------------------------------------------------------


@functools.cache
def gradients_of(setting, audio):
  """Loss and gradients of a model in float64 without DropToken, op by op."""
  model = make_model(setting, audio, "float64", drop_rate=0.0)
  return model, *loss_and_gradients(model, make_batch(audio))


@pytest.mark.parametrize("setting", WIDTHS)
@pytest.mark.parametrize("audio", AUDIO)
def test_every_parameter_gets_a_gradient(setting, audio):
  """In float64, so that a gradient of 0 shows as one."""
  model, loss, gradients = gradients_of(setting, audio)
  batch = make_batch(audio)
  assert np.isfinite(loss)
  variables = model.trainable_variables
  by_variable = {v.ref(): g.numpy() for v, g in zip(variables, gradients)}
  assert len(by_variable) == len(variables)
  # By mathematics: what an encoder's last norm adds is the same in all rows,
  # and the batch norm behind the next linear layer takes it out again.
  without = {t.encoder.norm.offset.ref() for t in model.towers.values()}
  for variable, gradient in zip(variables, gradients):
    assert gradient.shape == variable.shape
    assert np.isfinite(gradient).all(), variable.name
    assert (np.abs(gradient).max() < 1e-12 if variable.ref() in without
            else np.abs(gradient).max() > 1e-7), variable.name
  # Row by row where a row is a parameter of its own: positions, AGG, words.
  for name, tower in model.towers.items():
    tokenizer = tower.tokenizer
    tables = [by_variable[tokenizer.agg.ref()][None]]
    if name == "text":
      words = by_variable[tokenizer.embedding.ref()]
      used = np.unique(batch["text"].numpy()[batch["word_mask"].numpy()])
      unused = np.setdiff1d(np.arange(VOCABULARY), used)
      # By mathematics: a word that no caption holds, and padding.
      assert 0 in unused and not words[unused].any()
      tables.append(words[used])
      if setting == "agnostic":
        tables.append(by_variable[tokenizer.position.tables["temporal"].ref()])
    else:
      positions = tokenizer.position.tables.values()
      tables += [by_variable[table.ref()] for table in positions]
    for table in tables:
      assert (np.abs(table).max(axis=1) > 1e-7).all(), name
  for tower in model.towers.values():
    for block in tower.encoder.blocks:
      # The keys' bias alone has none, by mathematics: it adds the same to all
      # scores of a query, and softmax takes that out again.
      bias = by_variable[block.attention.qkv.bias.ref()]
      query, key, value = np.split(bias, 3)
      assert np.abs(key).max() < 1e-12
      assert (np.abs(query) > 1e-9).all() and (np.abs(value) > 1e-9).all()
    if tower.encoder.biased_blocks:
      # Distances of up to 5 words each have their bucket; others are not met.
      table = by_variable[tower.encoder.relative_bias.table.ref()]
      met = np.abs(table).max(axis=1) > 1e-9
      np.testing.assert_array_equal(
          np.flatnonzero(met), [0, 1, 2, 3, 4, 5, 17, 18, 19, 20, 21])


@pytest.mark.parametrize("setting", WIDTHS)
def test_remat_changes_no_gradient(setting):
  """In a graph, as in training; nor does it matter that towers then go backward
  one at a time."""
  _, *plain = gradients_of(setting, "waveform")
  model = make_model(setting, dtype="float64", drop_rate=0.0, remat=True)
  again = tf.function(loss_and_gradients)(model, make_batch())
  np.testing.assert_allclose(again[0], plain[0], rtol=1e-12)
  assert len(plain[1]) == len(again[1]) > 20
  for one, other in zip(plain[1], again[1]):
    np.testing.assert_allclose(other, one, rtol=1e-9, atol=1e-12)


def test_gradients_of_the_whole_model_against_finite_differences():
  """Along random directions, in float64, batch statistics and masks and all."""
  model = make_model("agnostic", "spectrogram", "float64")
  batch = make_batch("spectrogram")
  variables = model.trainable_variables
  run = tf.function(functools.partial(loss_and_gradients, model, batch))
  _, gradients = run()
  start = [v.numpy() for v in variables]
  rng = np.random.default_rng(0)
  for _ in range(5):
    direction = [rng.normal(size=v.shape) for v in variables]
    ends = []
    for step in (1e-6, -1e-6):
      for variable, value, d in zip(variables, start, direction):
        variable.assign(value + step * d)
      ends.append(run()[0].numpy())
    slope = (ends[0] - ends[1]) / 2e-6
    expected = sum((g.numpy() * d).sum() for g, d in zip(gradients, direction))
    assert slope == pytest.approx(expected, rel=1e-5)


# ---- Precision, compilation ------------------------------------------------


@pytest.mark.parametrize("setting", [
    "specific", pytest.param("agnostic", marks=pytest.mark.slow)])
def test_compiled_equals_plain_with_static_shapes(setting):
  """What a TPU needs: XLA compiles the step, and no size is left open."""
  model, batch = make_model(setting, depth=1), make_batch()
  statistics = [v.numpy() for v in model.non_trainable_variables]
  step = functools.partial(loss_and_gradients, model)
  loss, gradients = tf.function(step)(batch)
  moved = [v.numpy() for v in model.non_trainable_variables]
  for variable, value in zip(model.non_trainable_variables, statistics):
    variable.assign(value)
  compiled = tf.function(step, jit_compile=True)
  compiled_loss, compiled_gradients = compiled(batch)
  assert np.isfinite(compiled_loss)
  np.testing.assert_allclose(compiled_loss, loss, rtol=1e-4)
  norm = tf.linalg.global_norm(gradients)
  for variable, a, b in zip(
      model.trainable_variables, gradients, compiled_gradients):
    assert np.isfinite(b).all(), variable.name
    np.testing.assert_allclose(
        a, b, atol=1e-4 * norm, err_msg=variable.name)
  for variable, value in zip(model.non_trainable_variables, moved):
    np.testing.assert_allclose(variable, value, rtol=1e-4, atol=1e-5)
  hlo = compiled.experimental_get_compiler_ir(batch)(stage="hlo")
  assert "f32[6,5,8]" in hlo  # the video's kept tokens, after AGG
  assert "<=" not in hlo  # a dynamic dimension is written so


@pytest.mark.parametrize("setting", WIDTHS)
def test_bfloat16_stays_close_to_float32(setting):
  batch = make_batch()
  wide, _ = make_model(setting)(batch)
  model = make_model(setting, dtype="mixed_bfloat16")
  narrow, out = model(batch)
  assert out["video"]["outputs"].dtype == tf.bfloat16
  assert {v.dtype for v in model.variables} == {tf.float32}
  for name, value in wide.items():
    assert narrow[name].dtype == tf.float32
    # A bfloat16 rounds by up to 2⁻⁹; some tens of roundings follow upon each
    # other between a signal and its embedding.
    error = tf.norm(narrow[name] - value) / tf.norm(value)
    assert float(error) < 0.05, name
    assert float(error) > 0  # it was computed in bfloat16
  loss, gradients = loss_and_gradients(model, batch)
  assert loss.dtype == tf.float32 and np.isfinite(loss)
  for gradient in gradients:
    assert gradient.dtype == tf.float32 and np.isfinite(gradient).all()


def test_float64():
  batch = make_batch()
  model = make_model(dtype="float64")
  embeddings, _ = model(batch)
  single, _ = make_model()(batch)
  for name, value in embeddings.items():
    assert value.dtype == tf.float64
    np.testing.assert_allclose(single[name], value, atol=1e-4)
