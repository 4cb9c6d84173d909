"""Pydantic's classes through openai's parse(): each is obeyed for every seed, or refused
with 400 that names the keyword.

SEEDS in the environment says how many seeds, OPENAI_BASE_URL where the service is.
"""

import datetime
import enum
import os
import sys
import uuid
from decimal import Decimal
from typing import Annotated, Literal, Optional, Union

import openai
import pydantic
from pydantic import BaseModel, Field


class Address(BaseModel):
    street: str
    zip_code: Optional[str] = None


class Person(BaseModel):
    """Optional fields and a nested model that may be null."""

    name: str
    age: Optional[int] = None
    address: Optional[Address] = None
    former: Optional[list[Address]] = Field(default=None, max_length=2)


class Event(BaseModel):
    """Formats of strings."""

    day: datetime.date
    at: datetime.datetime
    begins: datetime.time
    number: uuid.UUID


class Colour(str, enum.Enum):
    RED = "red"
    GREEN = "green"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 20


class Paint(BaseModel):
    """Enums, literals of several types, a constant."""

    colour: Colour
    level: Level
    kind: Literal["paint"]
    coats: Literal[1, 2, 3]
    finish: Literal["matt", 7, None]
    wet: Literal[True]


class Batch(BaseModel):
    """Bounds of lists, and a tuple."""

    sizes: Annotated[list[int], Field(min_length=2, max_length=4)]
    names: Annotated[list[Literal["a", "b", "c"]], Field(max_length=3)]
    pair: tuple[int, Literal["x", "y"]]


class Account(BaseModel):
    """Bounds and patterns of strings."""

    user: Annotated[str, Field(min_length=3, max_length=8)]
    code: Annotated[str, Field(pattern=r"^[A-Z]{2}-[0-9]{3}$")]
    note: Annotated[str, Field(max_length=5)]


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: Annotated[int, Field(ge=1, le=9)]


class Dog(BaseModel):
    kind: Literal["dog"]
    breed: Literal["poodle", "terrier"]


class Pet(BaseModel):
    """A discriminated union."""

    animal: Annotated[Union[Cat, Dog], Field(discriminator="kind")]
    others: Annotated[
        list[Annotated[Union[Cat, Dog], Field(discriminator="kind")]], Field(max_length=2)
    ]


class Node(BaseModel):
    """A tree."""

    value: Annotated[int, Field(ge=0, le=99)]
    children: Annotated[list["Node"], Field(max_length=2)]


class Scores(BaseModel):
    """Maps."""

    points: dict[str, int]
    nested: dict[str, list[bool]]


class Price(BaseModel):
    """Numbers with bounds."""

    share: Annotated[float, Field(gt=0, lt=1)]
    count: Annotated[int, Field(gt=0, le=12)]
    step: Annotated[int, Field(multiple_of=5, ge=0, le=100)]


# As Pydantic 2.12 writes it, with a pattern that looks ahead; 2.14 lets any string through.
DECIMAL = {
    "anyOf": [
        {"type": "number", "minimum": 0, "maximum": 1000},
        {"type": "string", "pattern": r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"},
    ]
}


class Invoice(BaseModel):
    """A decimal: a number or a string."""

    amount: Annotated[Decimal, pydantic.WithJsonSchema(DECIMAL)]
    paid: bool


class Base(BaseModel):
    id: Annotated[int, Field(ge=0, le=9999)]


class Derived(Base):
    """Inheritance, and a reference with a description beside it."""

    parent: Base = Field(description="what it was made of")
    colour: Colour = Field(default=Colour.RED, description="its colour")


class Mixed(BaseModel):
    """Unions of plain and of nested types."""

    value: Union[int, bool, None, Address]
    matrix: Annotated[
        list[Annotated[list[Literal[0, 1]], Field(min_length=2, max_length=2)]],
        Field(min_length=1, max_length=2),
    ]


CLASSES = [
    Person, Event, Paint, Batch, Account, Pet, Node, Scores, Price, Invoice, Derived, Mixed,
]

# Of the tests' tiny model: quotation mark and brackets that end something, so that what
# has no bound ends as well; and the end of what it thinks.
BIAS = {"4": 3, "63": 4, "95": 4}
# Those that a refusal may name.
KEYWORDS = set(
    "anyOf oneOf allOf $ref format pattern const enum items prefixItems additionalProperties "
    "propertyNames minItems maxItems minLength maxLength minimum maximum exclusiveMinimum "
    "exclusiveMaximum multipleOf".split()
)
ASK = "Give an example in JSON."
client = openai.OpenAI(api_key="none", max_retries=0)


def keywords(value):
    """All names in a schema that could be a keyword."""
    if isinstance(value, dict):
        return set(value).union(*map(keywords, value.values()))
    if isinstance(value, list):
        return set().union(*map(keywords, value))
    return {value} if isinstance(value, str) else set()


def chat(wanted, seed):
    whole = client.chat.completions.parse(
        model="v4-flash", seed=seed, max_tokens=2000, logit_bias=BIAS, response_format=wanted,
        messages=[{"role": "user", "content": ASK}],
        extra_body={"thinking": {"type": "disabled"}},
    )
    return whole.choices[0].message.content


def responses(wanted, seed):
    whole = client.responses.parse(
        model="v4-flash", input=ASK, text_format=wanted, reasoning={"effort": "none"},
        max_output_tokens=2000, extra_body={"seed": seed, "logit_bias": BIAS},
    )
    assert whole.status == "completed", whole.incomplete_details
    return whole.output_text


def judge(wanted, call, seeds):
    """None, or what is wrong; and how it went."""
    obeyed = cut = 0
    for seed in range(seeds):
        try:
            text = call(wanted, seed)
        except openai.BadRequestError as error:
            there = KEYWORDS & keywords(wanted.model_json_schema())
            named = any(keyword in error.message for keyword in there)
            return (None if named else "refused without a keyword"), f"refused: {error.message}"
        except (openai.LengthFinishReasonError, AssertionError):
            cut += 1
            continue
        except (pydantic.ValidationError, openai.OpenAIError, ValueError) as error:
            return f"seed {seed}: {error}", "disobeyed"
        try:
            wanted.model_validate_json(text, strict=True)
        except pydantic.ValidationError as error:
            return f"seed {seed}: {text[:300]}: {error}", "disobeyed"
        obeyed += 1
    wrong = None if obeyed > cut else f"only {obeyed} of {seeds} came to their end"
    return wrong, f"obeyed for {obeyed} seeds" + (f", {cut} cut" if cut else "")


def main():
    seeds = int(os.environ.get("SEEDS", "20"))
    failed = 0
    for wanted in CLASSES:
        for call in (chat, responses):
            wrong, how = judge(wanted, call, seeds)
            failed += wrong is not None
            line = f"pydantic {wanted.__name__} {call.__name__}: {how}"
            print(line if wrong is None else f"{line}: FAILED: {wrong}", flush=True)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
