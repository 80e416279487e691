//! Whom the cache believes: what lies in it runs on the user's GPU, and its checksum is no signature.

use std::fs::{self, DirBuilder, Metadata};
use std::io;
use std::path::Path;
use std::sync::Once;

use super::trace;

/// Whether nobody but the user, or root, can have written a file or changed what a folder holds. Where not,
/// that is said once.
pub(super) fn is_own(place: &Path, about: &Metadata) -> bool {
    static SAID: Once = Once::new();
    let Some(why) = foreign(about) else { return true };
    SAID.call_once(|| trace(|| format!("jit: no cache on disk, since {} {why}", place.display())));
    false
}

#[cfg(unix)]
fn foreign(about: &Metadata) -> Option<&'static str> {
    use std::os::unix::fs::MetadataExt;
    let user = rustix::process::geteuid().as_raw();
    if about.uid() != user && about.uid() != 0 {
        Some("belongs to another user")
    } else if about.mode() & 0o022 != 0 {
        Some("may be written by others (chmod go-w)")
    } else {
        None
    }
}

/// Elsewhere the user's folders are nobody else's by default.
#[cfg(not(unix))]
fn foreign(_: &Metadata) -> Option<&'static str> {
    None
}

/// Whether a folder is there and the user's own.
pub(super) fn is_own_folder(folder: &Path) -> bool {
    fs::metadata(folder).is_ok_and(|about| is_own(folder, &about))
}

/// Makes a folder and those above it for the user alone, where they are missing.
pub(super) fn make_folder(folder: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(folder)
}
