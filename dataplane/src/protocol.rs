//! What control and the dataplane say to each other, and how it is cut into frames.
//!
//! A connection to `dataplane.sock` carries requests one way and exactly one response to each the other way, in order.
//!
//! ```text
//!  0        4         6      8          12
//!  | "SMUN" | version | kind | length   | payload (postcard)
//! ```
//!
//! Numbers are little-endian. Each [`Kind`] has its greatest length, and a reader takes memory only for bytes that have
//! really come, so a header alone cannot make it allocate. Bytes that decode are still not trusted: the engine verifies
//! a policy before it runs.
//!
//! The functions here are blocking and for any `Read` and `Write`; control reads the same frames asynchronously by means
//! of [`Header`], [`encode`] and [`decode`]. The CLI and control speak in the same frames, with messages of their own.

use crate::reason::{Class, DropReason};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use sumun_config::facts::Family;
use sumun_config::model::Appliance;
use sumun_config::rule::matches::nfacct::Quota;

mod flow;
mod route;
mod set;

pub use flow::{ConntrackStats, EventKind, EventRow, ExpectationRow, FlowFilter, FlowKey, FlowRow, FlowTuple};
pub use flow::{IcmpFilter, InvalidCount, Masked, TupleFilter, has_ports};
pub use route::{HopRow, RoutePlace, RouteQuestion, RouteRow, RouteWay, RoutesAnswer, RoutesRequest, TableName};
pub use set::{SetAnswer, SetRequest, SetRow};

/// The version of frames and messages. Both ends must have the same: they are of one release.
pub const VERSION: u16 = 1;

/// Bytes of a [`Header`].
pub const HEADER_LEN: usize = 12;

const MAGIC: [u8; 4] = *b"SMUN";

/// What a frame carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum Kind {
    /// A small message that asks for something.
    Request = 1,
    /// A policy to run, or, from the CLI to control, a configuration to apply.
    Publish = 2,
    /// An answer.
    Response = 3,
}

impl Kind {
    /// Greatest length of the payload in bytes.
    pub const fn most(self) -> u32 {
        match self {
            Kind::Request => 64 << 10,
            Kind::Publish | Kind::Response => 1 << 30,
        }
    }
}

/// What comes before the payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// What the payload is.
    pub kind: Kind,
    /// Its length in bytes, at most [`Kind::most`].
    pub len: u32,
}

