//! A flow on a line, as `conntrack -L` prints it, and as JSON.

use super::filter::NAMES;
use super::{Detail, Output};
use chrono::{DateTime, Local};
use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};
use sumun_config::facts::{Family, proto, status};
use sumun_dataplane::conntrack::change;
use sumun_dataplane::protocol::{EventKind, EventRow, ExpectationRow, FlowRow, FlowTuple, has_ports};

fn name(number: u8) -> &'static str {
    NAMES.iter().find(|(_, n)| *n == number).map_or("unknown", |(name, _)| name)
}

/// What of a flow is printed.
struct Shown {
    state: bool,
    counters: bool,
    mark: bool,
    times: bool,
    users: bool,
}

/// As libnetfilter_conntrack prints a flow.
pub fn line(flow: &FlowRow, output: &Output) -> String {
    text(flow, output, &Shown { state: true, counters: true, mark: true, times: true, users: true })
}

/// As `conntrack -E` prints an event: with what the kernel sends of a flow with one.
pub fn event(event: &EventRow, output: &Output) -> String {
    let name = match event.what {
        EventKind::New => "[NEW]",
        EventKind::Update => "[UPDATE]",
        EventKind::Destroy => "[DESTROY]",
    };
    let is_end = event.what == EventKind::Destroy;
    let shown = Shown {
        state: is_end || event.changes & change::PROTOINFO != 0,
        counters: is_end,
        mark: event.flow.mark != 0 || event.changes & change::MARK != 0,
        times: is_end,
        users: false,
    };
    let mut line = String::new();
    if output.has(Detail::Timestamp) {
        let _ = write!(line, "[{:<8}.{:<6}]\t", event.at / 1_000_000_000, event.at / 1000 % 1_000_000);
    }
    let _ = write!(line, "{name:>9} {}", text(&event.flow, output, &shown));
    line
}

fn text(flow: &FlowRow, output: &Output, shown: &Shown) -> String {
    let mut text = String::new();
    if output.has(Detail::Extended) {
        // The number is the address family's in the system.
        let number = if flow.family == Family::V4 { 2 } else { 10 };
        let _ = write!(text, "{:<8} {number} ", flow.family.name());
    }
    let _ = write!(text, "{:<8} {} {} ", name(flow.proto), flow.proto, flow.timeout);
    if let Some(state) = flow.state.as_ref().filter(|_| shown.state) {
        let _ = write!(text, "{state} ");
    }
    let zone = (flow.original.zone == flow.reply.zone).then_some(flow.original.zone);
    let bare = |tuple: &FlowTuple| FlowTuple { counter: tuple.counter.filter(|_| shown.counters), ..*tuple };
    tuple(&mut text, flow.proto, &bare(&flow.original), zone.is_none().then_some("zone-orig"));
    if flow.status & status::SEEN_REPLY == 0 {
        text.push_str("[UNREPLIED] ");
    }
    tuple(&mut text, flow.proto, &bare(&flow.reply), zone.is_none().then_some("zone-reply"));
    if flow.status & status::ASSURED != 0 {
        text.push_str("[ASSURED] ");
    }
    if shown.mark {
        let _ = write!(text, "mark={} ", flow.mark);
    }
    if let Some(context) = &flow.secctx {
        let _ = write!(text, "secctx={context} ");
    }
    if let Some(zone @ 1..) = zone {
        let _ = write!(text, "zone={zone} ");
    }
    if shown.times {
        times(&mut text, flow, output);
    }
    if let Some(helper) = &flow.helper {
        let _ = write!(text, "helper={helper} ");
    }
    if shown.users {
        text.push_str("use=1 ");
    }
    if output.has(Detail::Id) {
        let _ = write!(text, "id={} ", flow.id);
    }
    if output.has(Detail::Labels) && flow.labels != 0 {
        let labels: Vec<String> = labels(flow).map(|label| label.to_string()).collect();
        let _ = write!(text, "labels={} ", labels.join(","));
    }
    text.truncate(text.trim_end().len());
    text
}

fn labels(flow: &FlowRow) -> impl Iterator<Item = u8> {
    let labels = flow.labels;
    (0..128).filter(move |label| labels >> label & 1 != 0)
}

