"""What the sections' fields are made of: strictness, and ranges that stand in the types.

A value out of range is refused before anything runs.
"""

from typing import Annotated

import pydantic
from pydantic import Field

STRICT = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)

Count = Annotated[int, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]
Amount = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]
ShareBelowHalf = Annotated[float, Field(ge=0, lt=0.5)]


def _minus_one_or_share(value: float) -> float:
    if value != -1 and not 0 <= value <= 1:
        raise ValueError("expected -1 or 0 to 1")
    return value


ShareOrMinusOne = Annotated[float, pydantic.AfterValidator(_minus_one_or_share)]
