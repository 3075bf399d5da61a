//! Exchanges with the registry, as containerd and docker have them.

use std::io::{Read, Seek, SeekFrom};

use ekstra_images::manifest::{DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Platform, host_architecture};
use ekstra_images::registry::{Action, Body, Policy, Registry, Upstream, Wanted};
use ekstra_images::store::Children;
use ekstra_images::{Digest, ImageStore};
use http::{Request, Response};

use crate::support::{Image, image, index, name, put, store};

/// A response with its body read.
#[derive(Debug)]
struct Got {
    status: u16,
    response: Response<()>,
    body: Vec<u8>,
}

impl Got {
    fn header(&self, name: &str) -> &str {
        let value = self.response.headers().get(name);
        value.map(|value| value.to_str().expect("text")).unwrap_or_default()
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    /// Status and first error code.
    fn error(&self) -> (u16, String) {
        let json = self.json();
        assert!(json["errors"][0]["message"].is_string() && json["errors"][0].get("detail").is_some());
        (self.status, json["errors"][0]["code"].as_str().unwrap_or_default().to_owned())
    }
}

fn got(response: Response<Body>) -> Got {
    let (head, body) = response.into_parts();
    let body = match body {
        Body::Full(bytes) => bytes.to_vec(),
        Body::File { mut file, offset, len, .. } => {
            let mut bytes = Vec::new();
            file.seek(SeekFrom::Start(offset)).expect("a file");
            file.take(len).read_to_end(&mut bytes).expect("a file");
            bytes
        }
    };
    let got = Got { status: head.status.as_u16(), response: Response::from_parts(head, ()), body };
    assert_eq!(got.header("docker-distribution-api-version"), "registry/2.0");
    got
}

fn action(registry: &Registry, method: &str, uri: &str, headers: &[(&str, &str)]) -> Action {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    registry.handle(&request.body(()).expect("a request").into_parts().0)
}

fn send(registry: &Registry, method: &str, uri: &str, headers: &[(&str, &str)], body: &[u8]) -> Got {
    got(match action(registry, method, uri, headers) {
        Action::Respond(response) => response,
        Action::ReceiveManifest(upload) => upload.finish(body),
        Action::ReceiveBlob(mut upload) => match body.chunks(3).try_for_each(|chunk| upload.append(chunk)) {
            Ok(()) => upload.finish(),
            Err(error) => error.response(),
        },
        Action::FetchUpstream(wanted) => panic!("nobody to ask for {wanted:?}"),
    })
}

fn get(registry: &Registry, uri: &str) -> Got {
    send(registry, "GET", uri, &[], b"")
}

fn registries(store: &ImageStore) -> (Registry, Registry) {
    let read = Registry::new(store.clone(), Policy::read_only());
    (read, Registry::new(store.clone(), Policy::read_write()))
}

#[test]
fn a_node_pulls_through_its_mirror() {
    let (_dir, store) = store();
    let app = put(&store, "nginx:1", b"app");
    let (registry, _) = registries(&store);
    assert_eq!((get(&registry, "/v2/").status, get(&registry, "/v2").status), (200, 200));

    let uri = "/v2/library/nginx/manifests/1?ns=docker.io";
    let accept = ("accept", "application/vnd.oci.image.manifest.v1+json;q=0.5, text/plain");
    let head = send(&registry, "HEAD", uri, &[accept], b"");
    let manifest = send(&registry, "GET", uri, &[accept], b"");
    for got in [&head, &manifest] {
        assert_eq!((got.status, got.header("content-type")), (200, OCI_MANIFEST));
        assert_eq!(got.header("docker-content-digest"), app.descriptor.digest.to_string());
        assert_eq!(got.header("content-length"), app.descriptor.size.to_string());
    }
    assert_eq!((head.body.len(), &manifest.body), (0, &app.blobs[2]));
    let digest = app.descriptor.digest;
    let by_digest = get(&registry, &format!("/v2/library/nginx/manifests/{digest}?ns=docker.io"));
    assert_eq!(by_digest.body, app.blobs[2]);

    for blob in &app.blobs[..2] {
        let uri = format!("/v2/library/nginx/blobs/{}?ns=docker.io", Digest::of(blob));
        assert_eq!(&get(&registry, &uri).body, blob);
        let head = send(&registry, "HEAD", &uri, &[], b"");
        assert_eq!((head.header("content-length"), head.body.len()), (&*blob.len().to_string(), 0));
    }
    // Without `ns`, the path itself may begin with the registry.
    assert_eq!(get(&registry, "/v2/docker.io/library/nginx/manifests/1").status, 200);
}

#[test]
fn ranges_of_a_blob() {
    let (_dir, store) = store();
    let digest = store.put_blob(b"0123456789").expect("a blob");
    let (registry, _) = registries(&store);
    let uri = format!("/v2/a/blobs/{digest}");
    let table = [
        ("bytes=2-4", 206, "bytes 2-4/10", "234"),
        ("bytes=7-", 206, "bytes 7-9/10", "789"),
        ("bytes=-3", 206, "bytes 7-9/10", "789"),
        ("bytes=-99", 206, "bytes 0-9/10", "0123456789"),
        ("bytes=8-99", 206, "bytes 8-9/10", "89"),
        ("bytes=4-2", 200, "", "0123456789"),
        ("bytes=0-1,3-4", 200, "", "0123456789"),
        ("lines=1-2", 200, "", "0123456789"),
    ];
    for (range, status, content_range, body) in table {
        let got = send(&registry, "GET", &uri, &[("range", range)], b"");
        let seen = (got.status, got.header("content-range"), std::str::from_utf8(&got.body).expect("text"));
        assert_eq!(seen, (status, content_range, body), "{range}");
        assert_eq!(got.header("content-length"), body.len().to_string(), "{range}");
    }
    let outside = send(&registry, "GET", &uri, &[("range", "bytes=10-")], b"");
    assert_eq!((outside.status, outside.header("content-range")), (416, "bytes */10"));
}

#[test]
fn what_is_not_there_has_its_own_code() {
    let (_dir, store) = store();
    put(&store, "localhost/app:1", b"app");
    let (registry, writable) = registries(&store);
    let nothing = Digest::of(b"nothing");
    let blob = Digest::of(&image(b"app").blobs[0]);
    let table = [
        ("/v2/app/manifests/2".to_owned(), 404, "MANIFEST_UNKNOWN"),
        ("/v2/app/manifests/.INVALID".to_owned(), 404, "MANIFEST_UNKNOWN"),
        (format!("/v2/app/manifests/{nothing}"), 404, "MANIFEST_UNKNOWN"),
        (format!("/v2/app/manifests/{blob}"), 404, "MANIFEST_UNKNOWN"),
        (format!("/v2/app/blobs/{nothing}"), 404, "BLOB_UNKNOWN"),
        ("/v2/app/blobs/sha512:00".to_owned(), 400, "DIGEST_INVALID"),
        ("/v2/other/tags/list".to_owned(), 404, "NAME_UNKNOWN"),
        ("/v2/App/tags/list".to_owned(), 400, "NAME_INVALID"),
        ("/v2/app/blobs/uploads/00".to_owned(), 404, "BLOB_UPLOAD_UNKNOWN"),
        ("/v2/app/tags/list?n=x".to_owned(), 400, "PAGINATION_NUMBER_INVALID"),
        ("/somewhere".to_owned(), 404, "NAME_UNKNOWN"),
    ];
    for (uri, status, code) in table {
        assert_eq!(get(&registry, &uri).error(), (status, code.to_owned()), "{uri}");
    }
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        let denied = send(&registry, method, "/v2/app/manifests/1", &[], b"");
        assert_eq!(denied.error(), (403, "DENIED".to_owned()), "{method}");
    }
    let odd = send(&writable, "POST", "/v2/app/manifests/1", &[], b"");
    assert_eq!((odd.error().1.as_str(), odd.header("allow")), ("UNSUPPORTED", "GET, HEAD, PUT, DELETE"));
}

