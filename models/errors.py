"""The errors that a user is told of in one line."""


class UserError(ValueError):
    """Wrong use or wrong input: one line that names the file or key, what is wrong and what to do.

    The command line prints it without a traceback and exits with code 2.
    """


class Failure(Exception):
    """Something went wrong that is no wrong input, and one line says what; exit code 1."""
