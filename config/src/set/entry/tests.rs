//! Elements as ipset takes and prints them: asked of ipset 7.17.

use super::*;
use crate::set::print;
use crate::set::save;
use proptest::prelude::*;

fn header(create: &str) -> Header {
    let words = words(create, 0).unwrap();
    let name = Word { text: "x".to_string(), at: 0..0 };
    save::create(&name, &words).unwrap_or_else(|complaints| panic!("{create}: {complaints:?}"))
}

fn elements(header: &Header, text: &str, purpose: Purpose) -> Result<Vec<Element>, Complaint> {
    let mut elements = Vec::new();
    read(header, &words(text, 0)?, purpose, &mut |element| elements.push(element))?;
    Ok(elements)
}

fn shown(header: &Header, element: &Element) -> String {
    let mut out = String::new();
    print::element(header, element, &mut out);
    out
}

/// What is created, what is added, and what `ipset save` prints of it.
const TAKEN: &[(&str, &str, &[&str])] = &[
    ("hash:ip", "192.0.2.1", &["192.0.2.1"]),
    ("hash:ip", "10.0.0.0/30", &["10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.3"]),
    ("hash:ip", "10.0.1.3-10.0.1.1", &["10.0.1.1", "10.0.1.2", "10.0.1.3"]),
    ("hash:ip netmask 24", "1.2.3.4", &["1.2.3.0"]),
    ("hash:ip netmask 24", "10.0.0.9-10.0.2.5", &["10.0.0.0", "10.0.1.0", "10.0.2.0"]),
    ("hash:ip bitmask 255.255.0.255", "1.2.99.4", &["1.2.0.4"]),
    ("hash:ip family inet6", "fe80::1", &["fe80::1"]),
    ("hash:ip family inet6 netmask 64", "2001:db8:1:2:3::", &["2001:db8:1:2::"]),
    ("hash:net", "1.2.3.4", &["1.2.3.4"]),
    ("hash:net", "1.2.3.4/24", &["1.2.3.0/24"]),
    ("hash:net", "10.0.0.0-10.0.0.130", &["10.0.0.0/25", "10.0.0.128/31", "10.0.0.130"]),
    ("hash:net", "10.0.0.5-10.0.0.2", &["10.0.0.2/31", "10.0.0.4/31"]),
    ("hash:net", "10.1.0.0/16 nomatch", &["10.1.0.0/16 nomatch"]),
    ("hash:net", "0.0.0.0/1", &["0.0.0.0/1"]),
    ("hash:net family inet6", "2001:db8::1/32", &["2001:db8::/32"]),
    ("hash:net family inet6", "2001:db8::1", &["2001:db8::1"]),
    ("hash:ip,port", "1.2.3.4,80", &["1.2.3.4,tcp:80"]),
    ("hash:ip,port", "1.2.3.4,tcp:http", &["1.2.3.4,tcp:80"]),
    ("hash:ip,port", "1.2.3.4,udp:53", &["1.2.3.4,udp:53"]),
    ("hash:ip,port", "1.2.3.4,[ftp-data]-22", &["1.2.3.4,tcp:20", "1.2.3.4,tcp:21", "1.2.3.4,tcp:22"]),
    ("hash:ip,port", "1.2.3.0/31,udp:1-2", &["1.2.3.0,udp:1", "1.2.3.0,udp:2", "1.2.3.1,udp:1", "1.2.3.1,udp:2"]),
    ("hash:ip,port", "1.2.3.4,tcp:82-80", &["1.2.3.4,tcp:80", "1.2.3.4,tcp:81", "1.2.3.4,tcp:82"]),
    ("hash:ip,port", "1.2.3.4,icmp:ping", &["1.2.3.4,icmp:echo-request"]),
    ("hash:ip,port", "1.2.3.4,icmp:8/0", &["1.2.3.4,icmp:echo-request"]),
    ("hash:ip,port", "1.2.3.4,icmp:3/1", &["1.2.3.4,icmp:host-unreachable"]),
    ("hash:ip,port", "1.2.3.4,icmp:8/7", &["1.2.3.4,icmp:8/7"]),
    ("hash:ip,port", "1.2.3.4,gre:0", &["1.2.3.4,gre:0"]),
    ("hash:ip,port", "1.2.3.4,132:5", &["1.2.3.4,sctp:5"]),
    ("hash:ip,port", "1.2.3.4,udplite:7", &["1.2.3.4,udplite:7"]),
    ("hash:ip,port family inet6", "1::1,icmpv6:ping", &["1::1,ipv6-icmp:echo-request"]),
    ("hash:net,port family inet6", "1::1/16,icmpv6:130/0", &["1::/16,ipv6-icmp:130/0"]),
    ("hash:net,port family inet6", "1::1,ipv6-icmp:1/1", &["1::1,ipv6-icmp:communication-prohibited"]),
    ("hash:ip,port,ip", "1.2.3.4,80,0.0.0.0", &["1.2.3.4,tcp:80,0.0.0.0"]),
    ("hash:ip,port,net", "1.2.3.4,80,5.6.7.8/24", &["1.2.3.4,tcp:80,5.6.7.0/24"]),
    ("hash:ip,port,net", "1.2.3.4,80,5.6.7.0-5.6.7.5", &["1.2.3.4,tcp:80,5.6.7.0/30", "1.2.3.4,tcp:80,5.6.7.4/31"]),
    ("hash:ip,port,net", "1.2.3.4,80,5.6.0.0/16 nomatch", &["1.2.3.4,tcp:80,5.6.0.0/16 nomatch"]),
    ("hash:net,port", "1.2.3.4/24,80-81", &["1.2.3.0/24,tcp:80", "1.2.3.0/24,tcp:81"]),
    ("hash:net,port", "1.2.3.0-1.2.3.5,tcp:9", &["1.2.3.0/30,tcp:9", "1.2.3.4/31,tcp:9"]),
    ("hash:net,iface", "0.0.0.0/0,eth0", &["0.0.0.0/0,eth0"]),
    ("hash:net,iface", "1.2.3.4/24,physdev:eth0", &["1.2.3.0/24,physdev:eth0"]),
    ("hash:net,iface", "1.2.3.4,lo wildcard nomatch", &["1.2.3.4,lo nomatch wildcard"]),
    ("hash:net,iface", "1.2.3.4,abcdefghijklmno", &["1.2.3.4,abcdefghijklmno"]),
    ("hash:net,net", "192.168.0.0/24,192.168.54.0-192.168.54.255", &["192.168.0.0/24,192.168.54.0/24"]),
    ("hash:net,port,net", "0.0.0.0/0,22,10.0.0.0/24", &["0.0.0.0/0,tcp:22,10.0.0.0/24"]),
    ("hash:ip,mark", "192.0.2.1,0x63", &["192.0.2.1,0x00000063"]),
    ("hash:ip,mark markmask 0xf", "192.0.2.0/31,0x63", &["192.0.2.0,0x00000003", "192.0.2.1,0x00000003"]),
    ("hash:ip,mac", "1.1.1.1,1:02:3:04:05:0a", &["1.1.1.1,01:02:03:04:05:0A"]),
    ("hash:mac", "01:02:03:04:05:06", &["01:02:03:04:05:06"]),
    ("bitmap:ip range 10.0.0.0/24", "10.0.0.7-10.0.0.9", &["10.0.0.7", "10.0.0.8", "10.0.0.9"]),
    ("bitmap:ip range 10.0.0.0/16 netmask 24", "10.0.9.0-10.0.11.5", &["10.0.9.0", "10.0.10.0", "10.0.11.0"]),
    ("bitmap:ip range 10.0.0.3-10.0.0.20 netmask 30", "10.0.0.3", &["10.0.0.0"]),
    ("bitmap:ip,mac range 10.0.0.0/24", "10.0.0.1", &["10.0.0.1"]),
    ("bitmap:ip,mac range 10.0.0.0/24", "10.0.0.1,02:02:03:04:05:0a", &["10.0.0.1,02:02:03:04:05:0A"]),
    ("bitmap:port range 0-1000", "udp:82", &["82"]),
    ("bitmap:port range 0-1000", "domain", &["53"]),
    ("bitmap:port range 1000-0", "85-84", &["84", "85"]),
    ("list:set", "other", &["other"]),
    ("hash:ip timeout 600", "192.0.2.1 timeout 3", &["192.0.2.1 timeout 3"]),
    ("hash:net timeout 600", "192.0.2.0/24 nomatch timeout 3", &["192.0.2.0/24 timeout 3 nomatch"]),
    (
        "hash:ip timeout 1 counters comment skbinfo",
        "1.2.3.4 skbqueue 7 packets 3 skbprio 1:10 comment \"hi there\" bytes 5 skbmark 0x11/0xff timeout 0",
        &["1.2.3.4 timeout 0 packets 3 bytes 5 comment \"hi there\" skbmark 0x11/0xff skbprio 1:10 skbqueue 7"],
    ),
    ("hash:ip skbinfo", "1.1.1.1 skbmark 0x1", &["1.1.1.1 skbmark 0x1"]),
    ("hash:ip skbinfo", "1.1.1.1 skbmark 0x1/0x0", &["1.1.1.1 skbmark 0x1/0x0"]),
    ("hash:ip skbinfo", "1.1.1.1 skbmark 0x0 skbqueue 0 skbprio 0:0", &["1.1.1.1 skbmark 0x0"]),
    ("iphash", "192.0.2.1/32", &["192.0.2.1"]),
];

