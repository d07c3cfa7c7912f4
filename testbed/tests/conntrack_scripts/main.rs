//! Connection tracking step by step, as the kernel does it: every script runs through the kernel and through the engine.

mod errors;
mod fragments;
mod protocols;
mod tcp;
mod windows;
