"""ekstra on a machine with control groups of version 2, as most machines of today have them."""

import os
import shutil
import tempfile
from pathlib import Path

import guest
import pytest
from ekstra_service import kept

# An emulated cluster takes ten minutes and more.
pytestmark = pytest.mark.long
GIB = 1 << 30


@pytest.fixture(scope="module")
def steps():
    if not shutil.which(guest.QEMU) and os.environ.get("CI") != "true":
        pytest.skip("needs QEMU: apt-get install qemu-system-x86")
    with tempfile.TemporaryDirectory(dir=kept()) as work:
        found, said = guest.boot(Path(work), timeout=1500)
        print(said[-20000:])
        yield found


def test_a_cluster_lives_and_ends(steps):
    """With a node, from a bundle: there is neither Go nor a compiler nor a network."""
    assert steps["kernel"][1].strip().endswith("-cloud-amd64")
    for name in ["create", "image", "apply", "pod", "dns", "delete", "stop"]:
        assert steps[name][0] == 0, (name, steps[name])
    assert " Ready " in steps["nodes"][1], steps["nodes"]


def test_the_doctor_names_the_version(steps):
    said = steps["doctor"][1]
    assert "ok       cgroups     version 2" in said, said
    assert "missing  go" in said and "missing  loop" not in said, said


def test_limits_hold(steps):
    assert steps["limit"][1].strip() == str(64 << 20)
    assert steps["killed"][0] == 0, steps["killed"]
    # m5.large.
    assert steps["node-limit"][1].split() == [str(8 * GIB)]


@pytest.mark.parametrize("direction", ["back", "forward"])
def test_the_clock_may_jump(steps, direction):
    """By half an hour and by thirty: more than a signature's, a session's and a token's time."""
    assert steps[direction][0] == 0, steps[direction]


def test_nothing_is_left(steps):
    assert steps["left"][1] == "", steps["left"]
