"""A service without root: control planes on the loopback, and nobody else's help. Its user is one of `setpriv`'s making."""

import base64
import json
import os
import shutil
import signal
import socket
import ssl
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from botocore.exceptions import ClientError
from conftest import SERVICES
from ekstra_service import BINARY, CACHE, Service, alive, output, processes, wait

# Nobody has it.
USER = 54_321
# Of a control plane, with the front door and the token webhook.
PROGRAMS = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"]


class Rootless(Service):
    """Everything that it runs is run by a user without any right, who has nothing but its own files."""

    def __init__(self):
        super().__init__()
        # The tests' own copies: what is root's is not to be read.
        self.components = Path(self.work, "components")
        self.components.mkdir()
        newest = lambda name: max(CACHE.glob(f"components/{name}*"), key=os.path.getmtime)  # noqa: E731
        for component in ["etcd-", "kube-control-1.36", "kubectl-1.36"]:
            for program in Path(newest(component), "bin").iterdir():
                shutil.copy(program, self.components)
        self.program = Path(self.work, "ekstra")
        shutil.copy(BINARY, self.program)
        for tree in (self.home, self.work):
            output("chown", "-R", f"{USER}:{USER}", tree)

    def run(self, *command, **options):
        rights = [f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs", "--bounding-set=-all"]
        words = [self.program if word == BINARY else word for word in command]
        return super().run("setpriv", *rights, *words, **options)

    def plain_env(self, **more):
        # Neither sudo nor Go: there is nobody to ask and nothing to build with.
        path = f"{self.work}:{self.components}:{Path(os.sys.executable).parent}:/usr/bin:/bin"
        return super().plain_env(HOME=self.home, PATH=path, EKSTRA_CACHE=f"{self.work}/cache", **more)

    def children(self):
        """By id, of the pid files."""
        return {p.stem: json.loads(p.read_text())["pid"] for p in Path(self.home, "run").glob("*.pid")}


def listeners():
    """By address, who listens there."""
    return {words[3]: words[-1] for words in map(str.split, output("ss", "-Hltnp").splitlines())}


def asking_is_read(port):
    """Nothing waits in the kernel on any connection to the port."""
    lines = map(str.split, output("ss", "-Hnt", "state", "established", f"( sport = :{port} )").splitlines())
    queues = [int(line[0]) for line in lines]
    return bool(queues) and not any(queues)


@pytest.fixture(scope="module")
def rootless():
    service = Rootless()
    SERVICES.append(service)
    try:
        made = service.cli(
            "create", "cluster", "--name", "alone", "--without-nodegroup", "--rootless", "--components", service.components
        )
        assert "cluster alone is ready" in made.stderr
        yield service
    finally:
        left = service.close()
        SERVICES.remove(service)
        assert not left, left


def test_kubectl_and_aws_clients_work(rootless):
    assert "kube-system" in rootless.kubectl("get", "namespaces").stdout
    rootless.kubectl("create", "configmap", "kept", "--from-literal=a=1")
    cluster = rootless.client("eks").describe_cluster(name="alone")["cluster"]
    assert cluster["endpoint"].startswith("https://127.0.0.1:"), cluster
    # The stock client's sign-in, too; its Python is nothing that the user may read.
    stock = rootless.aws_env() | {"KUBECONFIG": f"{rootless.work}/stock"}
    Service.run(rootless, "aws", "eks", "update-kubeconfig", "--name", "alone", env=stock)
    said = Service.run(rootless, "kubectl", "auth", "can-i", "*", "*", env=stock)
    assert said.stdout.strip() == "yes", said


def test_everything_is_the_user_s_and_listens_on_the_loopback(rootless):
    own = {pid: args for pid, args in processes() if alive(pid) and any(rootless.home in a for a in args)}
    assert len(own) == 6, own
    for pid in own:
        status = Path(f"/proc/{pid}/status").read_text()
        assert f"Uid:\t{USER}\t{USER}\t{USER}\t{USER}" in status and "CapEff:\t0000000000000000" in status
        assert os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/self/ns/net")
    ours = [at for at, who in listeners().items() if any(f"pid={pid}," in who for pid in own)]
    assert len(ours) == 9 and all(address.startswith("127.0.0.") for address in ours), ours


def test_nodes_and_balancers_are_refused_with_the_reason(rootless):
    with pytest.raises(ClientError) as refused:
        rootless.create_nodegroup("alone", "ng", 1)
    assert refused.value.response["Error"]["Code"] == "InvalidRequestException"
    assert "runs without root, and nodes need it" in str(refused.value)
    for words in (["nodegroup", "--cluster", "alone"], ["cluster", "--name", "more"]):
        said = rootless.cli("create", *words, "--managed", check=False)
        assert said.returncode == 1 and "runs without root, and nodes need it" in said.stderr, said
    assert rootless.client("eks").list_clusters()["clusters"] == ["alone"]
    rootless.kubectl("create", "service", "loadbalancer", "lb", "--tcp=80:80")
    events = lambda: rootless.kubectl("get", "events", "--field-selector=involvedObject.name=lb").stdout  # noqa: E731
    wait("the reason", lambda: ("runs without root" in (said := events()), said), 20)
    rootless.kubectl("delete", "service", "lb", "--timeout=20s")


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_ends_is_started_again_on_the_same_ports(rootless, program):
    (name,) = [name for name in rootless.children() if name.endswith(f"-{program}")]
    before = rootless.children()[name]
    os.kill(before, signal.SIGKILL)
    again = lambda: (now := rootless.children().get(name)) not in (None, before) and alive(now)  # noqa: E731
    wait(f"{program} again", lambda: (again(), rootless.children()), 20)
    wait("an answer", lambda: (rootless.kubectl("get", "configmap", "kept").returncode == 0, ""), 30)


def test_the_service_s_end_ends_nothing_and_a_stop_of_all_ends_all(rootless):
    before = rootless.children()
    rootless.kill("serve")
    rootless.kubectl("get", "configmap", "kept")
    rootless.cli("start")
    assert rootless.children() == before
    rootless.cli("restart")
    assert rootless.children() == before
    # Who has asked is answered, though the service is told to end meanwhile.
    url = urlsplit(rootless.aws_env()["AWS_ENDPOINT_URL"])
    with socket.create_connection((url.hostname, url.port), 10) as asking:
        asking.settimeout(10)
        asking.sendall(f"POST / HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: 8\r\n\r\nActi".encode())
        (serving,) = rootless.service_pids("serve")
        # It has read what there is.
        wait("taken", lambda: (asking_is_read(url.port), ""), 10)
        os.kill(serving, signal.SIGTERM)
        refused = lambda: (socket.socket().connect_ex((url.hostname, url.port)) != 0, "")  # noqa: E731
        wait("no more taken", refused, 10, 0.01)
        asking.sendall(b"on=x")
        assert asking.recv(4096).startswith(b"HTTP/1.1 4")
    wait("the service's end", lambda: (not alive(serving), ""), 10)
    rootless.cli("start")
    assert rootless.children() == before
    rootless.cli("stop", "--all")
    assert rootless.children() == {} and not any(alive(pid) for pid in before.values())
    # The programs' directory need not be said again.
    rootless.cli("start")
    wait("the data", lambda: (rootless.kubectl("get", "configmap", "kept").returncode == 0, ""), 30)


def handshake(url, authority):
    """As strict as Python is by default since 3.13."""
    context = ssl.create_default_context(cafile=authority)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    with socket.create_connection((url.hostname, url.port), 5) as tcp:
        context.wrap_socket(tcp, server_hostname=url.hostname).close()


def test_strict_clients_take_the_certificates(rootless):
    endpoint = rootless.aws_env()["AWS_ENDPOINT_URL"].replace("http://", "https://")
    handshake(urlsplit(endpoint), Path(rootless.home, "ca.crt"))
    cluster = rootless.client("eks").describe_cluster(name="alone")["cluster"]
    authority = Path(rootless.work, "cluster-ca.crt")
    authority.write_bytes(base64.b64decode(cluster["certificateAuthority"]["data"]))
    handshake(urlsplit(cluster["endpoint"]), authority)


def test_the_token_webhook_shows_the_cluster_s_key(rootless):
    """Whoever takes its port while it is away cannot tell the API server who somebody is."""
    (pki,) = Path(rootless.home, "slots").glob("*/pki")
    (cluster,) = json.loads((pki / "token-webhook.json").read_text())["clusters"]
    url = urlsplit(cluster["cluster"]["server"])
    shown = base64.b64decode(cluster["cluster"]["certificate-authority-data"])
    assert url.scheme == "https" and shown == (pki / "ca.crt").read_bytes()
    handshake(url, pki / "ca.crt")
    with pytest.raises((OSError, HTTPException)):
        urlopen(cluster["cluster"]["server"].replace("https", "http"), data=b"{}", timeout=5)


def test_a_home_is_made_again_of_a_backup(rootless):
    backup = Path(rootless.work, "whole.tar.gz")
    rootless.cli("backup", backup)
    rootless.kubectl("delete", "configmap", "kept")
    rootless.cli("stop", "--all")
    shutil.rmtree(rootless.home)
    output("install", "-d", f"--owner={USER}", f"--group={USER}", rootless.home)
    rootless.cli("restore", backup)
    rootless.cli("start")
    wait("the data", lambda: (rootless.kubectl("get", "configmap", "kept", check=False).returncode == 0, ""), 30)


def test_a_home_stays_what_it_was_at_first(rootless, fresh_service):
    fresh_service.start()
    said = fresh_service.cli("start", "--rootless", check=False)
    assert said.returncode == 1 and "runs as root since its first start" in said.stderr, said
    said = rootless.cli("--home", f"{rootless.work}/new", "start", check=False)
    assert said.returncode == 1 and "--without-nodegroup --rootless" in said.stderr, said


def test_deletion_leaves_nothing(rootless):
    slot = next(Path(rootless.home, "slots").iterdir()).name
    rootless.cli("delete", "cluster", "--name", "alone")
    assert not [p for p in Path(rootless.home).rglob(f"*{slot}*") if p.suffix != ".lock"]
    assert list(rootless.children()) == ["gate"]
    first = rootless.settings()["first_cluster_port"]
    listening = lambda: [at for at in listeners() if first <= int(at.rsplit(":", 1)[1]) < first + 1000]  # noqa: E731
    wait("no port of it taken", lambda: (not (taken := listening()), taken), 10)
