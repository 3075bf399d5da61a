//! What a watch has shown so far.

use kube::runtime::watcher::Event;
use std::collections::BTreeMap;

/// The parts that matter of the objects that count, by name; kept up to date by a watch's events.
#[derive(Debug)]
pub(super) struct Mirror<T> {
    /// `None` until everything has been listed once.
    current: Option<BTreeMap<String, T>>,
    coming: BTreeMap<String, T>,
}

impl<T> Default for Mirror<T> {
    fn default() -> Self {
        Self { current: None, coming: BTreeMap::new() }
    }
}

impl<T: PartialEq> Mirror<T> {
    pub(super) fn current(&self) -> Option<&BTreeMap<String, T>> {
        self.current.as_ref()
    }

    /// Whether it is another one now. `part` says what matters of an object, if the object counts.
    pub(super) fn note<K>(
        &mut self,
        event: &Event<K>,
        name: impl Fn(&K) -> String,
        part: impl Fn(&K) -> Option<T>,
    ) -> bool {
        match event {
            Event::Init => self.coming.clear(),
            Event::InitApply(object) => {
                if let Some(part) = part(object) {
                    self.coming.insert(name(object), part);
                }
            }
            Event::InitDone => {
                let listed = Some(std::mem::take(&mut self.coming));
                let changed = self.current != listed;
                self.current = listed;
                return changed;
            }
            Event::Apply(object) => return self.set(name(object), part(object)),
            Event::Delete(object) => return self.set(name(object), None),
        }
        false
    }

    fn set(&mut self, name: String, part: Option<T>) -> bool {
        let Some(current) = &mut self.current else { return false };
        match part {
            None => current.remove(&name).is_some(),
            Some(part) if current.get(&name) == Some(&part) => false,
            Some(part) => {
                current.insert(name, part);
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Object = (&'static str, Option<u32>);

    fn note(mirror: &mut Mirror<u32>, event: Event<Object>) -> bool {
        mirror.note(&event, |object| object.0.to_owned(), |object| object.1)
    }

    #[test]
    fn only_what_matters_is_a_change_and_a_new_list_replaces_the_old_at_once() {
        let mut mirror = Mirror::default();
        assert!(!note(&mut mirror, Event::Init));
        assert!(!note(&mut mirror, Event::InitApply(("a", Some(1)))));
        assert!(!note(&mut mirror, Event::InitApply(("b", None))));
        assert!(mirror.current().is_none(), "not everything has been listed");
        assert!(note(&mut mirror, Event::InitDone));
        assert!(!note(&mut mirror, Event::Apply(("a", Some(1)))), "nothing that matters");
        assert!(note(&mut mirror, Event::Apply(("b", Some(2)))), "it counts now");
        assert!(note(&mut mirror, Event::Apply(("a", None))), "it does not any more");
        assert!(note(&mut mirror, Event::Delete(("b", Some(2)))));
        assert!(!note(&mut mirror, Event::Delete(("b", Some(2)))));
        note(&mut mirror, Event::Init);
        note(&mut mirror, Event::InitApply(("c", Some(3))));
        assert!(mirror.current().is_some_and(BTreeMap::is_empty), "the old list holds meanwhile");
        assert!(note(&mut mirror, Event::InitDone));
        assert_eq!(mirror.current(), Some(&BTreeMap::from([("c".to_owned(), 3)])));
        note(&mut mirror, Event::Init);
        note(&mut mirror, Event::InitApply(("c", Some(3))));
        assert!(!note(&mut mirror, Event::InitDone), "the same list again");
    }
}
