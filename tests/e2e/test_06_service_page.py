"""What docs/service.md and the README's table of commands promise beside the README's own blocks: the unit, the workflow, the words that Tab completes."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml  # awscli brings it
from ekstra_service import BINARY, IMAGE
from test_05_readme import newcomer  # noqa: F401  (a fixture)
import images

PAGE = Path(__file__).parents[2] / "docs/service.md"

DEPLOYMENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "web"},
    "spec": {
        "replicas": 1,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "image": IMAGE, "command": ["sleep", "3600"]}]},
        },
    },
}


def block(language):
    (only,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    return only


def bash(script):
    return subprocess.run(["bash"], input=script, capture_output=True, text=True, timeout=60)


def test_systemd_takes_the_unit(tmp_path):
    program = tmp_path / "ekstra"
    program.symlink_to(BINARY)
    unit = tmp_path / "ekstra.service"
    unit.write_text(block("ini").replace("/usr/local/bin/ekstra", str(program)))
    verified = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, timeout=60)
    # What it says of this unit: of others, a machine may have its own.
    ours = [line for line in (verified.stdout + verified.stderr).splitlines() if "ekstra" in line]
    assert ours == []
    unit.write_text(unit.read_text().replace("KillMode=process", "KillMode=proces"))
    spoilt = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, timeout=60)
    assert "kill mode" in spoilt.stdout + spoilt.stderr, "it would have said so"


@pytest.mark.parametrize(
    "typed, offered",
    [
        ("ekstra cre", "create"),
        ("ekstra create clu", "cluster"),
        ("ekstra get node", "nodegroup"),
        ("ekstra create cluster --na", "--name"),
        ("ekstra --ho", "--home"),
    ],
)
def test_tab_completes(typed, offered):
    words = typed.split()
    script = f"""
        source <("{BINARY}" completion bash)
        COMP_WORDS=({' '.join(words)}) COMP_CWORD={len(words) - 1} COMP_LINE='{typed}' COMP_POINT={len(typed)}
        function=$(complete -p ekstra | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        $function ekstra "{words[-1]}" "{words[-2]}" || true
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    completed = bash(script)
    assert offered in completed.stdout.split(), completed.stdout + completed.stderr


def test_the_workflow_s_steps(newcomer):  # noqa: F811
    (job,) = yaml.safe_load(block("yaml"))["jobs"].values()
    steps = job["steps"]
    cache = next(step["with"] for step in steps if "cache@" in step.get("uses", ""))
    for hashed in re.findall(r"'ekstra/([^'*]+?)/?(?:\*\*)?'", cache["key"]):
        assert (PAGE.parents[1] / hashed).exists(), "part of the cache's key"
    create, use = (step["run"] for step in steps if "ekstra" in step.get("working-directory", "") or "kubectl" in step.get("run", ""))
    manifests = Path(newcomer["HOME"], "manifests")
    manifests.mkdir()
    (manifests / "web.json").write_text(json.dumps(DEPLOYMENT))
    create = create.replace("cargo run --release --", str(BINARY))
    # A workflow of somebody's has an image that a registry has.
    pack = f"{BINARY} image pack {images.rootfs()} --name {IMAGE}"
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"{create}\n{pack}\n{use}"],
        env=newcomer, cwd=newcomer["HOME"], capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    assert "deployment.apps/web condition met" in ran.stdout
