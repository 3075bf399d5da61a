//! A policy document, as it is written and as it is meant.

use crate::condition::Condition;
use crate::pattern::{Glyph, Pattern, lowercase, matches, matches_arn};
use crate::{Context, Request};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::fmt;

/// What a policy is attached to decides which elements it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An identity's, a boundary or a session's: of its own principal.
    Identity,
    /// A role's: who may assume it. It is about that role.
    Trust,
    /// Another resource's.
    Resource,
}

/// A document that IAM would not take; the text is what it says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MalformedPolicy(String);

fn malformed<T>(text: impl Into<String>) -> Result<T, MalformedPolicy> {
    Err(MalformedPolicy(text.into()))
}

const SYNTAX: &str = "Syntax errors in policy.";

/// Without statements it allows nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    pub(crate) statements: Vec<Statement>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Statement {
    pub(crate) denies: bool,
    principal: Option<Principals>,
    actions: Listed<Vec<Pattern>>,
    resources: Option<Listed<Vec<Pattern>>>,
    conditions: Vec<Condition>,
}

/// An element, or the one whose name begins with `Not`.
#[derive(Clone, Debug, PartialEq)]
enum Listed<T> {
    These(T),
    AllBut(T),
}

impl<T> Listed<T> {
    fn covers(&self, listed: impl Fn(&T) -> bool) -> bool {
        match self {
            Self::These(these) => listed(these),
            Self::AllBut(others) => !listed(others),
        }
    }
}

/// Whom a statement of a resource's policy is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Principals {
    everybody: bool,
    aws: Vec<String>,
    services: Vec<String>,
    federated: Vec<String>,
}

impl Policy {
    /// In the place of one that cannot be read: what it denied must not be allowed for want of it.
    pub fn of_nothing_allowed() -> Self {
        let everything = || vec![Pattern::parse("*", false)];
        let statement = Statement {
            denies: true,
            principal: None,
            actions: Listed::These(everything()),
            resources: Some(Listed::These(everything())),
            conditions: Vec::new(),
        };
        Self { statements: vec![statement] }
    }

    pub fn parse(text: &str, kind: Kind) -> Result<Self, MalformedPolicy> {
        let document = match serde_json::from_str::<Unique>(text) {
            Ok(Unique(document)) => document,
            Err(error) if error.is_data() => return malformed(SYNTAX),
            Err(_) => return malformed("This policy contains invalid Json"),
        };
        let Value::Object(document) = document else { return malformed(SYNTAX) };
        known(&document, &["Version", "Id", "Statement"])?;
        let variables = match document.get("Version").map(Value::as_str) {
            None | Some(Some("2008-10-17")) => false,
            Some(Some("2012-10-17")) => true,
            Some(_) => return malformed(SYNTAX),
        };
        let statements = match document.get("Statement") {
            Some(Value::Array(several)) if !several.is_empty() => several.iter().collect(),
            Some(one @ Value::Object(_)) => vec![one],
            _ => return malformed(SYNTAX),
        };
        let mut sids = BTreeSet::new();
        let mut parsed = Vec::new();
        for statement in statements {
            let Value::Object(statement) = statement else { return malformed(SYNTAX) };
            if let Some(sid) = sid(statement, kind)?
                && !sids.insert(sid)
            {
                return malformed("Statement IDs (SID) in a single policy must be unique.");
            }
            parsed.push(Statement::parse(statement, kind, variables)?);
        }
        Ok(Self { statements: parsed })
    }

    /// Accounts, users, roles and sessions that it names.
    pub fn identities(&self) -> impl Iterator<Item = &str> {
        let named = self.statements.iter().filter_map(|statement| statement.principal.as_ref());
        named.flat_map(|principals| &principals.aws).map(String::as_str)
    }
}

