"""What botocore's parsers make of our answer to every operation: the bytes are those that `crates/wire/tests/every.rs` holds ours
against. No service is needed."""

import importlib.util
import json
from pathlib import Path

import botocore.session
import pytest
from botocore.parsers import create_parser

GOLDEN = Path(__file__).resolve().parents[2] / "crates/wire/tests/golden"
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
