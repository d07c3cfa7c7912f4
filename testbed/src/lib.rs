//! A network to try the router in: namespaces joined by veth pairs, the router's two processes, and hosts that talk.
//!
//! ```text
//!   client1 ─┐
//!            ├─ switch ── lan0 │ router │ wan0 ── server
//!   client2 ─┘
//! ```
//!
//! A [`Lab`] belongs to one test; names carry the process id and the test's name, so tests run side by side, and everything
//! it made goes when it is dropped, also after a panic. Leftovers of a killed run are swept by [`sweep`].

pub mod appliance;
pub mod craft;
pub mod daemons;
pub mod differential;
pub mod host;
pub mod lab;
pub mod router;
pub mod talk;
pub mod trunk;

pub use appliance::{Appliance, Beside};
pub use host::Host;
pub use lab::{Lab, sweep};
pub use router::Router;
pub use trunk::Trunk;
