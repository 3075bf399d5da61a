"""What README.md tells a newcomer to type, typed: in its order, in an empty home of its own."""

import os
import re
import subprocess
import tempfile
from pathlib import Path

import pytest
from ekstra_service import BINARY, CACHE, free_port

README = Path(__file__).parents[2] / "README.md"

# Blocks that are not typed here, by words of theirs, and why.
LEFT_OUT = {
    "cargo run --release": "this run is of a program that was built already",
    "apt-get install nftables": ".ci/run installs them",
    "--image=nginx": "there may be no internet",
    "aws eks wait cluster-active": "the stock waiters look every 30 seconds; test_10_create.py creates in the same way",
    "--home /srv/other": "test_60_two_services.py has two, in places of its own",
    "components bundle": "test_02_cgroup2.py packs one",
    "https://example.com/": "test_02_cgroup2.py takes a bundle, as a file",
    "--rootless": "test_87_rootless.py, as a user without rights",
    "rm -rf ~/.ekstra": "the cache is this machine's",
}

# What is typed in between, since the page shows it as something to look at.
SETUP = """
set -euo pipefail
# As a person would in another terminal: look at what is forwarded, then Ctrl-C.
port_forward() {
    kubectl port-forward "$@" > /dev/null & forwarding=$!
    curl --silent --fail --retry 30 --retry-delay 1 --retry-connrefused "http://127.0.0.1:${2%%:*}"
    kill $forwarding; wait $forwarding || true
}
"""


def blocks():
    return re.findall(r"^```sh\n(.*?)^```$", README.read_text(), re.M | re.S)


def test_every_block_is_typed_or_there_is_a_reason():
    unused = [words for words in LEFT_OUT if not any(words in block for block in blocks())]
    assert not unused, "no block has these any more"
    assert len(blocks()) > len(LEFT_OUT) + 5


@pytest.fixture
def newcomer():
    """An empty home directory; what was built once for this machine is there."""
    home = Path(tempfile.mkdtemp(prefix="ekh", dir="/tmp"))
    go = subprocess.run(["go", "env", "GOMODCACHE", "GOCACHE"], capture_output=True, text=True, check=True).stdout.split()
    env = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "EKSTRA_", "KUBE"))}
    env.update(
        HOME=str(home),
        EKSTRA_CACHE=str(CACHE),
        EKSTRA_LISTEN=str(free_port()),
        GOMODCACHE=go[0],
        GOCACHE=go[1],
        PATH=f"{Path(os.sys.executable).parent}:{os.environ['PATH']}:/usr/local/go/bin:/usr/sbin:/sbin",
    )
    tools = home / "tools"
    tools.mkdir()
    (tools / "kubectl").symlink_to(sorted(CACHE.glob("components/kubectl-1.36*/bin/kubectl"))[-1])
    env["PATH"] = f"{tools}:{env['PATH']}"
    try:
        yield env
    finally:
        subprocess.run([BINARY, "stop", "--all"], env=env, timeout=120)
        subprocess.run(["rm", "-rf", home], check=True)


def test_the_page_as_a_newcomer_types_it(newcomer):
    script = [SETUP, f"{BINARY} create cluster --name my-eks-managed --managed"]
    for block in blocks():
        if any(words in block for words in LEFT_OUT):
            continue
        block = re.sub(r"^kubectl port-forward (.*)$", r"port_forward \1", block, flags=re.M)
        script.append(f"echo '== {block.splitlines()[0][:60].replace(chr(39), '')}'\n{block}")
    script.append("ekstra delete cluster --name my-eks-managed")
    typed = subprocess.run(
        ["bash"], input="\n".join(script), env=newcomer, cwd=newcomer["HOME"], capture_output=True, text=True, timeout=420
    )
    assert typed.returncode == 0, typed.stdout[-4000:] + typed.stderr[-3000:]
    assert typed.stdout.count("hello from hello-") == 2, "by port-forward and by load balancer"
    assert "user/admin" in typed.stdout or "arn:aws" in typed.stdout, "aws sts get-caller-identity"
