//! What a generator's frames look like, to the byte: the one description for all ways to send them, and for the sink.
//!
//! ```text
//!  Ethernet 14 │ IPv4 20 or IPv6 40 │ UDP 8 │ stamp 18: magic, clock and flow, sequence, time │ zeros
//! ```
//! The flow's number decides the source address (one for each eight flows), the source port (32,768 of them) and, beyond that
//! many flows, the destination port. Sizes that users say count the four bytes of the link's checksum, as everybody's figures
//! do; lengths in here do not.

use anyhow::{Result, bail, ensure};
use etherparse::PacketBuilder;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Bytes of the stamp, behind UDP's header. bpf/frame.h has the same.
pub const STAMP: usize = 18;
/// What it begins with.
pub const MAGIC: u32 = 0x5375_6d75;
/// Bits of a flow's number.
pub const FLOW_BITS: u32 = 20;
/// Bytes of a frame's checksum on the link.
pub const FCS: u32 = 4;
/// What a frame takes on the link besides: preamble, start and gap.
pub const GAP: u32 = 20;

/// Of flow 0; those of other flows follow.
pub const SPORT: u16 = 1024;
/// Of flow 0.
pub const DPORT: u16 = 5000;

/// The simple IMIX: seven small, four middle, one large, as sizes with FCS.
const IMIX: [u32; 12] = [64, 594, 64, 64, 594, 64, 1518, 64, 594, 64, 594, 64];

/// Which families flows have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Families {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
    /// Even flows IPv4, odd flows IPv6.
    Both,
}

impl Families {
    /// Whether flows of even and of odd numbers are IPv6.
    pub fn are_v6(self) -> [bool; 2] {
        [self == Families::V6, self != Families::V4]
    }
}

/// How long frames are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sizes {
    /// All alike, with FCS; none is the least that holds a stamp.
    One(Option<u32>),
    /// [`IMIX`], the small ones large enough for their family.
    Imix,
}

impl Sizes {
    /// Lengths without FCS of frames of UDP, in turn, that fit a device of this MTU. With FCS, `small` bytes are what frames have
    /// where nobody says how many, and the least of IMIX.
    pub fn lengths(self, families: Families, small: u32, mtu: u32) -> Result<Vec<u32>> {
        let is_v6 = families.are_v6()[1];
        let sizes = match self {
            Sizes::One(size) => vec![size.unwrap_or(small)],
            Sizes::Imix => IMIX.map(|size| size.max(small)).to_vec(),
        };
        let least = least(is_v6);
        let family = if is_v6 { "IPv6" } else { "IPv4" };
        for size in &sizes {
            ensure!(
                *size >= least,
                "--size {size}: an {family} frame with UDP has at least {least} bytes, its checksum of 4 bytes counted"
            );
            let packet = size - FCS - 14;
            ensure!(
                packet <= mtu,
                "--size {size}: a packet of {packet} bytes is more than the device's MTU of {mtu}: \
                 `ip link set dev DEVICE mtu {packet}` on both ends"
            );
            // What a page holds besides what the kernel needs of it.
            ensure!(*size <= 3072, "--size {size}: at most 3072 bytes fit the page that a frame is made in");
        }
        Ok(sizes.iter().map(|size| size - FCS).collect())
    }
}

/// Bytes of the shortest frame of UDP, with FCS.
pub fn least(is_v6: bool) -> u32 {
    headers(is_v6).max(60) + FCS
}

/// All that frames have in common, and how they differ.
#[derive(Clone, Debug)]
pub struct Traffic {
    /// Of the sender.
    pub src_mac: [u8; 6],
    /// Of the next hop.
    pub dst_mac: [u8; 6],
    /// Of the first flow, and where all go.
    pub v4: (Ipv4Addr, Ipv4Addr),
    /// Of the first flow, and where all go.
    pub v6: (Ipv6Addr, Ipv6Addr),
    /// Families of the flows.
    pub families: Families,
    /// Lengths without FCS, in turn; at most twelve.
    pub lengths: Vec<u32>,
    /// Number of flows.
    pub flows: u32,
    /// The clock that the time of stamps is of, in 12 bits; none where frames have no stamps.
    pub clock: Option<u32>,
}