#[test]
fn elements_are_what_ipset_makes_of_them() {
    for (create, text, expected) in TAKEN {
        let header = header(create);
        let found = elements(&header, text, Purpose::Add).unwrap_or_else(|c| panic!("{create}: {text}: {c:?}"));
        let printed: Vec<String> = found.iter().map(|element| shown(&header, element)).collect();
        assert_eq!(printed, *expected, "{create}: {text}");
        for (element, text) in found.iter().zip(&printed) {
            assert_eq!(verify(&header, element), Ok(()), "{create}: {text}");
            assert_eq!(elements(&header, text, Purpose::Add).as_deref(), Ok(std::slice::from_ref(element)), "{text}");
        }
    }
}

#[test]
fn what_ipset_refuses_is_refused_at_its_place() {
    let cases = [
        ("hash:ip", "::1", "::1", "is an IPv6 address"),
        ("hash:ip", "1.2.3", "1.2.3", "not an IPv4 address"),
        ("hash:ip", "0.0.0.0", "0.0.0.0", "zero address"),
        ("hash:ip", "0.0.0.0/30", "0.0.0.0/30", "zero address"),
        ("hash:ip", "10.0.0.0/7", "10.0.0.0/7", "33554432 elements"),
        ("hash:ip", "1.2.3.4 timeout 3", "timeout", "created without timeout"),
        ("hash:ip", "1.2.3.4 nomatch", "nomatch", "no option `nomatch`"),
        ("hash:ip", "1.2.3.4 packets 3", "packets", "created without counters"),
        ("hash:ip", "1.2.3.4 comment x", "comment", "created without comment"),
        ("hash:ip", "1.2.3.4 skbmark 0x1", "skbmark", "created without skbinfo"),
        ("hash:ip timeout 5", "1.2.3.4 timeot 3", "timeot", "no option `timeot`"),
        ("hash:ip timeout 5", "1.2.3.4 timeout", "timeout", "wants a value"),
        ("hash:ip timeout 5", "1.2.3.4 timeout 2147484", "2147484", "not a time-out"),
        ("hash:ip comment", "1.2.3.4 comment \"a", "\"a", "not closed"),
        ("hash:ip skbinfo", "1.2.3.4 skbmark 10", "10", "not a mark"),
        ("hash:ip skbinfo", "1.2.3.4 skbprio 1", "1", "not a class"),
        ("hash:ip skbinfo", "1.2.3.4 skbqueue 65536", "65536", "not a queue"),
        ("hash:ip family inet6", "fe80::/64", "fe80::/64", "is a network"),
        ("hash:ip family inet6", "fe80::1-fe80::3", "fe80::1-fe80::3", "not an IPv6 address"),
        ("hash:net", "0.0.0.0/0", "0.0.0.0/0", "prefix of length 0"),
        ("hash:net", "0.0.0.0-255.255.255.255", "0.0.0.0-255.255.255.255", "every address"),
        ("hash:net", "10.0.0.0/33", "33", "not a mask"),
        ("hash:net family inet6", "::/0", "::/0", "prefix of length 0"),
        ("hash:ip,port", "1.2.3.4", "1.2.3.4", "not an element of hash:ip,port"),
        ("hash:ip,port", "1.2.3.4,80,1.2.3.4", "1.2.3.4,80,1.2.3.4", "not an element"),
        ("hash:ip,port", "1.2.3.4,tcp:nonsense", "nonsense", "not a port"),
        ("hash:ip,port", "1.2.3.4,tcp:65536", "65536", "not a port"),
        ("hash:ip,port", "1.2.3.4,gre:4", "4", "gre has no ports"),
        ("hash:ip,port", "1.2.3.4,0:0", "0", "protocol 0"),
        ("hash:ip,port", "1.2.3.4,icmpv6:128/0", "icmpv6", "family inet6"),
        ("hash:ip,port", "1.2.3.4,icmp:pong-ping", "pong-ping", "not an ICMP type"),
        ("hash:net,port family inet6", "1::/16,icmp:ping", "icmp", "family inet"),
        ("hash:ip,port,ip", "1.2.3.4,80,5.6.7.0/24", "5.6.7.0/24", "not an IPv4 address"),
        ("hash:net,iface", "1.2.3.4,", "1.2.3.4,", "not an element"),
        ("hash:net,iface", "1.2.3.4,thisnameistoolongforit", "thisnameistoolongforit", "name of an interface"),
        ("hash:net,iface", "1.2.3.4,a\u{1}b", "a\u{1}b", "name of an interface"),
        ("hash:mac", "00:00:00:00:00:00", "00:00:00:00:00:00", "zero MAC"),
        ("hash:ip,mark", "1.2.3.4,0x100000000", "0x100000000", "not a mark"),
        ("bitmap:ip range 10.0.0.0/24", "10.0.1.1", "10.0.1.1", "out of the range"),
        ("bitmap:ip range 10.0.0.0/24", "10.0.0.250-10.0.1.3", "10.0.0.250-10.0.1.3", "out of the range"),
        ("bitmap:port range 0-1000", "990-1001", "990-1001", "out of the range"),
        ("bitmap:ip,mac range 10.0.0.0/24", "10.0.0.0/30,02:02:03:04:05:0a", "10.0.0.0/30", "is a network"),
        ("bitmap:ip,mac range 10.0.0.0/24", "10.0.0.5,zz", "zz", "not a MAC address"),
        ("list:set", "thisnameismuchlongerthanthirtyone", "thisnameismuchlongerthanthirtyone", "cannot be the name"),
    ];
    for (create, text, place, words) in cases {
        let complaint = elements(&header(create), text, Purpose::Add).expect_err(text);
        assert!(complaint.what.contains(words), "{create}: {text}: {complaint:?}");
        assert_eq!(&text[complaint.at.clone()], place, "{create}: {text}: {complaint:?}");
    }
}