/// Appends how long the flow is or was there, and from when to when, where that is known.
fn times(text: &mut String, flow: &FlowRow, output: &Output) {
    let Some(start) = flow.start else { return };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
    let seconds = flow.stop.unwrap_or(now).saturating_sub(start) / 1_000_000_000;
    let _ = write!(text, "delta-time={seconds} ");
    if output.has(Detail::Ktimestamp) {
        for (name, at) in [("start", Some(start)), ("stop", flow.stop)] {
            if let Some(at) = at {
                let _ = write!(
                    text,
                    "[{name}={}] ",
                    DateTime::from_timestamp_nanos(at as i64).with_timezone(&Local).format("%c")
                );
            }
        }
    }
}

/// Appends a direction; `zone` names its own zone, where each direction has another.
fn tuple(text: &mut String, number: u8, tuple: &FlowTuple, zone: Option<&str>) {
    let FlowTuple { source, destination, sport, dport, counter, .. } = tuple;
    let _ = write!(text, "src={source} dst={destination} ");
    let _ = match number {
        _ if has_ports(number) => write!(text, "sport={sport} dport={dport} "),
        proto::ICMP | proto::ICMPV6 => write!(text, "type={} code={} id={sport} ", dport >> 8, dport & 0xff),
        proto::GRE => write!(text, "srckey={sport:#x} dstkey={dport:#x} "),
        _ => Ok(()),
    };
    if let Some(name) = zone.filter(|_| tuple.zone != 0) {
        let _ = write!(text, "{name}={} ", tuple.zone);
    }
    if let Some(counter) = counter {
        let _ = write!(text, "packets={} bytes={} ", counter.packets, counter.bytes);
    }
}

pub fn as_json(flow: &FlowRow) -> serde_json::Value {
    let direction = |tuple: &FlowTuple| {
        let mut value = serde_json::json!({"source": tuple.source, "destination": tuple.destination});
        match flow.proto {
            proto::ICMP | proto::ICMPV6 => {
                value["type"] = (tuple.dport >> 8).into();
                value["code"] = (tuple.dport & 0xff).into();
                value["id"] = tuple.sport.into();
            }
            _ => {
                value["sport"] = tuple.sport.into();
                value["dport"] = tuple.dport.into();
            }
        }
        if let Some(counter) = tuple.counter {
            value["packets"] = counter.packets.into();
            value["bytes"] = counter.bytes.into();
        }
        if tuple.zone != 0 {
            value["zone"] = tuple.zone.into();
        }
        value
    };
    serde_json::json!({
        "id": flow.id,
        "family": flow.family.name(),
        "protocol": flow.proto,
        "timeout": flow.timeout,
        "state": flow.state,
        "original": direction(&flow.original),
        "reply": direction(&flow.reply),
        "seen_reply": flow.status & status::SEEN_REPLY != 0,
        "assured": flow.status & status::ASSURED != 0,
        "expected": flow.status & status::EXPECTED != 0,
        "snat": flow.status & status::SRC_NAT != 0,
        "dnat": flow.status & status::DST_NAT != 0,
        "mark": flow.mark,
        "labels": labels(flow).collect::<Vec<_>>(),
        "helper": flow.helper,
        "start": flow.start.map(seconds),
        "stop": flow.stop.map(seconds),
    })
}

/// Nanoseconds since 1970 as seconds.
fn seconds(at: u64) -> f64 {
    at as f64 / 1e9
}

/// An event, with the flow that it is about.
pub fn event_as_json(event: &EventRow) -> serde_json::Value {
    let kind = match event.what {
        EventKind::New => "new",
        EventKind::Update => "update",
        EventKind::Destroy => "destroy",
    };
    serde_json::json!({"event": kind, "time": seconds(event.at), "flow": as_json(&event.flow)})
}

