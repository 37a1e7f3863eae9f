"""How a benchmark's answers are generated: the settings that bear its name."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hadpo.generation import Decoding


def decoding_of(name: str, settings: Any, *, stop_at: str = "") -> "Decoding":
    """Beams and length by the benchmark's own settings, the repetition penalty by that of all."""
    from hadpo.generation import Decoding  # it needs torch; scoring does not

    return Decoding(
        name=name,
        beams=getattr(settings, f"{name}_beams"),
        max_new_tokens=getattr(settings, f"{name}_max_new_tokens"),
        repetition_penalty=settings.repetition_penalty,
        stop_at=stop_at,
    )
