"""Datasets that are built from raw media, a module each."""
import importlib
import pkgutil


def find(name: str) -> type | None:
  """The builder class of a dataset by its name, or None."""
  return _classes().get(name)


def names() -> list[str]:
  """The names of all datasets."""
  return sorted(_classes())


def _classes():
  found = {}
  for module in pkgutil.iter_modules(__path__):
    for value in vars(importlib.import_module(
        f"{__name__}.{module.name}")).values():
      if isinstance(value, type) and getattr(value, "VERSION", None):
        found[value.name] = value
  return found
