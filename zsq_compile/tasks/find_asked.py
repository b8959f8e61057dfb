"""Read outputs as the kind of task that the user names, where they can be that."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from zsq_compile.errors import ConfigError
from zsq_compile.tasks.find_facts import OutputFacts
from zsq_compile.tasks.find_rows import find_blank, row_squash
from zsq_compile.tasks.task import OutputMeaning, OutputRole, Task, TaskKind

_ROLES: Mapping[TaskKind, tuple[OutputRole, ...]] = {
    "classification": ("class scores",),
    "segmentation": ("mask",),
    "heatmaps": ("heatmap",),
    "text": ("characters",),
    "decisions": ("probabilities",),
    "embedding": ("embedding",),
    "regression": ("numbers", "landmarks"),
    "image": ("image",),
    "indices": ("indices",),
}
_NEEDS: Mapping[TaskKind, str] = {
    "classification": "an output with at least two numbers for each sample",
    "detection": "outputs with four box numbers and scores for the same places",
    "segmentation": "an output with a number for each pixel",
    "heatmaps": "an output with a map for each point",
    "text": "an output with a row of scores for each of several steps",
    "decisions": "an output of floats",
    "embedding": "an output with at least two numbers for each sample",
    "regression": "an output of floats",
    "image": "an output with a number for each pixel",
    "indices": "an output of integers",
}
REASON = "you say so"


def as_asked(task: Task, outputs: Sequence[OutputFacts], asked: TaskKind) -> Task:
    """Read the outputs of a recognised task as those of the kind that the user names.

    Raises:
        ConfigError: none of them can be that.

    """
    if asked == task.kind:
        return replace(task, reason=REASON, asked=True)
    if asked == "detection":
        raise _refuse(asked, outputs)
    roles = _ROLES[asked]
    meanings = list(task.outputs)
    if not any(one.role in roles for one in meanings):
        free = [place for place, one in enumerate(meanings) if one.role not in ("state", "count")]
        fitting = [place for place in free if _fits(outputs[place], asked)]
        if not fitting:
            raise _refuse(asked, outputs)
        for place in fitting:
            meanings[place] = _read_as(outputs[place], roles[0])
    blank = next((find_blank(one) for one in outputs if _is_role(meanings, one.name, "characters")), None)
    return Task(kind=asked, reason=REASON, outputs=tuple(meanings), blank=blank, asked=True)


def _fits(facts: OutputFacts, asked: TaskKind) -> bool:
    if asked == "indices":
        return not facts.is_float
    if not facts.is_float:
        return False
    if asked in ("classification", "embedding"):
        return facts.columns > 1 and facts.places == 1
    if asked in ("segmentation", "heatmaps", "image"):
        return min(facts.grid) > 1
    if asked == "text":
        return facts.columns > 1 and facts.places > 1 and not facts.grid[0]
    return True


def _read_as(facts: OutputFacts, role: OutputRole) -> OutputMeaning:
    squash = row_squash(facts)
    scored = role in ("class scores", "mask", "characters", "probabilities")
    scores = {"sigmoid": "probabilities", "softmax": "probabilities", "log softmax": "log probabilities"}
    kind = scores.get(squash, "logits") if scored else None
    return OutputMeaning(
        name=facts.name,
        role=role,
        reason=REASON,
        axis=facts.axis,
        scores=kind,  # type: ignore[arg-type]
        samples=facts.samples,
        entries=facts.entries,
    )


def _is_role(meanings: Sequence[OutputMeaning], name: str, role: OutputRole) -> bool:
    return any(one.name == name and one.role == role for one in meanings)


def _refuse(asked: TaskKind, outputs: Sequence[OutputFacts]) -> ConfigError:
    there = ", ".join(
        f"{one.name} {'x'.join('?' if size is None else str(size) for size in one.shape)}" for one in outputs
    )
    return ConfigError(
        f"task '{asked}' needs {_NEEDS[asked]}; the network has {there}: name another task, or leave it out"
    )
