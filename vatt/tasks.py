"""The tasks that a config can name, each a module of the same functions."""
from vatt import finetune, pretrain
from vatt.errors import UserError

TASKS = {"finetune": finetune, "pretrain": pretrain}


def task_of(config):
  """The module of `config.task`.

  Raises:
    UserError: there is no such task, or no config file.
  """
  try:
    name = config.task
  except OSError as error:  # ml_collections tells of a missing file at use
    raise UserError(
        f"--config: {str(error).splitlines()[-1].strip()}") from None
  if name not in TASKS:
    raise UserError(f"task is {name!r}, expected one of {sorted(TASKS)}")
  return TASKS[name]
