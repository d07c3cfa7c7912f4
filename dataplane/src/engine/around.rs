//! What rules may ask of the router around them: address types, path MTUs, own addresses, chance.

use super::Engine;
use super::generation::Generation;
use super::packet::Packet;
use crate::fib::{Fib, Key, Route};
use crate::port::Link;
use std::cell::Cell;
use sumun_config::facts::{AddrType, Context, Facts, Family, PortId, Surroundings};

/// The router as one packet's rules see it.
pub(super) struct Around<'a> {
    fib: &'a Fib,
    links: &'a [Link],
    rng: &'a Rng,
}

impl Engine {
    /// The surroundings of a packet that is judged by this generation.
    #[inline]
    pub(super) fn around<'a>(&'a self, g: &'a Generation) -> Around<'a> {
        Around { fib: &g.fib, links: &self.router.links, rng: &self.rng }
    }

    /// What conditions and targets get beside the facts.
    #[inline]
    pub(super) fn context<'a>(&'a self, around: &'a Around<'a>, p: &'a Packet) -> Context<'a> {
        Context {
            l3: p.l3(),
            now: self.now,
            wall: self.now.wrapping_add(self.wall_offset),
            around,
            cells: &self.router.cells,
        }
    }
}

impl Surroundings for Around<'_> {
    fn addr_type(&self, family: Family, addr: u128, port: PortId) -> AddrType {
        self.fib.addr_type(family, addr, port)
    }

    fn random(&self) -> u32 {
        self.rng.next()
    }

    fn path_mtu(&self, facts: &Facts, reply: bool) -> u16 {
        let Facts { family, src, dst, iif, mark, tos, .. } = *facts;
        let key = match reply {
            false => Key { family, src, dst, iif, mark, tos, hash: 0 },
            // Of the way back the kernel asks for the address alone (`tcpmss_reverse_mtu`).
            true => Key { family, src: 0, dst: src, iif: PortId::NONE, mark: 0, tos: 0, hash: 0 },
        };
        match self.fib.lookup(&key) {
            Route::Via { port, mtu, .. } => {
                port.index().and_then(|i| self.links.get(i)).map_or(mtu, |l| mtu.min(l.mtu))
            }
            _ => u16::MAX,
        }
    }

    fn port_address(&self, port: PortId, family: Family, towards: u128) -> Option<u128> {
        self.fib.port_address(port, family, towards)
    }
}

/// Chance for `statistic`, NAT port search and the like: xorshift64*, not for secrets.
#[derive(Debug)]
pub(super) struct Rng(Cell<u64>);

impl Rng {
    /// Any seed will do.
    pub(super) fn new(seed: u64) -> Rng {
        Rng(Cell::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1))
    }

    /// The next number.
    pub(super) fn next(&self) -> u32 {
        let mut x = self.0.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.0.set(x);
        (x.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }
}
