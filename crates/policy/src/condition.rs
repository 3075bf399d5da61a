//! The `Condition` element.

use crate::Context;
use crate::pattern::{Pattern, lowercase, matches, matches_arn};
use std::net::IpAddr;

/// `OPERATOR: {KEY: VALUES}`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Condition {
    test: Test,
    /// The operator says the opposite of its test (`StringNotEquals`).
    negated: bool,
    if_exists: bool,
    quantifier: Option<Quantifier>,
    key: String,
    values: Vec<Value>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Quantifier {
    ForAllValues,
    ForAnyValue,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Test {
    String { like: bool, ignore_case: bool },
    Number(Order),
    Date(Order),
    Bool,
    Binary,
    Address,
    Arn,
    Null,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Order {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Order {
    fn holds(self, found: f64, said: f64) -> bool {
        match self {
            Self::Equal => found == said,
            Self::Less => found < said,
            Self::LessOrEqual => found <= said,
            Self::Greater => found > said,
            Self::GreaterOrEqual => found >= said,
        }
    }
}

/// What a policy says, understood when it is parsed.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Text(Pattern),
    Number(f64),
    Plain(String),
    Network(IpAddr, u8),
}

impl Condition {
    /// `None`: the operator is unknown, or a value is none of its kind.
    pub(crate) fn parse(operator: &str, key: &str, values: &[String], variables: bool) -> Option<Self> {
        let (quantifier, rest) = match operator.split_once(':') {
            None => (None, operator),
            Some(("ForAllValues", rest)) => (Some(Quantifier::ForAllValues), rest),
            Some(("ForAnyValue", rest)) => (Some(Quantifier::ForAnyValue), rest),
            Some(_) => return None,
        };
        let (name, if_exists) = match rest.strip_suffix("IfExists") {
            Some(name) => (name, true),
            None => (rest, false),
        };
        let (test, negated) = test(name)?;
        if test == Test::Null && (if_exists || quantifier.is_some()) {
            return None;
        }
        let values = values.iter().map(|text| value(test, text, variables)).collect::<Option<Vec<_>>>()?;
        Some(Self { test, negated, if_exists, quantifier, key: key.to_owned(), values })
    }

    /// `in_doubt`: what is answered when a variable of the policy has no value.
    pub(crate) fn holds(&self, context: &Context, in_doubt: bool) -> bool {
        let found = context.get(&self.key);
        let unknown =
            |value: &Value| matches!(value, Value::Text(pattern) if pattern.expand(context).is_none());
        if self.negated && self.values.iter().any(unknown) {
            return in_doubt;
        }
        if self.test == Test::Null {
            let said = |value: &Value| matches!(value, Value::Plain(text) if text == "true");
            return self.values.iter().any(|value| said(value) == found.is_none());
        }
        let Some(found) = found else {
            return match self.quantifier {
                Some(Quantifier::ForAllValues) => true,
                Some(Quantifier::ForAnyValue) => self.if_exists,
                None => self.if_exists || self.negated,
            };
        };
        // One of the values that the policy lists, or, of a negated operator, none of them.
        let fits =
            |one: &String| self.values.iter().any(|said| self.meets(one, said, context)) != self.negated;
        match self.quantifier {
            Some(Quantifier::ForAllValues) => found.iter().all(fits),
            Some(Quantifier::ForAnyValue) => found.iter().any(fits),
            // Of a negated operator no value may be listed, as of any other one has to be.
            None if self.negated => found.iter().all(fits),
            None => found.iter().any(fits),
        }
    }

    fn meets(&self, found: &str, said: &Value, context: &Context) -> bool {
        match (self.test, said) {
            (Test::String { ignore_case, .. }, Value::Text(pattern)) => {
                let Some(glyphs) = pattern.expand(context) else { return false };
                match ignore_case {
                    true => matches(&lowercase(glyphs), &found.to_lowercase()),
                    false => matches(&glyphs, found),
                }
            }
            (Test::Arn, Value::Text(pattern)) => {
                pattern.expand(context).is_some_and(|glyphs| matches_arn(&glyphs, found))
            }
            (Test::Number(order), Value::Number(said)) => {
                number(found).is_some_and(|f| order.holds(f, *said))
            }
            (Test::Date(order), Value::Number(said)) => date(found).is_some_and(|f| order.holds(f, *said)),
            (Test::Bool, Value::Plain(said)) => found.eq_ignore_ascii_case(said),
            (Test::Binary, Value::Plain(said)) => found == said,
            (Test::Address, Value::Network(base, bits)) => {
                found.parse().is_ok_and(|address: IpAddr| contains(*base, *bits, address))
            }
            _ => false,
        }
    }
}

/// The test behind an operator's name, and whether the operator says its opposite.
fn test(name: &str) -> Option<(Test, bool)> {
    let string = |like, ignore_case| Test::String { like, ignore_case };
    Some(match name {
        "StringEquals" => (string(false, false), false),
        "StringNotEquals" => (string(false, false), true),
        "StringEqualsIgnoreCase" => (string(false, true), false),
        "StringNotEqualsIgnoreCase" => (string(false, true), true),
        "StringLike" => (string(true, false), false),
        "StringNotLike" => (string(true, false), true),
        "NumericEquals" => (Test::Number(Order::Equal), false),
        "NumericNotEquals" => (Test::Number(Order::Equal), true),
        "NumericLessThan" => (Test::Number(Order::Less), false),
        "NumericLessThanEquals" => (Test::Number(Order::LessOrEqual), false),
        "NumericGreaterThan" => (Test::Number(Order::Greater), false),
        "NumericGreaterThanEquals" => (Test::Number(Order::GreaterOrEqual), false),
        "DateEquals" => (Test::Date(Order::Equal), false),
        "DateNotEquals" => (Test::Date(Order::Equal), true),
        "DateLessThan" => (Test::Date(Order::Less), false),
        "DateLessThanEquals" => (Test::Date(Order::LessOrEqual), false),
        "DateGreaterThan" => (Test::Date(Order::Greater), false),
        "DateGreaterThanEquals" => (Test::Date(Order::GreaterOrEqual), false),
        "Bool" => (Test::Bool, false),
        "BinaryEquals" => (Test::Binary, false),
        "IpAddress" => (Test::Address, false),
        "NotIpAddress" => (Test::Address, true),
        "ArnEquals" | "ArnLike" => (Test::Arn, false),
        "ArnNotEquals" | "ArnNotLike" => (Test::Arn, true),
        "Null" => (Test::Null, false),
        _ => return None,
    })
}

fn value(test: Test, text: &str, variables: bool) -> Option<Value> {
    Some(match test {
        Test::String { like: true, .. } | Test::Arn => Value::Text(Pattern::parse(text, variables)),
        Test::String { like: false, .. } => Value::Text(Pattern::parse(text, variables).literally()),
        Test::Number(_) => Value::Number(number(text)?),
        Test::Date(_) => Value::Number(date(text)?),
        Test::Bool | Test::Null => Value::Plain(boolean(text)?),
        Test::Binary => Value::Plain(text.to_owned()),
        Test::Address => {
            let (base, bits) = network(text)?;
            Value::Network(base, bits)
        }
    })
}

fn boolean(text: &str) -> Option<String> {
    let lower = text.to_lowercase();
    ["true", "false"].contains(&lower.as_str()).then_some(lower)
}

fn number(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|number: &f64| number.is_finite())
}

/// ISO 8601, or seconds since 1970.
fn date(text: &str) -> Option<f64> {
    if let Some(seconds) = number(text).filter(|_| text.bytes().all(|b| b.is_ascii_digit())) {
        return Some(seconds);
    }
    let whole = if text.len() == "2026-01-01".len() { format!("{text}T00:00:00Z") } else { text.to_owned() };
    let at: jiff::Timestamp = whole.parse().ok()?;
    Some(at.as_duration().as_secs_f64())
}

fn network(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address.parse::<IpAddr>().ok()?, Some(bits.parse().ok()?)),
        None => (text.parse::<IpAddr>().ok()?, None),
    };
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.unwrap_or(most);
    (bits <= most).then_some((address, bits))
}

