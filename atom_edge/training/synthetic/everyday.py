"""Everyday how-to text and plain textbook prose, written from the tables beside this file.

The tables hold facts about tasks, things, materials and school science in our own words, and the
program varies how they are put: as instructions, advice, explanations, questions with their
answers, and comparisons in which the sensible way is named as such.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources

Write = Callable[[random.Random], str]


@dataclass(frozen=True)
class Task:
    """Something that people do at home, in the kitchen, in the garden or outdoors."""

    goal: str
    needs: tuple[str, ...]
    steps: tuple[str, ...]
    reason: str
    mistake: str


def _rows(name: str) -> list[list[str]]:
    text = (resources.files(__package__) / name).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [[cell.strip() for cell in line.split("|")] for line in lines]


def _split(cell: str, mark: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in cell.split(mark))


_TASKS = [
    Task(goal, _split(needs, ","), _split(steps, ";"), reason, mistake)
    for goal, needs, steps, reason, mistake in _rows("tasks.txt")
]
_THINGS = _rows("things.txt")
_MATERIALS = _rows("materials.txt")
_SCIENCE = [(subject, _split(facts, ";")) for subject, facts in _rows("science.txt")]
# Things whose names take no article: plurals and what is not counted.
_NO_ARTICLE = {
    *("pliers", "scissors", "tweezers", "gloves", "boots", "socks", "soap", "shampoo", "thread"),
    *("yarn", "string", "tape", "glue", "paint", "sandpaper", "ice", "salt", "sugar", "vinegar"),
    *("oil", "flour", "yeast", "butter", "honey", "rope", "baking soda"),
}
_PEOPLE = ("Anna", "Ben", "Carla", "David", "Emma", "Farid", "Grace", "Hugo", "Ines", "Jack", "Kim")
_RELATIVES = ("mother", "father", "grandmother", "uncle", "neighbor", "teacher", "friend", "sister")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _list(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _sentences(steps: Sequence[str], chance: random.Random) -> str:
    """Join steps into prose, some of them opened by an adverb of order."""
    later = ("Then", "Next,", "After that,", "Now", "Then")
    said = []
    for number, step in enumerate(steps):
        if number == 0:
            opener = chance.choice(("First,", "To begin,", ""))
        elif number == len(steps) - 1:
            opener = chance.choice(("Finally,", "Last,", "Then", ""))
        else:
            opener = chance.choice((*later, "", ""))
        said.append(f"{opener} {step}." if opener else f"{_capital(step)}.")
    return " ".join(said)


def _instructions(chance: random.Random) -> str:
    task = chance.choice(_TASKS)
    title = chance.choice((f"How to {task.goal}", _capital(task.goal), f"The way to {task.goal}"))
    needs = chance.choice(
        (
            f"You will need {_list(task.needs)}.",
            f"What you need: {_list(task.needs)}.",
            f"Have {_list(task.needs)} ready.",
        )
    )
    if chance.random() < 0.5:
        body = "\n".join(f"{n}. {_capital(step)}." for n, step in enumerate(task.steps, start=1))
    else:
        body = _sentences(task.steps, chance)
    why = chance.choice(
        (
            f"This works because {task.reason}.",
            f"Why it works: {task.reason}.",
            f"The reason is simple: {task.reason}.",
            f"Be careful: {task.mistake}.",
            f"Remember that {task.mistake}.",
            f"{_capital(task.reason)}. {_capital(task.mistake)}.",
        )
    )
    return f"{title}\n\n{needs}\n\n{body}\n\n{why}"


def _question(chance: random.Random) -> str:
    task = chance.choice(_TASKS)
    asked = chance.choice(
        (
            f"How do I {task.goal}?",
            f"How do you {task.goal}?",
            f"How can I {task.goal}?",
            f"What is the best way to {task.goal}?",
            f"To {task.goal},",
            _capital(task.goal),
            f"how to {task.goal}",
        )
    )
    first = chance.randrange(len(task.steps))
    answer = chance.choice(
        (
            _sentences(task.steps, chance),
            ", ".join(task.steps[:-1]) + f", and {task.steps[-1]}.",
            f"{_capital(task.steps[first])}.",
            f"Use {_list(task.needs)}. {_sentences(task.steps[:3], chance)}",
            f"{_sentences(task.steps, chance)} {_capital(task.reason)}.",
        )
    )
    return f"Question: {asked}\nAnswer: {answer}"


def _details(chance: random.Random) -> str:
    task = chance.choice(_TASKS)
    place = chance.randrange(1, len(task.steps)) if len(task.steps) > 1 else 0
    other = chance.choice([t for t in _TASKS if t is not task])
    pairs = (
        (f"What do you need to {task.goal}?", f"{_capital(_list(task.needs))}."),
        (
            f"You want to {task.goal}. What do you do after you {task.steps[place - 1]}?",
            f"{_capital(task.steps[place])}.",
        ),
        (f"What should you know when you {task.goal}?", f"{_capital(task.reason)}."),
        (f"What can go wrong when you {task.goal}?", f"{_capital(task.mistake)}."),
        (
            f"Which of these helps you to {task.goal}: {chance.choice(other.needs)} or "
            f"{chance.choice(task.needs)}?",
            f"To {task.goal}, you need {_list(task.needs)}.",
        ),
    )
    chosen = chance.sample(pairs, k=chance.randint(1, 3))
    return "\n\n".join(f"Question: {question}\nAnswer: {answer}" for question, answer in chosen)


def _story(chance: random.Random) -> str:
    task = chance.choice(_TASKS)
    person, relative = chance.choice(_PEOPLE), chance.choice(_RELATIVES)
    steps = _sentences(
        [f"you {step}" if step.split()[0] != "or" else step for step in task.steps], chance
    )
    return chance.choice(
        (
            f'{person} wanted to {task.goal}. "What do I need?" {person} asked. "You need '
            f'{_list(task.needs)}," said the {relative}. "{steps} It works because '
            f'{task.reason}."',
            f"One day {person} had to {task.goal}, and the {relative} explained how it is done. "
            f'"{steps}" {person} did so, and it went well. "Remember," said the {relative}, '
            f'"{task.mistake}."',
        )
    )


def _thing(chance: random.Random) -> str:
    name, made, use, like = chance.choice(_THINGS)
    other = chance.choice([t for t in _THINGS if t[0] != name])
    a = name if name in _NO_ARTICLE else _article(name)
    b = other[0] if other[0] in _NO_ARTICLE else _article(other[0])
    said = [
        f"{_capital(a)} is used to {use}.",
        f"{_capital(a)} is made of {made}." if name not in _NO_ARTICLE else f"It is {like}.",
        f"If you want to {use}, take {a}.",
        f"To {use}, use {a}, not {b}.",
        f"{_capital(b)} is used to {other[2]}, but it is not the right thing to {use}.",
        f"People use {a} to {use} because it is {like}.",
        f"Question: What do you use to {use}?\nAnswer: {a}",
        f"Question: What is {a} used for?\nAnswer: to {use}",
        f"What can you do with {a}? You can {use}.",
    ]
    return "\n".join(chance.sample(said, k=chance.randint(2, 5)))


def _material(chance: random.Random) -> str:
    name, quality, therefore, example = chance.choice(_MATERIALS)
    said = [
        f"{_capital(name)} is {quality}.",
        f"Because {name} is {quality}, {therefore}.",
        f"We find {name} in many places; one example is {example}.",
        f"Question: Why is {name} useful?\nAnswer: {_capital(therefore)}.",
        f"Question: What is {name} like?\nAnswer: {_capital(name)} is {quality}.",
    ]
    return "\n".join(chance.sample(said, k=chance.randint(2, 4)))


def _lesson(chance: random.Random) -> str:
    subject, facts = chance.choice(_SCIENCE)
    chosen = chance.sample(facts, k=chance.randint(2, len(facts)))
    prose = " ".join(f"{fact}." for fact in chosen)
    opening = chance.choice(
        (
            f"{_capital(subject)}\n\n",
            f"What do we know about {subject}? ",
            f"In this lesson we learn about {subject}. ",
            "",
        )
    )
    closing = chance.choice(("", "", f" This is what we have learned about {subject}."))
    return opening + prose + closing


def _page(chance: random.Random) -> str:
    """Several short pieces of one kind, as on a page of tips."""
    write = chance.choice((_question, _details, _thing, _material))
    return "\n\n".join(write(chance) for _ in range(chance.randint(3, 6)))


_WRITERS: tuple[tuple[Write, int], ...] = (
    (_instructions, 6),
    (_question, 4),
    (_details, 3),
    (_story, 3),
    (_thing, 2),
    (_material, 1),
    (_lesson, 3),
    (_page, 4),
)


def documents(seed: int) -> Iterator[str]:
    """Yield documents without end, the same ones for the same seed."""
    chance = random.Random(seed)
    writers = [write for write, _ in _WRITERS]
    weights = [weight for _, weight in _WRITERS]
    while True:
        yield chance.choices(writers, weights)[0](chance)
