"""May these runs stand in one table? Only with the same questions, reading and judge."""

from collections.abc import Sequence
from typing import Any

from hadpo.records import BadInput
from hadpo.tables.results import RunResults


def differences(results: Sequence[RunResults]) -> list[str]:
    """What keeps runs from being compared, one sentence a field; empty where nothing does.

    Compared are the benchmarks and splits that runs share: the questions that were asked (ids,
    texts, right answers, images), how answers are read, and who judged.
    """
    first, found = results[0], []
    for other in results[1:]:
        shared = [place for place in first.asked if place in other.asked]
        for place in shared:
            if first.asked[place] != other.asked[place]:
                found.append(
                    f"questions of {' '.join(place)}: {first.name!r} answered {_of(first, place)}, "
                    f"{other.name!r} {_of(other, place)}"
                )
        for benchmark in dict.fromkeys(benchmark for benchmark, _ in shared):
            for field in ("readings", "judge"):
                one, two = (_decoding(r, benchmark).get(field) for r in (first, other))
                if one is not None and two is not None and one != two:
                    found.append(
                        f"{field} of {benchmark}: {one!r} of {first.name!r}, {two!r} of "
                        f"{other.name!r}"
                    )
    return found


def check_comparable(results: Sequence[RunResults]) -> None:
    """Raise BadInput, with every differing field, where runs may not stand in one table."""
    found = differences(results)
    if found:
        raise BadInput(
            f"these runs are not comparable: {'; '.join(found)}. Compare them apart, or ask for it "
            "all the same: hadpo compare --anyway, or on_difference=note"
        )


def _of(result: RunResults, place: tuple[str, str]) -> str:
    digest, count = result.asked[place]
    return f"{count} ({digest[:8]})"


def _decoding(result: RunResults, benchmark: str) -> dict[str, Any]:
    settings = result.settings.get("evaluate", {})
    noted = result.facts.get("decoding", {}).get(benchmark, {})
    return {"judge": settings.get("judge")} | noted
