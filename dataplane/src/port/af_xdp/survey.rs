//! What a device offers for XDP and what is on it now, asked without changing anything.

#![allow(unsafe_code, reason = "libbpf's C interface")]

use super::program;
use std::mem::size_of;

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Survey {
    /// What the driver can do: bits of the kernel's `enum netdev_xdp_act`; 0 also where the kernel does not tell.
    pub features: u64,
    /// The XDP program that is attached.
    pub program: Option<Attached>,
}

/// An attached program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attached {
    /// It is a router's.
    pub own: bool,
    /// What it is, and how to get rid of it.
    pub text: String,
}

/// Looks at a device of this network namespace; none where the kernel does not answer.
pub fn survey(device: &str) -> Option<Survey> {
    let index = nix::net::if_::if_nametoindex(device).ok()?;
    let mut options =
        libbpf_sys::bpf_xdp_query_opts { sz: size_of::<libbpf_sys::bpf_xdp_query_opts>() as _, ..Default::default() };
    // SAFETY: the options live through the call and say their own size.
    if unsafe { libbpf_sys::bpf_xdp_query(index as i32, 0, &raw mut options) } < 0 {
        return None;
    }
    let program = program::found(device, index)
        .map(|(name, refusal)| Attached { own: name == program::NAME, text: refusal.to_string() });
    Some(Survey { features: options.feature_flags, program })
}
