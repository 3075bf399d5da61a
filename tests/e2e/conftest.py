"""One service, one cluster with two nodes, shared by the cases in the order of their files; always cleaned up."""

import os
import signal

import pytest
from ekstra_service import Service, deployment, service_object
import images

SERVICES = []


def new_service(**options):
    service = Service(**options)
    SERVICES.append(service)
    return service


def pytest_configure():
    """Whoever ends a run, nothing is left: as with Ctrl-C, which a background job would ignore."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    for item in items:
        for marker, variable in (("long", "E2E_LONG"), ("faults", "E2E_FAULTS")):
            if item.get_closest_marker(marker) and os.environ.get(variable) != "1":
                item.add_marker(pytest.mark.skip(reason=f"{variable}=1 runs it"))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for service in SERVICES:
            report.sections.append((f"logs of {service.home}", service.logs()))


def closing(service):
    yield service
    left = service.close()
    SERVICES.remove(service)
    assert not left, f"`stop --all` left: {left}"


def started(start=Service.start, control_plane=None, **options):
    """A service until the cases that share it are over; with a cluster without nodes and its kubeconfig, if it is named."""
    service = new_service()
    try:
        start(service)
        if control_plane:
            service.create_cluster(control_plane, **options)
            service.wait_cluster(control_plane)
            service.cli("update-kubeconfig", "--name", control_plane, "--kubeconfig", service.kubeconfig)
    except BaseException:
        print(service.logs())
        service.close()
        raise
    yield from closing(service)


@pytest.fixture(scope="session")
def service():
    """Started; has the test image; no cluster yet."""

    def start(service):
        service.start()
        images.pack(service)

    yield from started(start)


@pytest.fixture(scope="session")
def cluster(service):
    """`e2e` with the node group `ng` of two nodes, created by boto3 alone; its kubeconfig is written by `aws`."""
    service.create_cluster("e2e")
    service.wait_cluster("e2e")
    service.create_nodegroup("e2e", "ng", 2)
    service.wait_nodegroup("e2e", "ng")
    service.cli("update-kubeconfig", "--name", "e2e", "--kubeconfig", service.kubeconfig)
    service.wait_nodes(2)
    return "e2e"


@pytest.fixture(scope="session")
def web_deployment(service, cluster):
    """Two replicas on two nodes behind a ClusterIP."""
    service.apply(deployment("web", 2), service_object("web"))


@pytest.fixture
def web(service, web_deployment):
    """Its pods as they are now: nodes come and go between the cases."""
    return service.wait_pods("app=web", 2)


@pytest.fixture(scope="session")
def second_service():
    yield from started()


@pytest.fixture
def fresh_service():
    """A home nothing has touched yet."""
    yield from closing(new_service())