#[test]
fn one_element_is_asked_for() {
    let net = header("hash:net");
    assert_eq!(elements(&net, "10.0.0.0/8 nomatch", Purpose::Test).map(|found| found.len()), Ok(1));
    assert!(elements(&net, "10.0.0.0-10.0.0.130", Purpose::Test).is_err());
    assert!(elements(&header("hash:ip,port"), "1.2.3.4,80-81", Purpose::Test).is_err());
    assert!(elements(&net, "10.0.0.0/8 timeout 5", Purpose::Test).is_err());
}

#[test]
fn headers_are_printed_as_ipset_prints_them() {
    let cases = [
        ("hash:ip", "family inet hashsize 1024 maxelem 65536 bucketsize 12"),
        ("hash:ip -6", "family inet6 hashsize 1024 maxelem 65536 bucketsize 12"),
        ("hash:ip hashsize 77 maxelem 3 netmask 24", "family inet hashsize 128 maxelem 3 netmask 24 bucketsize 12"),
        ("hash:ip bitmask 255.0.255.0", "family inet hashsize 1024 maxelem 65536 bitmask 255.0.255.0 bucketsize 12"),
        ("hash:ip netmask 32", "family inet hashsize 1024 maxelem 65536 bucketsize 12"),
        (
            "hash:ip skbinfo comment timeout 5 counters",
            "family inet hashsize 1024 maxelem 65536 timeout 5 counters comment skbinfo bucketsize 12",
        ),
        (
            "hash:ip hashsize 0 bucketsize 3 initval 5",
            "family inet hashsize 64 maxelem 65536 bucketsize 4 initval 0x00000005",
        ),
        (
            "hash:ip,port bitmask 255.0.255.0",
            "family inet hashsize 1024 maxelem 65536 bucketsize 12 bitmask 255.0.255.0",
        ),
        ("hash:ip probes 8 resize 50", "family inet hashsize 1024 maxelem 65536 bucketsize 12"),
        ("bitmap:ip range 10.0.0.0/24", "range 10.0.0.0-10.0.0.255"),
        ("bitmap:ip range 10.0.0.3-10.0.0.20 netmask 30", "range 10.0.0.0-10.0.0.23 netmask 30"),
        ("bitmap:ip range 10.0.0.0/8 netmask 24 timeout 5", "range 10.0.0.0-10.255.255.255 netmask 24 timeout 5"),
        ("bitmap:port range tcp:http-100", "range 80-100"),
        ("list:set size 2 counters", "size 4 counters"),
    ];
    for (create, printed) in cases {
        let header = header(create);
        assert_eq!(print::header(&header), printed, "{create}");
        assert_eq!(header.verify(), Ok(()), "{create}");
    }
}

