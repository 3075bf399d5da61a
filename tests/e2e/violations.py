"""The constraints of AWS's models, and requests that break one of them each.

Written from the models alone, as botocore has them: what the service makes of a request, its own tables say.
"""

import re
from dataclasses import dataclass, replace

# Java's classes in Python's words, as far as the values here need them.
CLASSES = {r"\p{L}": "a-zA-Z\u00c0-\u024f", r"\p{Z}": " \u00a0", r"\p{N}": "0-9", r"\p{P}": "!-/:-@[-`{-~", r"\p{S}": "$+<=>^`|~"}
GOOD = [
    "a", "1", "abcdefghijkl", "1.36", "arn:aws:iam::000000000000:role/name", "arn:aws:iam::aws:policy/x", "/", "/a/",
    "000000000000", "a.amazonaws.com", "2026-01-01", "ami-0123456789abcdef0", "12345678-1234-1234-1234-123456789012",
    "https://a.example", "AKIAIOSFODNN7EXAMPLE", "aws:kms", "10.0.0.0/16", "123456", "v1",
]  # fmt: skip
BAD = ["%", "é\u0007", " ", "^", "\u4e00", ""]


@dataclass(frozen=True)
class Broken:
    path: str
    constraint: str
    """As the model has it: `missing`, `min 1`, `max 100`, `pattern`, `enum`."""
    said: list
    """One sentence for every constraint of the member that the value breaks."""
    is_secret: bool
    value: object


def satisfies(pattern, text):
    for java, python in CLASSES.items():
        pattern = pattern.replace(java, python)
    return re.fullmatch(pattern, text, re.ASCII) is not None


def bounds(what, size, limits):
    low, high = limits.get("min"), limits.get("max")
    if low is not None and size < low:
        yield f"Member must have {what} greater than or equal to {low:.0f}"
    if high is not None and size > high:
        yield f"Member must have {what} less than or equal to {high:.0f}"


def complaints(shape, value):
    """What AWS says of a value that is no structure."""
    limits = shape.metadata
    if isinstance(value, (list, dict)):
        return list(bounds("length", len(value), limits))
    if isinstance(value, int):
        return list(bounds("value", value, limits))
    said = list(bounds("length", len(value), limits))
    if (pattern := limits.get("pattern")) and not satisfies(pattern, value):
        said.append(f"Member must satisfy regular expression pattern: {pattern}")
    if shape.type_name == "string" and shape.enum and value not in shape.enum:
        said.append(f"Member must satisfy enum value set: [{', '.join(shape.enum)}]")
    return said


def first(values, is_wanted):
    return next((value for value in values if is_wanted(value)), None)


def sample(shape, inside=()):
    """The least that breaks nothing; `None` where no word of ours fits."""
    kind = shape.type_name
    if kind == "structure":
        if shape.name in inside:
            return {}
        # One that is empty is not sent where requests are forms.
        names = shape.required_members or (list(shape.members)[:1] if inside else [])
        return {name: sample(shape.members[name], (*inside, shape.name)) for name in names}
    low = int(shape.metadata.get("min", 0))
    if kind == "list":
        return [sample(shape.member, (*inside, shape.name))] * max(low, 1)
    if kind == "map":
        return {sample(shape.key, inside): sample(shape.value, inside)}
    if kind in ("integer", "long"):
        return max(low, 1)
    if kind == "string":
        if shape.enum:
            return shape.enum[0]
        fits = lambda text: not complaints(shape, text)  # noqa: E731
        return first([text for good in GOOD for text in (good, good * low)], fits)
    return {"boolean": True, "timestamp": 1_700_000_000, "blob": b"b", "float": 1.0, "double": 1.0}[kind]


def in_path(shape):
    return shape.serialization.get("location") == "uri"


def values_that_break(shape):
    """(constraint, a value that breaks it and as little else as can be)."""
    limits, kind, good = shape.metadata, shape.type_name, sample(shape)
    low, high = limits.get("min"), limits.get("max")
    if kind in ("integer", "long"):
        yield from [(f"min {low:.0f}", int(low) - 1)] if low is not None else []
        yield from [(f"max {high:.0f}", int(high) + 1)] if high is not None and high < 2**31 - 1 else []
    elif kind == "list":
        yield from [(f"min {low}", good[: low - 1])] if low else []
        yield from [(f"max {high}", good[:1] * (high + 1))] if high is not None else []
    elif kind == "map":
        ((key, value),) = good.items()
        yield from [(f"min {low}", {})] if low else []
        keys = (key + str(number) for number in range((high or 0) + 1))
        yield from [(f"max {high}", dict.fromkeys(keys, value))] if high is not None else []
    elif kind == "string":
        # A path with nothing at a place is another path.
        is_sent = low != 1 or not in_path(shape)
        yield from [(f"min {low}", (good or "a")[:1] * (low - 1))] if low and is_sent else []
        yield from [(f"max {high}", (good or "a")[:1] * (high + 1))] if high is not None else []
        if "pattern" in limits:
            (low, high) = (low or 0, high or 1000)
            padded = [text for bad in BAD for text in (bad, bad * low) if low <= len(text) <= high]
            bad = first(padded, lambda text: not satisfies(limits["pattern"], text))
            yield from [("pattern", bad)] if bad is not None else []
        if shape.enum:
            yield "enum", "no-such-value"


def broken(shape, path="", inside=()):
    """One for every constraint of a shape and of what is in it."""
    kind = shape.type_name
    is_secret = bool(shape.metadata.get("sensitive"))
    if kind != "structure":
        for constraint, value in values_that_break(shape):
            yield Broken(path, constraint, complaints(shape, value), is_secret, value)
    if kind == "list":
        for one in broken(shape.member, f"{path}.1.member", inside):
            yield replace(one, value=[one.value, *sample(shape)[1:]])
    if kind == "map":
        ((key, value),) = sample(shape).items()
        for one in broken(shape.value, f"{path}.{key}.member", inside):
            yield replace(one, value={key: one.value})
        for one in broken(shape.key, "", inside):
            yield replace(one, path=f"{path}.{one.value}.key", value={one.value: value})
    if kind != "structure" or shape.name in inside:
        return
    least = sample(shape, inside)
    for name, member in shape.members.items():
        here = ".".join(filter(None, [path, name[0].lower() + name[1:]]))
        if name in shape.required_members and not in_path(member):
            rest = {other: value for other, value in least.items() if other != name}
            yield Broken(here, "missing", ["Member must not be null"], False, rest)
        for one in broken(member, here, (*inside, shape.name)):
            yield replace(one, value=least | {name: one.value})


def expected(one):
    """The answer, as a pattern: how a long value is shown is not AWS's word."""
    told = r"Value null" if one.constraint == "missing" else "Value" if one.is_secret else r"Value '.*'"
    sentences = [f"{told} at '{re.escape(one.path)}' failed to satisfy constraint: {re.escape(said)}" for said in one.said]
    plural = "" if len(one.said) == 1 else "s"
    return re.compile(f"{len(one.said)} validation error{plural} detected: " + "; ".join(sentences), re.DOTALL)
