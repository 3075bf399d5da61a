"""Every constraint of the models, broken one at a time by a request that botocore sends: AWS's code and words, and nothing changes.

`golden/violations.txt` has which of them are checked and with which code, `golden/gaps.txt` those that are not, with what
happens instead. UPDATE_GOLDEN=1 writes both again.
"""

import os
import sqlite3
import tomllib
from pathlib import Path

import botocore.exceptions
import pytest
from botocore import xform_name
from conftest import started
from ekstra_service import ROOT
from violations import broken, expected, sample

GOLDEN = Path(__file__).parent / "golden"
OPERATIONS = tomllib.loads((ROOT / "models/operations.toml").read_text())["service"]


@pytest.fixture(scope="module")
def alone():
    yield from started()


def revision(service):
    """Every change of a record makes it larger."""
    with sqlite3.connect(f"file:{service.home}/state.db?mode=ro", uri=True) as database:
        return database.execute("SELECT revision FROM head").fetchone()[0]


def answer(client, operation, parameters):
    """(status, code, message) of a refusal, or what botocore said before it sent anything."""
    try:
        done = getattr(client, xform_name(operation))(**parameters)
        return done["ResponseMetadata"]["HTTPStatusCode"], "accepted", ""
    except botocore.exceptions.ClientError as error:
        said = error.response
        assert said["ResponseMetadata"].get("RequestId"), (operation, said)
        return said["ResponseMetadata"]["HTTPStatusCode"], said["Error"]["Code"], said["Error"]["Message"]
    except Exception as error:  # noqa: BLE001: botocore's serializer has no errors of its own
        return None, "not sent", type(error).__name__


def operations(service):
    for served in OPERATIONS:
        client = service.client(served["id"], validate=False)
        for operation in served["operations"]:
            yield client, f"{served['id']}.{operation}", client.meta.service_model.operation_model(operation)


def compare(name, lines):
    told, path = "".join(f"{line}\n" for line in lines), GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(told)
    assert path.read_text().splitlines() == told.splitlines()


def test_every_constraint(alone):
    checked, gaps = [], []
    before = revision(alone)
    for client, name, model in operations(alone):
        members, codes = {}, set()
        for one in broken(model.input_shape) if model.input_shape else ():
            status, code, message = answer(client, model.name, one.value)
            if status == 400 and expected(one).fullmatch(message):
                codes.add(code)
                members.setdefault(one.path, []).append(one.constraint)
            else:
                gaps.append(f"{name} {one.path} {one.constraint}: {code}: {message[:200]}")
        if not members:
            gaps.append(f"{name}: the model has nothing to break")
            continue
        checked.append(f"{name} {' '.join(sorted(codes))}")
        checked += [f"  {path}  {', '.join(constraints)}" for path, constraints in members.items()]
    assert revision(alone) == before
    compare("violations.txt", checked)
    compare("gaps.txt", gaps)


def wrong(shape, is_json):
    """A value of another type, as far as botocore's serializers let one through."""
    in_body = is_json and shape.serialization.get("location") is None
    return {
        "string": ["a list"] if in_body else None,
        "boolean": ["a list"] if in_body else None,
        "integer": ["a list"] if in_body else "seven",
        "long": ["a list"] if in_body else "seven",
    }.get(shape.type_name)


def test_values_of_the_wrong_type(alone):
    told, before = [], revision(alone)
    for client, name, model in operations(alone):
        is_json = "json" in client.meta.service_model.metadata["protocol"]
        least = sample(model.input_shape) if model.input_shape else {}
        for member, shape in model.input_shape.members.items() if model.input_shape else ():
            value = wrong(shape, is_json)
            if value is not None:
                status, code, message = answer(client, model.name, least | {member: value})
                assert status == 400, (name, member, status, code)
                told.append(f"{name} {member}: {code}: {message}")
    assert revision(alone) == before
    compare("wrong-types.txt", told)
