//! What the ConfigMap `aws-auth` of a cluster says: who of IAM is who, as aws-iam-authenticator reads it.
//!
//! Invariant: a list that cannot be read stays as it was, and a line that cannot is not there, as with the authenticator.
//!
//! Source: the authenticator's documentation, "Full Configuration Format"; `spec/eks-semantics.md` §3.8.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AwsAuth {
    pub roles: Vec<Mapping>,
    pub users: Vec<Mapping>,
    /// Everybody of these accounts may sign in, and is in no group.
    pub accounts: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Mapping {
    /// Of a role: without its path.
    pub arn: String,
    /// May hold what [`Bearer`] knows, in double braces.
    pub username: String,
    pub groups: Vec<String>,
}

/// Who signs in.
#[derive(Clone, Copy, Debug)]
pub struct Bearer<'a> {
    /// A user's ARN, or a role's without its path.
    pub canonical_arn: &'a str,
    pub account: &'a str,
    pub session: Option<&'a str>,
    pub access_key: &'a str,
    /// Of the instance that the session is of, if it is one's.
    pub private_dns_name: Option<&'a str>,
}

impl AwsAuth {
    /// Name and groups.
    pub fn user(&self, bearer: &Bearer<'_>) -> Option<(String, Vec<String>)> {
        let is_of = |mapping: &&Mapping| mapping.arn.eq_ignore_ascii_case(bearer.canonical_arn);
        if let Some(mapping) = self.roles.iter().chain(&self.users).find(is_of) {
            return Some((bearer.fill(&mapping.username)?, mapping.groups.clone()));
        }
        let is_of_account = self.accounts.iter().any(|account| account == bearer.account);
        is_of_account.then(|| (bearer.canonical_arn.to_owned(), Vec::new()))
    }
}

impl Bearer<'_> {
    /// `None` when the name needs what this bearer has not.
    fn fill(&self, username: &str) -> Option<String> {
        const PRIVATE_DNS_NAME: &str = "{{EC2PrivateDNSName}}";
        if username.contains(PRIVATE_DNS_NAME) && self.private_dns_name.is_none() {
            return None;
        }
        let session = self.session.unwrap_or_default();
        // Names of Kubernetes' users are not addresses: an @ would say otherwise.
        let plain = session.replace('@', "-");
        Some(
            username
                .replace(PRIVATE_DNS_NAME, self.private_dns_name.unwrap_or_default())
                .replace("{{SessionNameRaw}}", session)
                .replace("{{SessionName}}", &plain)
                .replace("{{AccountID}}", self.account)
                .replace("{{AccessKeyID}}", self.access_key),
        )
    }
}