#[test]
fn accept_chooses_among_what_a_tag_offers() {
    let (_dir, store) = store();
    let app = put(&store, "localhost/plain:1", b"app");
    let mut member = app.descriptor.clone();
    let platform = |architecture: &str| Platform {
        os: "linux".to_owned(),
        architecture: architecture.to_owned(),
        variant: None,
    };
    member.platform = Some(platform(host_architecture()));
    let mut other = member.clone();
    other.platform = Some(platform("s390x"));
    let top = store.put_manifest(&index(&[other, member]), None, Children::All).expect("an index");
    store.tag(&name("localhost/multi:1"), &top).expect("a tag");
    let (registry, _) = registries(&store);
    let with = |uri: &str, accept: &str| send(&registry, "GET", uri, &[("accept", accept)], b"");

    assert_eq!(get(&registry, "/v2/multi/manifests/1").header("content-type"), OCI_INDEX);
    assert_eq!(with("/v2/multi/manifests/1", "*/*").header("content-type"), OCI_INDEX);
    let ours = with("/v2/multi/manifests/1", OCI_MANIFEST);
    assert_eq!(ours.header("docker-content-digest"), app.descriptor.digest.to_string());
    assert_eq!(with("/v2/plain/manifests/1", DOCKER_MANIFEST).error().1, "MANIFEST_UNKNOWN");
    let by_digest = format!("/v2/multi/manifests/{}", top.digest);
    assert_eq!(with(&by_digest, OCI_MANIFEST).header("content-type"), OCI_INDEX);
}

