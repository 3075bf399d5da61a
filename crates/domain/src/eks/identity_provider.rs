//! OpenID Connect providers whose users a cluster knows.

use crate::names::Scope;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ProviderStatus {
    Creating,
    Active,
    Deleting,
}

impl ProviderStatus {
    pub fn wire(self) -> &'static str {
        match self {
            Self::Creating => "CREATING",
            Self::Active => "ACTIVE",
            Self::Deleting => "DELETING",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IdentityProvider {
    pub scope: Scope,
    pub cluster: String,
    pub name: String,
    pub uid: String,
    pub status: ProviderStatus,
    pub issuer_url: String,
    /// Whom its tokens are for.
    pub client_id: String,
    pub username_claim: Option<String>,
    pub username_prefix: Option<String>,
    pub groups_claim: Option<String>,
    pub groups_prefix: Option<String>,
    pub required_claims: BTreeMap<String, String>,
    pub tags: BTreeMap<String, String>,
}

impl IdentityProvider {
    pub fn arn(&self) -> String {
        let Self { cluster, name, uid, .. } = self;
        self.scope.arn("eks", format_args!("identityproviderconfig/{cluster}/oidc/{name}/{uid}"))
    }

    /// As the API server is told of it; `authorities` are certificates of who may speak for the issuer, if not the
    /// machine's. What is left out is as with the API server's own flags.
    ///
    /// Source: Kubernetes documentation, "Authenticating", "OpenID Connect Tokens" and "Using Authentication
    /// Configuration".
    pub fn authenticator(&self, authorities: Option<&str>) -> Value {
        const DEFAULT_CLAIM: &str = "sub";
        const UNPREFIXED: &str = "-";
        let claim = self.username_claim.as_deref().unwrap_or(DEFAULT_CLAIM);
        let prefix = match self.username_prefix.as_deref() {
            Some(UNPREFIXED) => String::new(),
            Some(prefix) => prefix.to_owned(),
            None if claim == "email" => String::new(),
            None => format!("{}#", self.issuer_url),
        };
        let mut issuer = json!({"url": self.issuer_url, "audiences": [self.client_id]});
        if let Some(authorities) = authorities {
            issuer["certificateAuthority"] = json!(authorities);
        }
        let mut mappings = json!({"username": {"claim": claim, "prefix": prefix}});
        if let Some(claim) = &self.groups_claim {
            let prefix = self.groups_prefix.clone().unwrap_or_default();
            mappings["groups"] = json!({"claim": claim, "prefix": prefix});
        }
        let rule = |(claim, value): (&String, &String)| json!({"claim": claim, "requiredValue": value});
        json!({
            "issuer": issuer,
            "claimMappings": mappings,
            "claimValidationRules": self.required_claims.iter().map(rule).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provider() -> IdentityProvider {
        IdentityProvider {
            scope: Scope::new("000000000000", "us-east-1"),
            cluster: "c".into(),
            name: "p".into(),
            uid: "u".into(),
            status: ProviderStatus::Creating,
            issuer_url: "https://issuer".into(),
            client_id: "kube".into(),
            username_claim: None,
            username_prefix: None,
            groups_claim: None,
            groups_prefix: None,
            required_claims: BTreeMap::new(),
            tags: BTreeMap::new(),
        }
    }

    fn username(provider: &IdentityProvider) -> Value {
        provider.authenticator(None)["claimMappings"]["username"].clone()
    }

    #[test]
    fn names_are_the_issuer_s_unless_that_is_not_wanted() {
        assert_eq!(username(&provider()), json!({"claim": "sub", "prefix": "https://issuer#"}));
        let by_email = IdentityProvider { username_claim: Some("email".into()), ..provider() };
        assert_eq!(username(&by_email), json!({"claim": "email", "prefix": ""}));
        let bare = IdentityProvider { username_prefix: Some("-".into()), ..provider() };
        assert_eq!(username(&bare), json!({"claim": "sub", "prefix": ""}));
        let own = IdentityProvider { username_prefix: Some("o:".into()), ..by_email };
        assert_eq!(username(&own), json!({"claim": "email", "prefix": "o:"}));
    }

    #[test]
    fn groups_claims_and_authorities_are_there_when_given() {
        let bare = provider().authenticator(None);
        assert_eq!(bare["claimMappings"].get("groups"), None);
        assert_eq!(bare["issuer"].get("certificateAuthority"), None);
        let full = IdentityProvider {
            groups_claim: Some("groups".into()),
            required_claims: BTreeMap::from([("hd".into(), "example.com".into())]),
            ..provider()
        };
        let told = full.authenticator(Some("PEM"));
        assert_eq!(told["claimMappings"]["groups"], json!({"claim": "groups", "prefix": ""}));
        assert_eq!(told["issuer"]["certificateAuthority"], "PEM");
        let rules = json!([{"claim": "hd", "requiredValue": "example.com"}]);
        assert_eq!(told["claimValidationRules"], rules);
    }
}
