//! The control API's unix socket: where it is, and how it is made.
//!
//! Invariant: the socket is never reachable with another mode than 0600, and the socket of a living daemon is never replaced.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::Uid;
use socket2::{Domain, SockAddr, Type};

use crate::limits;

/// The environment name of `--socket`.
pub const SOCKET_ENV: &str = "PROBE_ENGINE_SOCKET";

/// Bytes of a unix socket's path (`sun_path` less its end).
const PATH_BYTES_MAX: usize = 107;

/// How often, and how far apart, the directory's lock is asked for: another daemon holds it for a moment only.
const LOCK_TRIES: u32 = 40;
const LOCK_WAIT: Duration = Duration::from_millis(50);

/// Why the socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another daemon listens there.
    #[error("a probe-engine daemon already listens on {}; stop it, or give this one another --socket", .0.display())]
    InUse(PathBuf),
    /// Something that is not a socket is in the way.
    #[error("{} is there already and is not a socket; move it away, or give another --socket", .0.display())]
    NotASocket(PathBuf),
    /// sun_path is short.
    #[error("the socket path {} is longer than the {PATH_BYTES_MAX} bytes that unix(7) allows; give a shorter --socket", .0.display())]
    TooLong(PathBuf),
    /// Neither root nor a runtime directory.
    #[error(
        "no place for the control socket: not root, and XDG_RUNTIME_DIR is not set; give --socket PATH or set {SOCKET_ENV}"
    )]
    NoDirectory,
    /// The system refused.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// The call.
        what: &'static str,
        /// Its argument.
        path: PathBuf,
        /// Its errno.
        source: io::Error,
    },
}

/// Where the socket is without `--socket` and its environment name: `/run/probe-engine/api.sock` for root,
/// else `$XDG_RUNTIME_DIR/probe-engine/api.sock`.
pub fn default_path() -> Result<PathBuf, SocketError> {
    path_for(Uid::effective().is_root(), std::env::var_os("XDG_RUNTIME_DIR"))
}

fn path_for(root: bool, runtime_dir: Option<std::ffi::OsString>) -> Result<PathBuf, SocketError> {
    let base = match runtime_dir {
        _ if root => PathBuf::from("/run"),
        Some(dir) if !dir.is_empty() => PathBuf::from(dir),
        _ => return Err(SocketError::NoDirectory),
    };
    Ok(base.join("probe-engine").join("api.sock"))
}

/// A listening socket, removed from its directory when dropped.
#[derive(Debug)]
pub struct Socket {
    listener: Option<tokio::net::UnixListener>,
    path: PathBuf,
    /// (device, inode) of our file, so that another daemon's is left alone.
    identity: (u64, u64),
}

impl Socket {
    /// Binds and listens; to be called within a tokio runtime. A missing directory is made (mode 0700), the
    /// socket of a dead daemon is replaced.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        if path.as_os_str().as_bytes().len() > PATH_BYTES_MAX {
            return Err(SocketError::TooLong(path.to_owned()));
        }
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |source| SocketError::Io { what, path, source }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(failed("make the directory", directory))?;
        // Two daemons that start at once look and bind one after the other.
        let _lock = lock(directory)?;
        clear(path)?;

        let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)
            .map_err(failed("make a socket for", path))?;
        let address = SockAddr::unix(path).map_err(failed("use the address", path))?;
        socket.bind(&address).map_err(failed("bind", path))?;
        // Nobody can connect before listen(2), so the mode of bind(2), which the umask decides, is never in force.
        std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed("set the mode of", path))?;
        let metadata = std::fs::symlink_metadata(path).map_err(failed("look at", path))?;
        socket.listen(limits::API_BACKLOG_LEN).map_err(failed("listen on", path))?;
        let listener = tokio::net::UnixListener::from_std(socket.into()).map_err(failed("watch", path))?;
        Ok(Self { listener: Some(listener), path: path.to_owned(), identity: (metadata.dev(), metadata.ino()) })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The listener; given out once.
    pub(super) fn take_listener(&mut self) -> Option<tokio::net::UnixListener> {
        self.listener.take()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == self.identity);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the control socket");
        }
    }
}