/// JSON whose objects have no key twice: of two conditions one would be lost.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueVisitor)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Unique;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Unique, E> {
        Ok(Unique(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Unique, E> {
        Ok(Unique(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Unique, E> {
        Ok(Unique(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Unique, E> {
        Ok(Unique(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Unique, E> {
        Ok(Unique(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Unique, E> {
        Ok(Unique(Value::Null))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Unique, A::Error> {
        let mut all = Vec::new();
        while let Some(Unique(item)) = items.next_element()? {
            all.push(item);
        }
        Ok(Unique(Value::Array(all)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<Unique, A::Error> {
        let mut all = Map::new();
        while let Some((key, Unique(value))) = pairs.next_entry::<String, Unique>()? {
            if all.insert(key, value).is_some() {
                return Err(A::Error::custom("a key twice"));
            }
        }
        Ok(Unique(Value::Object(all)))
    }
}

fn known(object: &Map<String, Value>, names: &[&str]) -> Result<(), MalformedPolicy> {
    if object.keys().all(|key| names.contains(&key.as_str())) { Ok(()) } else { malformed(SYNTAX) }
}

fn sid(statement: &Map<String, Value>, kind: Kind) -> Result<Option<&str>, MalformedPolicy> {
    let Some(sid) = statement.get("Sid") else { return Ok(None) };
    let Some(sid) = sid.as_str() else { return malformed(SYNTAX) };
    if kind == Kind::Identity && !sid.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return malformed(
            "Statement IDs (SID) must be alpha-numeric. Check that your input satisfies the regular expression [0-9A-Za-z]*",
        );
    }
    Ok((!sid.is_empty()).then_some(sid))
}

impl Statement {
    fn parse(statement: &Map<String, Value>, kind: Kind, variables: bool) -> Result<Self, MalformedPolicy> {
        let elements = [
            "Sid",
            "Effect",
            "Principal",
            "NotPrincipal",
            "Action",
            "NotAction",
            "Resource",
            "NotResource",
            "Condition",
        ];
        known(statement, &elements)?;
        let denies = match statement.get("Effect").map(Value::as_str) {
            Some(Some("Allow")) => false,
            Some(Some("Deny")) => true,
            None => return malformed("Missing required field Effect"),
            Some(_) => return malformed(format!("Invalid effect: {}", statement["Effect"])),
        };
        let principal = either(statement, "Principal", "NotPrincipal")?;
        let principal = match (kind, principal) {
            // Who else is meant depends on accounts that are not here.
            (Kind::Trust | Kind::Resource, Some((true, _))) => {
                return malformed("NotPrincipal is not supported by ekstra");
            }
            (Kind::Identity, Some(_)) => {
                return malformed("Policy document should not specify a principal.");
            }
            (Kind::Identity, None) => None,
            (_, None) => return malformed("Missing required field Principal"),
            (_, Some((_, element))) => Some(principals(element)?),
        };
        let Some(actions) = either(statement, "Action", "NotAction")? else {
            return malformed("Policy statement must contain actions.");
        };
        let is_trust_action = |text: &str| text.to_lowercase().starts_with("sts:");
        if kind == Kind::Trust && (actions.0 || !strings(actions.1)?.into_iter().all(is_trust_action)) {
            return malformed("AssumeRole policy may only specify STS AssumeRole actions.");
        }
        let actions = listed(actions, action)?;
        let resources = match (kind, either(statement, "Resource", "NotResource")?) {
            (Kind::Trust, Some(_)) => return malformed("Has prohibited field Resource"),
            (Kind::Trust, None) => None,
            (_, None) => return malformed("Policy statement must contain resources."),
            (_, Some(element)) => Some(listed(element, |text| resource(text, variables))?),
        };
        Ok(Self { denies, principal, actions, resources, conditions: conditions(statement, variables)? })
    }

    /// Whether it says anything about this action on this resource. In a policy of a role the resource is the role.
    pub(crate) fn is_about(&self, request: &Request<'_>, resource: &str) -> bool {
        let context = request.context;
        let action = request.action.to_lowercase();
        let has_action = |patterns: &Vec<Pattern>| {
            patterns.iter().any(|p| p.expand(context).is_some_and(|g| matches(&lowercase(g), &action)))
        };
        let has_resource = |patterns: &Vec<Pattern>| patterns.iter().any(|p| covers(p, resource, context));
        // With a variable that has no value nobody knows what is meant: no permission follows, and no way around a denial.
        let unknown = match &self.resources {
            Some(Listed::AllBut(patterns)) => patterns.iter().any(|p| p.expand(context).is_none()),
            _ => false,
        };
        if unknown && !self.denies {
            return false;
        }
        self.actions.covers(has_action)
            && (unknown || self.resources.as_ref().is_none_or(|listed| listed.covers(has_resource)))
            && self.conditions.iter().all(|condition| condition.holds(context, self.denies))
    }

    /// Whether it names this principal; one without the element is about its own.
    pub(crate) fn names(&self, is_named: impl Fn(&Principals) -> bool) -> bool {
        self.principal.as_ref().is_none_or(is_named)
    }
}

/// An ARN, or `*`, which some operations have as their resource.
fn covers(pattern: &Pattern, resource: &str, context: &Context) -> bool {
    if resource == "*" {
        return pattern.is_everything();
    }
    pattern.expand(context).is_some_and(|glyphs: Vec<Glyph>| matches_arn(&glyphs, resource))
}

/// One of two elements that exclude each other; `true` for the second.
fn either<'a>(
    statement: &'a Map<String, Value>,
    name: &str,
    not: &str,
) -> Result<Option<(bool, &'a Value)>, MalformedPolicy> {
    match (statement.get(name), statement.get(not)) {
        (Some(_), Some(_)) => malformed(SYNTAX),
        (Some(value), None) => Ok(Some((false, value))),
        (None, Some(value)) => Ok(Some((true, value))),
        (None, None) => Ok(None),
    }
}

fn strings(value: &Value) -> Result<Vec<&str>, MalformedPolicy> {
    let several = match value {
        Value::Array(several) => several.iter().collect(),
        one => vec![one],
    };
    let texts: Option<Vec<&str>> = several.into_iter().map(Value::as_str).collect();
    texts.filter(|texts| !texts.is_empty()).map_or_else(|| malformed(SYNTAX), Ok)
}

fn listed(
    (not, value): (bool, &Value),
    parse: impl Fn(&str) -> Result<Pattern, MalformedPolicy>,
) -> Result<Listed<Vec<Pattern>>, MalformedPolicy> {
    let patterns = strings(value)?.into_iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    Ok(if not { Listed::AllBut(patterns) } else { Listed::These(patterns) })
}

fn action(text: &str) -> Result<Pattern, MalformedPolicy> {
    let is_named = |(vendor, name): (&str, &str)| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.*?".contains(&b);
        !vendor.is_empty()
            && vendor.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !name.is_empty()
            && name.bytes().all(plain)
    };
    if text != "*" && !text.split_once(':').is_some_and(is_named) {
        return malformed("Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc.");
    }
    Ok(Pattern::parse(text, false))
}

fn resource(text: &str, variables: bool) -> Result<Pattern, MalformedPolicy> {
    let is_arn = text.starts_with("arn:") && text.matches(':').count() >= 5;
    if text != "*" && !is_arn {
        return malformed(format!("Resource {text} must be in ARN format or \"*\"."));
    }
    Ok(Pattern::parse(text, variables))
}

fn principals(value: &Value) -> Result<Principals, MalformedPolicy> {
    let mut found = Principals::default();
    match value {
        Value::String(text) if text == "*" => found.everybody = true,
        Value::Object(kinds) if !kinds.is_empty() => {
            known(kinds, &["AWS", "Service", "Federated"])?;
            for (kind, value) in kinds {
                let names = strings(value)?.into_iter().map(str::to_owned);
                match kind.as_str() {
                    "AWS" => found.aws.extend(names),
                    "Service" => found.services.extend(names),
                    _ => found.federated.extend(names),
                }
            }
        }
        _ => return malformed("Invalid principal in policy."),
    }
    if let Some(bad) = found.aws.iter().find(|name| !is_principal(name)) {
        return malformed(format!("Invalid principal in policy: \"AWS\":\"{bad}\""));
    }
    found.everybody |= found.aws.iter().any(|name| name == "*");
    Ok(found)
}

/// `*`, an account, or an identity's ARN; names have no wildcards (IAM User Guide, "Principal").
fn is_principal(name: &str) -> bool {
    let is_account = |text: &str| text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit());
    if name == "*" || is_account(name) {
        return true;
    }
    let parts: Vec<&str> = name.splitn(6, ':').collect();
    let [_, _, "iam" | "sts", "", account, resource] = parts[..] else { return false };
    let kinds = ["user/", "role/", "assumed-role/", "federated-user/"];
    parts[0] == "arn"
        && is_account(account)
        && (resource == "root" || kinds.iter().any(|kind| resource.starts_with(kind)))
        && !resource.contains(['*', '?'])
}

impl Principals {
    /// The identity itself: its ARN, or that of the role behind its session.
    pub fn has_identity(&self, arns: &[&str]) -> bool {
        self.everybody || self.aws.iter().any(|name| arns.contains(&name.as_str()))
    }

    /// The account, which lets its own policies decide.
    pub fn has_account(&self, account: &str) -> bool {
        let root = format!("arn:aws:iam::{account}:root");
        self.aws.iter().any(|name| name == account || *name == root)
    }

    pub fn has_service(&self, service: &str) -> bool {
        self.everybody || self.services.iter().any(|name| name == service)
    }

    pub fn has_federated(&self, provider: &str) -> bool {
        self.everybody || self.federated.iter().any(|name| name == provider)
    }
}

fn conditions(statement: &Map<String, Value>, variables: bool) -> Result<Vec<Condition>, MalformedPolicy> {
    let Some(element) = statement.get("Condition") else { return Ok(Vec::new()) };
    let Value::Object(operators) = element else { return malformed(SYNTAX) };
    let mut conditions = Vec::new();
    for (operator, keys) in operators {
        let Value::Object(keys) = keys else { return malformed(SYNTAX) };
        for (key, values) in keys {
            if !key.contains(':') {
                return malformed(
                    "Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc.",
                );
            }
            let values = scalars(values)?;
            match Condition::parse(operator, key, &values, variables) {
                Some(condition) => conditions.push(condition),
                None => return malformed(format!("Invalid Condition: {operator} of {key}")),
            }
        }
    }
    Ok(conditions)
}

/// Booleans and numbers may be written as such.
fn scalars(value: &Value) -> Result<Vec<String>, MalformedPolicy> {
    let several = match value {
        Value::Array(several) => several.iter().collect(),
        one => vec![one],
    };
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        _ => None,
    };
    let texts: Option<Vec<String>> = several.into_iter().map(text).collect();
    texts.filter(|texts| !texts.is_empty()).map_or_else(|| malformed(SYNTAX), Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str, kind: Kind) -> String {
        Policy::parse(text, kind).expect_err(text).to_string()
    }

    #[test]
    fn documents_that_are_none() {
        let statement = |rest: &str| format!(r#"{{"Version":"2012-10-17","Statement":[{{{rest}}}]}}"#);
        for (rest, told) in [
            (r#""Action":"eks:*","Resource":"*""#, "Missing required field Effect"),
            (r#""Effect":"Permit","Action":"eks:*","Resource":"*""#, "Invalid effect"),
            (r#""Effect":"Allow","Resource":"*""#, "must contain actions"),
            (r#""Effect":"Allow","Action":"eks:*""#, "must contain resources"),
            (r#""Effect":"Allow","Action":"ListClusters","Resource":"*""#, "prefaced by a vendor"),
            (r#""Effect":"Allow","Action":"eks:*","Resource":"cluster/x""#, "must be in ARN format"),
            (
                r#""Effect":"Allow","Action":"eks:*","Resource":"*","Principal":"*""#,
                "not specify a principal",
            ),
            (r#""Effect":"Allow","Action":"eks:*","NotAction":"eks:*","Resource":"*""#, SYNTAX),
            (r#""Effect":"Allow","Action":"eks:*","Resource":"*","Extra":1"#, SYNTAX),
            (r#""Effect":"Allow","Action":[1],"Resource":"*""#, SYNTAX),
            (r#""Sid":"a b","Effect":"Allow","Action":"eks:*","Resource":"*""#, "alpha-numeric"),
            (r#""Effect":"Allow","Action":"*","Resource":"*","Condition":{"Bool":{"x":"true"}}"#, "prefaced"),
            (
                r#""Effect":"Allow","Action":"*","Resource":"*","Condition":{"Is":{"aws:x":"true"}}"#,
                "Invalid Condition",
            ),
        ] {
            let said = refused(&statement(rest), Kind::Identity);
            assert!(said.contains(told), "{rest}: {said}");
        }
        assert!(refused("{", Kind::Identity).contains("invalid Json"));
        for text in ["[]", "{}", r#"{"Statement":[]}"#, r#"{"Version":"2020-01-01","Statement":{}}"#] {
            assert_eq!(refused(text, Kind::Identity), SYNTAX, "{text}");
        }
        for twice in [
            r#"{"Statement":{"Effect":"Allow","Effect":"Deny","Action":"*","Resource":"*"}}"#,
            r#"{"Statement":{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"Bool":{"aws:a":"true"},"Bool":{"aws:b":"true"}}}}"#,
            r#"{"Statement":{"Effect":"Allow","NotAction":[],"Resource":"*"}}"#,
        ] {
            assert_eq!(refused(twice, Kind::Identity), SYNTAX, "{twice}");
        }
        let twice = r#"{"Statement":[{"Sid":"a","Effect":"Allow","Action":"*","Resource":"*"},
                                      {"Sid":"a","Effect":"Deny","Action":"*","Resource":"*"}]}"#;
        assert!(refused(twice, Kind::Identity).contains("must be unique"));
    }

    #[test]
    fn trust_policies_have_principals_and_no_resources() {
        let trust = |principal: &str, rest: &str| {
            format!(
                r#"{{"Statement":{{"Effect":"Allow","Principal":{principal},"Action":"sts:AssumeRole"{rest}}}}}"#
            )
        };
        assert!(refused(&trust(r#""*""#, r#","Resource":"*""#), Kind::Trust).contains("prohibited field"));
        for bad in [
            r#""anna""#,
            r#"{"AWS":"anna"}"#,
            r#"{"AWS":"arn:aws:iam::000000000000:role/*"}"#,
            r#"{"AWS":"arn:aws:s3:::b"}"#,
            "{}",
        ] {
            assert!(refused(&trust(bad, ""), Kind::Trust).contains("Invalid principal"), "{bad}");
        }
        assert_eq!(refused(&trust(r#"{"People":"x"}"#, ""), Kind::Trust), SYNTAX);
        let other = trust(r#""*""#, "").replace("sts:AssumeRole", "eks:*");
        assert!(refused(&other, Kind::Trust).contains("STS AssumeRole actions"));
        let not = trust(r#"{"AWS":"000000000000"}"#, "").replace("Principal", "NotPrincipal");
        assert!(refused(&not, Kind::Trust).contains("NotPrincipal"));
        for good in [
            r#""*""#,
            r#"{"AWS":["000000000000","arn:aws:iam::000000000000:user/a/b"]}"#,
            r#"{"Service":"eks.amazonaws.com"}"#,
            r#"{"Federated":"arn:aws:iam::000000000000:oidc-provider/x"}"#,
        ] {
            Policy::parse(&trust(good, ""), Kind::Trust).expect(good);
        }
        // Everybody is whoever it is.
        for everybody in [r#""*""#, r#"{"AWS":"*"}"#] {
            let policy = Policy::parse(&trust(everybody, ""), Kind::Trust).expect(everybody);
            assert!(policy.statements[0].names(|who| {
                who.has_identity(&[]) && who.has_service("eks.amazonaws.com") && who.has_federated("x")
            }));
        }
    }
}
