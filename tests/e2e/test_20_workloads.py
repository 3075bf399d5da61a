"""Pods on real nodes: the kubelet's streams, the pod network, Services, DNS."""

import base64
import ipaddress
import json
import re
import subprocess
import urllib.request

from ekstra_service import SLEEP, pod, wait

VPC = ipaddress.ip_network("172.31.0.0/16")


def test_replicas_spread_over_nodes(service, web):
    assert len({p["spec"]["nodeName"] for p in web}) == 2


def test_pods_have_vpc_addresses(service, web):
    for p in web:
        assert ipaddress.ip_address(p["status"]["podIP"]) in VPC
        assert p["status"]["podIP"] != p["status"]["hostIP"]


def test_logs(service, web):
    for p in web:
        name = p["metadata"]["name"]
        wait(f"log of {name}", lambda: ("serving" in (t := service.kubectl("logs", name).stdout), t), 20)


def test_exec(service, web):
    for p in web:
        name = p["metadata"]["name"]
        assert service.exec(name, "cat /www/index.html").stdout.strip() == name
        assert service.exec(name, "exit 7", check=False).returncode == 7


def test_attach(service, cluster):
    service.run_pod("echo", "while read line; do echo got:$line; done; sleep 600", container={"stdin": True})
    attached = service.spawn("kubectl", "attach", "-i", "echo")
    try:
        attached.stdin.write("hello\n")
        attached.stdin.flush()
        wait("the echo", lambda: ("got:hello" in (t := service.kubectl("logs", "echo").stdout), t), 30)
    finally:
        attached.kill()
        attached.communicate()
        service.delete_pod("echo")


def test_a_certificate_of_a_workload_is_signed_once_it_is_approved(service, cluster, tmp_path):
    """EKS's signer for servers in the cluster."""
    name = "web.default.svc"
    subject = ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
    make = ["openssl", "req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", tmp_path / "key", *subject]
    request = subprocess.run(make, check=True, capture_output=True, timeout=60).stdout
    spec = {
        "request": base64.b64encode(request).decode(),
        "signerName": "beta.eks.amazonaws.com/app-serving",
        "usages": ["key encipherment", "digital signature", "server auth"],
    }
    kind = {"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest"}
    service.kubectl("create", "-f", "-", stdin=json.dumps({**kind, "metadata": {"name": "web"}, "spec": spec}))

    def certificate():
        text = service.kubectl("get", "csr", "web", "-o", "jsonpath={.status.certificate}").stdout
        return bool(text), text

    assert certificate() == (False, "")
    service.kubectl("certificate", "approve", "web")
    signed = base64.b64decode(wait("the certificate", certificate, 20))
    described = service.client("eks").describe_cluster(name=cluster)["cluster"]
    (tmp_path / "ca").write_bytes(base64.b64decode(described["certificateAuthority"]["data"]))
    verify = ["openssl", "verify", "-CAfile", tmp_path / "ca", "-purpose", "sslserver", "-verify_hostname", name]
    done = subprocess.run(verify, input=signed, capture_output=True, timeout=60)
    assert done.returncode == 0, done
    service.kubectl("delete", "csr", "web")


def test_port_forward(service, web):
    forward = service.spawn("kubectl", "port-forward", "service/web", ":80")
    try:
        line = forward.stdout.readline()
        port = re.search(r"127\.0\.0\.1:(\d+)", line)
        assert port, line
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        text = opener.open(f"http://127.0.0.1:{port[1]}/", timeout=20).read().decode().strip()
        assert text in [p["metadata"]["name"] for p in web]
    finally:
        forward.kill()
        forward.communicate()


def test_node_proxy(service, cluster):
    for node in service.nodes():
        assert service.kubectl("get", "--raw", f"/api/v1/nodes/{node}/proxy/healthz").stdout.strip() == "ok"


