//! Writing a mapping into packets: `nf_nat_packet`, and for ICMP errors `nf_nat_icmp_reply_translation`.
//!
//! A packet of direction d shall look like the answer to what is expected in the other direction: the inverse of the other
//! direction's tuple. Of that, each hook writes its end. An ICMP error is written twice: the packet that it
//! quotes went the other way and is undone (the opposite end, from the other direction's tuple as it stands), then the
//! error's own address is written like any packet's.

use super::Manip;
use crate::conntrack::tuple::has_ports;
use crate::conntrack::{Flow, Tracker, Tuple};
use crate::packet::checksum::Sum;
use crate::packet::view::Tcp;
use crate::packet::{crc32c, edit, parse};
use crate::reason::DropReason;
use sumun_config::facts::{Facts, Family, proto, status};
use sumun_config::rule::Hook;

const NAT: u32 = status::SRC_NAT | status::DST_NAT;

impl Tracker {
    /// Writes what the flow's mapping says for this hook into a packet: addresses, ports or identifier, checksums; in an
    /// ICMP error also into what it quotes. Later fragments change in their addresses only. Keeps `ct_status` of
    /// the facts up to date.
    ///
    /// # Errors
    /// [`DropReason::NatFailed`]: an ICMP error cannot be translated (truncated quote, redirect).
    #[inline]
    pub fn translate(&mut self, flow: Flow, hook: Hook, l3: &mut [u8], facts: &mut Facts) -> Result<(), DropReason> {
        if facts.ct_status & status::CONFIRMED == 0 {
            // Until then a mapping may have been chosen since the facts were filled in.
            facts.ct_status = self.shared.entry(flow.id).word().status();
        }
        match Manip::at(hook) {
            Some(manip) if facts.ct_status & manip.bit_for(flow.dir) != 0 => self.rewrite(flow, manip, l3, facts),
            Some(_) if flow.related && facts.ct_status & NAT != 0 => check_redirect(facts),
            _ => Ok(()),
        }
    }

    fn rewrite(&self, flow: Flow, manip: Manip, l3: &mut [u8], facts: &mut Facts) -> Result<(), DropReason> {
        let other = self.shared.entry(flow.id).tuple(flow.dir.other());
        if flow.related && facts.icmp().is_some() {
            check_redirect(facts)?;
            rewrite_quote(&other, manip.other(), l3, facts)?;
            match manip {
                Manip::Src => edit::set_source(l3, facts, other.dst),
                Manip::Dst => edit::set_destination(l3, facts, other.src),
            }
            return Ok(());
        }
        let target = other.inverted().ok_or(DropReason::NatFailed)?;
        apply(&target, manip, l3, facts);
        Ok(())
    }
}

/// Writes one end of a tuple into a packet (`nf_nat_manip_pkt`).
#[inline]
fn apply(target: &Tuple, manip: Manip, l3: &mut [u8], facts: &mut Facts) {
    if facts.icmp().is_some() {
        if facts.sport != target.sport {
            edit::set_icmp_id(l3, facts, target.sport);
        }
    } else if facts.has_l4 && has_ports(facts.proto) {
        match manip {
            Manip::Src if facts.sport != target.sport => edit::set_sport(l3, facts, target.sport),
            Manip::Dst if facts.dport != target.dport => edit::set_dport(l3, facts, target.dport),
            _ => {}
        }
    }
    match manip {
        Manip::Src => edit::set_source(l3, facts, target.src),
        Manip::Dst => edit::set_destination(l3, facts, target.dst),
    }
}

/// A redirect names hosts of a network that the other side of a mapping does not know: it goes nowhere.
fn check_redirect(facts: &Facts) -> Result<(), DropReason> {
    match (facts.family, facts.icmp()) {
        (Family::V4, Some((5, _))) | (Family::V6, Some((137, _))) => Err(DropReason::NatFailed),
        _ => Ok(()),
    }
}

/// Undoes the mapping in the packet that an ICMP error quotes, as far as it is quoted, and sets the error's checksum.
fn rewrite_quote(tuple: &Tuple, manip: Manip, l3: &mut [u8], facts: &Facts) -> Result<(), DropReason> {
    const HEADER: usize = 8;
    let message = l3.get_mut(usize::from(facts.l4_off)..usize::from(facts.len)).ok_or(DropReason::NatFailed)?;
    let pseudo = match facts.family {
        Family::V4 => Sum::new(),
        Family::V6 => Sum::new().pseudo(facts.src, facts.dst, proto::ICMPV6, message.len()),
    };
    let quote = message.get_mut(HEADER..).ok_or(DropReason::NatFailed)?;
    let mut quoted = parse::embedded(facts.family, quote).ok_or(DropReason::NatFailed)?;
    // The ports are enough to find the flow, but not to write in (`nf_nat_proto.c`).
    let l4 = usize::from(quoted.l4_off);
    let quoted_l4 = quote.len().saturating_sub(l4);
    if (quoted.has_l4 || quoted.proto == proto::GRE) && quoted_l4 < HEADER {
        return Err(DropReason::NatFailed);
    }
    let tcp_check = l4 + 16..l4 + 18;
    let before = quote.get(tcp_check.clone()).and_then(|check| check.first_chunk::<2>()).copied();
    apply(tuple, manip, quote, &mut quoted);
    match quoted.proto {
        // Only a whole header has a checksum to set.
        proto::TCP if quoted_l4 < Tcp::LEN => {
            if let (Some(check), Some(before)) = (quote.get_mut(tcp_check), before) {
                check.copy_from_slice(&before);
            }
        }
        // Of what is quoted, since the rest is not there (`sctp_manip_pkt`).
        proto::SCTP if quoted.has_l4 => {
            let packet = quote.get_mut(l4..).unwrap_or_default();
            if let (Some(crc), Some(check)) = (crc32c::sctp(packet), packet.get_mut(8..12)) {
                check.copy_from_slice(&crc);
            }
        }
        _ => {}
    }
    message[2..4].fill(0);
    let checksum = pseudo.bytes(message).checksum();
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    Ok(())
}
