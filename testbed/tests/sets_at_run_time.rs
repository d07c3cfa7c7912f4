//! `sumun set` on a running router: what it changes holds for the next packet, and what it prints is what ipset prints.

use anyhow::{Context, Result, ensure};
use std::net::UdpSocket;
use std::time::Duration;
use sumun_testbed::router::{INTERFACES, head, wait};
use sumun_testbed::{Lab, Router, talk};

/// Who is in `bad` does not get through; who gets through is in `seen` after that.
const RULES: &str = r#"
[ipv4.filter.FORWARD]
rules = [
    "-m set --match-set bad src -j DROP",
    "-i lan0 -j SET --add-set seen src",
]
"#;

const BAD: &str = "[sets.bad]\ntype = \"hash:net\"\ntimeout = 600\ncounters = true\n";

const SEEN: &str = "[sets.seen]\ntype = \"hash:ip\"\ntimeout = 600\ncounters = true\n";

fn start(lab: &Lab) -> Result<Router<'_>> {
    Router::start(lab, &format!("{BAD}{SEEN}{RULES}"))
}

/// client1's datagrams to the server, which sends each back.
struct Asking {
    socket: UdpSocket,
    asked: u32,
}

impl Asking {
    fn new(lab: &Lab) -> Result<Asking> {
        drop(talk::udp_echo(&lab.server, "203.0.113.1:7", usize::MAX)?);
        Ok(Asking { socket: talk::udp_connect(&lab.client1, "0.0.0.0:5000", "203.0.113.1:7")?, asked: 0 })
    }

    fn ask(&mut self, patience: u64) -> Result<()> {
        self.asked += 1;
        self.socket.set_read_timeout(Some(Duration::from_millis(patience)))?;
        talk::udp_ask(&self.socket, &self.asked.to_be_bytes())
    }

    /// One datagram that must come back.
    fn passes(&mut self) -> Result<()> {
        self.ask(3000).context("a datagram does not come back")
    }

    /// One datagram that must not.
    fn is_stopped(&mut self) -> Result<()> {
        ensure!(self.ask(200).is_err(), "a datagram came back");
        Ok(())
    }
}

fn words(args: &str) -> Vec<&str> {
    ["set"].into_iter().chain(args.split(' ')).collect()
}

/// `sumun set ARGS`, split at blanks, which has to succeed; what it prints.
fn set(router: &Router, args: &str) -> Result<String> {
    router.ask(&words(args))
}

/// The same with whatever end: its exit status, and what it prints and complains of.
fn attempt(router: &Router, args: &str) -> Result<(Option<i32>, String)> {
    let output = router.sumun(&words(args))?;
    Ok((output.status.code(), String::from_utf8([output.stdout, output.stderr].concat())?))
}

/// Whether an element is in a set, by the exit status of `test`.
fn has(router: &Router, set: &str, element: &str) -> Result<bool> {
    match attempt(router, &format!("test {set} {element}"))? {
        (Some(0), text) if text == format!("{element} is in set {set}.\n") => Ok(true),
        (Some(1), text) if text == format!("{element} is NOT in set {set}.\n") => Ok(false),
        (status, text) => anyhow::bail!("{status:?}: {text}"),
    }
}

/// The last line of a listing, without the seconds that are left.
fn last(listing: &str) -> String {
    let line = listing.lines().last().unwrap_or_default();
    match line.split_once(" timeout ") {
        Some((start, rest)) => start.to_string() + rest.trim_start_matches(|c: char| c.is_ascii_digit()),
        None => line.to_string(),
    }
}

#[test]
fn packets_meet_what_was_added_and_deleted_at_once() -> Result<()> {
    let lab = Lab::new(1)?;
    let router = start(&lab)?;
    let mut client = Asking::new(&lab)?;
    client.passes()?;
    assert!(has(&router, "seen", "192.168.1.11")?);
    assert!(!has(&router, "seen", "192.168.1.12")?);

    set(&router, "add bad 192.168.1.0/28 timeout 100")?;
    client.is_stopped()?;
    client.is_stopped()?;
    let bytes = 2 * (20 + 8 + 4);
    assert_eq!(last(&set(&router, "list bad")?), format!("192.168.1.0/28 packets 2 bytes {bytes}"));
    assert!(has(&router, "bad", "192.168.1.7")?, "an address of the network");
    set(&router, "add bad 192.168.1.11 nomatch")?;
    client.passes()?;
    set(&router, "del bad 192.168.1.11")?;
    client.is_stopped()?;
    set(&router, "del bad 192.168.1.0/28")?;
    client.passes()?;

    set(&router, "flush seen")?;
    assert!(!has(&router, "seen", "192.168.1.11")?);
    client.passes()?;
    assert!(has(&router, "seen", "192.168.1.11")?);

    set(&router, "add bad 192.168.1.11 timeout 2")?;
    client.is_stopped()?;
    wait("the end of its time", || Ok(!has(&router, "bad", "192.168.1.11")?))?;
    client.passes()?;
    assert_eq!(last(&set(&router, "list bad")?), "Members:");
    assert_eq!(router.status()?["generation"], 1, "none of this is another ruleset");
    Ok(())
}

