//! Compiled images on disk.
//!
//! A file is written beside its place and renamed, so that readers see all of it or nothing; it carries its
//! key, the length of each part and a checksum, so that what was truncated or overwritten counts as absent.
//! On unix so does what another user owns, or may write. Nothing here ever fails a call: a cache that cannot
//! be read or written is a slower one.

use std::ffi::OsString;
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use sha2::{Digest, Sha256};

use super::trust::{is_own, is_own_folder, make_folder};
use super::{Image, Key};

/// Opens every file. The number is the format's.
const MAGIC: &[u8; 8] = b"multimx1";
const HEADER: usize = MAGIC.len() + 32 + 32 + 3 * 8;

/// A folder of compiled images, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    folder: Option<PathBuf>,
}

impl Cache {
    /// The folder that the environment names: none where `MULTIMIX_CACHE` is `0` or `off`, else
    /// `MULTIMIX_CACHE_DIR`, else `multimix` in the user's cache folder.
    pub fn from_environment() -> Self {
        Self::from_variables(|name| std::env::var_os(name).filter(|value| !value.is_empty()))
    }

    fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        if variable("MULTIMIX_CACHE").is_some_and(|value| value == "0" || value == "off") {
            return Self::disabled();
        }
        let users = || {
            let home = |rest: &str| variable("HOME").map(|home| Path::new(&home).join(rest));
            let folder = variable("XDG_CACHE_HOME").or_else(|| variable("LOCALAPPDATA")).map(PathBuf::from);
            // The XDG specification has relative paths ignored.
            folder
                .filter(|folder| folder.is_absolute())
                .or_else(|| home(".cache"))
                .map(|folder| folder.join("multimix"))
        };
        Self { folder: variable("MULTIMIX_CACHE_DIR").map(PathBuf::from).or_else(users) }
    }

    /// Images in this folder, which is made when first needed, for the user alone. Where others may write it,
    /// nothing is read from it or written to it.
    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        Self { folder: Some(folder.into()) }
    }

    /// Nothing on disk.
    pub fn disabled() -> Self {
        Self { folder: None }
    }

    /// The folder, if there is one.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// Where the image named `key` lies or would lie.
    pub fn file(&self, key: &Key) -> Option<PathBuf> {
        Some(self.of_this_version()?.join(format!("{key}.image")))
    }

    /// Releases do not share files.
    fn of_this_version(&self) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.join(env!("CARGO_PKG_VERSION")))
    }

    /// Whether both folders are there and the user's own.
    fn is_own(&self) -> bool {
        self.folder.as_deref().is_some_and(is_own_folder)
            && self.of_this_version().is_some_and(|folder| is_own_folder(&folder))
    }

    fn read(&self, file: &Path) -> Option<Vec<u8>> {
        let mut open = fs::File::open(file).ok()?;
        // Of what was opened: the name may mean another file by now.
        let about = open.metadata().ok()?;
        let mut contents = vec![];
        let believed = self.is_own() && is_own(file, &about);
        (believed && open.read_to_end(&mut contents).is_ok()).then_some(contents)
    }

    /// Writes beside the file and renames. What fails leaves nothing behind, and no other process can have
    /// the name.
    fn replace(&self, file: &Path, contents: &[u8]) {
        let Some(folder) = self.of_this_version() else { return };
        if make_folder(&folder).is_err() || !self.is_own() {
            return;
        }
        let mut builder = tempfile::Builder::new();
        builder.prefix(".").suffix(".part");
        // Other users may read, as the folder lets them.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
        let Ok(mut fresh) = builder.tempfile_in(folder) else { return };
        if fresh.write_all(contents).is_ok() {
            let _ = fresh.persist(file);
        }
    }

    /// The image named `key`, if it is there and whole.
    pub(super) fn load(&self, key: &Key) -> Option<Image> {
        decode(&self.read(&self.file(key)?)?, key)
    }

    /// Keeps an image for later processes, if the folder can be written.
    pub(super) fn store(&self, key: &Key, image: &Image) {
        if let Some(file) = self.file(key) {
            self.replace(&file, &encode(key, image));
        }
    }

    /// What was noted of a library file: its version and the architectures it compiles for.
    pub(super) fn identity(&self, library: &Path) -> Option<((u32, u32), Vec<u32>)> {
        let text = String::from_utf8(self.read(&self.identity_file(library)?)?).ok()?;
        let mut numbers = text.strip_suffix(" end\n")?.split(' ').map(|word| word.parse().ok());
        let version = (numbers.next()??, numbers.next()??);
        Some((version, numbers.collect::<Option<Vec<u32>>>()?))
    }

    pub(super) fn note_identity(&self, library: &Path, (version, archs): &((u32, u32), Vec<u32>)) {
        let Some(file) = self.identity_file(library) else { return };
        let archs: Vec<String> = archs.iter().map(u32::to_string).collect();
        let text = format!("{} {} {} end\n", version.0, version.1, archs.join(" "));
        self.replace(&file, text.as_bytes());
    }

    /// Named by the library's path, size and time of change. A bare name has none: the loader decides what it
    /// means.
    fn identity_file(&self, library: &Path) -> Option<PathBuf> {
        let library = fs::canonicalize(library).ok().filter(|_| library.components().count() > 1)?;
        let about = fs::metadata(&library).ok()?;
        let changed = about.modified().ok()?.duration_since(UNIX_EPOCH).ok()?.as_nanos();
        let mut hash = Sha256::new();
        hash.update(library.as_os_str().as_encoded_bytes());
        hash.update(about.len().to_le_bytes());
        hash.update(changed.to_le_bytes());
        let key = Key(hash.finalize().into());
        Some(self.of_this_version()?.join(format!("{key}.nvrtc")))
    }
}

