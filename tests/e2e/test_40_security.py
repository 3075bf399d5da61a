"""What a pod and a web page must not reach."""

import http.client
import http.server
import json
import socket
import threading

import botocore.exceptions
import pytest
from ekstra_service import SLEEP, deployment, wait

WEST = "us-west-2"


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"secret-of-the-host")

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def host_listener():
    """Something private that listens on every address of the host."""
    server = http.server.ThreadingHTTPServer(("0.0.0.0", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()


@pytest.fixture(scope="module")
def uplink():
    """The host's own address on its way out; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            s.connect(("192.0.2.53", 53))
        except OSError:
            pytest.skip("no default route")
        return s.getsockname()[0]


@pytest.fixture(scope="module")
def prober(service, cluster):
    service.run_pod("prober", SLEEP)
    yield lambda script: service.exec("prober", script, check=False, timeout=60)
    service.delete_pod("prober")


@pytest.fixture(scope="module")
def on_the_node(service, cluster):
    service.run_pod("on-node", SLEEP, hostNetwork=True)
    yield lambda script: service.exec("on-node", script, check=False, timeout=60)
    service.delete_pod("on-node")


@pytest.fixture(scope="module")
def west(service, cluster):
    """The same service, another region: another VPC with the same CIDR. Its kubeconfig, and a pod that serves."""
    config = f"{service.work}/west"
    service.cli("create", "cluster", "--name", "west", "--managed", "--nodes", "1", "--region", WEST, "--kubeconfig", config)
    env = service.plain_env(KUBECONFIG=config)
    service.apply(deployment("west", 1, "echo secret-of-west > /www/index.html; exec httpd -f -p 9123 -h /www", 9123), env=env)
    (pod,) = service.wait_pods("app=west", 1, env=env)
    yield pod, env
    service.cli("delete", "cluster", "--name", "west", "--region", WEST, env=env)


def fetch(address, port):
    return f"timeout 3 wget -q -O - http://{address}:{port}/"


def test_the_probe_itself_works(service, prober, web):
    got = prober(fetch(web[0]["status"]["podIP"], 8080)).stdout
    assert got.strip() == web[0]["metadata"]["name"]


def test_host_is_unreachable_from_a_pod(service, prober, host_listener, uplink):
    settings = service.settings()
    transit = settings["transit"].split("/")[0].rsplit(".", 1)[0]
    addresses = [uplink, settings["address"], "169.254.80.200", *(f"{transit}.{n}" for n in range(0, 4))]
    for address in addresses:
        reached = prober(fetch(address, host_listener))
        assert "secret" not in reached.stdout and reached.returncode != 0, f"{address} is reached"


def test_host_is_unreachable_from_a_node(service, on_the_node, host_listener, uplink):
    settings = service.settings()
    transit = settings["transit"].split("/")[0].rsplit(".", 1)[0]
    for address in [uplink, settings["address"], *(f"{transit}.{n}" for n in range(0, 4))]:
        reached = on_the_node(fetch(address, host_listener))
        assert "secret" not in reached.stdout and reached.returncode != 0, f"{address} is reached"


def test_regions_are_apart(service, cluster, west):
    assert service.client("eks").list_clusters()["clusters"] == [cluster]
    assert service.client("eks", WEST).list_clusters()["clusters"] == ["west"]
    eks = service.client("eks", WEST)
    with pytest.raises(eks.exceptions.ResourceNotFoundException):
        eks.describe_cluster(name=cluster)
    assert not set(service.subnets()) & set(service.subnets(WEST))


def test_other_vpc_is_unreachable_from_a_pod(service, prober, west):
    pod, env = west
    name = pod["metadata"]["name"]
    listed = service.kubectl("exec", name, "--", "timeout", "5", "wget", "-q", "-O", "-", "http://127.0.0.1:9123/", env=env)
    assert "secret-of-west" in listed.stdout
    for address in (pod["status"]["podIP"], pod["status"]["hostIP"]):
        reached = prober(fetch(address, 9123))
        assert "secret-of-west" not in reached.stdout and reached.returncode != 0, f"{address} is reached"


def test_other_node_names_have_their_region(service, west):
    _, env = west
    (node,) = service.nodes(env=env)
    assert node.endswith(f".{WEST}.compute.internal")


# busybox's wget cannot PUT. Standard input stays open until the answer is there: a server may take its end for a client
# that hung up.
TOKEN = (
    "{ printf 'PUT /latest/api/token HTTP/1.1\\r\\nHost: 169.254.169.254\\r\\n"
    "X-aws-ec2-metadata-token-ttl-seconds: 60\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n'; sleep 2; } | timeout 5 nc 169.254.169.254 80"
)


def request(path, token=None):
    header = f"--header 'X-aws-ec2-metadata-token: {token}'" if token else ""
    return f"timeout 5 wget -q -O - {header} http://169.254.169.254{path} 2>&1"


def test_metadata_stays_on_the_node(service, prober):
    """Hop limit 1: the answers die on their way to the pod."""
    answered = prober(TOKEN)
    assert "HTTP/1.1" not in answered.stdout, answered.stdout


def test_metadata_version_2_on_the_node(service, on_the_node):
    answer = on_the_node(TOKEN).stdout
    assert answer.startswith("HTTP/1.1 200"), answer
    token = answer.replace("\r", "").split("\n\n", 1)[1].strip()
    identity = on_the_node(request("/latest/meta-data/instance-id", token)).stdout
    assert identity.startswith("i-"), identity
    role = on_the_node(request("/latest/meta-data/iam/security-credentials/", token)).stdout
    assert "eksNodeRole" in role, role


def test_metadata_version_1_is_refused(service, on_the_node):
    answer = on_the_node(request("/latest/meta-data/")).stdout
    assert "401 Unauthorized" in answer, answer


def page(service, method, path, body=b"", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    return response.status, dict(response.getheaders()), response.read()


CREATE = json.dumps({"name": "from-a-page", "roleArn": "arn:aws:iam::000000000000:role/eksClusterRole"}).encode()


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example:4566"},
        {"Host": "169.254.169.254"},
        {"Host": ""},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:3000"},
        {"Sec_Fetch_Site": "cross-site", "Content_Type": "text/plain"},
        {"Sec_Fetch_Site": "same-site", "Content_Type": "text/plain"},
    ],
    ids=str,
)
def test_web_pages_are_refused(service, cluster, headers):
    eks = service.client("eks")
    before = eks.list_clusters()["clusters"]
    for method, path in [("GET", "/clusters"), ("POST", "/clusters"), ("OPTIONS", "/clusters"), ("GET", "/_ekstra/health")]:
        status, answered, _ = page(service, method, path, CREATE if method == "POST" else b"", **headers)
        assert status == 403, (method, path, status)
        assert not [h for h in answered if h.lower().startswith("access-control-")]
    assert eks.list_clusters()["clusters"] == before


def test_a_signature_does_not_excuse_a_page(service, cluster):
    """Even a signed request is refused when a browser's header says that another site sent it."""
    eks = service.client("eks")

    def from_a_page(request, **_):
        request.headers["Origin"] = "https://evil.example"

    eks.meta.events.register("before-send.eks", from_a_page)
    with pytest.raises(botocore.exceptions.ClientError) as refused:
        eks.list_clusters()
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


def test_unsigned_requests_are_refused(service, cluster):
    for method, path, body in [("GET", "/clusters", b""), ("POST", "/clusters", CREATE)]:
        status, headers, _ = page(service, method, path, body, Content_Type="application/json")
        assert (status, headers["x-amzn-errortype"]) == (403, "MissingAuthenticationTokenException")
    assert service.client("eks").list_clusters()["clusters"] == [cluster]


def test_the_home_is_private(service):
    import os
    import stat

    assert stat.S_IMODE(os.stat(service.home).st_mode) == 0o700
    for name in ("credentials.json", "master.key", "endpoint.key", "service.json"):
        assert stat.S_IMODE(os.stat(f"{service.home}/{name}").st_mode) == 0o600, name


def test_nothing_of_the_service_listens_for_the_network(service, cluster, uplink):
    """The endpoint and the cluster's front door answer on loopback and the service's own address only."""
    endpoint = service.client("eks").describe_cluster(name=cluster)["cluster"]["endpoint"]
    for port in (service.port, int(endpoint.rsplit(":", 1)[1])):
        with socket.socket() as s:
            s.settimeout(3)
            assert s.connect_ex((uplink, port)) != 0, f"{uplink}:{port} answers"


def test_wait_helper_reports_its_last_status():
    with pytest.raises(AssertionError, match="last status: not yet"):
        wait("never", lambda: (False, "not yet"), 0.2)
