//! Sumun's router: a pure packet engine and the ports around it.
//!
//! ```text
//!            machine ─ process ─ server ◀── protocol ──▶ control
//!               │
//!  port ──▶ worker ──▶ engine ──▶ worker ──▶ port          one worker a core; handover between them
//!  (af_xdp, memory, pcap) │
//!                         ├─ packet     bytes to facts and back: parse, edit, checksums, fragments
//!                         ├─ conntrack  flows of all workers, fixed memory, no lock on a hit
//!                         ├─ nat        mappings, written into packets and into what errors quote
//!                         ├─ set        sets of rules and their elements, read without a lock
//!                         ├─ fib        routes, rules, own addresses
//!                         ├─ neigh      ARP and NDP
//!                         ├─ icmp       errors and refusals
//!                         ├─ synproxy   SYN cookies in the place of servers
//!                         └─ local      the router as a host, and its pages
//! ```
//!
//! Below [`worker`] nothing knows of sockets, clocks or processes: [`engine`] gets frames and the time and gives frames back,
//! so the same code runs over AF_XDP, in `sumun simulate`, in tests, under the fuzzer and in the bench.
//!
//! Glossary. A *frame* is a token for a piece of packet memory ([`umem`]); a *packet* is a frame with its facts; a *port* is
//! where frames come in and go out; a *flow* is what conntrack knows of packets that belong together; a *generation* is one
//! published policy; a *fate* is how a packet ends, and if that is a drop, a [`reason`] says why.

#![cfg_attr(feature = "model", allow(dead_code, reason = "the process is left out, and what only it uses"))]

pub mod conntrack;
pub mod defrag;
pub mod engine;
pub mod fib;
pub mod handover;
pub mod host;
pub mod icmp;
#[cfg(not(feature = "model"))]
pub mod keep;
pub mod kernel;
pub mod local;
pub mod log;
#[cfg(not(feature = "model"))]
pub mod machine;
pub mod nat;
pub mod neigh;
pub mod packet;
#[cfg(not(feature = "model"))]
pub mod page;
pub mod port;
pub mod process;
pub mod protocol;
pub mod reason;
pub mod server;
pub mod set;
mod sync;
pub mod synproxy;
pub mod umem;
pub mod worker;