fn encode(key: &Key, image: &Image) -> Vec<u8> {
    let parts = [&image.cubin[..], &image.ptx, image.log.as_bytes()];
    let mut body = Vec::new();
    for part in parts {
        body.extend_from_slice(&(part.len() as u64).to_le_bytes());
    }
    parts.iter().for_each(|part| body.extend_from_slice(part));
    let checksum: [u8; 32] = Sha256::digest(&body).into();
    [&MAGIC[..], &key.0, &checksum, &body].concat()
}

fn decode(file: &[u8], key: &Key) -> Option<Image> {
    let (header, parts) = file.split_at_checked(HEADER)?;
    let rest = header.strip_prefix(MAGIC)?.strip_prefix(&key.0)?;
    let (checksum, lengths) = rest.split_at(32);
    if Sha256::digest(&file[HEADER - lengths.len()..])[..] != *checksum {
        return None;
    }
    let mut parts = parts;
    let mut next = |index: usize| {
        let length = u64::from_le_bytes(lengths[8 * index..8 * index + 8].try_into().ok()?);
        let (part, rest) = parts.split_at_checked(usize::try_from(length).ok()?)?;
        parts = rest;
        Some(part.to_vec())
    };
    let image = Image { cubin: next(0)?, ptx: next(1)?, log: String::from_utf8(next(2)?).ok()? };
    parts.is_empty().then_some(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Image {
        Image { cubin: vec![1; 100], ptx: b".version 8.0".to_vec(), log: "ptxas".into() }
    }

    #[test]
    fn every_damage_is_seen() {
        let key = Key([7; 32]);
        let whole = encode(&key, &image());
        assert_eq!(decode(&whole, &key), Some(image()));
        assert_eq!(decode(&whole, &Key([8; 32])), None);
        for length in 0..whole.len() {
            assert_eq!(decode(&whole[..length], &key), None, "cut to {length}");
        }
        for place in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[place] ^= 0x10;
            assert_eq!(decode(&damaged, &key), None, "byte {place}");
        }
        let longer = [&whole[..], &[0]].concat();
        assert_eq!(decode(&longer, &key), None);
    }

    #[test]
    fn the_environment_names_the_folder_or_switches_it_off() {
        let with = |pairs: &'static [(&str, &str)]| {
            Cache::from_variables(|name| pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1.into()))
        };
        assert_eq!(with(&[("HOME", "/h")]), Cache::in_folder("/h/.cache/multimix"));
        assert_eq!(with(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), Cache::in_folder("/x/multimix"));
        assert_eq!(with(&[("HOME", "/h"), ("XDG_CACHE_HOME", "x")]), Cache::in_folder("/h/.cache/multimix"));
        assert_eq!(with(&[("HOME", "/h"), ("MULTIMIX_CACHE_DIR", "/m")]), Cache::in_folder("/m"));
        assert_eq!(with(&[("MULTIMIX_CACHE", "off"), ("MULTIMIX_CACHE_DIR", "/m")]), Cache::disabled());
        assert_eq!(with(&[]), Cache::disabled());
    }

    #[test]
    fn what_a_library_is_gets_forgotten_when_it_changes() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::in_folder(root.path().join("cache"));
        let library = root.path().join("libnvrtc.so");
        fs::write(&library, b"one").unwrap();
        let identity = ((12, 9), vec![80, 90]);
        assert_eq!(cache.identity(&library), None);
        cache.note_identity(&library, &identity);
        assert_eq!(cache.identity(&library), Some(identity));
        fs::write(&library, b"another").unwrap();
        assert_eq!(cache.identity(&library), None);
    }
}