fn lock(directory: &Path) -> Result<Flock<File>, SocketError> {
    let failed = |what, source| SocketError::Io { what, path: directory.to_owned(), source };
    let mut file = File::open(directory).map_err(|e| failed("open the directory", e))?;
    for _ in 0..LOCK_TRIES {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, nix::errno::Errno::EWOULDBLOCK)) => file = back,
            Err((_, errno)) => return Err(failed("lock the directory", errno.into())),
        }
        std::thread::sleep(LOCK_WAIT);
    }
    let busy = io::Error::new(io::ErrorKind::WouldBlock, "another process keeps it locked");
    Err(failed("lock the directory", busy))
}

/// Makes place at `path`: a dead daemon's socket goes, anything else stays and is an error.
fn clear(path: &Path) -> Result<(), SocketError> {
    let failed = |what, source| SocketError::Io { what, path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at", error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(SocketError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(SocketError::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!(path = %path.display(), "removing the control socket of a daemon that has ended");
            std::fs::remove_file(path).map_err(|e| failed("remove the old socket", e))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("see whether a daemon listens on", error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).expect("metadata").permissions().mode() & 0o7777
    }

    #[tokio::test]
    async fn the_socket_has_mode_0600_in_a_directory_of_0700_and_goes_with_its_owner() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("made/api.sock");
        let socket = Socket::bind(&path).expect("bind");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().expect("parent")), 0o700);
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn the_socket_of_a_dead_daemon_is_replaced() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("api.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bind"));
        assert!(path.exists(), "std leaves the file");
        let socket = Socket::bind(&path).expect("bind over it");
        assert_eq!(mode(socket.path()), 0o600);
    }

    #[tokio::test]
    async fn the_socket_of_a_living_daemon_is_refused_by_name() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("api.sock");
        let _first = Socket::bind(&path).expect("bind");
        let error = Socket::bind(&path).expect_err("second");
        assert!(matches!(&error, SocketError::InUse(p) if *p == path), "{error}");
        assert!(error.to_string().contains(path.to_str().expect("utf-8")));
        assert!(path.exists());
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_stays() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("api.sock");
        std::fs::write(&path, "precious").expect("write");
        let error = Socket::bind(&path).expect_err("a file");
        assert!(matches!(error, SocketError::NotASocket(_)), "{error}");
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "precious");
    }

    #[tokio::test]
    async fn a_socket_made_by_another_daemon_in_our_place_is_left_alone() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("api.sock");
        let ours = Socket::bind(&path).expect("bind");
        std::fs::remove_file(&path).expect("remove");
        let _theirs = Socket::bind(&path).expect("bind again");
        drop(ours);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn a_path_too_long_for_unix_is_said() {
        let path = PathBuf::from(format!("/tmp/{}", "x".repeat(120)));
        let error = Socket::bind(&path).expect_err("too long");
        assert!(matches!(error, SocketError::TooLong(_)), "{error}");
    }

    #[test]
    fn the_default_is_in_run_for_root_and_in_the_runtime_directory_otherwise() {
        let at = |root, dir: Option<&str>| path_for(root, dir.map(Into::into));
        let run = PathBuf::from("/run/probe-engine/api.sock");
        assert_eq!(at(true, Some("/run/user/7")).expect("root"), run);
        let own = PathBuf::from("/run/user/7/probe-engine/api.sock");
        assert_eq!(at(false, Some("/run/user/7")).expect("user"), own);
        assert!(matches!(at(false, None), Err(SocketError::NoDirectory)));
        assert!(matches!(at(false, Some("")), Err(SocketError::NoDirectory)));
    }
}