#[derive(Deserialize)]
struct RoleLine {
    rolearn: String,
    username: String,
    groups: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct UserLine {
    userarn: String,
    username: String,
    groups: Option<Vec<String>>,
}

impl AwsAuth {
    /// Of the ConfigMap's data, with what is wrong with it.
    pub fn read(data: &BTreeMap<String, String>, known: Self) -> (Self, Vec<String>) {
        let mut complaints = Vec::new();
        let mapping = |arn, username, groups: Option<Vec<String>>| Mapping {
            arn,
            username,
            groups: groups.unwrap_or_default(),
        };
        let role = |line: RoleLine| mapping(line.rolearn, line.username, line.groups);
        let user = |line: UserLine| mapping(line.userarn, line.username, line.groups);
        let map = Self {
            roles: list(data, "mapRoles", role, known.roles, &mut complaints),
            users: list(data, "mapUsers", user, known.users, &mut complaints),
            accounts: list(data, "mapAccounts", |account: String| account, known.accounts, &mut complaints),
        };
        (map, complaints)
    }
}

/// A list in YAML; what is not there is empty.
fn list<L: DeserializeOwned, T>(
    data: &BTreeMap<String, String>,
    name: &str,
    read: impl Fn(L) -> T,
    known: Vec<T>,
    complaints: &mut Vec<String>,
) -> Vec<T> {
    let text = data.get(name).map(|text| text.trim()).filter(|text| !text.is_empty());
    let Some(text) = text else { return Vec::new() };
    let lines: Option<Vec<Value>> = match serde_saphyr::from_str(text) {
        Ok(lines) => lines,
        Err(error) => {
            complaints.push(format!("{name} cannot be read, and stays as it was: {error}"));
            return known;
        }
    };
    let mut all = Vec::new();
    for line in lines.unwrap_or_default() {
        match serde_json::from_value(line) {
            Ok(line) => all.push(read(line)),
            Err(error) => complaints.push(format!("a line of {name} is left out: {error}")),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(arn: &str) -> Bearer<'_> {
        Bearer {
            canonical_arn: arn,
            account: "111122223333",
            session: Some("a@b"),
            access_key: "ASIAX",
            private_dns_name: None,
        }
    }

    fn mapping(arn: &str, username: &str) -> Mapping {
        Mapping { arn: arn.into(), username: username.into(), groups: vec!["g".into()] }
    }

    #[test]
    fn roles_and_users_are_who_the_map_says() {
        let map = AwsAuth {
            roles: vec![
                mapping("arn:aws:iam::111122223333:role/Dev", "dev:{{SessionName}}:{{SessionNameRaw}}"),
                mapping("arn:aws:iam::111122223333:role/nodes", "system:node:{{EC2PrivateDNSName}}"),
            ],
            users: vec![mapping("arn:aws:iam::111122223333:user/ann", "{{AccountID}}-{{AccessKeyID}}")],
            accounts: Vec::new(),
        };
        let name = |bearer: &Bearer<'_>| map.user(bearer).map(|(name, _)| name);
        assert_eq!(name(&bearer("arn:aws:iam::111122223333:role/dev")).as_deref(), Some("dev:a-b:a@b"));
        let ann = bearer("arn:aws:iam::111122223333:user/ann");
        assert_eq!(name(&ann).as_deref(), Some("111122223333-ASIAX"));
        assert_eq!(map.user(&ann).map(|(_, groups)| groups), Some(vec!["g".to_owned()]));
        let nodes = bearer("arn:aws:iam::111122223333:role/nodes");
        assert_eq!(name(&nodes), None, "no instance's session");
        let node = Bearer { private_dns_name: Some("ip-1.ec2.internal"), ..nodes };
        assert_eq!(name(&node).as_deref(), Some("system:node:ip-1.ec2.internal"));
        assert_eq!(name(&bearer("arn:aws:iam::111122223333:role/other")), None);
    }

    #[test]
    fn an_account_s_people_are_themselves() {
        let map = AwsAuth { accounts: vec!["111122223333".into()], ..AwsAuth::default() };
        let arn = "arn:aws:iam::111122223333:user/ann";
        assert_eq!(map.user(&bearer(arn)), Some((arn.to_owned(), Vec::new())));
        let stranger = Bearer { account: "999999999999", ..bearer(arn) };
        assert_eq!(map.user(&stranger), None);
    }

    #[test]
    fn the_map_is_read_as_people_write_it() {
        let data = BTreeMap::from([
            (
                "mapRoles".to_owned(),
                "- rolearn: arn:aws:iam::1:role/r\n  username: system:node:{{EC2PrivateDNSName}}\n  groups:\n  - system:bootstrappers\n  - system:nodes\n".to_owned(),
            ),
            ("mapUsers".to_owned(), "[]\n".to_owned()),
            ("mapAccounts".to_owned(), "- \"000000000001\"\n".to_owned()),
        ]);
        let (map, complaints) = AwsAuth::read(&data, AwsAuth::default());
        assert_eq!(complaints, Vec::<String>::new());
        assert_eq!(map.roles[0].groups, ["system:bootstrappers", "system:nodes"]);
        assert_eq!((map.users.len(), map.accounts), (0, vec!["000000000001".to_owned()]));
        assert_eq!(AwsAuth::read(&BTreeMap::new(), AwsAuth::default()), (AwsAuth::default(), Vec::new()));
    }

    #[test]
    fn what_cannot_be_read_stays_and_the_rest_does_not() {
        let known = AwsAuth {
            roles: vec![Mapping { arn: "r".into(), username: "old".into(), groups: Vec::new() }],
            users: vec![Mapping { arn: "u".into(), username: "gone".into(), groups: Vec::new() }],
            accounts: Vec::new(),
        };
        let data = BTreeMap::from([
            ("mapRoles".to_owned(), "- rolearn: [\n".to_owned()),
            ("mapUsers".to_owned(), "- userarn: a\n- {userarn: b, username: new}\n".to_owned()),
        ]);
        let (map, complaints) = AwsAuth::read(&data, known.clone());
        assert_eq!(map.roles, known.roles);
        let names: Vec<&str> = map.users.iter().map(|user| user.username.as_str()).collect();
        assert_eq!(names, ["new"]);
        assert!(
            complaints[0].starts_with("mapRoles") && complaints[1].contains("mapUsers"),
            "{complaints:?}"
        );
    }
}
