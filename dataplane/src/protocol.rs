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

use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use sumun_config::facts::Family;
use sumun_config::model::Appliance;

mod flow;
mod frame;
mod route;
mod row;
mod set;
mod status;

pub use flow::{ConntrackStats, EventKind, EventRow, ExpectationRow, FlowFilter, FlowKey, FlowRow, FlowTuple};
pub use flow::{IcmpFilter, InvalidCount, Masked, TupleFilter, has_ports};
pub use frame::{
    Digest, FrameError, HEADER_LEN, Header, Kind, VERSION, decode, encode, read_header, read_message, read_payload,
    write_frame,
};
pub use route::{HopRow, RoutePlace, RouteQuestion, RouteRow, RouteWay, RoutesAnswer, RoutesRequest, TableName};
pub use row::{AccountRow, ChainCounters, Counter, Counters, Drops, NeighbourRow, PacketRow, Rules, TimerRow};
pub use set::{SetAnswer, SetRequest, SetRow};
pub use status::{MirrorStatus, PortStatus, QueueLosses, RouteCounts, Status, TapStatus};

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
    /// To [`Request::Drops`], every reason in the order of [`crate::reason::DropReason::ALL`].
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::{self, Read};
    use std::net::{Ipv4Addr, Ipv6Addr};
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
