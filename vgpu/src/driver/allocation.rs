//! What the driver knows of each allocation beyond its bytes: its kind, its context, its pool.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::context::Context;
use super::pool::Pool;
use super::status::{Result, Status};
use crate::memory::GlobalMemory;

/// How memory was allocated, and so how it may be freed.
#[derive(Clone)]
pub enum Kind {
    /// `cuMemAlloc`.
    Device,
    /// `cuMemAllocManaged`.
    Managed,
    /// `cuMemAllocHost`, `cuMemHostAlloc`, with its flags.
    Host { flags: u32 },
    /// `cuMemAllocAsync`, `cuMemAllocFromPoolAsync`.
    Pool(Arc<Pool>),
    /// Allocated by a node of a graph, which owns it.
    Graph,
    /// A variable of a module.
    Module,
}

/// One allocation.
#[derive(Clone)]
pub struct Record {
    pub base: u64,
    pub bytes: u64,
    pub kind: Kind,
    /// Unique in the process: `CU_POINTER_ATTRIBUTE_BUFFER_ID`.
    pub id: u64,
    pub context: Weak<Context>,
}

impl Record {
    /// Whether the host may dereference it.
    pub fn on_host(&self) -> bool {
        matches!(self.kind, Kind::Host { .. } | Kind::Managed)
    }
}

/// Live allocations by address.
#[derive(Default)]
pub struct Allocations {
    records: Mutex<BTreeMap<u64, Record>>,
    next_id: AtomicU64,
}

impl Allocations {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn insert(&self, base: u64, bytes: u64, kind: Kind, context: &Arc<Context>) {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed) + 1;
        let context = Arc::downgrade(context);
        self.lock().insert(base, Record { base, bytes, kind, id, context });
    }

    /// The allocation that begins at `base`.
    pub fn at(&self, base: u64) -> Option<Record> {
        self.lock().get(&base).cloned()
    }

    /// The allocation that holds `address`.
    pub fn containing(&self, address: u64) -> Option<Record> {
        let records = self.lock();
        let (_, record) = records.range(..=address).next_back()?;
        (address - record.base < record.bytes).then(|| record.clone())
    }

    /// Checks that `bytes` bytes from `address` lie in one allocation. Nothing at any address is allowed.
    pub fn check_range(&self, address: u64, bytes: u64) -> Result {
        if bytes == 0 {
            return Ok(());
        }
        let record = self.containing(address).ok_or(Status::INVALID_VALUE)?;
        let room = record.bytes - (address - record.base);
        if bytes <= room { Ok(()) } else { Err(Status::INVALID_VALUE) }
    }

    pub fn remove(&self, base: u64) -> Option<Record> {
        self.lock().remove(&base)
    }

    /// Frees everything that belongs to `context`.
    pub fn release_all(&self, context: &Arc<Context>, memory: &GlobalMemory) {
        let mut records = self.lock();
        let owner = Arc::downgrade(context);
        let bases: Vec<u64> = records
            .values()
            .filter(|record| record.context.ptr_eq(&owner))
            .map(|record| record.base)
            .collect();
        for base in bases {
            let Some(record) = records.remove(&base) else { continue };
            if let Kind::Pool(pool) = &record.kind {
                pool.give_back(record.bytes);
            }
            // A module frees its variables itself, when the last launch of it lets go.
            if !matches!(record.kind, Kind::Module) && memory.free(base).is_err() {
                eprintln!("vgpu: internal error: {base:#x} was recorded but not allocated");
            }
        }
    }
}
