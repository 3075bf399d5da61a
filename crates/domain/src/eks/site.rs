//! Where the programs of a control plane take connections.

use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, SocketAddr};

/// What of a control plane takes connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    EtcdClients,
    EtcdPeers,
    ApiServer,
    ControllerManager,
    Scheduler,
    /// `gate`'s answers to TokenReviews.
    TokenWebhook,
    /// `gate`'s answers to AdmissionReviews, which are asked by TLS alone.
    Admission,
}

impl Listener {
    /// Those that have a port of their own, wherever they are.
    const ALL: [Self; 6] = [
        Self::EtcdClients,
        Self::EtcdPeers,
        Self::ApiServer,
        Self::ControllerManager,
        Self::Scheduler,
        Self::TokenWebhook,
    ];

    /// The usual one of each program; the webhook's is that of aws-iam-authenticator.
    fn usual_port(self) -> u16 {
        match self {
            Self::EtcdClients => 2379,
            Self::EtcdPeers => 2380,
            // As in EKS: `kubernetes.default` leads to the interfaces' addresses at 443.
            Self::ApiServer => 443,
            Self::ControllerManager => 10257,
            Self::Scheduler => 10259,
            Self::TokenWebhook => 21362,
            // As EKS's (`spec/eks-semantics.md` §1).
            Self::Admission => 23443,
        }
    }
}

/// The network in which a control plane's programs run; the loopback of it is theirs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Site {
    /// A network namespace of its own.
    Apart { namespace: String },
    /// The host's network, where the service is not root: ports of the loopback, this one and those behind it.
    OnHost { first_port: u16 },
}

impl Site {
    /// How many ports in a row one on the host has.
    pub const PORTS: u16 = Listener::ALL.len() as u16;

    /// `None` is the host's.
    pub fn namespace(&self) -> Option<&str> {
        match self {
            Self::Apart { namespace } => Some(namespace),
            Self::OnHost { .. } => None,
        }
    }

    pub fn port(&self, of: Listener) -> u16 {
        match self {
            Self::Apart { .. } => of.usual_port(),
            // There the other webhooks have TLS, too.
            Self::OnHost { .. } if of == Listener::Admission => self.port(Listener::TokenWebhook),
            Self::OnHost { first_port } => first_port.saturating_add(of as u16),
        }
    }

    pub fn address(&self, of: Listener) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port(of)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn nobody_shares_a_port() {
        for site in [Site::Apart { namespace: "n".into() }, Site::OnHost { first_port: 20_000 }] {
            let ports: BTreeSet<u16> = Listener::ALL.iter().map(|of| site.port(*of)).collect();
            assert_eq!(ports.len(), usize::from(Site::PORTS), "{site:?}");
        }
        let site = Site::OnHost { first_port: 20_000 };
        let inside = |of: &Listener| (20_000..20_000 + Site::PORTS).contains(&site.port(*of));
        assert!(Listener::ALL.iter().all(inside));
        let apart = Site::Apart { namespace: "n".into() };
        assert!(Listener::ALL.iter().all(|of| apart.port(*of) != apart.port(Listener::Admission)));
        assert_eq!(site.port(Listener::Admission), site.port(Listener::TokenWebhook));
    }

    #[test]
    fn a_site_is_read_as_it_was_written_also_by_older_versions() {
        let parse = |text| serde_json::from_str::<Site>(text).expect("parses");
        assert_eq!(parse(r#"{"namespace":"ekstra-1-cp"}"#), Site::Apart { namespace: "ekstra-1-cp".into() });
        let site = Site::OnHost { first_port: 16_600 };
        assert_eq!(parse(&serde_json::to_string(&site).expect("encodes")), site);
    }
}
