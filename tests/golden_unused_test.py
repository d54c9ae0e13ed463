"""Every file of the release's values is compared with; this comes last."""
import pathlib

import pytest


def test_every_file_is_used(golden, request):
  modules = {path.name for path in pathlib.Path(__file__).parent.glob(
      "golden_*_test.py")}
  run = {item.path.name for item in request.session.items}
  if modules - run or any("::" in arg for arg in request.config.args):
    pytest.skip("not all golden tests are run")
  if request.session.testsfailed:
    pytest.skip("tests failed before they used their files")
  there = {str(path.relative_to(golden.folder)) for path in
           golden.folder.rglob("*") if path.suffix in (".npz", ".json")}
  there |= {path.name for path in golden.folder.glob("ckpt_*")}
  assert there == golden.used