#[test]
fn sets_are_listed_in_all_formats_and_come_back_from_what_was_saved() -> Result<()> {
    let lab = Lab::new(1)?;
    let router = start(&lab)?;
    let mut client = Asking::new(&lab)?;
    for command in [
        "create web bitmap:port range 0-1023 comment",
        "add web 80 comment web",
        "add web 443",
        "create all list:set",
        "add all bad",
        "add bad 198.51.100.0-198.51.100.2 timeout 0",
        "add bad 192.168.1.11 timeout 0 packets 5 bytes 70",
    ] {
        set(&router, command)?;
    }
    assert_eq!(set(&router, "list -n")?, "bad\nseen\nweb\nall\n");
    let listed = set(&router, "list bad --sorted")?;
    let head = "Name: bad\nType: hash:net\nRevision: 7\n\
        Header: family inet hashsize 1024 maxelem 65536 timeout 600 counters bucketsize 12\nSize in memory: ";
    assert!(listed.starts_with(head), "{listed}");
    let (_, members) = listed.split_once("References: ").context("no references")?;
    let expected = "2\nNumber of entries: 3\nMembers:\n192.168.1.11 timeout 0 packets 5 bytes 70\n\
        198.51.100.0/31 timeout 0 packets 0 bytes 0\n198.51.100.2 timeout 0 packets 0 bytes 0\n";
    assert_eq!(members, expected, "a rule and a list know it");
    assert!(set(&router, "list bad -t")?.ends_with("Number of entries: 3\n"));
    let xml = set(&router, "list web -o xml")?;
    assert!(xml.contains("<member><elem>80</elem><comment>web</comment></member>"), "{xml}");
    let json: serde_json::Value = serde_json::from_str(&set(&router, "list bad -o json -s")?)?;
    assert_eq!((&json[0]["entries"], &json[0]["members"][0]["packets"]), (&3.into(), &5.into()), "{json}");
    assert_eq!((&json[0]["declared"], &json[0]["header"]["timeout"]), (&true.into(), &600.into()), "{json}");

    let saved = set(&router, "save -s")?;
    assert_eq!(saved, set(&router, "list -s -o save")?);
    let expected = "create bad hash:net family inet hashsize 1024 maxelem 65536 timeout 600 counters bucketsize 12\n\
        add bad 192.168.1.11 timeout 0 packets 5 bytes 70\n\
        add bad 198.51.100.0/31 timeout 0 packets 0 bytes 0\nadd bad 198.51.100.2 timeout 0 packets 0 bytes 0\n\
        create seen hash:ip family inet hashsize 1024 maxelem 65536 timeout 600 counters bucketsize 12\n\
        create web bitmap:port range 0-1023 comment\nadd web 80 comment \"web\"\nadd web 443\n\
        create all list:set size 8\nadd all bad\n";
    assert_eq!(saved, expected);

    for command in ["flush", "destroy all", "destroy web"] {
        set(&router, command)?;
    }
    client.passes()?;
    set(&router, "flush seen")?;
    let file = lab.path("saved.ipset");
    std::fs::write(&file, &saved)?;
    let file = file.display();
    let (status, text) = attempt(&router, &format!("restore {file}"))?;
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("the set bad cannot be created: one with this name is there"), "{text}");
    set(&router, &format!("restore --exist {file}"))?;
    assert_eq!(set(&router, "save -s")?, saved);
    client.is_stopped()?;
    Ok(())
}

#[test]
fn a_file_with_a_mistake_changes_nothing() -> Result<()> {
    let lab = Lab::new(1)?;
    let router = start(&lab)?;
    let file = lab.path("wrong.ipset");
    std::fs::write(&file, "add bad 192.0.2.1\nadd bad 192.0.2\nadd worse 192.0.2.1\n")?;
    let (status, text) = attempt(&router, &format!("restore {}", file.display()))?;
    assert_eq!(status, Some(2), "{text}");
    assert!(text.contains("wrong.ipset:2:9") && text.contains("wrong.ipset:3:5"), "{text}");
    assert!(!has(&router, "bad", "192.0.2.1")?);
    Ok(())
}

