//! The instance metadata service, version 2 only.
//!
//! Who asks is told by the source address, which the router has checked against the link. Answers carry the instance's
//! hop limit as their TTL, so that with a limit of 1 they reach the instance and not its pods.
//!
//! Source: the EC2 user guide, "Instance metadata categories"; `spec/eks-semantics.md` §2.4.

use crate::accept::{self, Terms};
use crate::http::{Body, Patience, full, serve as serve_connection};
use crate::{Gate, now};
use ekstra_domain::ec2::{Attachment, Instance, Interface, Subnet, Vpc};
use ekstra_domain::iam::{Principal, Role, Session, SessionTerms};
use ekstra_domain::names::{Arn, keys};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::sync::Arc;
use tokio::net::TcpListener;

/// AWS hands out credentials of six hours.
const CREDENTIALS_LIFETIME: i64 = 6 * 3600;
const TOKEN_LIFETIME_HEADER: &str = "x-aws-ec2-metadata-token-ttl-seconds";
const TOKEN_HEADER: &str = "x-aws-ec2-metadata-token";
const LONGEST_TOKEN_LIFETIME: i64 = 21_600;

pub(crate) async fn serve(terms: Terms, gate: Gate, vpc: String, listener: Arc<TcpListener>) {
    accept::run(terms, listener, |stream, peer| {
        let IpAddr::V4(peer) = peer.ip() else { return None };
        let (instance, interface) = find(&gate, &vpc, peer)?;
        let hops = i32::from(instance.metadata_hop_limit.max(1));
        nix::sys::socket::setsockopt(&stream.as_fd(), nix::sys::socket::sockopt::Ipv4Ttl, &hops).ok()?;
        let item = Items { gate: gate.clone(), instance, interface, peer };
        Some(serve_connection(stream, Patience::STRANGERS, move |request| {
            let answer = item.answer(&request);
            async move { answer }
        }))
    })
    .await;
}

fn find(gate: &Gate, vpc: &str, peer: Ipv4Addr) -> Option<(Instance, Interface)> {
    let interfaces = gate.view.list_as::<Interface>(keys::INTERFACES);
    let (_, interface) = interfaces.into_iter().find(|(_, i)| i.vpc == vpc && i.holds(peer))?;
    let Attachment::Instance { id } = &interface.attachment else {
        return None;
    };
    let instance: Instance = gate.view.get_as(&keys::instance(&interface.scope, id))?;
    Some((instance, interface))
}

struct Items {
    gate: Gate,
    instance: Instance,
    interface: Interface,
    peer: Ipv4Addr,
}

fn text(body: impl Into<String>) -> Response<Body> {
    full(StatusCode::OK, "text/plain", body.into())
}

fn status(status: StatusCode) -> Response<Body> {
    full(status, "text/plain", String::new())
}