#[test]
fn headers_that_cannot_be_are_refused() {
    let cases = [
        ("foo:ip", "not a type"),
        ("hash:ip frob", "no option `frob`"),
        ("hash:ip timeout", "wants a value"),
        ("hash:ip family ip", "not a family"),
        ("hash:ip netmask 0", "not a length"),
        ("hash:ip netmask 33", "not a length"),
        ("hash:ip netmask 24 netmask 25", "given twice"),
        ("hash:ip netmask 24 bitmask 255.0.0.0", "cannot stand together"),
        ("hash:ip bitmask 0.0.0.0", "without a bit"),
        ("hash:ip maxelem 4294967296", "not a number of elements"),
        ("hash:ip markmask 3", "no option `markmask`"),
        ("hash:ip,port,ip netmask 24", "no option `netmask`"),
        ("hash:net wildcard", "no option `wildcard`"),
        ("bitmap:ip", "needs a range"),
        ("bitmap:ip range 10.0.0.1", "not a range"),
        ("bitmap:ip range 10.0.0.0/8", "16777216 elements"),
        ("bitmap:ip range 10.0.0.0/24 family inet", "no option `family`"),
        ("bitmap:port range 100", "not a range"),
    ];
    for (create, expected) in cases {
        let name = Word { text: "x".to_string(), at: 0..0 };
        let complaints = save::create(&name, &words(create, 0).unwrap()).expect_err(create);
        assert!(complaints.iter().any(|c| c.what.contains(expected)), "{create}: {complaints:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_the_reader_panic(kind in 0..16usize, text in "[-0-9a-f.:,/\\[\\] \"tcpudicmng]{0,40}") {
        let mut header = Header::new("x", Kind::ALL[kind].1);
        header.range = (0, 65_535);
        header.timeout = Some(1);
        if let Ok(words) = words(&text, 0) {
            for purpose in [Purpose::Add, Purpose::Delete, Purpose::Test] {
                let mut found = Vec::new();
                if read(&header, &words, purpose, &mut |element| found.push(element)).is_ok() {
                    for element in found.iter().take(3) {
                        prop_assert_eq!(verify(&header, element), Ok(()), "{}: {:?}", text, element);
                    }
                }
            }
        }
        let _ = save::sets(&format!("create x {}\nadd x {text}\n", header.kind.name()));
    }

    #[test]
    fn forged_elements_are_refused_or_harmless(kind in 0..15usize, a: u128, b: u128, rest: u64, v6: bool) {
        let mut header = Header::new("x", Kind::ALL[kind].1);
        header.range = (0, 65_535);
        if header.family.is_some() && v6 {
            header.family = Some(Family::V6);
        }
        let element = Element { key: Key { a, b, rest }, ..Element::default() };
        if verify(&header, &element).is_ok() && header.verify().is_ok() {
            // What passes is what its own text reads as.
            let text = shown(&header, &element);
            prop_assert_eq!(elements(&header, &text, Purpose::Add), Ok(vec![element]), "{}", text);
        }
    }
}
