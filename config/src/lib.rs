//! Sumun's configuration and rule language.
//!
//! ```text
//!  router.toml ──▶ schema ──▶ model::Config ─┬─ appliance ──▶ opened once by the dataplane
//!                    │                       └─ policy ─────▶ published by control, swapped by workers
//!                    └─▶ rule (one file a match, one a target) ──▶ ruleset::Ruleset
//! ```
//!
//! What a rule means for a packet is written here too, beside its spelling: [`rule`] over [`facts`]. The engine brings the
//! facts and carries out the effects. Glossary: a *table* has *chains* of *rules*; a rule has *conditions* and a *target*;
//! a *hook* is a place on the packet's way where chains are asked.

pub mod diag;
pub mod facts;
pub mod firewalld;
pub mod helper;
pub mod iptables;
pub mod jhash;
pub mod link;
pub mod model;
pub mod object;
pub mod rule;
pub mod ruleset;
pub mod schema;
pub mod set;
pub mod timeout;
pub mod vlan;
