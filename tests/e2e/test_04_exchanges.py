"""What botocore's parsers make of our answer to every operation: the bytes are those that `crates/wire/tests/every.rs` holds ours
against. No service is needed."""

import importlib.util
import json
import tomllib
from pathlib import Path

import botocore
import botocore.session
import pytest
from botocore.parsers import create_parser

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "crates/wire/tests/golden"
ANSWERS = json.loads((GOLDEN / "every-answer.json").read_text())
EXCHANGES = json.loads((GOLDEN / "every.json").read_text())


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("generate", GOLDEN / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_answer_is_read_as_it_was_meant(generate):
    session, read = botocore.session.get_session(), 0
    for one in EXCHANGES:
        model = session.get_service_model(one["service"])
        shape = model.operation_model(one["operation"]).output_shape
        if shape is None:
            continue
        answer = ANSWERS[f"{one['service']}.{one['operation']}"]
        response = {"status_code": answer["status"], "headers": answer["headers"], "body": answer["body"].encode()}
        parsed = create_parser(model.metadata["protocol"]).parse(response, shape)
        metadata = parsed.pop("ResponseMetadata")
        assert metadata["HTTPStatusCode"] == 200 and metadata.get("RequestId"), one["operation"]
        assert generate.plain(parsed) == one["output"], one["operation"]
        read += 1
    assert read > 100


def test_the_requests_are_those_that_botocore_sends(generate):
    """The file is not older than the operations that are served, or than botocore."""
    with generate.fixed_time():
        assert generate.every(botocore.session.get_session()) == EXCHANGES


def without_documentation(value):
    if isinstance(value, list):
        return [without_documentation(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    is_noise = lambda key, inner: (  # noqa: E731
        isinstance(inner, str) and (key.startswith("documentation") or key in ("deprecatedMessage", "deprecatedSince"))
    ) or (isinstance(inner, bool) and key in ("deprecated", "box"))
    return {key: without_documentation(inner) for key, inner in value.items() if not is_noise(key, inner)}


def test_the_models_are_botocore_s():
    """What `cargo xtask codegen --update` wrote down, and the code is generated from, is what the newest botocore that the
    cases use has: no shape less, none of another form."""
    served = tomllib.loads((ROOT / "models/operations.toml").read_text())
    assert served["botocore"] == botocore.__version__
    loader = botocore.session.get_session().get_component("data_loader")
    for service in served["service"]:
        name, version = service["model"].split("/")
        theirs = without_documentation(loader.load_service_model(name, "service-2", version))
        ours = json.loads((ROOT / f"models/{service['id']}.json").read_text())
        assert sorted(ours["operations"]) == sorted(service["operations"])
        for kind in ("operations", "shapes"):
            for known, form in ours[kind].items():
                assert form == theirs[kind][known], (service["id"], known)
        model = botocore.session.get_session().get_service_model(name, version)
        reached = set()
        for operation in service["operations"]:
            named = model.operation_model(operation)
            roots = [named.input_shape, named.output_shape, *named.error_shapes]
            reach(roots, reached)
        assert reached == set(ours["shapes"])


def reach(shapes, reached):
    for shape in filter(None, shapes):
        if shape.name in reached:
            continue
        reached.add(shape.name)
        inner = {"structure": lambda s: s.members.values(), "list": lambda s: [s.member], "map": lambda s: [s.key, s.value]}
        reach(inner.get(shape.type_name, lambda _: [])(shape), reached)
