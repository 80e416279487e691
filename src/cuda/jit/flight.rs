//! Work that many may ask for and one does.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

type Slot<V> = Arc<Mutex<Option<V>>>;

/// Values made once per key. Who asks while another makes the value waits for it; a failure is not kept.
pub(crate) struct Flights<K, V> {
    slots: Mutex<HashMap<K, Slot<V>>>,
}

impl<K, V> Default for Flights<K, V> {
    fn default() -> Self {
        Self { slots: Mutex::new(HashMap::new()) }
    }
}

impl<K, V> fmt::Debug for Flights<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("Flights").field("count", &slots.len()).finish()
    }
}

impl<K: Eq + Hash, V: Clone> Flights<K, V> {
    /// The value of `key`, made by `make` if nobody has.
    pub fn get_or_make<E>(&self, key: K, make: impl FnOnce() -> Result<V, E>) -> Result<V, E> {
        let slot = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            slots.entry(key).or_default().clone()
        };
        let mut value = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = &*value {
            return Ok(value.clone());
        }
        let made = make()?;
        *value = Some(made.clone());
        Ok(made)
    }

    /// The value of `key`, if there is one, once `replace` has had its chance to put another in its place.
    pub fn replace(&self, key: &K, replace: impl FnOnce(&V) -> Option<V>) -> Option<V> {
        let slot = self.slots.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()?;
        let mut value = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = value.as_ref().and_then(replace) {
            *value = Some(other);
        }
        value.clone()
    }

    /// The value of `key`, if it has been made.
    pub fn get(&self, key: &K) -> Option<V> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.get(key)?.try_lock().ok()?.clone()
    }

    /// All values made so far, in no order. Those being made are left out.
    pub fn values(&self) -> Vec<V> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.values().filter_map(|slot| slot.try_lock().ok().and_then(|value| value.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn one_makes_it_and_all_get_it() {
        let (flights, made) = (Flights::<u32, u32>::default(), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let value = flights.get_or_make(3, || {
                        std::thread::sleep(std::time::Duration::from_millis(5));
                        Ok::<_, ()>(made.fetch_add(1, Ordering::Relaxed))
                    });
                    assert_eq!(value, Ok(0));
                });
            }
        });
        assert_eq!(made.load(Ordering::Relaxed), 1);
        assert_eq!(flights.values(), [0]);
    }

    #[test]
    fn a_failure_is_tried_again() {
        let flights = Flights::<u32, u32>::default();
        assert_eq!(flights.get_or_make(1, || Err("no")), Err("no"));
        assert_eq!(flights.get_or_make(1, || Ok::<_, &str>(5)), Ok(5));
    }

    #[test]
    fn a_value_is_replaced_where_there_is_one() {
        let flights = Flights::<u32, u32>::default();
        assert_eq!(flights.replace(&1, |_| Some(6)), None);
        assert_eq!(flights.get_or_make(1, || Ok::<_, ()>(5)), Ok(5));
        assert_eq!(flights.replace(&1, |_| None), Some(5));
        assert_eq!(flights.replace(&1, |value| Some(value + 1)), Some(6));
        assert_eq!(flights.values(), [6]);
    }
}
