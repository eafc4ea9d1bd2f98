"""The errors that a user is told of in one line."""

import contextlib


class UserError(ValueError):
    """Wrong use or wrong input. The command line prints it as one line, without a traceback, and exits with code 2.

    Args:
        where: the file or key.
        problem: what is wrong.
        remedy: what to do, if that is not plain from the problem.
    """

    def __init__(self, where: object, problem: object, remedy: object = "") -> None:
        # As arguments, so that it can go to another process.
        super().__init__(printable(where), printable(problem), printable(remedy))

    @property
    def where(self) -> str:
        return self.args[0]

    @property
    def problem(self) -> str:
        return self.args[1]

    @property
    def remedy(self) -> str:
        return self.args[2]

    @property
    def reason(self) -> str:
        """Problem and remedy, if the file or key is told beside them."""
        return f"{self.problem}; {self.remedy}" if self.remedy else self.problem

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


class Failure(Exception):
    """Something went wrong that is no wrong input, and one line says what; exit code 1."""


def printable(text: object) -> str:
    """Text that can be printed and stored as UTF-8: the bytes of a file name that is not UTF-8 are shown as \\xe9."""
    name = str(text)
    try:
        return name.encode().decode()
    except UnicodeEncodeError:
        with contextlib.suppress(UnicodeEncodeError):
            return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        return name.encode("utf-8", "backslashreplace").decode()  # half a character, which no file name gave
