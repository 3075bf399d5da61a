"""An internet of one machine, in a network namespace: a resolver that knows two names, and behind them, over TLS, a registry
and an OpenID Connect issuer; and a proxy, for who cannot resolve them.

Run as a program, it is the servers: `internet.py ADDRESS WORK`, with certificate, keys and the image store of another home in WORK.
"""

import base64
import contextlib
import http.server
import json
import os
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

from ekstra_service import BINARY, wait
import images

# TEST-NET-2 (RFC 5737): nobody routes it.
HOST, INTERNET = "198.51.100.1", "198.51.100.2"
NAME = "registry-1.docker.io"
REPOSITORY = "library/nginx"
ISSUER = "login.example.com"
PROXY = f"http://{INTERNET}:3128"


class Registry(http.server.BaseHTTPRequestHandler):
    """Pulls of the distribution API, without logins."""

    protocol_version = "HTTP/1.1"
    store = None

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.partition("?")[0]
        if self.headers.get("Host") == ISSUER:
            return self.say(*issuer(path, self.store.parent.parent), "application/json")
        manifest = json.loads((self.store / f"refs/docker.io/{REPOSITORY}/_tags/latest").read_text())
        places = {
            f"/v2/{REPOSITORY}/manifests/latest": (manifest["digest"], manifest["mediaType"]),
            f"/v2/{REPOSITORY}/manifests/{manifest['digest']}": (manifest["digest"], manifest["mediaType"]),
        }
        blob = path.removeprefix(f"/v2/{REPOSITORY}/blobs/")
        if blob != path:
            places[path] = (blob, "application/octet-stream")
        if path == "/v2/":
            return self.say(200, b"{}", "application/json")
        digest, kind = places.get(path, ("", ""))
        file = self.store / "blobs" / digest.replace(":", "/")
        if not digest or not file.is_file():
            return self.say(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"unknown"}]}', "application/json")
        self.say(200, file.read_bytes(), kind, digest)

    def say(self, status, body, kind, digest=None):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if digest:
            self.send_header("Docker-Content-Digest", digest)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, text, *values):
        print(text % values, file=sys.stderr, flush=True)


class Proxy(http.server.BaseHTTPRequestHandler):
    """Tunnels to the registry (RFC 9110 §9.3.6)."""

    def do_CONNECT(self):
        name, _, port = self.path.rpartition(":")
        if name != NAME:
            return self.send_error(502)
        with socket.create_connection((self.server.server_address[0], int(port))) as far:
            self.send_response(200)
            self.end_headers()
            back = threading.Thread(target=pass_on, args=(far, self.connection), daemon=True)
            back.start()
            pass_on(self.connection, far)
            back.join()

    def log_message(self, text, *values):
        print("proxy: " + text % values, file=sys.stderr, flush=True)


def pass_on(source, target):
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def answer(query, names, address):
    """To one question (RFC 1035 §4): its address, no data of other kinds, or that there is no such name."""
    end = query.index(b"\0", 12) + 5
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode().lower())
        at += query[at] + 1
    known = ".".join(labels) in names
    kind = struct.unpack("!H", query[end - 4 : end - 2])[0]
    record = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 5, 4) + socket.inet_aton(address) if known and kind == 1 else b""
    flags = 0x8180 if known else 0x8183
    return query[:2] + struct.pack("!HHHHH", flags, 1, bool(record), 0, 0) + query[12:end] + record


def resolve(address, *names):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((address, 53))
        while True:
            query, client = server.recvfrom(4096)
            with contextlib.suppress(ValueError, IndexError):
                server.sendto(answer(query, names, address), client)


def issuer(path, work):
    """Discovery and keys (OpenID Connect Discovery 1.0 §4, RFC 7517)."""
    url = f"https://{ISSUER}"
    documents = {
        "/.well-known/openid-configuration": {
            "issuer": url,
            "jwks_uri": f"{url}/keys",
            "authorization_endpoint": f"{url}/authorize",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
        },
        "/keys": {"keys": [public_key(work / "issuer.key")]},
    }
    return (200, json.dumps(documents[path]).encode()) if path in documents else (404, b"{}")


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def public_key(key):
    modulus = run("openssl", "rsa", "-in", key, "-noout", "-modulus").stdout.strip().removeprefix("Modulus=")
    return {"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "e2e", "n": base64url(bytes.fromhex(modulus)), "e": "AQAB"}


def main(address, work):
    work = Path(work)
    certificate, key = work / "server.crt", work / "server.key"
    Registry.store = work / "origin" / "images"
    threading.Thread(target=resolve, args=(address, NAME, ISSUER), daemon=True).start()
    proxy = http.server.ThreadingHTTPServer((address, 3128), Proxy)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    server = http.server.ThreadingHTTPServer((address, 443), Registry)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    # Each client's handshake in its own thread: one that says nothing must not keep the others waiting.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.serve_forever()


def run(*command):
    return subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True)


