"""What botocore's parsers make of our answers: of every operation with every member, the bytes that `crates/wire/tests/every.rs`
holds ours against; and those that the operations themselves give (`crates/eks/tests/exchanges.rs`). No service is needed."""

import importlib.util
import json
import tomllib
from pathlib import Path

import botocore
import botocore.session
import pytest
from botocore.parsers import create_parser
from botocore.validate import ParamValidator
from violations import complaints

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "crates/wire/tests/golden"
ANSWERS = json.loads((GOLDEN / "every-answer.json").read_text())
STEPS = ROOT / "crates/eks/tests/exchanges"
EXCHANGES = json.loads((GOLDEN / "every.json").read_text())


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("generate", GOLDEN / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parsed_by(model, answer, shape):
    response = {"status_code": answer["status"], "headers": answer["headers"], "body": answer["body"].encode()}
    return create_parser(model.metadata["protocol"]).parse(response, shape)


def test_every_answer_is_read_as_it_was_meant(generate):
    session, read = botocore.session.get_session(), 0
    for one in EXCHANGES:
        model = session.get_service_model(one["service"])
        shape = model.operation_model(one["operation"]).output_shape
        if shape is None:
            continue
        answer = ANSWERS[f"{one['service']}.{one['operation']}"]
        parsed = parsed_by(model, answer, shape)
        metadata = parsed.pop("ResponseMetadata")
        assert metadata["HTTPStatusCode"] == 200 and metadata.get("RequestId"), one["operation"]
        assert generate.plain(parsed) == one["output"], one["operation"]
        read += 1
    assert read > 100


def test_the_requests_are_those_that_botocore_sends(generate):
    """The file is not older than the operations that are served, or than botocore."""
    with generate.fixed_time():
        assert generate.every(botocore.session.get_session()) == EXCHANGES


def test_what_the_operations_answer_is_what_their_models_say(generate):
    """Every member is of its type, within its bounds, of its pattern and of its words; and in JSON nothing is there that the model
    has not (botocore's parsers pass over it)."""
    session = botocore.session.get_session()
    requests = json.loads((STEPS / "requests.json").read_text())
    assert generate.scenario(session) == requests
    answers = json.loads((STEPS / "answers.json").read_text())
    assert [f"{one['service']}.{one['operation']}" for one in requests] == [name for name, _ in answers]
    for name, answer in answers:
        service, operation = name.split(".")
        model = session.get_service_model(service)
        shape = model.operation_model(operation).output_shape
        parsed = parsed_by(model, answer, shape)
        if answer["status"] != 200:
            known = {error.error_code or error.name for error in model.operation_model(operation).error_shapes}
            assert parsed["Error"]["Code"] in known, name
            continue
        parsed.pop("ResponseMetadata")
        if shape:
            report = ParamValidator().validate(parsed, shape)
            assert not report.has_errors(), f"{name}: {report.generate_report()}"
            assert list(faults(shape, parsed)) == [], name
            if "json" in model.metadata["protocol"]:
                assert list(unknown(shape, json.loads(answer["body"]))) == [], name


def inside(shape, value):
    """(shape, value) of what is directly in it; members that the model has not are `None`."""
    if shape.type_name == "structure":
        names = {member.serialization.get("name", name): member for name, member in shape.members.items()}
        return [(names.get(name) or shape.members.get(name), inner) for name, inner in value.items()]
    if shape.type_name == "list":
        return [(shape.member, inner) for inner in value]
    if shape.type_name == "map":
        return [(shape.value, inner) for inner in value.values()]
    return []


def faults(shape, value):
    # AWS itself answers `"tags": {}`, which its models do not let.
    is_leaf = isinstance(value, (str, int, list, dict)) and shape.type_name not in ("structure", "boolean")
    if is_leaf and (shape.name, value) != ("TagMap", {}):
        yield from ((shape.name, value, said) for said in complaints(shape, value))
    for inner, given in inside(shape, value):
        yield from faults(inner, given)


def unknown(shape, value):
    for inner, given in inside(shape, value):
        if inner is None:
            yield shape.name, value
        elif given is not None:
            yield from unknown(inner, given)


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
