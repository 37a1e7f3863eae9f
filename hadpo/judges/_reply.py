"""Read a language model's ruling as the original SHR script does."""

from hadpo.records import Case, Verdict

_KNOWN = ("hallucination", "correct", "cannot judge")


def read_upstream(reply: str, case: Case) -> list[Verdict]:
    r"""Verdicts of a reply: lines "1. correct: reason" after the line with "Judgement:".

    One line too many or too few leaves every claim unparsed, as does a reply without that line
    (which stops the original). The class is all lower-cased text between the first space of a line
    and its first colon; a class that is not exactly one of the three is unparsed, its text kept in
    `raw`. Source: HA-DPO shr_eval/shr_utils.py, `post_process_no_revise`.
    """
    lines = [line for line in reply.split("\n") if line]
    heads = [number for number, line in enumerate(lines) if "Judgement:" in line]
    rulings: list[str | None] = []
    if heads:
        stripped = (" ".join(line.split(" ")[1:]).strip() for line in lines[heads[0] + 1 :])
        rulings = [line for line in stripped if line]
    if len(rulings) != len(case.claims):
        rulings = [None] * len(case.claims)
    return [_verdict(case, claim, line) for claim, line in zip(case.claims, rulings, strict=True)]


def _verdict(case: Case, claim: str, line: str | None) -> Verdict:
    name, _, reason = (line or "").partition(":")
    label = name.lower()
    return Verdict(
        case_id=case.case_id,
        model=case.model,
        claim=claim,
        label=label if label in _KNOWN else "unparsed",  # pyright: ignore[reportArgumentType]
        reason=reason.strip(),
        raw=line or "",
    )
