"""A clock that goes on when it is told to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from cir_rt.profile.questions import Question


class Clock:
    """Seconds since the test began."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += max(seconds, 1e-9)  # less is lost in rounding, and a real clock goes on


def questions(count: int) -> list[Question]:
    return [Question(image=str(i), text="in red") for i in range(count)]


def takes(
    clock: Clock, seconds: Callable[[int], float], seen: list[list[str]] | None = None
) -> Callable[[Sequence[Question]], Mapping[str, float]]:
    """Return what answers n questions in seconds(n), nine tenths of which it owns up to."""

    def ask(asked: Sequence[Question]) -> Mapping[str, float]:
        spent = seconds(len(asked))
        clock.now += spent
        if seen is not None:
            seen.append([str(question.image) for question in asked])
        return {"image": 600 * spent, "prune": 300 * spent, "total": 900 * spent}

    return ask
