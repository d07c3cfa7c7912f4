//! A service's place in the run directory: its lock, its socket, and who may connect.
//!
//! The lock says who is alive: it is held as long as the process lives and the kernel drops it with the process, so
//! whoever gets it may remove the socket that a crash left. The socket has mode 0600, and every peer is asked for its
//! user as well: only root and the user of the service itself may speak.

use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Why a service cannot have its socket.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Another process has it.
    #[error("{service} is already running: it holds {}", lock.display())]
    Running {
        /// Name of the service.
        service: String,
        /// The lock.
        lock: PathBuf,
    },
    /// Others could put their own socket there.
    #[error("the run directory {} may be written by other users: give one that only its owner may write", dir.display())]
    Writable {
        /// The directory.
        dir: PathBuf,
    },
    /// Not a directory.
    #[error("the run directory {} is not a directory", dir.display())]
    NotADirectory {
        /// What is there.
        dir: PathBuf,
    },
    /// The system said no.
    #[error("cannot {what} {}: {error}{}", path.display(), hint(error))]
    System {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; run as root, or give another run directory",
        _ => "",
    }
}

/// A socket that is listening, and the lock that makes it the only one. Both go when this is dropped.
pub struct Claim {
    listener: UnixListener,
    socket: PathBuf,
    _lock: Flock<File>,
}

impl Claim {
    /// Makes the run directory where it is missing, takes the lock `NAME.lock`, and listens on `NAME.sock`.
    /// `service` is the process's name for people.
    pub fn take(run_dir: &Path, name: &str, service: &str) -> Result<Claim, ClaimError> {
        make_directory(run_dir)?;
        let path = run_dir.join(format!("{name}.lock"));
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let lock = lock.map_err(system("open", &path))?;
        let lock = match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                return Err(ClaimError::Running { service: service.to_string(), lock: path });
            }
            Err((_, errno)) => return Err(system("lock", &path)(errno.into())),
        };
        let socket = run_dir.join(format!("{name}.sock"));
        match fs::remove_file(&socket) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(system("remove the old socket", &socket)(e)),
            _ => {}
        }
        let listener = UnixListener::bind(&socket).map_err(system("bind", &socket))?;
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o600)).map_err(system("protect", &socket))?;
        Ok(Claim { listener, socket, _lock: lock })
    }

    /// The listening socket.
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.socket
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // The lock is still held, so this is our own socket. The lock file stays: removing it would race with the next
        // process that has opened but not yet locked it.
        let _ = fs::remove_file(&self.socket);
    }
}

/// Whether the process at the other end may speak: root, or the user that this process runs as.
pub fn is_allowed(peer: &impl AsFd) -> bool {
    getsockopt(peer, PeerCredentials).is_ok_and(|peer| peer.uid() == 0 || peer.uid() == geteuid().as_raw())
}

fn make_directory(dir: &Path) -> Result<(), ClaimError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => ClaimError::NotADirectory { dir: dir.to_path_buf() },
        _ => system("make the run directory", dir)(error),
    })?;
    let found = fs::metadata(dir).map_err(system("look at", dir))?;
    let foreign = found.uid() != 0 && found.uid() != geteuid().as_raw();
    if foreign || found.mode() & 0o022 != 0 {
        return Err(ClaimError::Writable { dir: dir.to_path_buf() });
    }
    Ok(())
}

fn system(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ClaimError {
    let path = path.to_path_buf();
    move |error| ClaimError::System { what, path, error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn directory_and_socket_are_for_the_owner_only() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("run");
        let claim = Claim::take(&dir, "x", "sumun-x").unwrap();
        assert_eq!((mode(&dir), mode(claim.path())), (0o700, 0o600));
        UnixStream::connect(claim.path()).unwrap();
    }

    #[test]
    fn second_instance_is_refused_and_the_first_stays_reachable() {
        let tmp = tempfile::tempdir().unwrap();
        let first = Claim::take(tmp.path(), "x", "sumun-x").unwrap();
        let second = Claim::take(tmp.path(), "x", "sumun-x").map(|_| ()).unwrap_err();
        assert!(second.to_string().starts_with("sumun-x is already running"), "{second}");
        UnixStream::connect(first.path()).unwrap();
    }

    #[test]
    fn socket_of_a_crashed_process_is_replaced() {
        let tmp = tempfile::tempdir().unwrap();
        drop(UnixListener::bind(tmp.path().join("x.sock")).unwrap());
        let claim = Claim::take(tmp.path(), "x", "sumun-x").unwrap();
        UnixStream::connect(claim.path()).unwrap();
    }

    #[test]
    fn socket_goes_with_the_claim() {
        let tmp = tempfile::tempdir().unwrap();
        let claim = Claim::take(tmp.path(), "x", "sumun-x").unwrap();
        let path = claim.path().to_path_buf();
        drop(claim);
        assert!(!path.exists());
        Claim::take(tmp.path(), "x", "sumun-x").unwrap();
    }

    #[test]
    fn directory_that_others_may_write_is_refused_and_left_as_it_is() {
        let tmp = tempfile::tempdir().unwrap();
        fs::set_permissions(tmp.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(Claim::take(tmp.path(), "x", "x"), Err(ClaimError::Writable { .. })));
        assert_eq!(mode(tmp.path()), 0o777);
    }
}
