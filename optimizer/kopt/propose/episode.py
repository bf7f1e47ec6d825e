"""A model drives the run in episodes: fresh conversations that start from the brief and a digest of the run.

Two thousand tool calls never meet a context limit this way. All that is said is in the journal before it is used, so a
conversation that a crash cut short is read back and goes on in the middle: it costs neither money nor text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from kopt import journal
from kopt.interact.arguments import HandOver
from kopt.interact.tools import Refused, Toolbox, definitions, parse
from kopt.propose import brief as briefs
from kopt.propose.actions import Action, Nothing, actions
from kopt.propose.asking import Silent, StartOver, Unanswered, ask, pace
from kopt.propose.conversation import Answer, Client, Conversation, Reply, Turn
from kopt.propose.opening import begin_from, how_to_act, opening
from kopt.propose.plateau import Plan, plan
from kopt.propose.templates import render
from kopt.session import Session, Stop

IDLE = 3
"""Replies in a row without an action that end an episode."""
BARREN = 4
"""Episodes in a row without a call that could be carried out, after which a model is given up."""
CONTEXT = 0.6
"""Share of a model's context that a conversation may fill before it ends: the next reply and its results must fit."""
LEFT = 5
"""From so many calls on, the model is told how many it has left."""


class Episodes:
    """The proposer behind `--model`. Clients are asked in the order given, the next when one is at its end."""

    def __init__(self, clients: Sequence[Client], *, start: str = "", wait: Callable[[int], float] = pace) -> None:
        """`start` is a kernel to begin from; `wait` gives the seconds before a retry, by how many failed before."""
        self._clients = list(clients)
        self._start = start
        self._wait = wait
        self._dead: dict[int, str] = {}
        self._barren = 0

    def drive(self, session: Session) -> None:
        try:
            self._drive(session)
        finally:
            for client in self._clients:
                client.close()

    def _drive(self, session: Session) -> None:
        begin_from(session, self._start)
        self._warn_about_prices(session)
        names = [client.name for client in self._clients]
        while True:
            session.check()
            episode = session.run.dialogue.episode
            if episode is None or episode.ended or episode.model not in names:
                planned = plan(session.run, names, captured=session.task.score.launch == "graph")
                index = self._alive(planned.model)
                name = self._clients[index].name
                if self._clients[index].done(session.run.dialogue.replies[name]):
                    return
                self._begin(session, planned, self._clients[index])
            else:
                index = self._alive(names.index(episode.model))
            talk = Talk(session, self._clients[index], self._wait)
            try:
                talk.go_on()
                self._count(session, index, talk.fruitful)
            except Silent:
                _end(session, "the model has nothing more to say")
                return
            except StartOver as why:
                _end(session, str(why))
                self._count(session, index, talk.fruitful)
            except Unanswered as why:
                _end(session, f"no answer: {why}")
                self._give_up(session, index, str(why))

    def _alive(self, index: int) -> int:
        """The client at `index`, or the next one that still answers; Stop when none does."""
        count = len(self._clients)
        for i in ((index + k) % count for k in range(count)):
            if i not in self._dead:
                return i
        raise Stop("; ".join(f"{self._clients[i].name}: {why}" for i, why in self._dead.items()))

    def _give_up(self, session: Session, index: int, why: str) -> None:
        self._dead[index] = why
        session.record("notice", text=f"{self._clients[index].name}: {why}")

    def _count(self, session: Session, index: int, fruitful: bool) -> None:
        self._barren = 0 if fruitful else self._barren + 1
        if self._barren >= BARREN:
            self._barren = 0
            self._give_up(session, index, f"{BARREN} episodes without a call that could be carried out")

    def _begin(self, session: Session, planned: Plan, client: Client) -> None:
        dialogue = session.run.dialogue
        text = briefs.brief(
            session.task,
            session.run.meta.target,
            session.budget,
            measured=session.measures,
            tools=how_to_act(_calls_tools(session, client)),
        )
        sha = hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16]
        if sha not in dialogue.briefs:
            session.record("brief", sha=sha, text=text)
        session.record(
            "episode",
            episode=dialogue.episode.n + 1 if dialogue.episode else 1,
            mode=planned.mode,
            model=client.name,
            brief=sha,
            opening=opening(session.run, planned),
        )

    def _warn_about_prices(self, session: Session) -> None:
        """A cap in dollars holds only where prices are known; say so once a process."""
        if session.budget.dollars is None:
            return
        for client in self._clients:
            if client.highest_price(Conversation(brief="", opening="")) is None:
                tokens = session.budget.tokens
                instead = "set --max-tokens to limit it" if tokens is None else f"the limit of {tokens:,} tokens holds"
                text = (
                    f"{client.name}: its price is unknown, so ${session.budget.dollars:g} cannot be enforced; {instead}"
                )
                if text not in session.run.dialogue.notices:
                    session.record("notice", text=text)


