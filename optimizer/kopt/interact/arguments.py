"""What each tool takes. One definition serves API models, MCP clients and the socket of a live run."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from kopt.records import pinned

SOURCE = 200_000
"""Characters a source may have; kernels have 3,000 to 15,000."""
IDEA = 1000
"""Characters a direction may have; one sentence is asked for."""


class Arguments(BaseModel):
    """Unknown keys are refused by name, so that a misspelt one is noticed by whoever wrote it."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, frozen=True)


class _WithSource(Arguments):
    source: str = Field(min_length=1, max_length=SOURCE)
    """The complete kernel file."""

    @field_validator("source")
    @classmethod
    def _text(cls, source: str) -> str:
        return unfenced(source)


class Evaluate(_WithSource):
    note: str = Field(min_length=1, max_length=2000)
    """What changed, in at most eight words, then a colon and why."""
    parent: int | None = Field(default=None, ge=1)
    """Number of the submission this was derived from."""
    parameters: Annotated[dict[str, int | float | str | bool], AfterValidator(pinned)] | None = None
    """Values for keyword-only parameters of the entry, in place of their defaults."""
    trials: int | None = Field(default=None, ge=0, le=64)
    """Points of the file's TUNE space to try; by default 8, if the file declares one."""


class Screen(_WithSource):
    parameters: Annotated[dict[str, int | float | str | bool], AfterValidator(pinned)] | None = None
    """Values for keyword-only parameters of the entry, in place of their defaults."""


class Read(Arguments):
    submission: int = Field(ge=1)
    what: Literal["source", "verdict", "diff"] = "source"
    against: int | None = Field(default=None, ge=1)
    """For a diff: the older submission; its parent by default."""


class History(Arguments):
    order: Literal["recent", "best", "failed"] = "recent"
    count: int = Field(default=20, ge=1, le=60)


class Profile(Arguments):
    submission: int | None = Field(default=None, ge=1)
    """The best one by default."""


class Sass(Arguments):
    submission: int | None = Field(default=None, ge=1)
    """The best one by default."""
    kernel: str = Field(default="", max_length=200)
    """Name of one of its kernels; the one with the most matrix instructions by default."""


class Lesson(Arguments):
    text: str = Field(min_length=1, max_length=600)
    """One thing learnt that later episodes need: mechanism and method, not numbers."""


class HandOver(Arguments):
    summary: str = Field(min_length=1, max_length=4000)
    """Where things stand: what was tried, what it did, what you would do next."""
    ideas: list[str] = Field(default=[], max_length=10)
    """Directions worth trying, one sentence each."""

    @field_validator("ideas")
    @classmethod
    def _short(cls, ideas: list[str]) -> list[str]:
        if any(len(idea) > IDEA for idea in ideas):
            raise ValueError(f"a direction has at most {IDEA} characters")
        return ideas


TOOLS: dict[str, tuple[type[Arguments], str]] = {
    "evaluate": (
        Evaluate,
        "Judge a complete kernel file and record it as a submission: is it right, how fast is it, what binds it.",
    ),
    "screen": (
        Screen,
        "Check a complete kernel file without a GPU and without recording it: contract, compilation, results, model.",
    ),
    "read": (Read, "Source, verdict or diff of an earlier submission."),
    "history": (History, "What was tried: number, parent, score or failure, note."),
    "profile": (
        Profile,
        "Where the time of a submission goes, shape by shape, and what the compiler made of its kernels.",
    ),
    "sass": (Sass, "The hot loop of a submission's kernel: its instructions by source line."),
    "lesson": (Lesson, "Keep a sentence that outlives this conversation."),
    "hand_over": (HandOver, "End this episode and say what the next one must know."),
}


def schema(name: str) -> dict[str, Any]:
    """JSON schema of a tool's arguments."""
    made = TOOLS[name][0].model_json_schema()
    made.pop("title", None)
    for value in made["properties"].values():
        value.pop("title", None)
    made.pop("description", None)
    return made


def unfenced(source: str) -> str:
    """The file inside a Markdown fence, if the whole argument is one."""
    lines = source.strip().splitlines()
    if len(lines) >= 2 and lines[0].startswith("```") and lines[-1].strip() == "```":
        return "\n".join(lines[1:-1]) + "\n"
    return source
