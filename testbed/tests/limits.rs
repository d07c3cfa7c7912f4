//! A flood over real devices: the table is full, and who was there before goes on.

use anyhow::Result;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use sumun_testbed::router::{INTERFACES, head};
use sumun_testbed::{Lab, Router, talk};

const MAX_FLOWS: u64 = 2000;
const RULES: &str = r#"
[nat.POSTROUTING]
rules = ["-o wan0 -j MASQUERADE"]

[filter.FORWARD]
policy = "DROP"
rules = ["-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT", "-i lan0 -m conntrack --ctstate NEW -p tcp --syn -j ACCEPT"]
"#;

/// The `n`th SYN of a flood: from ever another port of ever another host of the LAN, to where nobody answers.
fn syn(n: u32) -> [u8; 40] {
    let mut packet = [0; 40];
    packet[0] = 0x45;
    packet[3] = 40;
    packet[8] = 64;
    packet[9] = 6;
    packet[12..16].copy_from_slice(&[192, 168, 1, 128 + (n >> 16) as u8 % 64]);
    packet[16..20].copy_from_slice(&[203, 0, 113, 1]);
    packet[20..22].copy_from_slice(&(n as u16).to_be_bytes());
    packet[23] = 9;
    packet[32] = 5 << 4;
    packet[33] = 2;
    packet[34..36].copy_from_slice(&64_000u16.to_be_bytes());
    // Over the addresses, protocol and length, and the segment.
    let words = packet[12..].chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
    let sum = words.sum::<u32>() + 6 + 20;
    let sum = (sum & 0xffff) + (sum >> 16);
    packet[36..38].copy_from_slice(&(!(((sum & 0xffff) + (sum >> 16)) as u16)).to_be_bytes());
    packet
}

#[test]
fn a_transfer_runs_on_through_a_flood_of_syns_that_fills_the_table() -> Result<()> {
    const SIZE: usize = 24 << 20;
    let lab = Lab::new(1)?;
    lab.server.run(&["iptables", "-A", "INPUT", "-p", "tcp", "--dport", "9", "-j", "DROP"])?;
    let config = format!("{}{INTERFACES}{RULES}", head(&lab, "1").replace("cores", "max-flows = 2000\ncores"));
    let router = Router::start_with(&lab, &config)?;
    let sink = talk::tcp_sink(&lab.server, "203.0.113.1:7000", SIZE)?;
    let mut stream = talk::tcp_connect(&lab.client1, "203.0.113.1:7000", None)?;
    let ends = Arc::new(AtomicBool::new(false));
    let flood = lab.client2.spawn({
        let ends = ends.clone();
        move || {
            let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?;
            let to = SockaddrIn::from(std::net::SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 1), 0));
            let mut sent = 0;
            while !ends.load(Ordering::Relaxed) {
                // A full queue of the device is the flood's loss.
                let _ = sendto(raw.as_raw_fd(), &syn(sent), &to, MsgFlags::empty());
                sent = sent.wrapping_add(1);
            }
            Ok(sent)
        }
    });
    let (mut most, mut asked) = (0, 0);
    let transfer = talk::tcp_send(&mut stream, SIZE, |sent| {
        if sent % (4 << 20) == 0
            && let Ok(status) = router.status()
        {
            most = most.max(status["flows"].as_u64().unwrap_or(u64::MAX));
            asked += 1;
        }
    });
    ends.store(true, Ordering::Relaxed);
    let sent = flood.join().expect("no panic")?;
    transfer?;
    sink.join().expect("no panic")?;
    assert!(u64::from(sent) > 10 * MAX_FLOWS && asked > 3, "{sent} SYNs, {asked} answers");
    assert!((MAX_FLOWS * 4 / 5..=MAX_FLOWS).contains(&most), "{most} flows");
    let listing = router.ask(&["conntrack"])?;
    let line = listing.lines().find(|l| l.contains("dport=7000")).unwrap_or_default();
    assert!(line.contains("[ASSURED]"), "{line}");
    let stats = router.ask(&["conntrack", "stats"])?;
    let early: u64 =
        stats.split("early_drop=").skip(1).filter_map(|s| s.split_whitespace().next()?.parse::<u64>().ok()).sum();
    assert!(early > MAX_FLOWS, "{stats}");
    let status = router.status()?;
    assert!(status["flow_memory"].as_u64().is_some_and(|bytes| bytes > MAX_FLOWS * 200 && bytes < 4 << 20));
    assert!(router.log("dataplane.log").contains(" MB for 2000 flows"));
    Ok(())
}