/// The clock of this machine since it was started: 12 bits that another one hardly has.
pub fn clock() -> u32 {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    // FNV-1a.
    let hash = boot.trim().bytes().fold(0x811c_9dc5u32, |hash, b| (hash ^ u32::from(b)).wrapping_mul(0x0100_0193));
    (hash ^ hash >> 12 ^ hash >> 24) & 0xfff
}

/// Bytes of the headers.
fn headers(is_v6: bool) -> u32 {
    if is_v6 { 62 } else { 42 }
}

impl Traffic {
    /// Sets the lengths of frames for a device of this MTU. Returns whether all of them have room for a stamp.
    pub fn size(&mut self, sizes: Sizes, mtu: u32) -> Result<bool> {
        let stamped = (headers(self.families.are_v6()[1]) + STAMP as u32).max(60) + FCS;
        self.lengths = sizes.lengths(self.families, stamped, mtu)?;
        Ok(self.lengths.iter().all(|len| len + FCS >= stamped))
    }

    /// How far one flow is from the one before it: coprime to their number, so that all have their turn.
    pub fn stride(&self) -> u32 {
        let mut stride = (f64::from(self.flows) * 0.618) as u32;
        while self.flows > 1 && gcd(stride, self.flows) != 1 {
            stride += 1;
        }
        stride % self.flows
    }

    /// The headers of a family, with zeros for what differs between frames, and the sums over them.
    pub fn shape(&self, is_v6: bool) -> Shape {
        let link = PacketBuilder::ethernet2(self.src_mac, self.dst_mac);
        let mut bytes = Vec::new();
        let (written, source, first, rest) = match is_v6 {
            false => {
                let (src, dst) = (self.v4.0.octets(), self.v4.1.octets());
                let written = link.ipv4(src, dst, 64).udp(0, 0).write(&mut bytes, &[]);
                (written, u32::from_be_bytes(src), 26, sum(&dst))
            }
            true => {
                let (src, dst) = (self.v6.0.octets(), self.v6.1.octets());
                let written = link.ipv6(src, dst, 64).udp(0, 0).write(&mut bytes, &[]);
                let [.., a, b, c, d] = src;
                (written, u32::from_be_bytes([a, b, c, d]), 34, sum(&src[..12]) + sum(&dst))
            }
        };
        written.expect("a vector takes all");
        let udp = headers(is_v6) as usize - 8;
        // The source's last word, the lengths and the checksums.
        bytes[first..first + 4].fill(0);
        bytes[udp + 4..].fill(0);
        match is_v6 {
            false => [16, 17, 24, 25].iter().for_each(|at| bytes[*at] = 0),
            true => bytes[18..20].fill(0),
        }
        let mut head = [0; 64];
        head[..bytes.len()].copy_from_slice(&bytes);
        let ip_sum = if is_v6 { 0 } else { sum(&bytes[14..34]) };
        Shape { head, ip_sum, udp_sum: rest + u32::from(17u16.to_be()), source, is_v6 }
    }
}

/// The sum of 16-bit words as they lie in memory (RFC 1071 section 2: byte order does not matter).
fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks_exact(2).map(|word| u32::from(u16::from_ne_bytes([word[0], word[1]]))).sum()
}

fn folded(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    !((once & 0xffff) + (once >> 16)) as u16
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Headers of one family.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Headers, then zeros.
    pub head: [u8; 64],
    /// Of the IPv4 header.
    pub ip_sum: u32,
    /// Of pseudo header and UDP header.
    pub udp_sum: u32,
    /// Last word of the first flow's source address.
    pub source: u32,
    is_v6: bool,
}

/// Goes through the frames in their order and writes them: what bpf/pktgen.bpf.c does, for those that send otherwise.
pub struct Writer {
    shapes: [Shape; 2],
    lengths: Vec<u32>,
    clock: Option<u32>,
    flows: u32,
    stride: u32,
    flow: u32,
    round: u32,
    length: usize,
}

