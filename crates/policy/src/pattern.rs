//! Strings with `*`, `?` and `${variables}`.

use crate::Context;

/// As it is written in a policy.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pattern(Vec<Part>);

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Char(char),
    /// `*`
    Any,
    /// `?`
    One,
    /// `${key}` or `${key, 'default'}`
    Variable {
        key: String,
        default: Option<String>,
    },
}

/// One place of a pattern whose variables have their values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Glyph {
    Char(char),
    Any,
    One,
}

impl Pattern {
    /// With variables or, as in policies of the version of 2008, without.
    pub(crate) fn parse(text: &str, variables: bool) -> Self {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(char) = rest.chars().next() {
            if variables && let Some((variable, after)) = variable(rest) {
                parts.push(variable);
                rest = after;
                continue;
            }
            parts.push(match char {
                '*' => Part::Any,
                '?' => Part::One,
                other => Part::Char(other),
            });
            rest = &rest[char.len_utf8()..];
        }
        Self(parts)
    }

    /// Where wildcards are characters like all others.
    pub(crate) fn literally(self) -> Self {
        let plain = |part| match part {
            Part::Any => Part::Char('*'),
            Part::One => Part::Char('?'),
            other => other,
        };
        Self(self.0.into_iter().map(plain).collect())
    }

    /// `None` when a variable has no value: then nothing matches.
    pub(crate) fn expand(&self, context: &Context) -> Option<Vec<Glyph>> {
        let mut glyphs = Vec::with_capacity(self.0.len());
        for part in &self.0 {
            match part {
                Part::Char(char) => glyphs.push(Glyph::Char(*char)),
                Part::Any => glyphs.push(Glyph::Any),
                Part::One => glyphs.push(Glyph::One),
                Part::Variable { key, default } => {
                    let value = context.variable(key).or(default.as_deref())?;
                    glyphs.extend(value.chars().map(Glyph::Char));
                }
            }
        }
        Some(glyphs)
    }

    pub(crate) fn is_everything(&self) -> bool {
        self.0 == [Part::Any]
    }
}

/// At the beginning of the text, with what comes after it. `${*}`, `${?}` and `${$}` are the characters themselves.
fn variable(text: &str) -> Option<(Part, &str)> {
    let (inside, after) = text.strip_prefix("${")?.split_once('}')?;
    if let Some(escaped @ ('*' | '?' | '$')) = inside.chars().next().filter(|_| inside.len() == 1) {
        return Some((Part::Char(escaped), after));
    }
    let (key, default) = match inside.split_once(',') {
        None => (inside, None),
        Some((key, default)) => {
            let default = default.trim().strip_prefix('\'')?.strip_suffix('\'')?;
            (key, Some(default.to_owned()))
        }
    };
    Some((Part::Variable { key: key.trim().to_owned(), default }, after))
}

/// Whether the whole text is one that the pattern stands for.
pub(crate) fn matches(pattern: &[Glyph], text: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    let (mut at, mut seen) = (0, 0);
    // Where to go on when what follows the last `*` does not fit.
    let mut retry: Option<(usize, usize)> = None;
    while seen < text.len() {
        match pattern.get(at) {
            Some(Glyph::Any) => {
                retry = Some((at, seen));
                at += 1;
            }
            Some(Glyph::One) => (at, seen) = (at + 1, seen + 1),
            Some(Glyph::Char(char)) if *char == text[seen] => (at, seen) = (at + 1, seen + 1),
            _ => {
                let Some((star, from)) = retry else { return false };
                retry = Some((star, from + 1));
                (at, seen) = (star + 1, from + 1);
            }
        }
    }
    pattern[at..].iter().all(|glyph| *glyph == Glyph::Any)
}

/// Part by part: a wildcard does not reach over a colon, but in the last part, which has them itself.
pub(crate) fn matches_arn(pattern: &[Glyph], arn: &str) -> bool {
    if pattern == [Glyph::Any] {
        return true;
    }
    let patterns: Vec<&[Glyph]> = pattern.splitn(6, |glyph| *glyph == Glyph::Char(':')).collect();
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    patterns.len() == parts.len() && patterns.iter().zip(parts).all(|(pattern, part)| matches(pattern, part))
}

pub(crate) fn lowercase(glyphs: Vec<Glyph>) -> Vec<Glyph> {
    let lower = |glyph| match glyph {
        Glyph::Char(char) => char.to_lowercase().map(Glyph::Char).collect(),
        other => vec![other],
    };
    glyphs.into_iter().flat_map(lower).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn glob(pattern: &str, text: &str) -> bool {
        matches(&Pattern::parse(pattern, true).expand(&Context::default()).expect("no variable"), text)
    }

    #[test]
    fn wildcards() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("*", "", true),
            ("a*c", "abcbc", true),
            ("a*c", "abcb", false),
            ("a**c", "ac", true),
            ("?", "", false),
            ("?b?", "abc", true),
            ("*a*a*a*", "aa", false),
            ("é?", "éa", true),
            ("a", "A", false),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
        // No pattern costs more than the product of the lengths.
        assert!(!glob(&"*a".repeat(200), &"a".repeat(10_000).replace("aaaaaaaaaa", "aaaaaaaaab")));
    }

    #[test]
    fn an_arn_is_matched_part_by_part() {
        let role = "arn:aws:iam::000000000000:role/a/b:c";
        for (pattern, expected) in [
            ("*", true),
            ("arn:aws:iam::*:role/*", true),
            ("arn:*", false),
            ("arn:aws:*:role/a/b:c", false),
            ("arn:*:*:*:*:*", true),
            ("arn:aws:iam::000000000000:role/?/b:c", true),
        ] {
            let glyphs = Pattern::parse(pattern, true).expand(&Context::default()).expect("no variable");
            assert_eq!(matches_arn(&glyphs, role), expected, "{pattern}");
        }
    }

    #[test]
    fn variables_have_values_that_are_taken_literally() {
        let mut context = Context::default();
        context.set("aws:username", "an*a");
        let expand = |text: &str| Pattern::parse(text, true).expand(&context);
        let is = |text: &str, value: &str| expand(text).is_some_and(|glyphs| matches(&glyphs, value));
        assert!(is("home/${aws:UserName}/*", "home/an*a/x"));
        assert!(!is("home/${aws:username}/*", "home/anna/x"));
        assert!(is("${*}${?}${$}", "*?$"));
        assert!(!is("${*}", "x"));
        assert_eq!(expand("${aws:nothing}"), None);
        assert!(is("${aws:nothing, 'b*'}", "b*"));
        assert!(is("${unfinished", "${unfinished"));
        let old = Pattern::parse("${aws:username}", false).expand(&context).expect("no variable");
        assert!(matches(&old, "${aws:username}"));
    }
}