impl Items {
    fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        let path = request.uri().path();
        let header = |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok());
        // AWS refuses requests that came through a proxy.
        if header("x-forwarded-for").is_some() {
            return status(StatusCode::FORBIDDEN);
        }
        if path == "/latest/api/token" {
            return match (request.method(), header(TOKEN_LIFETIME_HEADER).and_then(|v| v.parse::<i64>().ok()))
            {
                (&Method::PUT, Some(seconds)) if (1..=LONGEST_TOKEN_LIFETIME).contains(&seconds) => {
                    text(self.make_token(now() + seconds))
                }
                (&Method::PUT, _) => status(StatusCode::BAD_REQUEST),
                _ => status(StatusCode::METHOD_NOT_ALLOWED),
            };
        }
        if !header(TOKEN_HEADER).is_some_and(|token| self.is_token(token)) {
            return status(StatusCode::UNAUTHORIZED);
        }
        if request.method() != Method::GET {
            return status(StatusCode::METHOD_NOT_ALLOWED);
        }
        let item =
            path.strip_prefix("/latest/").or_else(|| path.strip_prefix("/2021-07-15/")).unwrap_or_default();
        self.item(item).map_or_else(|| status(StatusCode::NOT_FOUND), text)
    }

    fn make_token(&self, expires: i64) -> String {
        let mac = self.gate.master.derive("metadata-token", format!("{} {expires}", self.peer).as_bytes());
        let hex: String = mac.iter().take(20).map(|b| format!("{b:02x}")).collect();
        format!("{expires}-{hex}")
    }

    fn is_token(&self, token: &str) -> bool {
        let expires = token.split_once('-').and_then(|(time, _)| time.parse::<i64>().ok());
        expires.is_some_and(|at| at > now() && self.make_token(at) == token)
    }

    fn item(&self, path: &str) -> Option<String> {
        let instance = &self.instance;
        let name = path.trim_end_matches('/');
        match name {
            "user-data" => (!instance.user_data.is_empty()).then(|| instance.user_data.clone()),
            "dynamic/instance-identity/document" => Some(self.identity_document()),
            _ => self.metadata(name.strip_prefix("meta-data").map(|rest| rest.trim_start_matches('/'))?),
        }
    }

    fn metadata(&self, name: &str) -> Option<String> {
        let instance = &self.instance;
        let scope = &instance.scope;
        let facts = &self.gate.facts;
        Some(match name {
            "" => "ami-id\nhostname\niam/\ninstance-id\ninstance-type\nlocal-hostname\nlocal-ipv4\nmac\nnetwork/\nplacement/\nservices/".into(),
            "ami-id" => instance.image.clone(),
            "hostname" | "local-hostname" => instance.private_dns_name.clone(),
            "instance-id" => instance.id.clone(),
            "instance-life-cycle" => "on-demand".into(),
            "instance-type" => instance.instance_type.clone(),
            "local-ipv4" => instance.address.to_string(),
            "mac" => self.interface.mac.clone(),
            "placement/availability-zone" => instance.zone.clone(),
            "placement/availability-zone-id" => ekstra_domain::ec2::zone_id(&scope.region, &instance.zone),
            "placement/region" => scope.region.clone(),
            "services/domain" => "amazonaws.com".into(),
            "services/partition" => "aws".into(),
            // Ekstra's own: where the image finds what AWS's images have built in.
            "services/private-domain" => scope.private_domain(),
            "services/image-registry" => format!("http://{}:{}", facts.address, facts.registry_port),
            "services/endpoint" => format!("http://{}:{}", facts.address, facts.port),
            "iam/security-credentials" => self.role_name()?,
            "network/interfaces/macs" => format!("{}/", self.interface.mac),
            _ => return self.credentials(name).or_else(|| self.network(name)),
        })
    }

    fn role_name(&self) -> Option<String> {
        self.instance.role_arn.as_deref()?.parse::<Arn>().ok()?.role_name().map(str::to_owned)
    }

    fn credentials(&self, name: &str) -> Option<String> {
        let asked = name.strip_prefix("iam/security-credentials/")?;
        let role_name = self.role_name().filter(|own| own == asked)?;
        let account = &self.instance.scope.account;
        let role: Role = self.gate.view.get_as(&keys::role(account, &role_name))?;
        // Of another path, or made later under the name: not the one that was passed.
        let is_another = self.instance.role_id.as_ref().is_some_and(|id| *id != role.id);
        if is_another || self.instance.role_arn.as_deref() != Some(role.arn().as_str()) {
            return None;
        }
        let id = &self.instance.id;
        let issued = now();
        let expires = issued + CREDENTIALS_LIFETIME;
        let key = self.gate.master.derive("access-key", format!("{id} {expires}").as_bytes());
        let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
        let tail: String = key.iter().take(16).map(|b| char::from(letters[usize::from(b % 32)])).collect();
        let session = Session {
            access_key_id: format!("ASIA{tail}"),
            principal: Principal {
                account: account.clone(),
                arn: format!("arn:aws:sts::{account}:assumed-role/{role_name}/{id}"),
                user_id: format!("{}:{id}", role.id),
            },
            issued,
            expires,
            terms: SessionTerms::default(),
        };
        let token = self.gate.master.seal(&session);
        let answer = json!({
            "Code": "Success",
            "LastUpdated": ekstra_wire::iso8601(issued * 1000),
            "Type": "AWS-HMAC",
            "AccessKeyId": session.access_key_id,
            "SecretAccessKey": self.gate.master.secret(&token).0,
            "Token": token,
            "Expiration": ekstra_wire::iso8601(expires * 1000),
        });
        Some(answer.to_string())
    }

    fn network(&self, name: &str) -> Option<String> {
        let interface = &self.interface;
        let item =
            name.strip_prefix(&format!("network/interfaces/macs/{}", interface.mac))?.trim_start_matches('/');
        let scope = &interface.scope;
        let vpc = || self.gate.view.get_as::<Vpc>(&keys::vpc(scope, &interface.vpc));
        let subnet = || self.gate.view.get_as::<Subnet>(&keys::subnet(scope, &interface.subnet));
        Some(match item {
            "device-number" => interface.device_index.to_string(),
            "interface-id" => interface.id.clone(),
            "ipv4-prefix" => lines(interface.prefixes.iter().map(ToString::to_string)),
            "local-hostname" => self.instance.private_dns_name.clone(),
            "local-ipv4s" => interface.address.to_string(),
            "mac" => interface.mac.clone(),
            "owner-id" => scope.account.clone(),
            "security-group-ids" => lines(interface.security_groups.iter().cloned()),
            "subnet-id" => interface.subnet.clone(),
            "subnet-ipv4-cidr-block" => subnet()?.cidr.to_string(),
            "vpc-id" => interface.vpc.clone(),
            "vpc-ipv4-cidr-block" | "vpc-ipv4-cidr-blocks" => vpc()?.cidr.to_string(),
            _ => return None,
        })
    }

    fn identity_document(&self) -> String {
        let instance = &self.instance;
        json!({
            "accountId": instance.scope.account,
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "x86_64" },
            "availabilityZone": instance.zone,
            "imageId": instance.image,
            "instanceId": instance.id,
            "instanceType": instance.instance_type,
            "pendingTime": ekstra_wire::iso8601(instance.launched_ms),
            "privateIp": instance.address.to_string(),
            "region": instance.scope.region,
            "version": "2017-09-30",
        })
        .to_string()
    }
}

fn lines(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join("\n")
}
