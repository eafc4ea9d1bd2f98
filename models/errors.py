"""The errors that a user is told of in one line."""


class UserError(ValueError):
    """Wrong use or wrong input. The command line prints it as one line, without a traceback, and exits with code 2.

    Args:
        where: the file or key.
        problem: what is wrong.
        remedy: what to do, if that is not plain from the problem.
    """

    def __init__(self, where: object, problem: object, remedy: object = "") -> None:
        super().__init__(str(where), str(problem), str(remedy))  # as arguments, so that it can go to another process

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