#[test]
fn lists_come_in_pages() {
    let (_dir, store) = store();
    for reference in ["localhost/b:1", "localhost/b:2", "localhost/b:3", "localhost/a:1", "nginx:1"] {
        put(&store, reference, b"app");
    }
    let (registry, _) = registries(&store);
    let tags = get(&registry, "/v2/b/tags/list?n=2");
    assert_eq!(tags.json(), serde_json::json!({ "name": "b", "tags": ["1", "2"] }));
    assert_eq!(tags.header("link"), "</v2/b/tags/list?n=2&last=2>; rel=\"next\"");
    let rest = get(&registry, "/v2/b/tags/list?n=2&last=2");
    assert_eq!((rest.json()["tags"].to_string().as_str(), rest.header("link")), ("[\"3\"]", ""));
    assert_eq!(get(&registry, "/v2/b/tags/list?n=0").json()["tags"], serde_json::json!([]));

    let all = get(&registry, "/v2/_catalog").json();
    assert_eq!(all, serde_json::json!({ "repositories": ["a", "b", "docker.io/library/nginx"] }));
    let first = get(&registry, "/v2/_catalog?n=1");
    assert_eq!(first.header("link"), "</v2/_catalog?n=1&last=a>; rel=\"next\"");
    let hub = get(&registry, "/v2/_catalog?ns=docker.io").json();
    assert_eq!(hub, serde_json::json!({ "repositories": ["library/nginx"] }));
}

/// Pushes as docker does: session, one piece, the end.
fn push(registry: &Registry, repository: &str, tag: &str, app: &Image) -> Got {
    for blob in &app.blobs[..2] {
        let started = send(registry, "POST", &format!("/v2/{repository}/blobs/uploads/"), &[], b"");
        assert_eq!(started.status, 202);
        let patched = send(registry, "PATCH", started.header("location"), &[], blob);
        assert_eq!((patched.status, patched.header("range")), (202, &*format!("0-{}", blob.len() - 1)));
        let end = format!("{}?digest={}", patched.header("location"), Digest::of(blob));
        let ended = send(registry, "PUT", &end, &[], b"");
        assert_eq!(
            (ended.status, ended.header("docker-content-digest")),
            (201, &*Digest::of(blob).to_string())
        );
        assert_eq!(&get(registry, ended.header("location")).body, blob);
    }
    let uri = format!("/v2/{repository}/manifests/{tag}");
    send(registry, "PUT", &uri, &[("content-type", OCI_MANIFEST)], &app.blobs[2])
}

