//! Writing a file so that it is either the old one or the whole new one, even through a crash.

use crate::error::{Error, Result};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Writes a file durably: a temporary file in the same folder, synchronized, renamed over the old one, and the folder
/// synchronized. On an error nothing is left behind, and an old file is untouched. A link stays one, a file keeps its
/// permissions, and what is no file (a terminal, a pipe) is written to as it is.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let written = match path.canonicalize() {
        Ok(found) if !found.is_file() && !found.is_dir() => fs::write(&found, bytes),
        Ok(found) => replace(&found, bytes),
        Err(_) => replace(path, bytes),
    };
    written.map_err(|error| Error::io("write", path, &error))
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666)); // as any new file: the umask applies
    }
    let mut file = builder.prefix(".partial-").tempfile_in(folder)?;
    if let Ok(old) = fs::metadata(path) {
        file.as_file().set_permissions(old.permissions())?;
    }
    file.as_file_mut().write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    if cfg!(unix) {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn files_are_replaced_whole_and_errors_leave_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        let blocked = folder.path().join("blocked");
        fs::create_dir_all(blocked.join("inside")).unwrap();
        assert!(write(&blocked, b"x").is_err());
        assert_eq!(write(&folder.path().join("no/file"), b"x").unwrap_err().kind, ErrorKind::Missing);
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
    }

    #[cfg(unix)]
    #[test]
    fn links_permissions_and_devices_stay() {
        use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let [path, link] = ["file", "link"].map(|name| folder.path().join(name));
        write(&path, b"one").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        symlink("file", &link).unwrap();
        write(&link, b"two").unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (null, device) = (folder.path().join("null"), Path::new("/dev/null"));
        symlink(device, &null).unwrap();
        write(&null, b"three").unwrap();
        assert!(device.metadata().unwrap().file_type().is_char_device());
    }
}
