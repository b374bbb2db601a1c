"""The one exception that means: the input is wrong and the user can mend it."""


class InputError(Exception):
    """Wrong input. The message is one line that names the file, what is wrong with it and what to do."""