/// Why a frame cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The magic is missing.
    #[error("the other side does not speak sumun's protocol")]
    Foreign,
    /// Another version.
    #[error(
        "the other side speaks version {0} of the protocol and this one version {VERSION}: restart the older of the two"
    )]
    Version(u16),
    /// No kind of frame has this number.
    #[error("unknown kind of frame {0}")]
    Kind(u16),
    /// A kind that has no place here.
    #[error("a frame of kind {0:?} is not expected here")]
    Unexpected(Kind),
    /// Longer than its kind may be.
    #[error("a frame of {len} bytes is longer than the {most} bytes that are allowed")]
    TooLong {
        /// What the header says.
        len: u64,
        /// What would be accepted.
        most: u32,
    },
    /// The connection ended within a frame.
    #[error("the connection ended within a frame")]
    Cut,
    /// The payload is not what its kind says.
    #[error("malformed message: {0}")]
    Malformed(#[from] postcard::Error),
    /// Bytes follow the message in its frame.
    #[error("malformed message: {0} bytes too many")]
    Trailing(usize),
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Header {
    /// The header of a payload of `len` bytes.
    pub fn of(kind: Kind, len: usize) -> Result<Header, FrameError> {
        match u32::try_from(len) {
            Ok(short) if short <= kind.most() => Ok(Header { kind, len: short }),
            _ => Err(FrameError::TooLong { len: len as u64, most: kind.most() }),
        }
    }

    /// As it goes over the socket.
    pub fn bytes(self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
        bytes[6..8].copy_from_slice(&(self.kind as u16).to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes
    }

    /// Checks everything that a header says.
    pub fn parse(bytes: [u8; HEADER_LEN]) -> Result<Header, FrameError> {
        let [m0, m1, m2, m3, v0, v1, k0, k1, l0, l1, l2, l3] = bytes;
        if [m0, m1, m2, m3] != MAGIC {
            return Err(FrameError::Foreign);
        }
        match u16::from_le_bytes([v0, v1]) {
            VERSION => {}
            version => return Err(FrameError::Version(version)),
        }
        let kind = match u16::from_le_bytes([k0, k1]) {
            1 => Kind::Request,
            2 => Kind::Publish,
            3 => Kind::Response,
            other => return Err(FrameError::Kind(other)),
        };
        Header::of(kind, u32::from_le_bytes([l0, l1, l2, l3]) as usize)
    }
}

/// A message as payload.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    Ok(postcard::to_stdvec(message)?)
}

/// A payload as message; all of it.
pub fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, FrameError> {
    let (message, rest) = postcard::take_from_bytes(payload)?;
    if rest.is_empty() { Ok(message) } else { Err(FrameError::Trailing(rest.len())) }
}

/// Writes a frame.
pub fn write_frame(to: &mut impl Write, kind: Kind, payload: &[u8]) -> Result<(), FrameError> {
    to.write_all(&Header::of(kind, payload.len())?.bytes())?;
    to.write_all(payload)?;
    Ok(to.flush()?)
}

/// Reads the next header; none where the other side has closed between two frames.
pub fn read_header(from: &mut impl Read) -> Result<Option<Header>, FrameError> {
    let mut bytes = [0; HEADER_LEN];
    let mut have = 0;
    while have < HEADER_LEN {
        match from.read(&mut bytes[have..]) {
            Ok(0) if have == 0 => return Ok(None),
            Ok(0) => return Err(FrameError::Cut),
            Ok(n) => have += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
    Header::parse(bytes).map(Some)
}

/// Reads the payload that belongs to a header. Memory grows with what comes, not with what the header promises.
pub fn read_payload(from: &mut impl Read, header: Header) -> Result<Vec<u8>, FrameError> {
    let mut payload = Vec::new();
    from.take(header.len as u64).read_to_end(&mut payload)?;
    if payload.len() == header.len as usize { Ok(payload) } else { Err(FrameError::Cut) }
}

/// Reads one frame and demands that it is of `kind`; none where the other side has closed.
pub fn read_message<T: DeserializeOwned>(from: &mut impl Read, kind: Kind) -> Result<Option<T>, FrameError> {
    let Some(header) = read_header(from)? else { return Ok(None) };
    if header.kind != kind {
        return Err(FrameError::Unexpected(header.kind));
    }
    decode(&read_payload(from, header)?).map(Some)
}

/// Tells one published policy from another: 128-bit FNV-1a over its payload. Against mistakes, not against enemies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Digest(pub u128);

impl Digest {
    /// The digest of a [`Kind::Publish`] payload.
    pub fn of(payload: &[u8]) -> Digest {
        const OFFSET: u128 = 0x6c62272e07bb014262b821756295c58d;
        const PRIME: u128 = 0x0000000001000000000000000000013b;
        Digest(payload.iter().fold(OFFSET, |hash, &byte| (hash ^ byte as u128).wrapping_mul(PRIME)))
    }
}

/// What control asks of the dataplane. A policy to publish is no request but a [`Kind::Publish`] frame whose payload is a
/// [`sumun_config::model::Policy`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Who are you, and what do you run? Answered by [`Response::Hello`].
    Hello,
    /// Answered by [`Response::Status`].
    Status,
    /// The running policy and its counters, of one generation. Answered by [`Response::Rules`].
    Rules,
    /// Sets the counters of all rules and policies to zero. Answered by [`Response::Done`].
    Zero,
    /// Answered by [`Response::Drops`].
    Drops,
    /// A page of the flows. Answered by [`Response::Flows`].
    Conntrack {
        /// Which flows.
        filter: FlowFilter,
        /// Where to begin: 0, then what the last page gave as `next`.
        from: u32,
    },
    /// One flow. Answered by [`Response::Flows`] with one or none.
    Flow(FlowKey),
    /// Deletes flows, of a stretch of the table. Answered by [`Response::Flows`] with those that were deleted.
    DeleteFlows {
        /// Which flows.
        filter: FlowFilter,
        /// Where to begin: 0, then what the last answer gave as `next`.
        from: u32,
    },
    /// Deletes all flows. Answered by [`Response::Count`].
    FlushFlows,
    /// How many flows? Answered by [`Response::Count`].
    CountFlows(FlowFilter),
    /// What happens to flows from now on. Answered by [`Response::Events`] again and again, at once and then at least once a
    /// second, until the connection is closed; nothing else can be asked on it.
    Events {
        /// Which flows.
        filter: FlowFilter,
        /// Which kinds: bits of [`EventKind`].
        kinds: u8,
    },
    /// The packets that NFLOG meets from now on. Answered by [`Response::Packets`] as [`Request::Events`] is.
    Packets {
        /// Of this group; of all where there is none.
        group: Option<u16>,
    },
    /// The flows that are expected. Answered by [`Response::Expectations`].
    Expectations,
    /// What connection tracking counted. Answered by [`Response::ConntrackStats`].
    ConntrackStats,
    /// Answered by [`Response::Neighbours`].
    Neighbours,
    /// About sets. Answered by [`Response::Sets`].
    Sets(SetRequest),
    /// About routes. Answered by [`Response::Routes`].
    Routes(RoutesRequest),
    /// Timers of IDLETIMER. Answered by [`Response::Timers`].
    Timers,
    /// What rules of `nfacct` counted. Answered by [`Response::Accounts`].
    Accounts,
    /// Something of what rules share by name. Answered by [`Response::Lines`].
    Object(ObjectRequest),
}

/// What is asked of the objects of the running rules.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ObjectRequest {
    /// What there is: a line for each.
    Names,
    /// Of a list of `recent`.
    Recent {
        /// Its name.
        name: String,
        /// What.
        what: RecentRequest,
    },
    /// The entries of a table of `hashlimit`.
    Hashlimit {
        /// Its name.
        name: String,
        /// Its family.
        family: Family,
    },
}

/// What is asked of a list of `recent`, as one writes to a file in `/proc/net/xt_recent`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RecentRequest {
    /// Its addresses.
    List,
    /// This address is seen now (`+`).
    Add(IpAddr),
    /// This address goes (`-`).
    Remove(IpAddr),
    /// All go (`/`).
    Flush,
}

