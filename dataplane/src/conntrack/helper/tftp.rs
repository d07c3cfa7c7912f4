//! TFTP (RFC 1350): the server answers a request from a port of its own choice (`nf_conntrack_tftp.c`).

use super::{Class, Exchange, Mask, Protocol, Wanted};
use crate::reason::DropReason;
use sumun_config::facts::Dir;
use sumun_config::helper::Helper;

/// Opcodes of requests.
const READ: u16 = 1;
const WRITE: u16 = 2;
const UDP_HEADER: usize = 8;

/// TFTP
pub static PROTOCOL: Protocol =
    Protocol { helper: Helper::Tftp, port: 69, classes: &[Class { most: 1, seconds: 300 }], help };

/// Reads or writes: the flow to come goes from any port of the server to the port of the client that asked.
fn help(x: &mut Exchange) -> Result<(), DropReason> {
    let Some(opcode) = x.l4().get(UDP_HEADER..).and_then(|data| data.first_chunk()) else { return Ok(()) };
    if !matches!(u16::from_be_bytes(*opcode), READ | WRITE) {
        return Ok(());
    }
    let expected = x.tuples[Dir::Reply as usize];
    let follow = x.is_mapped().then(|| x.follow(Dir::Reply, x.tuples[Dir::Original as usize].sport));
    let wanted =
        Wanted { tuple: super::from_any_port(expected), mask: Mask::any_port(expected.family), class: 0, follow };
    x.expect(&wanted).map_err(|_| DropReason::ExpectationRefused)
}
