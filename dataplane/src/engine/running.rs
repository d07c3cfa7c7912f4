//! What a worker runs at a moment: a generation of rules, and the routes in force.
//!
//! The two are published apart, because routes change far more often than rules, but taken up together, between bursts. A
//! policy brings both: they enter the router's lists under one lock and before either number is raised, so that whoever runs
//! the new rules has their addresses and routes too, and the other way round.

use super::generation::Generation;
use crate::fib::Fib;
use std::ops::Deref;
use std::sync::Arc;

/// Rules and routes together. One for each worker and change; reads as its generation.
pub struct Running {
    /// Rules and settings.
    pub generation: Arc<Generation>,
    /// Routes and own addresses.
    pub fib: Arc<Fib>,
}

impl Deref for Running {
    type Target = Generation;

    #[inline]
    fn deref(&self) -> &Generation {
        &self.generation
    }
}
