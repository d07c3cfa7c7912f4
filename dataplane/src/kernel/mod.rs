//! The kernel's side of the router: how do routes, addresses and neighbours of the TAPs' namespace get into the dataplane, and
//! the configuration's addresses onto the TAPs?
//!
//! ```text
//!  kernel ─ netlink ─▶ socket ─▶ decode ─▶ News ─▶ view ─▶ Changes ─▶ Router::routes       one thread, not pinned
//!         ◀─ addresses of the configuration ──────────────────────────── thread
//! ```
//!
//! First everything is dumped and put in force in one piece, then what changes is followed and put in force in batches of a few
//! milliseconds. Where something may be missing (the socket ran over, the kernel changed things without telling) everything is
//! dumped again, and what is known stays in force meanwhile. Errors are logged, and tried again after a while: the router
//! forwards on with what it knows.
//!
//! [`decode`] and [`view`] are pure; only [`socket`] and the thread know of the system.

pub mod decode;
pub mod groups;
pub mod news;
mod nexthop;
pub mod socket;
mod thread;
pub mod view;

#[cfg(test)]
mod tests;

pub use thread::{Mirror, Place, Plan, State, start};
