//! Tags of frames: which port is a tagged frame's, and how does a VLAN port's frame get its tags?
//!
//! A tagged frame becomes an ordinary one when it comes in: its tags are cut out ([`Vlans::untag`]), and what is behind them
//! came in on the VLAN's port. So nothing behind the parser knows of tags. They come back when the frame has its link header and
//! goes in line for its device ([`tag`]).
//!
//! As in the kernel (`vlan_do_receive`), a tag of VLAN 0 says only how urgent a frame is and is looked through wherever it
//! stands; EtherType and number must both be those of the port; and a frame whose tags no port has is nobody's, also
//! where some port has the outer one alone.

use super::view::Ethernet;
use crate::port::Link;
use crate::reason::DropReason;
use crate::umem::Frame;
use hashbrown::HashMap;
use sumun_config::facts::PortId;
use sumun_config::model::{TagProtocol, Tags, Vlan};

/// Most tags of a frame, those of VLAN 0 included. The kernel knows no bound.
const MOST: usize = 4;

/// Bytes in front of the tags: both MACs.
const MACS: usize = Ethernet::LEN - 2;

/// Bytes of a tag: EtherType and tag control.
const TAG: usize = 4;

/// The number in a tag control; the rest is priority and drop eligibility.
const NUMBER: u16 = 0xfff;

/// The VLAN ports of a router, by whose frames they are.
#[derive(Debug)]
pub struct Vlans {
    ports: HashMap<Vlan, PortId>,
}

impl Vlans {
    /// Those among these links.
    pub fn of(links: &[Link]) -> Vlans {
        let ports = links.iter().enumerate();
        Vlans { ports: ports.filter_map(|(number, link)| Some((link.trunk?, PortId(number as u16)))).collect() }
    }

    /// Takes the tags off a frame that came in on `port`, and says whose it is: that of a VLAN port, or of `port` itself
    /// where no tag has a number. An error leaves it as it was.
    pub fn untag(&self, port: PortId, frame: &mut Frame) -> Result<PortId, DropReason> {
        let (tags, len) = read(frame.bytes())?;
        let owner = match tags {
            None => port,
            Some(tags) => *self.ports.get(&Vlan { parent: port, tags }).ok_or(DropReason::UnknownVlan)?,
        };
        frame.bytes_mut().copy_within(..MACS, len);
        frame.pull_front(len);
        Ok(owner)
    }
}

/// Whether a frame has a tag.
#[inline(always)]
pub fn is_tagged(bytes: &[u8]) -> bool {
    matches!(
        bytes,
        [_, _, _, _, _, _, _, _, _, _, _, _, 0x81, 0x00, ..] | [_, _, _, _, _, _, _, _, _, _, _, _, 0x88, 0xa8, ..]
    )
}

/// The tags of a whole frame that have a number, and the length of all.
fn read(bytes: &[u8]) -> Result<(Option<Tags>, usize), DropReason> {
    let mut tags: Option<Tags> = None;
    for number in 0.. {
        let at = MACS + number * TAG;
        let Some(&[a, b]) = bytes.get(at..).and_then(|rest| rest.first_chunk()) else {
            return Err(DropReason::ShortFrame);
        };
        let Some(protocol) = TagProtocol::of(u16::from_be_bytes([a, b])) else { return Ok((tags, number * TAG)) };
        let Some(&[a, b]) = bytes.get(at + 2..).and_then(|rest| rest.first_chunk()) else {
            return Err(DropReason::ShortFrame);
        };
        if number == MOST {
            break;
        }
        tags = match (u16::from_be_bytes([a, b]) & NUMBER, tags) {
            (0, tags) => tags,
            (outer, None) => Some(Tags { protocol, outer, inner: None }),
            (inner, Some(tags)) if tags.inner.is_none() && protocol == TagProtocol::Customer => {
                Some(Tags { inner: Some(inner), ..tags })
            }
            _ => break,
        };
    }
    Err(DropReason::UnknownVlan)
}