#[test]
fn what_is_pushed_can_be_pulled_and_deleted() {
    let (_dir, store) = store();
    let (_, registry) = registries(&store);
    let app = image(b"app");
    let digest = app.descriptor.digest;
    let pushed = push(&registry, "me/app", "v1", &app);
    assert_eq!((pushed.status, pushed.header("location")), (201, "/v2/me/app/manifests/v1"));
    assert_eq!(pushed.header("docker-content-digest"), digest.to_string());
    assert_eq!(get(&registry, "/v2/me/app/manifests/v1").body, app.blobs[2]);
    assert!(store.resolve(&name("localhost/me/app:v1")).expect("readable").is_some());

    assert_eq!(send(&registry, "DELETE", "/v2/me/app/manifests/v1", &[], b"").status, 202);
    assert_eq!(get(&registry, "/v2/me/app/manifests/v1").status, 404);
    let by_digest = format!("/v2/me/app/manifests/{digest}");
    assert_eq!(get(&registry, &by_digest).status, 200, "untagged, not yet deleted");
    assert_eq!(send(&registry, "DELETE", &by_digest, &[], b"").status, 202);
    assert_eq!(get(&registry, &by_digest).status, 404);
    assert_eq!(send(&registry, "DELETE", &by_digest, &[], b"").status, 404);
    let layer = format!("/v2/me/app/blobs/{}", Digest::of(&app.blobs[0]));
    assert_eq!(send(&registry, "DELETE", &layer, &[], b"").status, 202);
    assert_eq!(get(&registry, &layer).status, 404);
}

#[test]
fn uploads_go_in_pieces_that_must_follow_each_other() {
    let (_dir, store) = store();
    let (_, registry) = registries(&store);
    let location = {
        let started = send(&registry, "POST", "/v2/app/blobs/uploads/?ns=docker.io", &[], b"");
        started.header("location").to_owned()
    };
    assert!(
        location.starts_with("/v2/app/blobs/uploads/") && location.ends_with("?ns=docker%2Eio"),
        "{location}"
    );
    let piece =
        |range: &str, bytes: &[u8]| send(&registry, "PATCH", &location, &[("content-range", range)], bytes);
    assert_eq!(piece("0-4", b"01234").status, 202);
    let again = piece("0-4", b"01234");
    assert_eq!((again.status, again.header("range"), again.header("location")), (416, "0-4", &*location));
    let status = get(&registry, &location);
    assert_eq!((status.status, status.header("range")), (204, "0-4"));
    assert_eq!(piece("5-7", b"567").status, 202);
    let end = format!("{location}&digest={}", Digest::of(b"0123456789"));
    assert_eq!(send(&registry, "PUT", &end, &[], b"89").status, 201);
    assert_eq!(store.blob_size(&Digest::of(b"0123456789")).expect("readable"), Some(10));
    assert_eq!(get(&registry, &location).error().1, "BLOB_UPLOAD_UNKNOWN");
}