fn contains(base: IpAddr, bits: u8, address: IpAddr) -> bool {
    let same = |a: u128, b: u128, width: u32| {
        let ignored = width - u32::from(bits);
        ignored >= width || a >> ignored == b >> ignored
    };
    match (base, address) {
        (IpAddr::V4(a), IpAddr::V4(b)) => same(a.to_bits().into(), b.to_bits().into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> Context {
        let mut context = Context::default();
        context.set("aws:username", "anna");
        context.set("aws:SourceIp", "10.1.2.3");
        context.set("aws:SecureTransport", "true");
        context.set("aws:CurrentTime", "2026-11-26T05:00:00Z");
        context.set("s3:max-keys", "10");
        context.set("aws:PrincipalArn", "arn:aws:iam::000000000000:role/dev/x");
        context.set_all("aws:TagKeys", ["a".to_owned(), "b".to_owned()]);
        context
    }

    fn holds(operator: &str, key: &str, values: &[&str]) -> bool {
        let values: Vec<String> = values.iter().map(|v| (*v).to_owned()).collect();
        Condition::parse(operator, key, &values, true).expect("parses").holds(&context(), false)
    }

    #[test]
    fn operators() {
        for (operator, key, values, expected) in [
            ("StringEquals", "aws:username", &["bert", "anna"][..], true),
            ("StringEquals", "AWS:UserName", &["anna"], true),
            ("StringEquals", "aws:username", &["ann*"], false),
            ("StringEquals", "aws:username", &["${aws:username}"], true),
            ("StringNotEquals", "aws:username", &["bert", "anna"], false),
            ("StringEqualsIgnoreCase", "aws:username", &["ANNA"], true),
            ("StringLike", "aws:username", &["an?a"], true),
            ("StringNotLike", "aws:username", &["b*"], true),
            ("NumericLessThanEquals", "s3:max-keys", &["10"], true),
            ("NumericGreaterThan", "s3:max-keys", &["10"], false),
            ("NumericNotEquals", "s3:max-keys", &["9"], true),
            ("DateLessThan", "aws:CurrentTime", &["2026-11-26T05:00:01Z"], true),
            ("DateGreaterThan", "aws:CurrentTime", &["2026-11-26"], true),
            ("DateGreaterThan", "aws:CurrentTime", &["1795669201"], false),
            ("Bool", "aws:SecureTransport", &["True"], true),
            ("IpAddress", "aws:SourceIp", &["192.0.2.0/24", "10.1.0.0/16"], true),
            ("IpAddress", "aws:SourceIp", &["0.0.0.0/0"], true),
            ("NotIpAddress", "aws:SourceIp", &["10.1.2.3"], false),
            ("IpAddress", "aws:SourceIp", &["2001:db8::/32"], false),
            ("ArnLike", "aws:PrincipalArn", &["arn:aws:iam::*:role/dev/*"], true),
            ("ArnNotEquals", "aws:PrincipalArn", &["arn:aws:iam::*:role/dev/*"], false),
            ("StringNotEquals", "aws:username", &["${aws:nothing}"], false),
            ("Null", "aws:nothing", &["true"], true),
            ("Null", "aws:username", &["true"], false),
            ("Null", "aws:username", &["false"], true),
        ] {
            assert_eq!(holds(operator, key, values), expected, "{operator} {key} {values:?}");
        }
    }

    #[test]
    fn keys_that_are_not_there() {
        for (operator, expected) in [
            ("StringEquals", false),
            ("StringNotEquals", true),
            ("StringEqualsIfExists", true),
            ("ForAllValues:StringEquals", true),
            ("ForAnyValue:StringEquals", false),
            ("ForAnyValue:StringNotEquals", false),
        ] {
            assert_eq!(holds(operator, "aws:nothing", &["x"]), expected, "{operator}");
        }
    }

    #[test]
    fn keys_with_several_values() {
        for (operator, values, expected) in [
            ("ForAllValues:StringEquals", &["a", "b", "c"][..], true),
            ("ForAllValues:StringEquals", &["a"], false),
            ("ForAnyValue:StringEquals", &["b"], true),
            ("ForAnyValue:StringEquals", &["c"], false),
            ("ForAllValues:StringNotEquals", &["c"], true),
            ("ForAllValues:StringNotEquals", &["a"], false),
            ("ForAnyValue:StringNotEquals", &["a"], true),
            ("ForAnyValue:StringNotEquals", &["a", "b"], false),
        ] {
            assert_eq!(holds(operator, "aws:TagKeys", values), expected, "{operator} {values:?}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (operator, value) in [
            ("StringEqual", "x"),
            ("stringequals", "x"),
            ("ForSome:StringEquals", "x"),
            ("NullIfExists", "true"),
            ("Bool", "yes"),
            ("NumericEquals", "ten"),
            ("NumericEquals", "NaN"),
            ("DateEquals", "tomorrow"),
            ("IpAddress", "10.0.0.0/33"),
            ("IpAddress", "here"),
        ] {
            assert_eq!(
                Condition::parse(operator, "k", &[value.to_owned()], true),
                None,
                "{operator} {value}"
            );
        }
    }
}
