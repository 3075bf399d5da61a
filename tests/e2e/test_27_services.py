"""What people expect of any cluster: load balancers with an address, metrics for `kubectl top` and autoscaling."""

import json
import socket
import urllib.request

import pytest
from ekstra_service import SLEEP, WEB, deployment, output, wait

HTTP = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def balancer(name, selector, port=80, **spec):
    annotations = spec.pop("annotations", {})
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {
            "type": "LoadBalancer",
            "selector": {"app": selector},
            "ports": [{"name": "http", "port": port, "targetPort": 8080}],
            **spec,
        },
    }


def ingress(service, name):
    def check():
        status = service.kubectl_json("get", "service", name)["status"]
        found = status.get("loadBalancer", {}).get("ingress")
        return bool(found), status

    return wait(f"{name} has an address", check, 30)["loadBalancer"]["ingress"][0]


def get(address, port=80, timeout=2):
    with HTTP.open(f"http://{address}:{port}/", timeout=timeout) as answer:
        return answer.read().decode().strip()


def answers(address, port=80):
    return wait(f"{address}:{port} answers", lambda: (bool(text := get(address, port)), text), 30)


def refused(address, port=80):
    """Nobody listens there any more, and nothing leaves this machine: the range is unreachable while a service runs."""
    route = output("ip", "route", "get", address)
    if "unreachable" not in route and route:
        return False, route
    with socket.socket() as s:
        s.settimeout(2)
        try:
            return s.connect_ex((address, port)) != 0, "connected"
        except OSError as error:
            return True, error


@pytest.fixture(scope="module")
def site(service, cluster):
    """Two pods on two nodes; each answers its name."""
    service.apply(deployment("site", 2, WEB))
    pods = service.wait_pods("app=site", 2)
    yield sorted(p["metadata"]["name"] for p in pods)
    service.kubectl("delete", "deployment", "site", "--grace-period=1", "--ignore-not-found")


def test_a_load_balancer_from_the_host_and_from_a_pod(service, site):
    service.apply(balancer("front", "site"))
    found = ingress(service, "front")
    assert found["ipMode"] == "VIP"
    answers(found["ip"])
    assert sorted({get(found["ip"]) for _ in range(40)}) == site, "both pods"
    service.run_pod("client", SLEEP)
    for _ in range(3):
        assert service.exec("client", f"timeout 5 wget -q -O- http://{found['ip']}/").stdout.strip() in site
    # A second one has the same port to itself; the first goes with all that it had.
    service.apply(balancer("other", "site"))
    other = ingress(service, "other")
    assert other["ip"] != found["ip"]
    answers(other["ip"])
    service.kubectl("delete", "service", "front", timeout=60)
    wait("nobody listens", lambda: refused(found["ip"]), 10)
    assert get(other["ip"]) in site
    service.kubectl("patch", "service", "other", "-p", json.dumps({"spec": {"type": "ClusterIP"}}))
    wait("nobody listens", lambda: refused(other["ip"]), 20)
    status = lambda: service.kubectl_json("get", "service", "other")  # noqa: E731
    wait("no address", lambda: (not (s := status())["status"]["loadBalancer"] and "finalizers" not in s["metadata"], s), 20)
    service.kubectl("delete", "service", "other")


def test_by_name_and_to_pods(service, site):
    service.apply(
        balancer(
            "named",
            "site",
            8081,
            annotations={
                "ekstra.dev/load-balancer-status": "hostname",
                "service.beta.kubernetes.io/aws-load-balancer-nlb-target-type": "ip",
            },
            allocateLoadBalancerNodePorts=False,
        )
    )
    name = ingress(service, "named")["hostname"]
    assert name.endswith(".elb.us-east-1.amazonaws.com")
    service.run_pod("client", SLEEP)

    def ask():
        told = service.exec("client", f"timeout 5 wget -q -O- http://{name}:8081/", check=False)
        return told.stdout.strip() in site, told

    wait("an answer by name", ask, 30)
    service.kubectl("delete", "service", "named", timeout=60)
    service.delete_pod("client")


def test_local_traffic_goes_to_nodes_that_have_a_pod(service, cluster):
    service.apply(deployment("lone", 1, WEB), balancer("local", "lone", 8082, externalTrafficPolicy="Local"))
    (pod,) = service.wait_pods("app=lone", 1)
    address = ingress(service, "local")["ip"]
    answers(address, 8082)
    # The node without a pod drops what it is sent; after its check has failed, nothing is.
    wait("only healthy nodes", lambda: (all(get(address, 8082, 0.9) == pod["metadata"]["name"] for _ in range(12)), ""), 30)
    service.kubectl("delete", "service", "local", timeout=60)
    service.kubectl("delete", "deployment", "lone", "--grace-period=1")