impl Writer {
    /// Begins with the first frame.
    pub fn new(traffic: &Traffic) -> Writer {
        Writer {
            shapes: traffic.families.are_v6().map(|is_v6| traffic.shape(is_v6)),
            lengths: traffic.lengths.clone(),
            clock: traffic.clock,
            flows: traffic.flows,
            stride: traffic.stride(),
            flow: 0,
            round: 0,
            length: 0,
        }
    }

    /// Writes the next frame, at this time of the machine's monotonic clock in nanoseconds.
    pub fn write(&mut self, now: u64, frame: &mut Vec<u8>) {
        let shape = &self.shapes[(self.flow & 1) as usize];
        let headers = headers(shape.is_v6) as usize;
        let len = self.lengths[self.length] as usize;
        frame.clear();
        frame.extend_from_slice(&shape.head[..headers]);
        frame.resize(len, 0);
        let source = (shape.source.wrapping_add(self.flow >> 3)).to_be_bytes();
        let (udp, at) = (headers - 8, if shape.is_v6 { 34 } else { 26 });
        let udp_len = ((len - udp) as u16).to_be_bytes();
        frame[at..at + 4].copy_from_slice(&source);
        frame[udp..udp + 2].copy_from_slice(&(SPORT + (self.flow & 0x7fff) as u16).to_be_bytes());
        frame[udp + 2..udp + 4].copy_from_slice(&(DPORT + (self.flow >> 15) as u16).to_be_bytes());
        frame[udp + 4..udp + 6].copy_from_slice(&udp_len);
        if shape.is_v6 {
            frame[18..20].copy_from_slice(&udp_len);
        } else {
            frame[16..18].copy_from_slice(&((len - 14) as u16).to_be_bytes());
            let check = folded(shape.ip_sum + sum(&frame[16..18]) + sum(&source));
            frame[24..26].copy_from_slice(&check.to_ne_bytes());
        }
        if let Some(clock) = self.clock
            && len >= headers + STAMP
        {
            let words = [MAGIC, clock << FLOW_BITS | self.flow, self.round].map(u32::to_be_bytes);
            frame[headers..headers + 12].copy_from_slice(words.as_flattened());
            frame[headers + 12..headers + STAMP].copy_from_slice(&now.to_be_bytes()[2..]);
        }
        let end = len.min(headers + STAMP);
        let check = folded(shape.udp_sum + sum(&source) + sum(&frame[udp..end]) + sum(&udp_len));
        // Zero would say that there is none.
        let check = if check == 0 { 0xffff } else { check };
        frame[udp + 6..udp + 8].copy_from_slice(&check.to_ne_bytes());
        self.length = (self.length + 1) % self.lengths.len();
        self.flow = (self.flow + self.stride) % self.flows;
        self.round = self.round.wrapping_add(u32::from(self.flow == 0));
    }
}