/// A flow that is expected.
pub fn expectation_as_json(row: &ExpectationRow) -> serde_json::Value {
    let tuple = |tuple: &FlowTuple| {
        serde_json::json!({
            "source": tuple.source,
            "destination": tuple.destination,
            "sport": tuple.sport,
            "dport": tuple.dport,
        })
    };
    serde_json::json!({
        "family": row.family.name(),
        "protocol": row.proto,
        "timeout": row.timeout,
        "tuple": tuple(&row.tuple),
        "mask": row.mask,
        "master": tuple(&row.master),
        "helper": row.helper,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sumun_dataplane::protocol::Counter;

    fn half(source: &str, destination: &str, sport: u16, dport: u16, counted: Option<(u64, u64)>) -> FlowTuple {
        FlowTuple {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            sport,
            dport,
            zone: 0,
            counter: counted.map(|(packets, bytes)| Counter { packets, bytes }),
        }
    }

    fn flow(proto: u8, timeout: u64, original: FlowTuple, reply: FlowTuple) -> FlowRow {
        let family = if original.source.is_ipv4() { Family::V4 } else { Family::V6 };
        FlowRow {
            id: 1,
            family,
            proto,
            timeout,
            state: None,
            original,
            reply,
            status: 0,
            mark: 0,
            secctx: None,
            labels: 0,
            helper: None,
            start: None,
            stop: None,
        }
    }

    #[test]
    fn flows_read_as_conntrack_prints_them() {
        // The right side was printed by conntrack(8) 1.4.7 for flows of a real kernel.
        let cases = [
            (
                FlowRow {
                    status: status::SEEN_REPLY,
                    ..flow(
                        proto::ICMPV6,
                        29,
                        half("::1", "::1", 26425, 128 << 8, Some((1, 104))),
                        half("::1", "::1", 26425, 129 << 8, Some((1, 104))),
                    )
                },
                "icmpv6   58 29 src=::1 dst=::1 type=128 code=0 id=26425 packets=1 bytes=104 src=::1 dst=::1 type=129 \
                 code=0 id=26425 packets=1 bytes=104 mark=0 use=1",
            ),
            (
                flow(
                    proto::UDP,
                    29,
                    half("127.0.0.1", "127.0.0.1", 44266, 999, Some((1, 31))),
                    half("127.0.0.1", "127.0.0.1", 999, 44266, Some((0, 0))),
                ),
                "udp      17 29 src=127.0.0.1 dst=127.0.0.1 sport=44266 dport=999 packets=1 bytes=31 [UNREPLIED] \
                 src=127.0.0.1 dst=127.0.0.1 sport=999 dport=44266 packets=0 bytes=0 mark=0 use=1",
            ),
            (
                FlowRow {
                    state: Some("SYN_SENT".into()),
                    mark: 5,
                    ..flow(
                        proto::TCP,
                        49,
                        half("1.1.1.1", "2.2.2.2", 1, 2, Some((0, 0))),
                        half("2.2.2.2", "1.1.1.1", 2, 1, Some((0, 0))),
                    )
                },
                "tcp      6 49 SYN_SENT src=1.1.1.1 dst=2.2.2.2 sport=1 dport=2 packets=0 bytes=0 [UNREPLIED] \
                 src=2.2.2.2 dst=1.1.1.1 sport=2 dport=1 packets=0 bytes=0 mark=5 use=1",
            ),
            (
                flow(
                    99,
                    8,
                    half("1.1.1.1", "2.2.2.2", 0, 0, Some((0, 0))),
                    half("2.2.2.2", "1.1.1.1", 0, 0, Some((0, 0))),
                ),
                "unknown  99 8 src=1.1.1.1 dst=2.2.2.2 packets=0 bytes=0 [UNREPLIED] src=2.2.2.2 dst=1.1.1.1 packets=0 \
                 bytes=0 mark=0 use=1",
            ),
        ];
        for (flow, expected) in cases {
            assert_eq!(line(&flow, &Output::default()), expected);
        }
    }

    #[test]
    fn assured_stands_before_the_mark() {
        let halves = (half("1.1.1.1", "2.2.2.2", 1, 2, None), half("2.2.2.2", "1.1.1.1", 2, 1, None));
        let flow = FlowRow {
            state: Some("ESTABLISHED".into()),
            status: status::SEEN_REPLY | status::ASSURED,
            ..flow(proto::TCP, 431999, halves.0, halves.1)
        };
        let expected = "tcp      6 431999 ESTABLISHED src=1.1.1.1 dst=2.2.2.2 sport=1 dport=2 src=2.2.2.2 dst=1.1.1.1 \
                        sport=2 dport=1 [ASSURED] mark=0 use=1";
        assert_eq!(line(&flow, &Output::default()), expected);
    }

    #[test]
    fn extended_output_has_the_family_and_zones_stand_where_they_count() {
        let halves = (half("1.1.1.1", "2.2.2.2", 1, 2, None), half("2.2.2.2", "1.1.1.1", 2, 1, None));
        let udp = FlowRow { id: 77, ..flow(proto::UDP, 30, halves.0, halves.1) };
        let zoned = |original, reply| FlowRow {
            original: FlowTuple { zone: original, ..udp.original },
            reply: FlowTuple { zone: reply, ..udp.reply },
            ..udp.clone()
        };
        let output = |output: &[Detail]| Output { output: output.to_vec(), json: false };
        let cases = [
            (
                zoned(3, 3),
                output(&[Detail::Extended, Detail::Id]),
                "ipv4     2 udp      17 30 src=1.1.1.1 dst=2.2.2.2 sport=1 dport=2 [UNREPLIED] src=2.2.2.2 dst=1.1.1.1 \
                 sport=2 dport=1 mark=0 zone=3 use=1 id=77",
            ),
            (
                zoned(3, 0),
                output(&[]),
                "udp      17 30 src=1.1.1.1 dst=2.2.2.2 sport=1 dport=2 zone-orig=3 [UNREPLIED] src=2.2.2.2 dst=1.1.1.1 \
                 sport=2 dport=1 mark=0 use=1",
            ),
            (
                zoned(0, 4),
                output(&[]),
                "udp      17 30 src=1.1.1.1 dst=2.2.2.2 sport=1 dport=2 [UNREPLIED] src=2.2.2.2 dst=1.1.1.1 sport=2 \
                 dport=1 zone-reply=4 mark=0 use=1",
            ),
        ];
        for (flow, output, expected) in cases {
            assert_eq!(line(&flow, &output), expected);
        }
        assert_eq!((&as_json(&udp)["id"], &as_json(&zoned(3, 0))["original"]["zone"]), (&77.into(), &3.into()));
    }

    #[test]
    fn events_read_as_conntrack_prints_them() {
        // The right side was printed by conntrack(8) 1.4.7 for a real kernel.
        let halves = (
            half("10.0.0.2", "10.0.1.2", 6001, 80, Some((6, 321))),
            half("10.0.1.2", "10.0.0.2", 80, 6001, Some((4, 217))),
        );
        let tcp = |state: &'static str, timeout, status| FlowRow {
            state: Some(state.into()),
            status,
            ..flow(proto::TCP, timeout, halves.0, halves.1)
        };
        let assured = status::SEEN_REPLY | status::ASSURED;
        let (state, mark) = (change::PROTOINFO, change::MARK);
        let cases = [
            (
                EventKind::New,
                state | change::NEW,
                tcp("SYN_SENT", 120, 0),
                "    [NEW] tcp      6 120 SYN_SENT src=10.0.0.2 dst=10.0.1.2 sport=6001 dport=80 [UNREPLIED] src=10.0.1.2 \
                 dst=10.0.0.2 sport=80 dport=6001",
            ),
            (
                EventKind::Update,
                state | change::ASSURED,
                tcp("ESTABLISHED", 432_000, assured),
                " [UPDATE] tcp      6 432000 ESTABLISHED src=10.0.0.2 dst=10.0.1.2 sport=6001 dport=80 src=10.0.1.2 \
                 dst=10.0.0.2 sport=80 dport=6001 [ASSURED]",
            ),
            (
                EventKind::Update,
                mark,
                FlowRow { mark: 9, ..tcp("ESTABLISHED", 432_000, assured) },
                " [UPDATE] tcp      6 432000 src=10.0.0.2 dst=10.0.1.2 sport=6001 dport=80 src=10.0.1.2 dst=10.0.0.2 \
                 sport=80 dport=6001 [ASSURED] mark=9",
            ),
            (
                EventKind::Destroy,
                0,
                FlowRow { start: Some(1_000_000_000), stop: Some(2_500_000_000), ..tcp("TIME_WAIT", 119, assured) },
                "[DESTROY] tcp      6 119 TIME_WAIT src=10.0.0.2 dst=10.0.1.2 sport=6001 dport=80 packets=6 bytes=321 \
                 src=10.0.1.2 dst=10.0.0.2 sport=80 dport=6001 packets=4 bytes=217 [ASSURED] delta-time=1",
            ),
        ];
        for (what, changes, flow, expected) in cases {
            assert_eq!(event(&EventRow { what, changes, at: 0, flow }, &Output::default()), expected);
        }
        let new =
            EventRow { what: EventKind::New, changes: 0, at: 1_795_625_945_000_207_999, flow: tcp("SYN_SENT", 1, 0) };
        let stamped = event(&new, &Output { output: vec![Detail::Timestamp], json: false });
        assert!(stamped.starts_with("[1795625945.207   ]\t    [NEW] tcp"), "{stamped}");
        assert_eq!(event_as_json(&new)["event"], "new");
    }
}
