//! Whatever the bytes are: no panic, every frame accounted for, every packet with exactly one fate.

mod common;

use common::*;
use proptest::prelude::*;
use sumun_config::facts::{Family, PortId};

const RULES: &str = r#"
[raw.PREROUTING]
rules = ["-p tcp -m tcp --tcp-option 5 -j LOG --log-tcp-options --log-tcp-sequence --log-ip-options"]

[mangle.PREROUTING]
rules = ["-p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1000", "-4 -j TTL --ttl-inc 3", "-6 -j HL --hl-inc 3", "-j TOS --set-tos 0x10"]

[nat.PREROUTING]
rules = ["-4 -p udp -m udp --dport 53 -j DNAT --to-destination 203.0.113.9:5353", "-p tcp -m tcp --dport 80 -j REDIRECT --to-ports 81"]

[nat.POSTROUTING]
rules = ["-o wan0 -j MASQUERADE --random"]

[filter.FORWARD]
rules = [
  "-m conntrack --ctstate INVALID -j LOG --log-prefix invalid",
  "-p icmp -m icmp --icmp-type 8 -j ACCEPT",
  "-m multiport -p tcp --dports 1:1024 -j REJECT",
  "-m addrtype --dst-type LOCAL -j DROP",
  "-m length --length 0:100 -j ACCEPT",
]
"#;

/// Well-formed frames to start from.
fn seeds() -> Vec<Vec<u8>> {
    let mut all = vec![arp_request(0xc0a8_0109, 0xc0a8_0101), vec![], vec![0xff; 14]];
    for family in Family::ALL {
        let (client, server) = ends(family);
        all.push(udp(family, client, server, (1000, 53), b"query"));
        all.push(udp(family, server, client, (53, 1000), b"answer"));
        all.push(tcp(family, client, server, (1000, 80), "S", b""));
        all.push(tcp(family, client, server, (1000, 443), "PA", &[7; 1400]));
        all.push(ping(family, client, server, 1, &[1; 600]));
        // An ICMP error that quotes one of the packets above.
        let quoted = udp(family, client, server, (1000, 53), b"query")[14..].to_vec();
        let mut error = Vec::new();
        let step = ip(family, server, client, 64);
        match family {
            Family::V4 => step.icmpv4_raw(3, 3, [0; 4]).write(&mut error, &quoted),
            Family::V6 => step.icmpv6_raw(1, 4, [0; 4]).write(&mut error, &quoted),
        }
        .expect("a frame");
        all.push(error);
        all.extend(halves(&udp(family, client, server, (1000, 53), &[9; 2000])));
        all.extend(halves(&ping(family, client, own(family), 1, &[1; 2000])));
    }
    all
}

/// The router's address on the LAN.
fn own(family: Family) -> u128 {
    match family {
        Family::V4 => 0xc0a8_0101,
        Family::V6 => 0xfd00_0001 << 96 | 1,
    }
}

/// A seed with some bytes changed, cut or grown.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    let seeds = seeds();
    (prop::sample::select(seeds), changes, prop::option::of(0usize..1600), any::<bool>()).prop_map(
        |(mut frame, changes, cut, keep_link)| {
            for (at, byte) in changes {
                // Mostly behind the link header, so that frames get past the first check.
                let low = if keep_link { 14.min(frame.len()) } else { 0 };
                if frame.len() > low {
                    let at = low + at.index(frame.len() - low);
                    frame[at] = byte;
                }
            }
            if let Some(len) = cut {
                frame.resize(len.min(1700), 0xa5);
            }
            frame
        },
    )
}

fn random() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..1700)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_the_engine_panic_or_lose_a_frame(
        frames in prop::collection::vec((prop_oneof![4 => mutated(), 1 => random()], any::<bool>()), 1..60)
    ) {
        let mut rig = Rig::new(RULES);
        for (bytes, from_lan) in &frames {
            let port: PortId = if *from_lan { LAN } else { WAN };
            rig.send(port, bytes);
            rig.now += 50_000_000;
            rig.assert_census();
        }
        // What waited for neighbours has been answered for in the end.
        for _ in 0..40 {
            rig.wait(500_000_000);
        }
        // And the fragments that waited for others.
        rig.wait(60_000_000_000);
        for _ in 0..40 {
            rig.wait(500_000_000);
        }
        rig.assert_census();
        prop_assert_eq!(rig.engine.held(), 0);
    }
}
