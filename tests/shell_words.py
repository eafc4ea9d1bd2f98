"""What a shell would do to an example before the command sees it."""

import re


def left_to_the_shell(line: str) -> list[str]:
    """The words of a command line in which a shell would look for files or expand braces: those not in quotes."""
    outside = re.sub(r"'[^']*'|\"[^\"]*\"", "", line)
    return [word for word in outside.split() if re.search(r"[][*?{}~]", word)]
