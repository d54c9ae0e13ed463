"""What a user did wrong."""


class UserError(ValueError):
  """Bad input of the user: names the file or field, what was found there and
  what was expected. Programs show it as one line, without a traceback."""
