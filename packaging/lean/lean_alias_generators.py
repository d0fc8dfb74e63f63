"""The one function of pydantic.alias_generators that our models use."""


def to_camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(word.title() for word in others)
