//! Files of what was, and the comparison with what is.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::PathBuf;

/// Differences that are shown.
const SHOWN: usize = 10;

/// Keys with values, in order.
pub type Entries = Vec<(String, String)>;

/// What a file holds. Lines that begin with `#` are for readers.
pub struct Record {
    pub header: Vec<String>,
    pub entries: Entries,
}

impl Record {
    fn path(file: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/cuda/golden").join(file)
    }

    /// A key and its value share a line, with the value last; or the value is the indented lines below.
    fn parse(text: &str) -> Self {
        let mut record = Self { header: vec![], entries: vec![] };
        for line in text.lines() {
            match (line.strip_prefix("# "), line.strip_prefix("  "), line.rsplit_once(' ')) {
                (Some(comment), _, _) => record.header.push(comment.into()),
                (_, Some(inner), _) => {
                    let (_, value) = record.entries.last_mut().expect("an indented line follows a key");
                    writeln!(value, "{inner}").expect("a string can be written to");
                }
                (_, _, Some((key, value))) => record.entries.push((key.into(), value.into())),
                (_, _, None) => record.entries.push((line.into(), String::new())),
            }
        }
        record
    }

    fn write(&self) -> String {
        let mut text = String::new();
        self.header.iter().for_each(|line| text += &format!("# {line}\n"));
        for (key, value) in &self.entries {
            match value.ends_with('\n') || value.is_empty() {
                true => {
                    text += &format!("{key}\n");
                    value.lines().for_each(|line| text += &format!("  {line}\n"));
                }
                false => text += &format!("{key} {value}\n"),
            }
        }
        text
    }

    pub fn read(file: &str) -> Option<Self> {
        std::fs::read_to_string(Self::path(file)).ok().map(|text| Self::parse(&text))
    }

    /// Writes the file under `MULTIMIX_BLESS=1`, else compares with it.
    pub fn check(&self, file: &str) -> Result<(), String> {
        self.check_against(file, |_| ())
    }

    /// As [`Record::check`], with each of the file's keys and values made today's.
    pub fn check_against(&self, file: &str, today: impl Fn(&mut (String, String))) -> Result<(), String> {
        if std::env::var_os("MULTIMIX_BLESS").is_some_and(|value| value == "1") {
            return std::fs::write(Self::path(file), self.write())
                .map_err(|error| format!("{file}: {error}"));
        }
        let mut wanted =
            Self::read(file).ok_or_else(|| format!("{file} is not there; MULTIMIX_BLESS=1 writes it"))?;
        wanted.entries.iter_mut().for_each(today);
        let differences = self.differences(&wanted);
        if differences.is_empty() {
            return Ok(());
        }
        let mut report = format!("{file}: {} differ, of {}", differences.len(), wanted.entries.len());
        differences.iter().take(SHOWN).for_each(|difference| report += &format!("\n{difference}"));
        Err(report)
    }

    fn differences(&self, wanted: &Self) -> Vec<String> {
        let given: HashMap<_, _> = self.entries.iter().map(|(key, value)| (key, value)).collect();
        let known: HashMap<_, _> = wanted.entries.iter().map(|(key, value)| (key, value)).collect();
        let changed = wanted.entries.iter().filter_map(|(key, value)| match given.get(key) {
            Some(now) if *now == value => None,
            Some(now) => Some(format!("{key}\n- {}\n+ {}", value.trim_end(), now.trim_end())),
            None => Some(format!("{key}: is gone")),
        });
        let added = self.entries.iter().filter(|(key, _)| !known.contains_key(key));
        changed.chain(added.map(|(key, _)| format!("{key}: is new"))).collect()
    }
}
