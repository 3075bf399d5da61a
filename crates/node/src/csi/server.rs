//! gRPC on a UNIX socket: HTTP/2 connections, and the service that a path belongs to.

use super::generated::csi::identity_server::IdentityServer;
use super::generated::csi::node_server::NodeServer;
use super::service::{Driver, Facts};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;

pub(super) async fn serve(listener: UnixListener, facts: Facts) {
    let driver = Driver::new(facts);
    let (node, identity) = (NodeServer::from_arc(driver.clone()), IdentityServer::from_arc(driver));
    accept(listener, move |request| {
        let (mut node, mut identity) = (node.clone(), identity.clone());
        async move {
            match request.uri().path().split('/').nth(1) {
                Some("csi.v1.Node") => node.call(request).await,
                Some("csi.v1.Identity") => identity.call(request).await,
                _ => Ok(Status::unimplemented("no such service").into_http()),
            }
        }
    })
    .await;
}

async fn accept<F, A>(listener: UnixListener, answer: F)
where
    F: Fn(http::Request<Incoming>) -> A + Clone + Send + 'static,
    A: Future<Output = Result<http::Response<Body>, Infallible>> + Send + 'static,
{
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(connection(stream, answer.clone()))),
            Err(error) => {
                say!("csi: accept: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection<F, A>(stream: UnixStream, answer: F)
where
    F: Fn(http::Request<Incoming>) -> A + Send + 'static,
    A: Future<Output = Result<http::Response<Body>, Infallible>> + Send + 'static,
{
    let service = hyper::service::service_fn(answer);
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    // A kubelet that hangs up is not an error of ours.
    let _ = connection.serve_connection(TokioIo::new(stream), service).await;
}
