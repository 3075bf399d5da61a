"""Images from the internet, from here, and from neither. A namespace plays the internet (`internet.py`)."""

from pathlib import Path

import pytest
from conftest import closing, new_service
from ekstra_service import wait
from internet import PROXY, Internet
import images


@pytest.fixture(scope="module")
def internet(tmp_path_factory):
    played = Internet(tmp_path_factory.mktemp("internet"))
    yield played
    played.end()


def one_node(service, internet, **where):
    """It and a cluster with one node, which trusts the registry."""
    internet.start(service, **where)
    images.pack(service)
    service.create_cluster("online")
    service.wait_cluster("online")
    service.create_nodegroup("online", "ng", 1)
    service.wait_nodegroup("online", "ng")
    service.cli("update-kubeconfig", "--name", "online", "--kubeconfig", service.kubeconfig)
    service.wait_nodes(1)
    internet.trusted_by(service)


def ready(service, internet, **where):
    try:
        one_node(service, internet, **where)
    except BaseException:
        print(service.logs(), internet.log.read_text())
        service.close()
        raise
    yield from closing(service)


@pytest.fixture(scope="module")
def online(internet):
    yield from ready(new_service(), internet)


@pytest.fixture
def behind_a_proxy(internet):
    """Nothing answers it but the proxy."""
    yield from ready(new_service(), internet, resolver="127.254.254.254", HTTPS_PROXY=PROXY, NO_PROXY="example.com")


def complaint(service, name):
    """What its events say of the image."""
    words = "involvedObject.name={},reason=Failed"
    said = []

    def look():
        events = service.kubectl_json("get", "events", "--field-selector", words.format(name))["items"]
        said[:] = [e["message"] for e in events if e["message"].startswith("Failed to pull image")]
        return bool(said), [e["message"] for e in events]

    wait(f"an event about {name}", look, 60)
    assert len(said) == 1, said
    return said[0]


def test_an_image_of_the_internet(online, internet):
    """As the README has it."""
    online.kubectl("create", "deployment", "hello", "--image=nginx")
    online.kubectl("wait", "--for=condition=Available", "deployment/hello", "--timeout=60s")
    asked = internet.log.read_text()
    assert "HEAD /v2/library/nginx/manifests/latest" in asked and "/blobs/sha256:" in asked, asked


def test_an_image_through_a_proxy(behind_a_proxy, internet):
    """The one that the service was started with."""
    behind_a_proxy.kubectl("create", "deployment", "hello", "--image=nginx")
    behind_a_proxy.kubectl("wait", "--for=condition=Available", "deployment/hello", "--timeout=60s")
    assert 'proxy: "CONNECT registry-1.docker.io:443' in internet.log.read_text()
    assert Path(behind_a_proxy.home, "proxies.json").stat().st_mode & 0o777 == 0o600


def test_one_that_the_internet_has_not(online):
    online.kubectl("run", "unheard", "--image=unheard:1")
    assert "docker.io/library/unheard:1: not found" in complaint(online, "unheard")
    online.delete_pod("unheard")


@pytest.mark.parametrize("tag", ["latest", "1"])
def test_one_from_here_is_never_asked_for_elsewhere(online, internet, tag):
    """Also `latest`, and also when it is to be pulled always: the digest is asked for here."""
    online.cli("image", "pack", images.rootfs(), "--name", f"ours:{tag}", "--entrypoint", "/bin/sleep", "3600")
    for policy in ["Always", "IfNotPresent"]:
        name = f"ours-{tag}-{policy.lower()}"
        online.kubectl("run", name, f"--image=ours:{tag}", f"--image-pull-policy={policy}")
        online.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=30s")
        online.delete_pod(name)
    assert "library/ours" not in internet.log.read_text()


def test_a_new_build_under_the_same_name_is_pulled(online):
    """Who builds `latest` again and lets the pods start anew has the new one."""
    for word in ["first", "second"]:
        script = f"echo {word}; sleep 3600"
        online.cli("image", "pack", images.rootfs(), "--name", "again:latest", "--entrypoint", "/bin/sh", "-c", script)
        online.kubectl("run", "again", "--image=again:latest", "--image-pull-policy=Always")
        online.kubectl("wait", "--for=condition=Ready", "pod/again", "--timeout=30s")
        wait(word, lambda: ((said := online.kubectl("logs", "again").stdout.strip()) == word, said), 20)
        online.delete_pod("again")


def test_offline_one_event_says_why(online, internet):
    internet.end()
    online.kubectl("run", "far", "--image=alpine:3")
    said = complaint(online, "far")
    assert "docker.io/library/alpine:3 is not among the images of this machine (`ekstra image list`)" in said
    assert "registry-1.docker.io has no address here" in said
    online.delete_pod("far")
    # What was pulled before is there, whatever the internet does.
    online.kubectl("delete", "pod", "-l", "app=hello", "--grace-period=1")