/// What the dataplane answers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Response {
    /// To [`Request::Hello`].
    Hello(Box<Hello>),
    /// To a published policy: it is stored, and workers take it up between bursts.
    Accepted {
        /// Its number.
        generation: u64,
    },
    /// To anything: nothing was changed.
    Refused {
        /// Why, for people.
        reason: String,
    },
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Rules`].
    Rules(Box<Rules>),
    /// To [`Request::Zero`].
    Done,
    /// To [`Request::Drops`], every reason in the order of [`DropReason::ALL`].
    Drops(Vec<Drops>),
    /// To [`Request::Conntrack`], [`Request::Flow`] and [`Request::DeleteFlows`].
    Flows {
        /// The flows of this page.
        flows: Vec<FlowRow>,
        /// Where the next page begins; none after the last.
        next: Option<u32>,
    },
    /// To [`Request::FlushFlows`] and [`Request::CountFlows`].
    Count(u64),
    /// To [`Request::Events`].
    Events {
        /// What happened, in order.
        events: Vec<EventRow>,
        /// How many events were lost because more came than could be handed on.
        lost: u64,
    },
    /// To [`Request::Packets`].
    Packets {
        /// What NFLOG met, in order.
        packets: Vec<PacketRow>,
        /// How many packets were lost because more came than could be handed on.
        lost: u64,
    },
    /// To [`Request::Expectations`].
    Expectations(Vec<ExpectationRow>),
    /// To [`Request::ConntrackStats`].
    ConntrackStats(ConntrackStats),
    /// To [`Request::Neighbours`].
    Neighbours(Vec<NeighbourRow>),
    /// To [`Request::Sets`].
    Sets(SetAnswer),
    /// To [`Request::Routes`].
    Routes(RoutesAnswer),
    /// To [`Request::Object`].
    Lines(Vec<String>),
    /// To [`Request::Timers`].
    Timers(Vec<TimerRow>),
    /// To [`Request::Accounts`].
    Accounts(Vec<AccountRow>),
}

/// Who the dataplane is and what it runs.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// Its process.
    pub pid: u32,
    /// The running generation.
    pub generation: u64,
    /// The policy published last; none while the initial one runs.
    pub digest: Option<Digest>,
    /// What it was started with.
    pub appliance: Appliance,
}

/// How the dataplane is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Release.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Milliseconds since its start.
    pub uptime_ms: u64,
    /// The generation stored last.
    pub generation: u64,
    /// Every worker runs it.
    pub settled: bool,
    /// A policy has been published; else the initial one runs.
    pub published: bool,
    /// Rules of both families.
    pub rules: u64,
    /// Cores of the workers.
    pub cores: Vec<usize>,
    /// Ports in the order of the configuration.
    pub ports: Vec<PortStatus>,
    /// Flows held.
    pub flows: u32,
    /// Most flows that can be held.
    pub max_flows: u32,
    /// Flows that were taken over from the dataplane before.
    pub adopted_flows: u32,
    /// Bytes of the flow table.
    pub flow_memory: u64,
    /// The kernel's routes, where they are followed.
    pub mirror: Option<MirrorStatus>,
    /// Neighbours held.
    pub neighbours: u32,
}

/// How the kernel's routes are followed.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct MirrorStatus {
    /// What is in force is what the kernel has.
    pub synchronised: bool,
    /// Routes in force, of both families.
    pub routes: u64,
    /// How often everything was read.
    pub synchronisations: u64,
    /// How long that took the last time, in milliseconds.
    pub took_ms: u64,
    /// When something changed last, in milliseconds since 1970.
    pub last_change_ms: Option<u64>,
    /// Routes and rules that the dataplane cannot do, by reason.
    pub left_out: Vec<(String, u64)>,
    /// Changes that were refused since everything was read.
    pub refused: u64,
    /// What is wrong.
    pub failure: Option<String>,
}

/// A port and what passed it since the start.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PortStatus {
    /// Name in rules.
    pub name: String,
    /// The device.
    pub device: String,
    /// How it is attached, for people: `native, copy`.
    pub mode: String,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Largest IP packet.
    pub mtu: u16,
    /// Frames received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Frames sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Its TAP.
    pub tap: Option<TapStatus>,
}

/// What went over the TAP of a port since the start.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TapStatus {
    /// The network namespace that it is in; none: that of the dataplane.
    pub namespace: Option<String>,
    /// Frames from the host.
    pub from_packets: u64,
    /// Their bytes.
    pub from_bytes: u64,
    /// Frames to the host.
    pub to_packets: u64,
    /// Their bytes.
    pub to_bytes: u64,
    /// What the host sent that was no frame, or was too long.
    pub refused: u64,
    /// Frames that the host's kernel did not take: the TAP is down.
    pub failed: u64,
}

/// Packets and bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes of IP.
    pub bytes: u64,
}

/// The counters of a chain.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ChainCounters {
    /// Of the policy; zero for user chains.
    pub policy: Counter,
    /// Of the rules, in order.
    pub rules: Vec<Counter>,
}

/// The counters of a ruleset, in its shape: by `Family::index`, by `Table as usize`, by chain.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Families, tables, chains.
    pub families: [[Vec<ChainCounters>; 5]; 2],
}

/// The running policy and its counters.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Rules {
    /// Its number.
    pub generation: u64,
    /// The payload that was published (a [`sumun_config::model::Policy`]); none while the initial policy runs.
    pub policy: Option<Vec<u8>>,
    /// Of this generation.
    pub counters: Counters,
}

/// A packet that NFLOG met.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PacketRow {
    /// Nanoseconds since 1970.
    pub at: u64,
    /// Its group.
    pub group: u16,
    /// The chain's hook: `FORWARD`.
    pub hook: String,
    /// `--nflog-prefix`.
    pub prefix: String,
    /// What LOG would say of it, behind the prefix, with its priority and its security context.
    pub line: String,
    /// Bytes of IP that it has.
    pub len: u32,
    /// As many of them as are told.
    pub bytes: Vec<u8>,
}

/// How many packets ended for one reason.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Drops {
    /// [`DropReason::name`].
    pub reason: String,
    /// `policy`, `error` or `overload`.
    pub class: String,
    /// Packets since the start.
    pub packets: u64,
    /// [`DropReason::explain`].
    pub explanation: String,
}

impl Drops {
    /// The line of a reason.
    pub fn of(reason: DropReason, packets: u64) -> Drops {
        let class = match reason.class() {
            Class::Policy => "policy",
            Class::Error => "error",
            Class::Overload => "overload",
        };
        Drops {
            reason: reason.name().to_string(),
            class: class.to_string(),
            packets,
            explanation: reason.explain().trim().to_string(),
        }
    }
}

/// A timer of IDLETIMER.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TimerRow {
    /// Its name.
    pub label: String,
    /// Whole seconds that it has left; none where it has run out.
    pub left: Option<u32>,
    /// Its rules have `--alarm`.
    pub alarm: bool,
}

/// A neighbour for people.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NeighbourRow {
    /// Name of the port.
    pub port: String,
    /// Its address.
    pub address: IpAddr,
    /// Its MAC address, where known.
    pub mac: Option<[u8; 6]>,
    /// `REACHABLE`, `STALE` and so on, as ip-neighbour(8) prints it.
    pub state: String,
}

/// An account of `nfacct`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AccountRow {
    /// Its name.
    pub name: String,
    /// Packets counted.
    pub packets: u64,
    /// Bytes of IP.
    pub bytes: u64,
    /// Its quota, where it has one.
    pub quota: Option<Quota>,
    /// More was counted than that.
    pub beyond: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};
    use sumun_config::facts::Family;
    use sumun_config::model::Policy;

    fn requests() -> Vec<Request> {
        let tuple = TupleFilter {
            source: Some("fd00::/64".parse().unwrap()),
            destination: Some("10.0.0.1/32".parse().unwrap()),
            sport: Some(1),
            ..TupleFilter::default()
        };
        let filter = FlowFilter {
            family: Some(Family::V6),
            proto: Some(6),
            reply: tuple.clone(),
            original: tuple,
            icmp: IcmpFilter { id: Some(7), ..IcmpFilter::default() },
            state: Some("ESTABLISHED".to_string()),
            mark: Some(Masked { value: 1, mask: 3 }),
            src_nat: Some(None),
            ..FlowFilter::default()
        };
        let (source, destination) = (Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into());
        let tuple = FlowTuple { source, destination, sport: 1, dport: 2, zone: 3, counter: None };
        vec![
            Request::Hello,
            Request::Status,
            Request::Rules,
            Request::Zero,
            Request::Drops,
            Request::Conntrack { filter: filter.clone(), from: u32::MAX },
            Request::Flow(FlowKey { family: Family::V6, proto: 17, tuple, reply: true }),
            Request::DeleteFlows { filter: filter.clone(), from: 5 },
            Request::FlushFlows,
            Request::CountFlows(filter.clone()),
            Request::Events { filter, kinds: EventKind::ALL },
            Request::Expectations,
            Request::ConntrackStats,
            Request::Neighbours,
            Request::Object(ObjectRequest::Names),
            Request::Object(ObjectRequest::Recent { name: "ssh".into(), what: RecentRequest::Add(source) }),
            Request::Object(ObjectRequest::Hashlimit { name: "flood".into(), family: Family::V6 }),
            Request::Timers,
            Request::Accounts,
        ]
    }

    #[test]
    fn messages_come_out_as_they_went_in() {
        let mut wire = Vec::new();
        for request in requests() {
            write_frame(&mut wire, Kind::Request, &encode(&request).unwrap()).unwrap();
        }
        let mut from = &wire[..];
        for request in requests() {
            assert_eq!(read_message::<Request>(&mut from, Kind::Request).unwrap(), Some(request));
        }
        assert!(read_message::<Request>(&mut from, Kind::Request).unwrap().is_none(), "a clean end");
    }

    #[test]
    fn frame_cut_anywhere_is_an_error() {
        let mut wire = Vec::new();
        write_frame(&mut wire, Kind::Request, &encode(&Request::Hello).unwrap()).unwrap();
        for len in 1..wire.len() {
            let cut = read_message::<Request>(&mut &wire[..len], Kind::Request);
            assert!(matches!(cut, Err(FrameError::Cut)), "{len}: {cut:?}");
        }
    }

    #[test]
    fn header_alone_takes_no_memory() {
        let header = Header { kind: Kind::Publish, len: Kind::Publish.most() };
        let mut from = io::repeat(1).take(100);
        assert!(matches!(read_payload(&mut from, header), Err(FrameError::Cut)));
    }

    #[test]
    fn greatest_length_is_allowed_and_one_more_is_not() {
        for kind in [Kind::Request, Kind::Publish, Kind::Response] {
            let most = kind.most() as usize;
            let header = Header::of(kind, most).unwrap();
            assert_eq!(Header::parse(header.bytes()).unwrap(), header);
            assert!(matches!(Header::of(kind, most + 1), Err(FrameError::TooLong { .. })));
        }
    }

    #[test]
    fn digest_is_fnv_1a() {
        // Test vectors of the reference implementation.
        assert_eq!(Digest::of(b""), Digest(0x6c62272e07bb014262b821756295c58d));
        assert_eq!(Digest::of(b"a"), Digest(0xd228cb696f1a8caf78912b704e4a8964));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail_but_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let _ = decode::<Request>(&bytes);
            let _ = decode::<Response>(&bytes);
            let _ = decode::<Policy>(&bytes);
            let _ = read_message::<Request>(&mut &bytes[..], Kind::Request);
        }

        #[test]
        fn policy_with_flipped_bytes_decodes_or_fails(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let policy = Policy {
                ports: vec!["lan0".into(), "wan0".into()],
                port_settings: Vec::new(),
                neighbours: Vec::new(),
                routes_from: Default::default(),
                vrfs: Vec::new(),
                routes: Vec::new(),
                rules: Vec::new(),
                sysctl: Default::default(),
                timeouts: Vec::new(),
                labels: Vec::new(),
                sets: Vec::new(),
                fingerprints: Vec::new(),
                accounts: Vec::new(),
                metrics: None,
                ruleset: sumun_config::ruleset::Ruleset::empty(Default::default()),
            };
            let mut bytes = encode(&policy).unwrap();
            prop_assert_eq!(decode::<Policy>(&bytes).unwrap(), policy);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = decode::<Policy>(&bytes);
        }
    }
}
