//! Handles: the opaque pointers that programs hold.
//!
//! A handle is a number that was never given out before, looked up in the registry of its kind. So a handle
//! that was freed, belongs to another kind of object or never existed is found out, and nothing of the
//! caller's is dereferenced.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

use super::status::{Result, Status};

/// An object that programs hold by a handle.
pub trait Registered: Sized + Send + Sync + 'static {
    /// What an unknown handle of this kind is reported as.
    const UNKNOWN: Status = Status::INVALID_HANDLE;

    fn registry() -> &'static Registry<Self>;
}

/// All live objects of a kind.
pub struct Registry<T> {
    objects: LazyLock<RwLock<HashMap<usize, Arc<T>>>>,
}

/// Handles of all kinds share one sequence. They look like addresses that no process maps.
static NEXT: AtomicUsize = AtomicUsize::new(0x4750_5556_0000_0000);
const STEP: usize = 64;

impl<T> Registry<T> {
    pub const fn new() -> Self {
        Self { objects: LazyLock::new(RwLock::default) }
    }

    /// Registers an object that is told its own handle.
    pub fn insert_with(&self, make: impl FnOnce(usize) -> Arc<T>) -> (usize, Arc<T>) {
        let handle = NEXT.fetch_add(STEP, Ordering::Relaxed);
        let object = make(handle);
        self.objects.write().unwrap_or_else(PoisonError::into_inner).insert(handle, object.clone());
        (handle, object)
    }

    pub fn insert(&self, object: Arc<T>) -> usize {
        self.insert_with(|_| object).0
    }

    pub fn find(&self, handle: usize) -> Option<Arc<T>> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner).get(&handle).cloned()
    }

    pub fn remove(&self, handle: usize) -> Option<Arc<T>> {
        self.objects.write().unwrap_or_else(PoisonError::into_inner).remove(&handle)
    }

    /// Forgets every object for which `keep` is false.
    pub fn retain(&self, keep: impl Fn(&T) -> bool) {
        self.objects.write().unwrap_or_else(PoisonError::into_inner).retain(|_, object| keep(object));
    }
}

/// A handle as an argument.
#[repr(transparent)]
pub struct Handle<T>(usize, PhantomData<*const T>);

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Handle<T> {}

impl<T: Registered> Handle<T> {
    pub const fn new(handle: usize) -> Self {
        Self(handle, PhantomData)
    }

    pub const fn value(self) -> usize {
        self.0
    }

    pub const fn is_null(self) -> bool {
        self.0 == 0
    }

    pub fn get(self) -> Result<Arc<T>> {
        T::registry().find(self.0).ok_or(T::UNKNOWN)
    }

    /// Takes the object out of the registry: from now on the handle is unknown.
    pub fn remove(self) -> Result<Arc<T>> {
        T::registry().remove(self.0).ok_or(T::UNKNOWN)
    }
}

/// Gives a kind of object its registry.
macro_rules! registered {
    ($kind:ty $(, unknown: $status:ident)?) => {
        impl $crate::driver::handle::Registered for $kind {
            $(const UNKNOWN: $crate::driver::status::Status = $crate::driver::status::Status::$status;)?

            fn registry() -> &'static $crate::driver::handle::Registry<Self> {
                static REGISTRY: $crate::driver::handle::Registry<$kind> = $crate::driver::handle::Registry::new();
                &REGISTRY
            }
        }
    };
}
pub(in crate::driver) use registered;