class Talk:
    """One episode's conversation, from wherever the journal left it to its end."""

    def __init__(self, session: Session, client: Client, wait: Callable[[int], float]) -> None:
        self._session = session
        self._client = client
        self._wait = wait
        self._box = Toolbox(session, f"model:{client.name}")
        self._tools = definitions() if _calls_tools(session, client) else []
        self._opened, self._turns = read_back(session)
        self._handed: HandOver | None = None

    @property
    def fruitful(self) -> bool:
        """Whether any call was carried out."""
        return any(answer.ok for turn in self._turns for answer in turn.answers)

    def go_on(self) -> None:
        """Ask, act, answer, until the episode is over and its end is on record."""
        while True:
            if self._turns:
                self._act()
                if why := self._over():
                    handed = self._handed
                    summary, ideas = (handed.summary, handed.ideas) if handed else ("", [])
                    _end(self._session, why, summary, ideas)
                    return
            said = self._opened.model_copy(update={"turns": tuple(hinted(self._turns))})
            self._turns.append(Turn(reply=ask(self._session, self._client, said, self._tools, self._wait)))

    def _act(self) -> None:
        """Carry out what the latest reply asks for and was not answered yet."""
        session, turn = self._session, self._turns[-1]
        episode = session.run.dialogue.episode
        assert episode is not None
        asked = actions(turn.reply, session.task.entry, self._client.max_tokens)
        place = f"{episode.n}.{len(self._turns)}"
        answers = list(turn.answers)
        if isinstance(asked, Nothing):
            if not answers:
                self._box.nothing(asked.why, asked.answer, key=f"{place}.1", episode=episode.n)
                answers.append(Answer(text=asked.answer, ok=False))
        else:
            for i, action in enumerate(asked[len(answers) :], len(answers) + 1):
                result = self._box.call(
                    action.name, action.arguments, key=f"{place}.{i}", episode=episode.n, keep=False
                )
                answers.append(Answer(text=result.text, id=action.id, name=action.name, ok=result.ok))
            self._handed = next((found for action in asked if (found := _handed(action))), None)
        self._turns[-1] = turn.model_copy(update={"answers": tuple(answers)})

    def _over(self) -> str:
        """Why the episode ends here, or "". A function of the turns, so that a resumed one ends at the same place."""
        if self._handed is not None:
            return "handed over"
        if _count(self._turns) >= briefs.CALLS:
            return f"its {briefs.CALLS} tool calls are spent"
        if len(self._turns) >= IDLE and not any(a.name for turn in self._turns[-IDLE:] for a in turn.answers):
            return f"{IDLE} replies in a row without an action"
        usage = self._turns[-1].reply.usage
        if usage.input + usage.output > CONTEXT * self._client.context:
            return f"{usage.input + usage.output} tokens, more than {CONTEXT:.0%} of the model's context"
        return ""


def read_back(session: Session) -> tuple[Conversation, list[Turn]]:
    """The current episode as the journal has it."""
    run = session.run
    episode = run.dialogue.episode
    assert episode is not None
    path = run.folder / journal.FILE
    opened = Conversation(
        brief=journal.read_at(path, *run.dialogue.briefs[episode.brief])["text"],
        opening=journal.read_at(path, *episode.place)["opening"],
    )
    turns: list[Turn] = []
    for type, place in episode.events:
        payload = journal.read_at(path, *place)
        if type == "reply":
            kept = {key: value for key, value in payload.items() if key in Reply.model_fields}
            turns.append(Turn(reply=Reply.model_validate(kept)))
        else:
            turn = turns[-1]
            calls = turn.reply.calls
            id = calls[len(turn.answers)].id if len(turn.answers) < len(calls) else ""
            answer = Answer(text=payload["text"], id=id, name=payload["name"], ok=payload["ok"])
            turns[-1] = turn.model_copy(update={"answers": (*turn.answers, answer)})
    return opened, turns


def hinted(turns: Sequence[Turn]) -> list[Turn]:
    """The turns with a reminder of how many calls are left, where few are."""
    shown, count = [], 0
    for turn in turns:
        count += len(turn.answers)
        left = briefs.CALLS - count
        if turn.answers and left <= LEFT:
            *before, last = turn.answers
            last = last.model_copy(update={"text": f"{last.text}\n\n{render('left', calls=left)}"})
            turn = turn.model_copy(update={"answers": (*before, last)})
        shown.append(turn)
    return shown


def _calls_tools(session: Session, client: Client) -> bool:
    return client.tools and client.name not in session.run.dialogue.toolless


def _count(turns: Sequence[Turn]) -> int:
    return sum(len(turn.answers) for turn in turns)


def _handed(action: Action) -> HandOver | None:
    if action.name != "hand_over":
        return None
    try:
        parsed = parse(action.name, action.arguments)
    except Refused:
        return None
    return parsed if isinstance(parsed, HandOver) else None


def _end(session: Session, why: str, summary: str = "", ideas: Sequence[str] = ()) -> None:
    episode = session.run.dialogue.episode
    if episode is not None and not episode.ended:
        session.record("episode_end", episode=episode.n, why=why, summary=summary, ideas=list(ideas))
