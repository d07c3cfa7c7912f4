//! SYNPROXY: what the router says in the place of a server, and what it remembers of it (`nf_synproxy_core.c`).
//!
//! ```text
//!   client             router              server
//!     │ SYN ──────────▶ │                     │    nothing is kept: the SYN is in the cookie, what
//!     │ ◀────── SYN/ACK │                     │    it offered in the timestamp; no window
//!     │ ACK ──────────▶ │ SYN ──────────────▶ │    the cookie is right: the flow begins
//!     │                 │ ◀────────── SYN/ACK │
//!     │ ◀────────── ACK │ ACK ──────────────▶ │    the client gets the server's window
//!     │ ◀═════════════════════════════════▶   │    numbers and timestamps of the server move
//! ```
//!
//! Pure parts only: [`Cookies`] - is this acknowledgement of a SYN that was answered; [`Offer`] - what a segment offers, and how
//! a timestamp carries it; [`move_timestamps`]. What is kept of a connection is [`crate::conntrack`]'s, the order of
//! things is the engine's.

mod cookie;
mod offer;
mod stamps;

pub use cookie::{Cookies, Ends};
pub use offer::{LONGEST, Offer, Stamps};
pub use stamps::move_timestamps;
