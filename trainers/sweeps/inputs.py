"""Whether the files that the trials of a sweep read are there, before the first one starts."""

from typing import Any

from ...models.errors import UserError
from ..doctor.inputs import data, inputs
from .file import Sweep, trial_config


def check_inputs(sweep: Sweep) -> None:
    """Raises UserError about the first export, weights or data set that is missing or does not fit."""
    config: Any = trial_config(sweep, [])
    for finding in [*inputs(sweep.stage, config), *data(sweep.stage, config)[0]]:
        if finding.state == "wrong":
            raise UserError(finding.check.rstrip("="), finding.found, finding.remedy)
