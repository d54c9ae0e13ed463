"""What all experiments share, under the name that it had: vatt/recipes.py."""
from vatt.recipes import (  # noqa: F401  for configs of one's own
    encoders,
    finetuning,
    parse_arg,
    pretraining,
)