/// Puts tags, with no priority, into a frame that has none. False and unchanged where there is no headroom for them.
#[must_use]
pub fn tag(frame: &mut Frame, tags: &Tags) -> bool {
    let len = tags.bytes();
    if frame.len() < MACS || !frame.push_front(len) {
        return false;
    }
    let bytes = frame.bytes_mut();
    bytes.copy_within(len..len + MACS, 0);
    let kinds = [(tags.protocol, Some(tags.outer)), (TagProtocol::Customer, tags.inner)];
    for (tag, (protocol, number)) in bytes[MACS..].chunks_exact_mut(TAG).zip(kinds) {
        let Some(number) = number else { break };
        tag[..2].copy_from_slice(&protocol.ethertype().to_be_bytes());
        tag[2..].copy_from_slice(&number.to_be_bytes());
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::umem::Pool;
    use proptest::prelude::*;

    const TRUNK: PortId = PortId(2);
    const QINQ: Tags = Tags { protocol: TagProtocol::Service, outer: 100, inner: Some(10) };

    const fn single(protocol: TagProtocol, outer: u16) -> Tags {
        Tags { protocol, outer, inner: None }
    }

    /// Ports 0 and 1 are VLANs of port 2, where 3 is too; 4 is one of another device.
    fn vlans() -> Vlans {
        let tags = [
            Some((TRUNK, single(TagProtocol::Customer, 10))),
            Some((TRUNK, single(TagProtocol::Service, 100))),
            None,
            Some((TRUNK, QINQ)),
            Some((PortId(5), single(TagProtocol::Customer, 10))),
            None,
        ];
        let link = |tags: Option<(PortId, Tags)>| Link {
            name: String::new(),
            mac: [0; 6],
            mtu: 1500,
            checksums: sumun_config::model::Checksums::AsTheyAre,
            trunk: tags.map(|(parent, tags)| Vlan { parent, tags }),
        };
        Vlans::of(&tags.map(link))
    }

    const HEAD: [u8; MACS] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
    const REST: &[u8] = &[8, 0, 0x45, 0, 0, 20];

    fn frame(behind: &[u8]) -> Frame {
        let mut frame = Pool::fresh(1, 2048).take().unwrap();
        assert!(frame.set(&[&HEAD, behind].concat()));
        frame
    }

    fn untagged(port: PortId, tags: &[u8]) -> Result<PortId, DropReason> {
        let mut frame = frame(&[tags, REST].concat());
        let before = frame.bytes().to_vec();
        let owner = vlans().untag(port, &mut frame);
        let expected = if owner.is_ok() { [&HEAD, REST].concat() } else { before };
        assert_eq!(frame.bytes(), expected);
        owner
    }

    #[test]
    fn a_tagged_frame_is_that_of_the_port_with_its_tags() {
        let q = |number: u16| [&[0x81, 0][..], &number.to_be_bytes()].concat();
        let ad = |number: u16| [&[0x88, 0xa8][..], &number.to_be_bytes()].concat();
        let cases: &[(Vec<u8>, Result<u16, DropReason>)] = &[
            (q(10), Ok(0)),
            (q(0xe000 | 10), Ok(0)),
            (ad(100), Ok(1)),
            ([ad(100), q(10)].concat(), Ok(3)),
            // Tags of VLAN 0, anywhere.
            (q(0xe000), Ok(2)),
            (ad(0), Ok(2)),
            ([ad(0), q(0), q(0), ad(0)].concat(), Ok(2)),
            ([q(0), q(10)].concat(), Ok(0)),
            ([q(10), q(0)].concat(), Ok(0)),
            ([q(0), ad(100), q(0), q(10)].concat(), Ok(3)),
            // What no port has.
            (q(11), Err(DropReason::UnknownVlan)),
            (q(100), Err(DropReason::UnknownVlan)),
            (ad(10), Err(DropReason::UnknownVlan)),
            (q(4095), Err(DropReason::UnknownVlan)),
            ([q(10), q(10)].concat(), Err(DropReason::UnknownVlan)),
            ([ad(100), q(11)].concat(), Err(DropReason::UnknownVlan)),
            ([ad(100), ad(10)].concat(), Err(DropReason::UnknownVlan)),
            ([q(100), q(10)].concat(), Err(DropReason::UnknownVlan)),
            ([ad(100), q(10), q(10)].concat(), Err(DropReason::UnknownVlan)),
            (q(0).repeat(5), Err(DropReason::UnknownVlan)),
            (q(0).repeat(300), Err(DropReason::UnknownVlan)),
        ];
        for (tags, expected) in cases {
            assert_eq!(untagged(TRUNK, tags), expected.map(PortId), "{tags:02x?}");
        }
        assert_eq!(untagged(PortId(5), &q(10)), Ok(PortId(4)), "another device");
        assert_eq!(untagged(PortId(0), &q(10)), Err(DropReason::UnknownVlan), "a VLAN has none of its own");
    }

    #[test]
    fn cut_off_tags_are_a_short_frame() {
        let whole = [0x88, 0xa8, 0, 100, 0x81, 0, 0, 10, 8, 0];
        for len in 0..whole.len() {
            let mut frame = frame(&whole[..len]);
            assert_eq!(vlans().untag(TRUNK, &mut frame), Err(DropReason::ShortFrame), "{len}");
        }
        for len in 0..MACS {
            let mut frame = frame(&[]);
            assert!(frame.resize(len) && !tag(&mut frame, &QINQ));
            assert_eq!(vlans().untag(TRUNK, &mut frame), Err(DropReason::ShortFrame));
        }
    }

    #[test]
    fn tags_stand_between_the_macs_and_the_type() {
        let cases: [(Tags, &[u8]); 3] = [
            (single(TagProtocol::Customer, 10), &[0x81, 0, 0, 10]),
            (single(TagProtocol::Service, 4094), &[0x88, 0xa8, 0x0f, 0xfe]),
            (QINQ, &[0x88, 0xa8, 0, 100, 0x81, 0, 0, 10]),
        ];
        for (tags, expected) in cases {
            let mut frame = frame(REST);
            assert!(tag(&mut frame, &tags));
            assert_eq!(frame.bytes(), [&HEAD, expected, REST].concat());
        }
        let mut frame = frame(REST);
        assert!(frame.place(7, 60) && !tag(&mut frame, &QINQ));
        assert_eq!((frame.start(), frame.len()), (7, 60));
        assert!(tag(&mut frame, &single(TagProtocol::Customer, 1)));
        assert_eq!((frame.start(), frame.len()), (3, 64));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut frame = frame(&[]);
            prop_assert!(frame.set(&bytes));
            if vlans().untag(TRUNK, &mut frame).is_err() {
                prop_assert_eq!(frame.bytes(), &bytes);
            }
        }
    }
}