#[test]
fn a_created_set_takes_the_place_of_one_that_rules_know() -> Result<()> {
    let lab = Lab::new(1)?;
    let router = start(&lab)?;
    let mut client = Asking::new(&lab)?;
    set(&router, "create new hash:net timeout 600 counters")?;
    set(&router, "add new 192.168.0.0/16")?;
    client.passes()?;
    set(&router, "swap new bad")?;
    client.is_stopped()?;
    assert!(!has(&router, "new", "192.168.1.11")?);
    set(&router, "rename new old")?;
    set(&router, "swap bad old")?;
    client.passes()?;
    set(&router, "destroy old")?;
    assert_eq!(set(&router, "list -n")?, "bad\nseen\n");
    Ok(())
}

#[test]
fn elements_stay_as_long_as_the_section_does() -> Result<()> {
    let lab = Lab::new(1)?;
    let router = start(&lab)?;
    let mut client = Asking::new(&lab)?;
    set(&router, "add bad 192.168.1.11")?;
    set(&router, "create own hash:ip")?;
    let apply = |bad: &str, rules: &str| {
        let file = lab.path("next.toml");
        std::fs::write(&file, format!("{}{INTERFACES}{bad}{SEEN}{rules}", head(&lab, "1")))?;
        router.ask(&["apply", &file.display().to_string()])
    };
    apply(BAD, &RULES.replace("rules = [", "rules = [\n    \"-m set --match-set bad dst -j DROP\","))?;
    client.is_stopped()?;
    assert!(set(&router, "list bad")?.contains("\nReferences: 2\n"));

    apply(&format!("{BAD}elements = [\"192.0.2.0/24 timeout 0\"]\n"), RULES)?;
    client.passes()?;
    let listed = set(&router, "list bad")?;
    assert!(listed.ends_with("Members:\n192.0.2.0/24 timeout 0 packets 0 bytes 0\n"), "{listed}");
    assert!(listed.contains("\nReferences: 1\n"), "{listed}");

    apply("", &RULES.replace("\"-m set --match-set bad src -j DROP\",", ""))?;
    client.passes()?;
    assert_eq!(set(&router, "list -n")?, "own\nseen\n", "what was created stays until it is destroyed");
    assert_eq!(router.status()?["generation"], 4);
    Ok(())
}

/// Commands that cannot be, their exit status, and what is said of them.
const MISTAKES: [(&str, i32, &str); 18] = [
    ("add worse 192.0.2.1", 1, "the set worse does not exist"),
    ("del worse 192.0.2.1", 1, "the set worse does not exist"),
    ("test worse 192.0.2.1", 1, "the set worse does not exist"),
    ("list worse", 1, "the set worse does not exist"),
    ("flush worse", 1, "the set worse does not exist"),
    ("swap bad worse", 1, "the set worse does not exist"),
    ("add bad 192.0.2", 2, "`192.0.2`"),
    ("add bad fe80::1", 2, "`fe80::1`"),
    ("add bad 192.0.2.1,80", 2, "`192.0.2.1,80`"),
    ("add bad 192.0.2.1 timeout soon", 2, "`soon`"),
    ("add bad 192.0.2.1 comment x", 2, "comment"),
    ("del bad 192.0.2.1", 1, "not"),
    ("destroy bad", 1, "the set bad is declared in the configuration"),
    ("destroy member", 1, "the set member cannot be destroyed: it is in use"),
    ("create bad hash:ip", 1, "the set bad cannot be created: one with this name is there"),
    ("create other hash:nett", 2, "hash:nett"),
    ("swap bad seen", 1, "their type does not match"),
    ("rename bad other", 1, "cannot be renamed"),
];

#[test]
fn what_cannot_be_is_told_with_its_reason() -> Result<()> {
    let lab = Lab::new(1)?;
    let router = start(&lab)?;
    for command in ["create member hash:ip", "create list list:set", "add list member"] {
        set(&router, command)?;
    }
    let before = set(&router, "save")?;
    for (command, status, says) in MISTAKES {
        let (ended, text) = attempt(&router, command)?;
        assert_eq!(ended, Some(status), "{command}: {text}");
        assert!(text.contains(says), "{command}: {text}");
    }
    assert_eq!(set(&router, "save")?, before);
    set(&router, "add bad 192.0.2.1")?;
    assert_eq!(attempt(&router, "add bad 192.0.2.1")?.0, Some(1));
    for command in ["add -! bad 192.0.2.1", "del bad 192.0.2.1", "del --exist bad 192.0.2.1"] {
        set(&router, command)?;
    }
    Ok(())
}
