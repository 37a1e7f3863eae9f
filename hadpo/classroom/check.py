"""A student's answer beside the right one; a wrong one stops the notebook with a hint."""

from dataclasses import dataclass


class WrongAnswer(AssertionError):
    """The answer is not right; the message is a hint, never the answer."""


@dataclass(frozen=True)
class Checked:
    """What is said of an answer."""

    text: str

    def _repr_markdown_(self) -> str:
        return self.text


def check(answer: object, right: float | str | bool, *, hint: str, within: float = 0.0) -> Checked:
    """Compare an answer; None is none yet, which is said and lets the notebook go on.

    Args:
        answer: the student's variable.
        right: what it should be; a text is compared without case and outer blanks.
        hint: what to look at again.
        within: how far a number may be off.

    Raises:
        WrongAnswer: another answer, or one of another kind.
    """
    if answer is None:
        return Checked("*No answer yet: put yours in the cell above, then run both cells.*")
    if isinstance(right, str):
        is_right = isinstance(answer, str) and answer.strip().lower() == right.strip().lower()
    elif isinstance(right, bool):
        is_right = answer is right
    else:
        is_number = isinstance(answer, int | float) and not isinstance(answer, bool)
        is_right = is_number and abs(answer - right) <= within  # pyright: ignore[reportOperatorIssue]
    if not is_right:
        raise WrongAnswer(f"{answer!r} is not it. Hint: {hint}")
    return Checked(f"✓ **Right:** `{answer!r}`.")