#[test]
fn uploads_that_lie_are_refused() {
    let (_dir, store) = store();
    let registry = Registry::new(store.clone(), Policy { max_blob: 8, ..Policy::read_write() });
    let wrong = format!("/v2/app/blobs/uploads/?digest={}", Digest::of(b"other"));
    assert_eq!(send(&registry, "POST", &wrong, &[], b"bytes").error().1, "DIGEST_INVALID");
    let right = format!("/v2/app/blobs/uploads/?digest={}", Digest::of(b"bytes"));
    assert_eq!(send(&registry, "POST", &right, &[], b"bytes").status, 201);
    assert_eq!(send(&registry, "POST", &right, &[], b"too many bytes").error().0, 413);

    let app = image(b"app");
    let uri = format!("/v2/app/manifests/{}", Digest::of(b"other"));
    assert_eq!(send(&registry, "PUT", &uri, &[], &app.blobs[2]).error().1, "DIGEST_INVALID");
    let missing = send(&registry, "PUT", "/v2/app/manifests/1", &[], &app.blobs[2]);
    assert_eq!(missing.error(), (400, "MANIFEST_BLOB_UNKNOWN".to_owned()));
    assert_eq!(send(&registry, "PUT", "/v2/app/manifests/1", &[], b"{}").error().1, "MANIFEST_INVALID");
    let huge = vec![b' '; (4 << 20) + 1];
    assert_eq!(send(&registry, "PUT", "/v2/app/manifests/1", &[], &huge).error().0, 413);
}

#[test]
fn a_session_has_one_writer_and_can_be_cancelled() {
    let (_dir, store) = store();
    let (_, registry) = registries(&store);
    let started = send(&registry, "POST", "/v2/app/blobs/uploads/", &[], b"");
    let location = started.header("location");
    let first = action(&registry, "PATCH", location, &[]);
    assert!(matches!(first, Action::ReceiveBlob(_)), "{first:?}");
    assert_eq!(send(&registry, "PATCH", location, &[], b"x").error().1, "BLOB_UPLOAD_INVALID");
    drop(first);
    assert_eq!(send(&registry, "DELETE", location, &[], b"").status, 204);
    assert_eq!(send(&registry, "PATCH", location, &[], b"x").error().1, "BLOB_UPLOAD_UNKNOWN");
}

#[test]
fn a_mount_finds_what_is_here_and_else_starts_an_upload() {
    let (_dir, store) = store();
    let (_, registry) = registries(&store);
    let digest = store.put_blob(b"blob").expect("a blob");
    let mount = |digest: &Digest| {
        let uri = format!("/v2/app/blobs/uploads/?mount={digest}&from=other");
        send(&registry, "POST", &uri, &[], b"")
    };
    let mounted = mount(&digest);
    assert_eq!((mounted.status, mounted.header("location")), (201, &*format!("/v2/app/blobs/{digest}")));
    assert_eq!(mount(&Digest::of(b"absent")).status, 202);
}

#[test]
fn what_is_missing_is_asked_of_its_own_registry_only() {
    let (_dir, store) = store();
    put(&store, "nginx:1", b"app");
    let policy = Policy { upstream: Upstream::WhenMissing, ..Policy::read_only() };
    let registry = Registry::new(store, policy);
    let wanted = |uri: &str| match action(&registry, "GET", uri, &[]) {
        Action::FetchUpstream(wanted) => Some(wanted),
        Action::Respond(_) => None,
        other => panic!("{other:?}"),
    };
    let missing = wanted("/v2/library/nginx/manifests/2?ns=docker.io");
    assert_eq!(missing, Some(Wanted::Manifest(name("nginx:2"))));
    let blob = Digest::of(b"absent");
    let expected = Wanted::Blob(name("nginx").repository().clone(), blob);
    assert_eq!(wanted(&format!("/v2/nginx/blobs/{blob}?ns=docker.io")), Some(expected));
    assert_eq!(wanted("/v2/library/nginx/manifests/1?ns=docker.io"), None, "it is here");
    assert_eq!(wanted("/v2/app/manifests/1"), None, "nobody else has our own");
    assert_eq!(wanted("/v2/library/nginx/manifests/.x?ns=docker.io"), None, "no tag");

    let request = Request::get("/v2/library/nginx/manifests/2?ns=docker.io").body(()).expect("a request");
    let stored = registry.handle_stored(&request.into_parts().0);
    assert!(matches!(stored, Action::Respond(ref response) if response.status() == 404), "{stored:?}");
}
