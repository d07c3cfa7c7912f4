//! Why a socket cannot be reached, in words that say what to do.

use std::io;
use std::path::Path;

/// One of the two processes.
#[derive(Clone, Copy)]
pub struct Peer {
    /// For people.
    pub name: &'static str,
    /// Its socket in the run directory.
    pub socket: &'static str,
    /// How to start it.
    pub start: &'static str,
}

/// The router.
pub const DATAPLANE: Peer =
    Peer { name: "sumun-dataplane", socket: "dataplane.sock", start: "sumun-dataplane --config FILE" };

/// The daemon that the command line speaks to.
pub const CONTROL: Peer = Peer { name: "sumun control", socket: "control.sock", start: "sumun control --config FILE" };

impl Peer {
    /// What a failed connect means.
    pub fn explain(&self, socket: &Path, error: &io::Error) -> String {
        let Peer { name, start, .. } = self;
        let socket = socket.display();
        match error.kind() {
            io::ErrorKind::NotFound => {
                format!("{name} is not running (no socket at {socket}); start it with `{start}`")
            }
            io::ErrorKind::ConnectionRefused => {
                format!("{name} is not running (nobody listens at {socket}); start it with `{start}`")
            }
            io::ErrorKind::PermissionDenied => format!("no permission to use {socket}: run as root"),
            _ => format!("cannot reach {name} at {socket}: {error}"),
        }
    }
}
