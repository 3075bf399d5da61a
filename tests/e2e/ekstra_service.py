"""One ekstra service in a home of its own, and everything a test does with it.

Invariant: nothing here waits for time to pass; every wait is for a condition and fails with its last status.
"""

import base64
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import boto3
import botocore.config
import pytest
from botocore.exceptions import ClientError

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(
    os.environ.get("EKSTRA_BIN", ROOT / "target" / f"{os.uname().machine}-unknown-linux-gnu" / "release" / "ekstra")
)
CACHE = Path(os.environ.get("EKSTRA_CACHE", Path.home() / ".cache/ekstra"))
IMAGE = "e2e/busybox:1"
REGION = "us-east-1"
ACCOUNT = "000000000000"
DRAIN_LIMIT = 12


def kept():
    """Where the cases keep what takes long to fetch, beside the components."""
    directory = CACHE / "test"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def wait(what, check, timeout=60, interval=0.1):
    """Until `check` answers (True, _). It answers (done, status); an exception is a status too. Gives back the status."""
    deadline = time.monotonic() + timeout
    status = None
    while True:
        try:
            done, status = check()
            if done:
                return status
        except Exception as error:  # noqa: BLE001: whatever it is, it is the last status
            status = f"{type(error).__name__}: {error}"
        assert time.monotonic() < deadline, f"{what}: not within {timeout} s; last status: {status}"
        time.sleep(interval)


def holds(what, check, seconds, interval=0.5):
    """`check` answers (True, _) all the time for so long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        good, status = check()
        assert good, f"{what}: no longer; status: {status}"
        time.sleep(interval)


@contextlib.contextmanager
def never_refused(command, askers=2):
    """A command that succeeds while this lasts, run all the time by so many; each of them more than once."""
    served, failures, stop = [0] * askers, [], threading.Event()

    def ask(which):
        while not stop.is_set():
            try:
                done = command()
            except Exception as error:  # noqa: BLE001: whatever it is, it is no success
                failures.append(repr(error))
                continue
            if done.returncode == 0:
                served[which] += 1
            else:
                failures.append(done.stderr)

    threads = [threading.Thread(target=ask, args=[which]) for which in range(askers)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == [] and min(served) > 1, (served, failures)


def refusal(call, **arguments):
    """What AWS's client is told, by code and message; that it is refused is asserted."""
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    error = caught.value.response["Error"]
    return f"{error['Code']}: {error['Message']}"


