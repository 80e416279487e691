//! Reports of ptxas on disk, so that a run of hours can be broken off. A line is a kernel of a program: key,
//! kernel, registers, shared, stack, spill store and spill load bytes; a program's lines are written at once.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::Mutex;

use multimix::cuda::jit::Resources;

pub struct Ledger {
    known: HashMap<String, Vec<Resources>>,
    file: Mutex<File>,
}

impl Ledger {
    /// What the file holds, if there is one.
    pub fn open(path: &Path) -> Self {
        let mut known: HashMap<String, Vec<Resources>> = HashMap::new();
        for line in std::fs::read_to_string(path).unwrap_or_default().lines() {
            if let Some((key, resources)) = parse(line) {
                known.entry(key).or_default().push(resources);
            }
        }
        let file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        Self { known, file: Mutex::new(file) }
    }

    /// A program's report: noted before, or made and noted now.
    pub fn get_or_note(&self, key: &str, make: impl FnOnce() -> Vec<Resources>) -> Vec<Resources> {
        if let Some(known) = self.known.get(key) {
            return known.clone();
        }
        let made = make();
        let mut lines = String::new();
        for one in &made {
            let Resources { kernel, registers, shared_bytes, stack_bytes, .. } = one;
            let (stores, loads) = (one.spill_store_bytes, one.spill_load_bytes);
            let _ = writeln!(
                lines,
                "{key}\t{kernel}\t{registers}\t{shared_bytes}\t{stack_bytes}\t{stores}\t{loads}"
            );
        }
        self.file.lock().unwrap().write_all(lines.as_bytes()).unwrap();
        made
    }
}

fn parse(line: &str) -> Option<(String, Resources)> {
    let (head, kernel, numbers) = match *line.split('\t').collect::<Vec<_>>() {
        [key, kernel, ref numbers @ ..] if key.len() == 64 => (key, kernel, numbers.to_vec()),
        _ => return None,
    };
    let numbers: Vec<u32> = numbers.into_iter().map(|number| number.parse().ok()).collect::<Option<_>>()?;
    let [registers, shared_bytes, stack_bytes, spill_store_bytes, spill_load_bytes] = numbers[..] else {
        return None;
    };
    let kernel = kernel.to_owned();
    Some((
        head.to_owned(),
        Resources { kernel, registers, shared_bytes, stack_bytes, spill_store_bytes, spill_load_bytes },
    ))
}
