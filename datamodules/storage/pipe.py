"""Files that a command prints, as webdataset opens them: `pipe:aws s3 cp s3://bucket/data/{} -`."""

import select
from collections.abc import Iterator
from typing import Any

from ...models.errors import UserError
from .fetch import LARGEST_WHOLE, Fetcher, PassingError, cut

NO_COMMAND = (126, 127)  # exit codes of a shell that cannot run it


class PipeFetcher(Fetcher):
    """A command can only be read from its beginning: a range has all before it read too, and is for small files."""

    def connect(self) -> Any:
        from webdataset.gopen import gopen  # takes a while, and most runs read local folders

        return gopen

    def pieces(self, url: str, offset: int, size: int | None, *, through: bool = False) -> Iterator[bytes]:
        if size is not None and offset + size > LARGEST_WHOLE and not through:
            raise UserError(url, "a command's output has no ranges", "data.cache=DIR on a local disk, to read it whole")
        pipe = self.client()(url, bufsize=0)
        try:
            yield from cut(self._printed(url, pipe), offset, size)
        finally:
            pipe.ignore_errors = True  # of the end that comes now
            pipe.proc.kill()
            pipe.close()

    def _printed(self, url: str, pipe: Any) -> Iterator[bytes]:
        try:
            while select.select([pipe.stream], [], [], self.patience.stall)[0]:
                piece = pipe.read(1 << 20)
                if not piece:
                    pipe.wait_for_child()
                    return
                yield piece
        except OSError:
            problem = f"the command ended with exit code {pipe.status}"
            if pipe.status in NO_COMMAND:
                raise UserError(url, problem, "see its message above") from None
            raise PassingError(problem) from None
        raise PassingError(f"stalled: no byte in {self.patience.stall:.0f} s")