def certificates(work):
    """An authority of its own, and a certificate for NAME."""
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=e2e authority",
        "-keyout", work / "ca.key", "-out", work / "ca.crt")
    run("openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={NAME}",
        "-keyout", work / "server.key", "-out", work / "server.csr")
    (work / "names").write_text(f"subjectAltName=DNS:{NAME},DNS:{ISSUER}\n")
    run("openssl", "x509", "-req", "-days", "2", "-in", work / "server.csr", "-CA", work / "ca.crt", "-CAkey", work / "ca.key",
        "-CAcreateserial", "-extfile", work / "names", "-out", work / "server.crt")
    run("openssl", "genrsa", "-out", work / "issuer.key", "2048")
    return work / "ca.crt"


class Internet:
    def __init__(self, work):
        self.namespace, self.link = f"e2e-internet-{os.getpid()}", f"e2ei{os.getpid() % 100_000}"
        self.work = work
        self.authority = certificates(work)
        home = work / "origin"
        env = {**os.environ, "EKSTRA_HOME": str(home)}
        script = "mkdir -p /www; hostname > /www/index.html; exec httpd -f -p 80 -h /www"
        pack = [BINARY, "image", "pack", images.rootfs(), "--name", "nginx:latest", "--entrypoint", "/bin/sh", "-c", script]
        subprocess.run(pack, env=env, check=True, capture_output=True)
        run("ip", "netns", "add", self.namespace)
        run("ip", "link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", self.namespace)
        run("ip", "address", "add", f"{HOST}/30", "dev", self.link)
        run("ip", "link", "set", self.link, "up")
        inside = ["ip", "-n", self.namespace]
        run(*inside, "address", "add", f"{INTERNET}/30", "dev", "eth0")
        run(*inside, "link", "set", "eth0", "up")
        run(*inside, "link", "set", "lo", "up")
        words = [sys.executable, __file__, INTERNET, work]
        self.log = work / "internet.log"
        with self.log.open("wb") as log:
            self.servers = subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, *map(str, words)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def start(self, service, resolver=INTERNET, **environment):
        """A service that resolves names there: in a mount namespace where another resolv.conf lies over the machine's."""
        resolv_conf = self.work / f"resolv-{service.port}.conf"
        resolv_conf.write_text(f"nameserver {resolver}\n")
        script = (
            "set -e; target=$(readlink -f /etc/resolv.conf)\n"
            'mount --make-private / ; mount --make-private "$(findmnt -no TARGET -T "$target")"\n'
            f'mount --bind {resolv_conf} "$target"; exec {BINARY} start'
        )
        words = ["unshare", "--mount", "--propagation", "unchanged", "sh", "-c", script]
        service.run(*words, env=service.plain_env(**environment))

    def token(self, subject, audience, **claims):
        """Of the issuer, for an hour (RFC 7519, RS256)."""
        now = int(time.time())
        body = {"iss": f"https://{ISSUER}", "sub": subject, "aud": audience, "iat": now, "exp": now + 3600, **claims}
        parts = [base64url(json.dumps(part).encode()) for part in ({"alg": "RS256", "kid": "e2e"}, body)]
        sign = ["openssl", "dgst", "-sha256", "-sign", self.work / "issuer.key"]
        signed = subprocess.run(list(map(str, sign)), input=".".join(parts).encode(), check=True, capture_output=True)
        return ".".join([*parts, base64url(signed.stdout)])

    def trusted_by(self, service):
        """The authority is among those of every node that runs; containerd reads them when it first asks over TLS."""
        for file in Path(service.home, "run").glob("i-*.pid"):
            pid = json.loads(file.read_text())["pid"]
            with open(f"/proc/{pid}/root/etc/ssl/certs/ca-certificates.crt", "a") as bundle:
                bundle.write(self.authority.read_text())

    def end(self):
        """The machine is offline."""
        if self.servers.poll() is None:
            self.servers.send_signal(signal.SIGKILL)
        self.servers.wait()
        subprocess.run(["ip", "link", "delete", self.link], capture_output=True)
        subprocess.run(["ip", "netns", "delete", self.namespace], capture_output=True)
        gone = lambda: not Path("/run/netns", self.namespace).exists()  # noqa: E731
        wait("the internet gone", lambda: (gone(), ""), 10)


if __name__ == "__main__":
    main(*sys.argv[1:])