def free_port():
    """For the endpoint; its successor (the registry's) is free, too. Below the ephemeral ports, and not where another
    run of these cases looks first."""
    ports = list(range(12_010, 16_400, 10))
    random.shuffle(ports)
    for port in ports:
        try:
            for number in (port, port + 1):
                with socket.socket() as s:
                    s.bind(("127.0.0.1", number))
            return port
        except OSError:
            continue
    raise AssertionError("no free port")


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def processes():
    """(pid, arguments) of all processes of this machine."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                yield int(entry.name), (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
            except OSError:
                continue


def output(*command):
    """What a host program prints."""
    return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout


class Service:
    """Starts with nothing: the home is made by the first command."""

    def __init__(self, drain_limit=DRAIN_LIMIT, home=None):
        self.home = home or tempfile.mkdtemp(prefix="ek", dir="/tmp")
        self.work = tempfile.mkdtemp(prefix="ekw", dir="/tmp")
        self.port = free_port()
        self.kubeconfig = f"{self.work}/kubeconfig"
        tools = Path(self.work, "bin")
        tools.mkdir()
        (tools / "ekstra").symlink_to(BINARY)
        kubectl = sorted(CACHE.glob("components/kubectl-*/bin/kubectl"))
        assert kubectl, f"no kubectl in {CACHE}; run `ekstra components ensure`"
        (tools / "kubectl").symlink_to(kubectl[-1])
        self.tools = tools
        self.path = f"{tools}:{Path(os.sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin"
        self.drain_limit = drain_limit
        self._aws = None
        self._last_id = None

    # Programs.

    def plain_env(self, **more):
        """No AWS_* at all: what a fresh shell has."""
        env = {k: v for k, v in os.environ.items() if not k.startswith("AWS_") and k != "EKSTRA_CACHE"}
        env.update(
            PATH=self.path,
            EKSTRA_HOME=self.home,
            EKSTRA_LISTEN=str(self.port),
            EKSTRA_CACHE=str(CACHE),
            EKSTRA_DRAIN_LIMIT=str(self.drain_limit),
            KUBECONFIG=self.kubeconfig,
            AWS_EC2_METADATA_DISABLED="true",
        )
        env.update(more)
        return env

    def run(self, *command, check=True, timeout=300, env=None, stdin=None):
        done = subprocess.run(
            [str(c) for c in command],
            env=env or self.plain_env(),
            capture_output=True,
            text=True,
            timeout=timeout,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
        )
        if check:
            assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done

    def cli(self, *args, **options):
        return self.run(BINARY, *args, **options)

    def aws_env(self):
        """Exactly what `eval "$(ekstra env)"` sets, evaluated by a shell."""
        if self._aws is None:
            script = 'eval "$(ekstra env)"; env -0'
            shell = self.run("bash", "-c", script)
            pairs = (item.split("=", 1) for item in shell.stdout.split("\0") if "=" in item)
            self._aws = {k: v for k, v in pairs if k.startswith("AWS_") or k.lower() == "no_proxy"}
        return self.plain_env(**self._aws)

    def aws(self, *args, **options):
        return self.run("aws", *args, env=self.aws_env(), **options)

    def kubectl(self, *args, **options):
        return self.run("kubectl", *args, **options)

    def kubectl_json(self, *args, **options):
        return json.loads(self.kubectl(*args, "-o", "json", **options).stdout)

    def apply(self, *objects, **options):
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        return self.kubectl("apply", "-f", "-", stdin=text, **options)

    def spawn(self, *command):
        return subprocess.Popen(
            [str(c) for c in command],
            env=self.plain_env(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    # AWS.

    def client(self, name, region=REGION, validate=True, **credentials):
        env = self.aws_env()
        keys = {
            "aws_access_key_id": env["AWS_ACCESS_KEY_ID"],
            "aws_secret_access_key": env["AWS_SECRET_ACCESS_KEY"],
        }
        keys.update(credentials)
        config = botocore.config.Config(
            parameter_validation=validate, retries={"total_max_attempts": 1}, read_timeout=60, proxies={}
        )
        return boto3.session.Session().client(
            name, region_name=region, endpoint_url=env["AWS_ENDPOINT_URL"], config=config, **keys
        )

    def role(self, name):
        return f"arn:aws:iam::{ACCOUNT}:role/{name}"

    def subnets(self, region=REGION):
        return [s["SubnetId"] for s in self.client("ec2", region).describe_subnets()["Subnets"]]

    def create_cluster(self, name, region=REGION, **more):
        return self.client("eks", region).create_cluster(
            name=name,
            roleArn=self.role("eksClusterRole"),
            resourcesVpcConfig={"subnetIds": self.subnets(region)},
            **more,
        )["cluster"]

    def create_nodegroup(self, cluster, name, size, region=REGION, most=None, **more):
        return self.client("eks", region).create_nodegroup(
            clusterName=cluster,
            nodegroupName=name,
            nodeRole=self.role("eksNodeRole"),
            subnets=self.subnets(region),
            scalingConfig={"minSize": 1, "desiredSize": size, "maxSize": most or max(size, 4)},
            **more,
        )["nodegroup"]

    def wait_cluster(self, name, region=REGION, timeout=90):
        eks = self.client("eks", region)

        def check():
            cluster = eks.describe_cluster(name=name)["cluster"]
            assert cluster["status"] != "FAILED", cluster
            return cluster["status"] == "ACTIVE", {k: cluster.get(k) for k in ("status", "health")}

        return wait(f"cluster {name} ACTIVE", check, timeout)

    def wait_nodegroup(self, cluster, name, region=REGION, timeout=120):
        eks = self.client("eks", region)

        def check():
            group = eks.describe_nodegroup(clusterName=cluster, nodegroupName=name)["nodegroup"]
            return group["status"] == "ACTIVE", {k: group.get(k) for k in ("status", "health")}

        return wait(f"node group {name} ACTIVE", check, timeout)

    def wait_gone(self, describe, what, timeout=120, code="ResourceNotFoundException"):
        """`describe` raises it."""

        def check():
            try:
                return False, describe()
            except Exception as error:  # noqa: BLE001
                if code in str(error):
                    return True, None
                raise

        return wait(f"{what} gone", check, timeout)

    def delete_nodegroup(self, cluster, name, region=REGION, timeout=120):
        eks = self.client("eks", region)
        eks.delete_nodegroup(clusterName=cluster, nodegroupName=name)
        self.wait_gone(
            lambda: eks.describe_nodegroup(clusterName=cluster, nodegroupName=name)["nodegroup"], name, timeout
        )

    def delete_cluster(self, name, region=REGION, timeout=120):
        eks = self.client("eks", region)
        eks.delete_cluster(name=name)
        self.wait_gone(lambda: eks.describe_cluster(name=name)["cluster"]["status"], name, timeout)

    # Kubernetes.

    def nodes(self, **options):
        """Names of the Ready nodes."""
        ready = []
        for node in self.kubectl_json("get", "nodes", **options)["items"]:
            conditions = {c["type"]: c["status"] for c in node["status"].get("conditions", [])}
            if conditions.get("Ready") == "True" and not node["spec"].get("taints"):
                ready.append(node["metadata"]["name"])
        return sorted(ready)

    def wait_nodes(self, number, timeout=90, **options):
        def check():
            all_nodes = self.kubectl_json("get", "nodes", **options)["items"]
            ready = self.nodes(**options)
            names = [n["metadata"]["name"] for n in all_nodes]
            return len(ready) == number == len(names), {"ready": ready, "all": names}

        wait(f"{number} nodes Ready, and no others", check, timeout)
        return self.nodes(**options)

    def pods(self, selector, **options):
        return self.kubectl_json("get", "pods", "-l", selector, **options)["items"]

    def wait_pods(self, selector, number, timeout=60, **options):
        """So many Ready pods, none of them being deleted."""

        def check():
            seen = []
            good = []
            for pod in self.pods(selector, **options):
                conditions = {c["type"]: c["status"] for c in pod["status"].get("conditions", [])}
                fine = conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]
                seen.append((pod["metadata"]["name"], pod["status"].get("phase"), pod["status"].get("containerStatuses")))
                if fine:
                    good.append(pod)
            return len(good) == number, seen if len(good) != number else good

        return wait(f"{number} pods {selector} Ready", check, timeout)

    def run_pod(self, name, script, timeout=60, **spec):
        """A pod that runs a shell script until it is Ready."""
        self.apply(pod(name, script, **spec))
        self.wait_pods(f"app={name}", 1, timeout)

    def delete_pod(self, name):
        self.kubectl("delete", "pod", name, "--grace-period=0", "--force", "--ignore-not-found")

    def exec(self, name, script, check=True, timeout=60):
        return self.kubectl("exec", name, "--", "/bin/sh", "-c", script, check=check, timeout=timeout)

    def in_node(self, node, *command, env):
        """A program of this machine in the network of a node."""
        instance = self.kubectl_json("get", "node", node)["spec"]["providerID"].rsplit("/", 1)[-1]
        return self.run("ip", "netns", "exec", f"ekstra-{self.home_id()}-{instance}", *command, env=env)

    # Processes, and what is left of them.

    def service_pids(self, what):
        """Of `serve` or `gate`."""
        return [
            pid
            for pid, args in processes()
            if args[1:4] == ["--home", self.home, what] and Path(args[0]).name == "ekstra"
        ]

    def kill(self, what):
        pids = self.service_pids(what)
        assert pids, f"no {what} runs"
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        wait(f"{what} dead", lambda: (not any(alive(p) for p in pids), pids), 10, 0.01)

    def start(self):
        return self.cli("start")

    def settings(self):
        return json.loads(Path(self.home, "service.json").read_text())

    def home_id(self):
        try:
            self._last_id = self.settings()["home_id"]
        except OSError:
            pass
        return self._last_id

    def traces(self):
        """Everything on this machine that belongs to this home, by kind."""
        own = self.home_id()
        found = {"processes": [], "cgroups": set(), "mounts": set()}
        if own is None:
            return {}
        for pid, args in processes():
            if any(self.home in a for a in args) and args[3:4] not in (["serve"], ["gate"]):
                found["processes"].append((pid, " ".join(args)[:120]))
            try:
                for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
                    if f"{self.home}/" in line:
                        found["mounts"].add(f"{pid}: {line}")
                if f"ekstra-{own}/" in (text := Path(f"/proc/{pid}/cgroup").read_text()) and "/gate" not in text:
                    found["processes"].append((pid, " ".join(args)[:120]))
            except OSError:
                continue
        found["serve"] = self.service_pids("serve")
        found["gate"] = self.service_pids("gate")
        groups = [p for p in Path("/sys/fs/cgroup").glob("**/*") if p.is_dir() and f"ekstra-{own}" in p.as_posix()]
        found["cgroups"] = sorted({p.as_posix().split(f"ekstra-{own}", 1)[1].strip("/") or "." for p in groups})
        found["mounts"] = sorted(found["mounts"])
        found["namespaces"] = [n for n in output("ip", "netns").splitlines() if f"ekstra-{own}-" in n]
        found["links"] = [n for n in output("ip", "-o", "link").splitlines() if f"ek{own}" in n]
        found["loops"] = [n for n in output("losetup", "-a").splitlines() if self.home in n]
        found["tables"] = [n for n in output("nft", "list", "tables").splitlines() if f"ekstra_{own}" in n]
        found["slots"] = [p.name for p in Path(self.home).glob("slots/*")]
        found["instances"] = [p.name for p in Path(self.home).glob("instances/*")]
        found["volumes"] = [p.name for kind in ("volumes", "snapshots") for p in Path(self.home).glob(f"{kind}/*")]
        # A service without root has none, and its range is also that of one with root.
        if not self.settings()["rootless"]:
            balancers = ".".join(["198.19", *self.settings()["transit"].split(".")[2:3]]) + "."
            routes = output("ip", "route").splitlines()
            found["balancers"] = [r for r in routes if r.startswith(balancers)]
            found["range"] = [r for r in routes if r.startswith(f"unreachable {balancers}")]
        found["pid files"] = [p.name for p in Path(self.home).glob("run/*.pid")]
        return {kind: items for kind, items in found.items() if items}

    def logs(self):
        text = []
        for log in sorted(Path(self.home).glob("logs/*.log")):
            lines = 40 if log.stem in ("serve", "gate") else 12
            tail = log.read_text(errors="replace").splitlines()[-lines:]
            text.append(f"==> {log.name}\n" + "\n".join(line[:300] for line in tail))
        return "\n".join(text)

    def close(self):
        """Always; tells what `stop --all` left behind."""
        left = {}
        try:
            self.home_id()
            if Path(self.home, "service.json").exists():
                stopped = self.cli("stop", "--all", check=False, timeout=120)
                if stopped.returncode != 0:
                    left["stop --all"] = stopped.stderr
        finally:
            traces = self.traces()
            for data in ("slots", "instances", "volumes"):
                traces.pop(data, None)
            left.update(traces)
            self._sweep()
            shutil.rmtree(self.home, ignore_errors=True)
            shutil.rmtree(self.work, ignore_errors=True)
        return left

    def _sweep(self):
        """What a broken `stop` leaves must not disturb the next run: processes of this home end, mounts go."""
        for pid, args in processes():
            if any(self.home in a for a in args):
                try:
                    os.kill(pid, signal.SIGKILL)
                except OSError:
                    continue
        own = self._last_id
        for line in output("ip", "netns").splitlines():
            if own and f"ekstra-{own}-" in line:
                output("ip", "netns", "delete", line.split()[0])
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            if f" {self.home}/" in line:
                output("umount", "-l", line.split()[4])
        for line in output("losetup", "-a").splitlines():
            if self.home in line:
                output("losetup", "-d", line.split(":")[0])
        if own and f"ekstra_{own}" in output("nft", "list", "tables"):
            output("nft", "delete", "table", "ip", f"ekstra_{own}")


def pod(name, script, **spec):
    container = {
        "name": "main",
        "image": IMAGE,
        "command": ["/bin/sh", "-c", script],
    }
    container.update(spec.pop("container", {}))
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [container], **spec},
    }


SLEEP = "trap 'exit 0' TERM; while :; do sleep 1; done"
WEB = "hostname > /www/index.html; echo serving; exec httpd -f -v -p 8080 -h /www"


def deployment(name, replicas, script=WEB, port=8080, spread=True):
    """Evenly over the nodes that take pods, unless told otherwise."""
    labels = {"app": name}
    template = pod(name, script, container={"readinessProbe": {"tcpSocket": {"port": port}, "periodSeconds": 1}})
    spec = template["spec"]
    if spread:
        spec["topologySpreadConstraints"] = [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "DoNotSchedule",
                "nodeTaintsPolicy": "Honor",
                "labelSelector": {"matchLabels": labels},
            }
        ]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }


def service_object(name, port=80, target=8080):
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": port, "targetPort": target}]},
    }


def token_time(token):
    """The X-Amz-Date of an EKS token."""
    text = token.removeprefix("k8s-aws-v1.")
    url = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
    return url.split("X-Amz-Date=")[1].split("&")[0]
