"""AWS's SDK for Rust, as it comes (`tests/sdk`)."""

import os
from pathlib import Path

from ekstra_service import ROOT

PROGRAM = Path(
    os.environ.get("E2E_SDK_CLIENT", ROOT / "target" / f"{os.uname().machine}-unknown-linux-gnu" / "release" / "ekstra-sdk-client")
)


def test_the_sdk_for_rust(service, cluster):
    said = service.run(PROGRAM, cluster, env=service.aws_env()).stdout.splitlines()
    assert said == [f"ok: {step}" for step in [
        "describe, list and wait", "errors have their types", "tags", "add-ons", "updates", "a key of nobody",
    ]]
