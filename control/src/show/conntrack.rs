//! `sumun conntrack`, in the format of `conntrack -L`.

use std::fmt::Write as _;
use std::io::Write;
use sumun_config::facts::{proto, status};
use sumun_dataplane::protocol::{FlowRow, FlowTuple};

/// Protocols that conntrack(8) knows by name.
const NAMES: &[(&str, u8)] = &[
    ("tcp", proto::TCP),
    ("udp", proto::UDP),
    ("udplite", proto::UDPLITE),
    ("icmp", proto::ICMP),
    ("icmpv6", proto::ICMPV6),
    ("sctp", proto::SCTP),
    ("dccp", proto::DCCP),
    ("gre", proto::GRE),
];

/// A protocol by name or number, for the command line.
pub fn protocol(text: &str) -> Result<u8, String> {
    let named = NAMES.iter().find(|(name, _)| *name == text).map(|&(_, number)| number);
    let names = || NAMES.iter().map(|&(name, _)| name).collect::<Vec<_>>().join(", ");
    named.or_else(|| text.parse().ok()).ok_or_else(|| format!("protocols are {} or a number up to 255", names()))
}

/// Prints a flow on a line.
pub fn print(out: &mut impl Write, flow: &FlowRow, json: bool) -> anyhow::Result<()> {
    if json {
        serde_json::to_writer(&mut *out, &as_json(flow))?;
        return Ok(writeln!(out)?);
    }
    Ok(writeln!(out, "{}", line(flow))?)
}

fn name(number: u8) -> &'static str {
    NAMES.iter().find(|(_, n)| *n == number).map_or("unknown", |(name, _)| name)
}

/// As libnetfilter_conntrack prints a flow.
fn line(flow: &FlowRow) -> String {
    let mut text = format!("{:<8} {} {} ", name(flow.proto), flow.proto, flow.timeout);
    if let Some(state) = &flow.state {
        let _ = write!(text, "{state} ");
    }
    tuple(&mut text, flow.proto, &flow.original);
    if flow.status & status::SEEN_REPLY == 0 {
        text.push_str("[UNREPLIED] ");
    }
    tuple(&mut text, flow.proto, &flow.reply);
    if flow.status & status::ASSURED != 0 {
        text.push_str("[ASSURED] ");
    }
    let _ = write!(text, "mark={} use=1", flow.mark);
    text
}

fn tuple(text: &mut String, number: u8, tuple: &FlowTuple) {
    let FlowTuple { source, destination, sport, dport, counter } = tuple;
    let _ = write!(text, "src={source} dst={destination} ");
    let _ = match number {
        proto::TCP | proto::UDP | proto::UDPLITE | proto::SCTP | proto::DCCP => {
            write!(text, "sport={sport} dport={dport} ")
        }
        proto::ICMP | proto::ICMPV6 => write!(text, "type={} code={} id={sport} ", dport >> 8, dport & 0xff),
        proto::GRE => write!(text, "srckey={sport:#x} dstkey={dport:#x} "),
        _ => Ok(()),
    };
    if let Some(counter) = counter {
        let _ = write!(text, "packets={} bytes={} ", counter.packets, counter.bytes);
    }
}

fn as_json(flow: &FlowRow) -> serde_json::Value {
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
        value
    };
    serde_json::json!({
        "family": flow.family.name(),
        "protocol": flow.proto,
        "timeout": flow.timeout,
        "state": flow.state,
        "original": direction(&flow.original),
        "reply": direction(&flow.reply),
        "seen_reply": flow.status & status::SEEN_REPLY != 0,
        "assured": flow.status & status::ASSURED != 0,
        "snat": flow.status & status::SRC_NAT != 0,
        "dnat": flow.status & status::DST_NAT != 0,
        "mark": flow.mark,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sumun_config::facts::Family;
    use sumun_dataplane::protocol::Counter;

    fn half(source: &str, destination: &str, sport: u16, dport: u16, counted: Option<(u64, u64)>) -> FlowTuple {
        FlowTuple {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            sport,
            dport,
            counter: counted.map(|(packets, bytes)| Counter { packets, bytes }),
        }
    }

    fn flow(proto: u8, timeout: u64, original: FlowTuple, reply: FlowTuple) -> FlowRow {
        let family = if original.source.is_ipv4() { Family::V4 } else { Family::V6 };
        FlowRow { family, proto, timeout, state: None, original, reply, status: 0, mark: 0 }
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
                    state: Some("SYN_SENT".to_string()),
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
            assert_eq!(line(&flow), expected);
        }
    }

    #[test]
    fn assured_stands_before_the_mark() {
        let halves = (half("1.1.1.1", "2.2.2.2", 1, 2, None), half("2.2.2.2", "1.1.1.1", 2, 1, None));
        let flow = FlowRow {
            state: Some("ESTABLISHED".to_string()),
            status: status::SEEN_REPLY | status::ASSURED,
            ..flow(proto::TCP, 431999, halves.0, halves.1)
        };
        let expected = "tcp      6 431999 ESTABLISHED src=1.1.1.1 dst=2.2.2.2 sport=1 dport=2 src=2.2.2.2 dst=1.1.1.1 \
                        sport=2 dport=1 [ASSURED] mark=0 use=1";
        assert_eq!(line(&flow), expected);
    }

    #[test]
    fn protocols_go_by_name_or_number() {
        assert_eq!((protocol("tcp"), protocol("47")), (Ok(6), Ok(47)));
        assert!(protocol("256").unwrap_err().contains("udplite"));
    }
}
