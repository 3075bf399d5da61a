//! Pages of what List and Describe operations answer.
//!
//! Invariant: a token names the last item of its page, so that what comes or goes between two calls neither hides nor
//! repeats any other item.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

#[derive(Clone, Debug, PartialEq)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// What asks for the rest; `None` when there is none.
    pub next: Option<String>,
}

/// The token was not given out here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a pagination token")]
pub struct BadToken;

impl<T> Page<T> {
    /// At most `size` of the items behind the token, in the order of their keys, which tell them apart.
    pub fn of(
        mut all: Vec<T>,
        key: impl Fn(&T) -> String,
        token: Option<&str>,
        size: usize,
    ) -> Result<Self, BadToken> {
        if let Some(token) = token {
            let last = URL_SAFE_NO_PAD.decode(token).map_err(|_| BadToken)?;
            let last = String::from_utf8(last).map_err(|_| BadToken)?;
            all.retain(|item| key(item) > last);
        }
        all.sort_by_cached_key(&key);
        let more = all.len() > size;
        all.truncate(size);
        let next = all.last().filter(|_| more).map(|last| URL_SAFE_NO_PAD.encode(key(last)));
        Ok(Self { items: all, next })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(all: &[&str], token: Option<&str>, size: usize) -> Result<Page<String>, BadToken> {
        Page::of(all.iter().map(|s| (*s).to_owned()).collect(), String::clone, token, size)
    }

    #[test]
    fn pages_follow_each_other() {
        let first = page(&["c", "a", "b"], None, 2).expect("a page");
        assert_eq!(first.items, ["a", "b"]);
        let second = page(&["c", "a", "b"], first.next.as_deref(), 2).expect("a page");
        assert_eq!((second.items, second.next), (vec!["c".to_owned()], None));
        assert_eq!(page(&["a", "b"], None, 2).expect("a page").next, None);
        assert_eq!(page(&[], None, 2).expect("a page"), Page { items: vec![], next: None });
    }

    #[test]
    fn what_goes_between_two_pages_hides_nothing() {
        let first = page(&["a", "b", "c", "d"], None, 2).expect("a page");
        for left in [&["b", "c", "d"][..], &["c", "d"], &["a", "aa", "c", "d"]] {
            assert_eq!(page(left, first.next.as_deref(), 2).expect("a page").items, ["c", "d"], "{left:?}");
        }
    }

    #[test]
    fn tokens_of_others_are_refused() {
        // Not base64, and base64 of what is not text.
        for token in ["a b", "_", "x/y=", "_w"] {
            assert_eq!(page(&["a"], Some(token), 2), Err(BadToken), "{token}");
        }
    }
}
