"""The one error that a user's input can cause."""


class UserError(ValueError):
    """Wrong use or wrong input: one line that names the file or key, what is wrong and what to do.

    The command line prints it without a traceback and exits with code 2.
    """