def test_who_may_come_and_what_is_not_balanced(service, site):
    service.apply(balancer("closed", "site", 8083, loadBalancerSourceRanges=["192.0.2.0/24"]))
    address = ingress(service, "closed")["ip"]
    with pytest.raises(OSError):
        get(address, 8083)
    service.kubectl("delete", "service", "closed", timeout=60)
    udp = balancer("udp", "site", 8084)
    udp["spec"]["ports"][0]["protocol"] = "UDP"
    service.apply(udp)

    def said():
        found = service.kubectl_json("get", "events", "--field-selector", "involvedObject.name=udp")["items"]
        told = [f"{e['reason']}: {e['message']}" for e in found]
        return any("SyncLoadBalancerFailed" in t and "UDP" in t for t in told), told

    wait("the reason", said, 30)
    service.kubectl("delete", "service", "udp", timeout=60)


def test_the_host_may_be_named_and_its_own_programs_are_not_in_the_way(service, site):
    """A program that listens on every address of this machine has the same port."""
    with socket.create_server(("0.0.0.0", 0)) as own:
        port = own.getsockname()[1]
        service.apply(balancer("local-only", "site", port, loadBalancerSourceRanges=["127.0.0.0/8"]))
        address = ingress(service, "local-only")["ip"]
        answers(address, port)
        assert {get(address, port) for _ in range(20)} == set(site)
        service.run_pod("stranger", SLEEP)
        told = service.exec("stranger", f"timeout 5 nc {address} {port} </dev/null && echo open", check=False)
        # In the VPC kube-proxy answers for the address, and drops who may not come.
        assert "open" not in told.stdout
        service.delete_pod("stranger")
    with socket.create_server(("0.0.0.0", port)):
        assert get(address, port) in site, "and comes second, too"
    service.kubectl("delete", "service", "local-only", timeout=60)


def test_a_refused_service_does_not_hold_up_the_others(service, cluster, site):
    """Targets follow the nodes, whatever else there is in the cluster."""
    udp = balancer("a-refused", "site", 8086)
    udp["spec"]["ports"][0]["protocol"] = "UDP"
    service.apply(udp, balancer("z-steady", "site", 8087))
    address = ingress(service, "z-steady")["ip"]
    answers(address, 8087)
    service.create_nodegroup(cluster, "more", 1)
    service.wait_nodegroup(cluster, "more")
    service.delete_nodegroup(cluster, "more")
    for _ in range(20):
        assert get(address, 8087) in site
    service.kubectl("delete", "service", "a-refused", "z-steady", timeout=60)


def test_a_balancer_whose_finalizer_was_taken_away_goes(service, site):
    service.apply(balancer("forced", "site", 8088))
    address = ingress(service, "forced")["ip"]
    answers(address, 8088)
    service.kubectl("patch", "service", "forced", "--type=merge", "-p", json.dumps({"metadata": {"finalizers": None}}))
    service.kubectl("delete", "service", "forced", timeout=60)
    wait("nobody listens", lambda: refused(address, 8088), 30)


def test_balancers_outlive_the_service_and_the_gate(service, site):
    service.apply(balancer("steady", "site", 8085))
    address = ingress(service, "steady")["ip"]
    answers(address, 8085)
    service.kill("serve")
    assert get(address, 8085) in site
    service.start()
    service.kill("gate")
    answers(address, 8085)
    service.kubectl("delete", "service", "steady", timeout=60)


def test_kubectl_top_and_autoscaling(service, cluster):
    def top(what):
        told = service.kubectl("top", what, "--no-headers", "-A" if what == "pods" else "--show-capacity=false", check=False)
        return told.returncode == 0 and bool(told.stdout.strip()), told.stdout + told.stderr

    wait("kubectl top nodes", lambda: top("nodes"), 120, 1)
    assert len(service.kubectl("top", "nodes", "--no-headers").stdout.splitlines()) == 2
    wait("kubectl top pods", lambda: top("pods"), 60, 1)
    busy = deployment("busy", 1, "httpd -f -p 8080 -h /www & while :; do :; done", spread=False)
    container = busy["spec"]["template"]["spec"]["containers"][0]
    container["resources"] = {"requests": {"cpu": "50m"}, "limits": {"cpu": "150m"}}
    service.apply(
        busy,
        {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "busy"},
            "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "busy"},
                "minReplicas": 1,
                "maxReplicas": 2,
                "metrics": [
                    {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}
                ],
            },
        },
    )
    replicas = lambda: service.kubectl_json("get", "hpa", "busy")["status"]  # noqa: E731
    wait("two replicas", lambda: ((s := replicas()).get("desiredReplicas") == 2, s), 150, 1)
    service.kubectl("delete", "hpa,deployment", "busy", "--grace-period=1")
    # A cluster without a metrics-server has no API that does not answer.
    service.kubectl("scale", "deployment", "metrics-server", "-n", "kube-system", "--replicas=0")
    gone = lambda: service.kubectl("get", "apiservice", "v1beta1.metrics.k8s.io", check=False)  # noqa: E731
    wait("no metrics API", lambda: ((g := gone()).returncode != 0, g.stdout), 60)
    service.kubectl("create", "namespace", "passing")
    service.kubectl("delete", "namespace", "passing", timeout=60)
    service.kubectl("scale", "deployment", "metrics-server", "-n", "kube-system", "--replicas=1")
    wait("kubectl top nodes", lambda: top("nodes"), 120, 1)