def test_pod_to_pod_across_nodes(service, web):
    a, b = web
    for source, target in [(a, b), (b, a), (a, a)]:
        url = f"http://{target['status']['podIP']}:8080/"
        got = service.exec(source["metadata"]["name"], f"timeout 5 wget -q -O - {url}").stdout.strip()
        assert got == target["metadata"]["name"]


def test_service_reaches_both_replicas(service, web):
    address = service.kubectl_json("get", "service", "web")["spec"]["clusterIP"]
    seen = set()

    def check():
        seen.add(service.exec(web[0]["metadata"]["name"], f"timeout 5 wget -q -O - http://{address}/").stdout.strip())
        return seen == {p["metadata"]["name"] for p in web}, seen

    wait("both replicas answered", check, 60)


def test_dns(service, web):
    name = web[0]["metadata"]["name"]
    address = service.kubectl_json("get", "service", "web")["spec"]["clusterIP"]
    assert address in service.exec(name, "nslookup web.default.svc.cluster.local").stdout
    assert "10.100.0.1" in service.exec(name, "nslookup kubernetes.default.svc.cluster.local").stdout
    got = service.exec(name, "timeout 5 wget -q -O - http://web/").stdout.strip()
    assert got in [p["metadata"]["name"] for p in web]


def test_api_server_from_a_pod(service, web):
    """TLS is not busybox's strength: that the port is open through the ClusterIP is enough here."""
    name = web[0]["metadata"]["name"]
    for p in web:
        service.exec(p["metadata"]["name"], "nc -w 5 kubernetes.default 443 </dev/null")
    token = service.exec(name, "cat /var/run/secrets/kubernetes.io/serviceaccount/token").stdout
    assert token.count(".") == 2


def test_privileged_pod(service, cluster):
    service.run_pod("root", SLEEP, container={"securityContext": {"privileged": True}})
    try:
        service.exec("root", "mkdir -p /mnt && mount -t tmpfs none /mnt && umount /mnt")
    finally:
        service.delete_pod("root")


def test_limits_kill(service, cluster):
    """A memory limit is the kernel's business, and it is at work."""
    hungry = pod(
        "hungry",
        "x=x; while :; do x=$x$x; done",
        restartPolicy="Never",
        container={"resources": {"limits": {"memory": "32Mi", "cpu": "500m"}}},
    )
    service.apply(hungry)

    def check():
        status = service.kubectl_json("get", "pod", "hungry")["status"]
        ended = [c.get("state", {}).get("terminated", {}).get("reason") for c in status.get("containerStatuses", [])]
        return ended == ["OOMKilled"], status

    try:
        wait("OOMKilled", check, 60)
    finally:
        service.delete_pod("hungry")


def test_configmaps_and_volumes(service, cluster):
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "greeting"}, "data": {"text": "hello"}}
    reader = pod(
        "reader",
        SLEEP,
        volumes=[{"name": "c", "configMap": {"name": "greeting"}}, {"name": "e", "emptyDir": {}}],
        container={"volumeMounts": [{"name": "c", "mountPath": "/c"}, {"name": "e", "mountPath": "/e"}]},
    )
    service.apply(config, reader)
    service.wait_pods("app=reader", 1)
    try:
        assert service.exec("reader", "cat /c/text && touch /e/file").stdout == "hello"
    finally:
        service.delete_pod("reader")


def test_host_port(service, web):
    spec = pod("hostport", "mkdir -p /www; echo by-host-port > /www/index.html; exec httpd -f -p 8080 -h /www",
               container={"ports": [{"containerPort": 8080, "hostPort": 18080}]})
    service.apply(spec)
    (hostport,) = service.wait_pods("app=hostport", 1)
    other = next(p for p in web if p["spec"]["nodeName"] != hostport["spec"]["nodeName"])
    try:
        url = f"http://{hostport['status']['hostIP']}:18080/"
        assert service.exec(other["metadata"]["name"], f"timeout 5 wget -q -O - {url}").stdout.strip() == "by-host-port"
    finally:
        service.delete_pod("hostport")