/// A MAC address from its usual text.
pub fn mac(text: &str) -> Result<[u8; 6]> {
    let bytes: Vec<u8> = text.split(':').map_while(|part| u8::from_str_radix(part, 16).ok()).collect();
    match <[u8; 6]>::try_from(bytes) {
        Ok(mac) if text.len() == 17 => Ok(mac),
        _ => bail!("`{text}` is not a MAC address, such as 02:00:00:00:00:01"),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    /// Traffic of flows of these families, of which all is known.
    pub fn traffic(families: Families, sizes: Sizes, flows: u32) -> Traffic {
        let mut traffic = Traffic {
            src_mac: [2, 0, 0, 0, 0, 1],
            dst_mac: [2, 0, 0, 0, 0, 2],
            v4: (Ipv4Addr::new(10, 255, 255, 250), Ipv4Addr::new(203, 0, 113, 1)),
            v6: ("fd00::ffff:fffe".parse().expect("an address"), "2001:db8::1".parse().expect("an address")),
            families,
            lengths: Vec::new(),
            flows,
            clock: Some(0xabc),
        };
        traffic.size(sizes, 1500).expect("sizes that fit");
        traffic
    }

    /// Checksums that a receiver would accept.
    pub fn check(frame: &[u8]) -> SlicedPacket<'_> {
        let packet = SlicedPacket::from_ethernet(frame).expect("a whole packet");
        let Some(TransportSlice::Udp(udp)) = &packet.transport else { panic!("{packet:?}") };
        let right = match packet.net.as_ref().expect("an IP packet") {
            NetSlice::Ipv4(ip) => {
                let header = ip.header().to_header();
                assert_eq!(header.header_checksum, header.calc_header_checksum());
                udp.to_header().calc_checksum_ipv4_raw(header.source, header.destination, udp.payload())
            }
            NetSlice::Ipv6(ip) => {
                let header = ip.header().to_header();
                udp.to_header().calc_checksum_ipv6_raw(header.source, header.destination, udp.payload())
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(udp.checksum(), right.expect("a short payload"));
        packet
    }

    #[test]
    fn every_frame_has_right_checksums_and_its_length() {
        for families in [Families::V4, Families::V6, Families::Both] {
            for sizes in [Sizes::One(None), Sizes::One(Some(66)), Sizes::One(Some(1518)), Sizes::Imix] {
                let traffic = traffic(families, sizes, 100_000);
                let mut writer = Writer::new(&traffic);
                let mut frame = Vec::new();
                for n in 0..5000u64 {
                    writer.write(n.wrapping_mul(0x1234_5678_9abc), &mut frame);
                    assert_eq!(frame.len() as u32, traffic.lengths[n as usize % traffic.lengths.len()]);
                    check(&frame);
                }
            }
        }
    }

    #[test]
    fn the_smallest_frame_of_ipv4_holds_a_stamp() {
        let traffic = traffic(Families::V4, Sizes::One(None), 8);
        assert_eq!(traffic.lengths, [60]);
        let mut frame = Vec::new();
        let mut writer = Writer::new(&traffic);
        (0..9).for_each(|_| writer.write(0x0102_0304_0506, &mut frame));
        // The ninth is the second of flow 0.
        assert_eq!(frame[42..], [0x53, 0x75, 0x6d, 0x75, 0xab, 0xc0, 0, 0, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn every_flow_has_its_turn_before_one_has_its_second() {
        for flows in [1, 2, 3, 1000, 65_536] {
            let traffic = traffic(Families::V4, Sizes::One(None), flows);
            let mut writer = Writer::new(&traffic);
            let mut frame = Vec::new();
            let mut seen = std::collections::HashSet::new();
            for _ in 0..flows {
                writer.write(0, &mut frame);
                // Source address, both ports.
                assert!(seen.insert((frame[26..30].to_vec(), frame[34..38].to_vec())));
                assert_eq!(frame[50..54], [0; 4]);
            }
            writer.write(0, &mut frame);
            assert!(seen.contains(&(frame[26..30].to_vec(), frame[34..38].to_vec())));
            assert_eq!(frame[50..54], [0, 0, 0, 1]);
        }
    }

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        let mut of = traffic(Families::V4, Sizes::One(None), 1);
        let mut refusal = |sizes, mtu| of.size(sizes, mtu).expect_err("refused").to_string();
        assert!(refusal(Sizes::One(Some(63)), 1500).contains("at least 64 bytes"));
        assert!(refusal(Sizes::One(Some(1519)), 1500).contains("more than the device's MTU of 1500"));
        assert!(refusal(Sizes::Imix, 1400).contains("--size 1518"));
        assert!(refusal(Sizes::One(Some(4000)), 9000).contains("at most 3072"));
        of.families = Families::V6;
        assert!(of.size(Sizes::One(Some(64)), 1500).expect_err("refused").to_string().contains("at least 66 bytes"));
        assert!(!of.size(Sizes::One(Some(83)), 1500).expect("room for headers"));
        assert!(of.size(Sizes::One(Some(84)), 1500).expect("room for a stamp"));
    }

    #[test]
    fn a_mac_is_read_in_its_usual_form_only() {
        assert_eq!(mac("02:00:00:00:aB:01").expect("a MAC"), [2, 0, 0, 0, 0xab, 1]);
        for text in ["", "02:00:00:00:00", "02:00:00:00:00:01:02", "2:0:0:0:0:1", "02-00-00-00-00-01"] {
            assert!(mac(text).is_err(), "{text}");
        }
    }
}
