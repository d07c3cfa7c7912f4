//! The command line: exit statuses, what is printed, and what is said when something is not there.

use crate::bench::{self, Place, arg, eventually};
use std::fs;
use std::io::{BufRead, BufReader, Read};

const PORTS: &[&str] = &["lan0", "wan0"];
const BAD: &str = "[interfaces.lan0]\nadresses = [\"10.0.0.1/24\"]\nring = 3\n";

/// Control and dataplane that run the configuration of TTL 61.
fn both() -> (Place, bench::Dataplane, bench::Control) {
    let place = Place::new();
    place.write(61);
    let dataplane = place.dataplane(PORTS);
    let control = place.running_control();
    eventually("published at start", || dataplane.memory.ttl() == Some(61));
    (place, dataplane, control)
}

#[test]
fn check_needs_no_daemon_and_shows_all_mistakes() {
    let place = Place::new();
    place.write(61);
    let fine = place.sumun(&["check", arg(&place.config())]);
    assert_eq!((fine.code, fine.err.as_str()), (Some(0), ""));
    assert!(fine.out.contains("router.toml: no mistakes; 2 interfaces, 0 routes"), "{fine:?}");
    place.replace(BAD);
    let bad = place.sumun(&["check", arg(&place.config())]);
    assert_eq!((bad.code, bad.out.as_str()), (Some(2), ""));
    for part in ["router.toml:2:1", "router.toml:3:8", "addresses"] {
        assert!(bad.err.contains(part), "{part} is not in\n{}", bad.err);
    }
}

#[test]
fn shells_get_completions_of_all_commands() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let text = place.sumun(&["completions", shell]);
        assert_eq!((text.code, text.err.as_str()), (Some(0), ""), "{shell}");
        for word in ["conntrack", "simulate", "completions", "run-dir"] {
            assert!(text.out.contains(word), "{word} is not in what {shell} gets");
        }
    }
    // The shell itself takes them, and then completes the beginning of a command.
    let script = place.path("sumun.bash");
    fs::write(&script, place.sumun(&["completions", "bash"]).out).unwrap();
    let ask =
        "source \"$0\"; COMP_WORDS=(sumun neigh); COMP_CWORD=1; _sumun sumun neigh sumun; echo \"${COMPREPLY[*]}\"";
    let bash = std::process::Command::new("bash").args(["--norc", "-c", ask, arg(&script)]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&bash.stdout).trim(), "neighbours", "{bash:?}");
    assert_eq!(place.sumun(&["completions", "tcsh"]).code, Some(2));
}

#[test]
fn every_command_has_a_manual_page() {
    let place = Place::new();
    let pages = place.path("man/man8");
    let written = place.sumun(&["man", arg(&pages)]);
    assert_eq!((written.code, written.out.as_str(), written.err.as_str()), (Some(0), "", ""));
    let page = |name: &str| fs::read_to_string(pages.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert!(page("sumun.8").contains("sumun\\-doctor(8)"), "{}", page("sumun.8"));
    assert!(page("sumun-doctor.8").contains(".TH sumun-doctor 8"), "{}", page("sumun-doctor.8"));
    assert!(page("sumun-set-add.8").contains("SYNOPSIS"));
    let help = place.sumun(&["--help"]);
    let commands = help.out.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names: Vec<&str> = commands
        .filter(|l| l.starts_with("  ") && !l.starts_with("   "))
        .filter_map(|l| l.split_whitespace().next())
        .collect();
    assert!(names.len() > 20, "{names:?}");
    for name in names.into_iter().filter(|name| *name != "help") {
        page(&format!("sumun-{name}.8"));
    }
    let nowhere = place.sumun(&["man", "/proc/nowhere"]);
    assert_eq!(nowhere.code, Some(1));
    assert!(nowhere.err.contains("/proc/nowhere"), "{}", nowhere.err);
}

#[test]
fn the_reference_is_what_the_program_writes() {
    let page = Place::new().sumun(&["reference"]);
    assert_eq!((page.code, page.err.as_str()), (Some(0), ""));
    let written = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../config/REFERENCE.md")).unwrap();
    assert!(page.out == written, "renew it: cargo run --bin sumun -- reference > config/REFERENCE.md");
}

#[test]
fn the_reference_of_a_name_is_a_part_of_it_and_unknown_names_are_told() {
    let place = Place::new();
    let entry = place.sumun(&["reference", "reject"]);
    assert!(entry.code == Some(0) && entry.out.starts_with("### REJECT (IPv4)\n"), "{entry:?}");
    let unknown = place.sumun(&["reference", "nonesuch"]);
    assert_eq!((unknown.code, unknown.out.as_str()), (Some(1), ""));
    assert!(unknown.err.contains("no match or target nonesuch; there are ACCEPT, "), "{unknown:?}");
}

#[test]
fn check_of_a_missing_file_or_of_no_text_is_told() {
    let place = Place::new();
    let missing = place.sumun(&["check", "/nowhere/router.toml"]);
    assert_eq!(missing.code, Some(1));
    assert!(missing.err.contains("cannot read /nowhere/router.toml"), "{missing:?}");
    fs::write(place.config(), b"a = \"\xff\"").unwrap();
    assert_eq!(place.sumun(&["check", arg(&place.config())]).code, Some(2));
}

#[test]
fn apply_runs_another_file_until_the_watched_one_changes() {
    let (place, dataplane, _control) = both();
    let other = place.path("other.toml");
    fs::write(&other, place.text(PORTS, 99)).unwrap();
    let ran = place.sumun(&["apply", arg(&other)]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(dataplane.memory.ttl(), Some(99));
    assert!(ran.out.contains("generation 2 runs"), "{ran:?}");
    assert!(ran.out.contains("router.toml changes"), "{ran:?}");
    place.write(62);
    eventually("the watched file takes over", || dataplane.memory.ttl() == Some(62));
}

#[test]
fn text_of_iptables_becomes_toml_or_nothing_and_all_its_mistakes() {
    let place = Place::new();
    let rules = place.path("rules.v4");
    fs::write(&rules, "iptables -A INPUT -i tun0 -j ACCEPT\nip6tables -P FORWARD DROP\n").unwrap();
    let toml = "[foreign]\ninterfaces = [\"tun0\"]\n\n[ipv4.filter.INPUT]\nrules = [\n  \"-i tun0 -j ACCEPT\",\n]\n\n\
        [ipv6.filter.FORWARD]\npolicy = \"DROP\"\n";
    let fine = place.sumun(&["import", "iptables", arg(&rules)]);
    assert_eq!((fine.code, fine.out.as_str(), fine.err.as_str()), (Some(0), toml, ""));
    fs::write(&rules, "iptables -A INPUT -i $LAN -j ACCEPT\niptables -A INPUT -j ACEPT\n").unwrap();
    let bad = place.sumun(&["import", "iptables", arg(&rules)]);
    assert_eq!((bad.code, bad.out.as_str()), (Some(2), ""));
    for part in ["rules.v4:1:22", "$LAN", "rules.v4:2:22", "ACCEPT"] {
        assert!(bad.err.contains(part), "{part} is not in\n{}", bad.err);
    }
}

#[test]
fn apply_of_the_watched_file_says_nothing_of_an_end() {
    let (place, _dataplane, _control) = both();
    let ran = place.sumun(&["apply", arg(&place.config())]);
    assert_eq!((ran.code, ran.out.lines().count()), (Some(0), 1), "{ran:?}");
}

#[test]
fn applied_policy_comes_back_after_a_restart_of_the_dataplane() {
    let (place, dataplane, control) = both();
    let other = place.path("other.toml");
    fs::write(&other, place.text(PORTS, 99)).unwrap();
    place.sumun(&["apply", arg(&other)]);
    drop(dataplane);
    control.logs("waiting for it");
    let dataplane = place.dataplane(PORTS);
    eventually("published again", || dataplane.memory.ttl() == Some(99));
}

#[test]
fn apply_fails_with_the_status_of_its_cause() {
    let (place, dataplane, _control) = both();
    let other = place.path("other.toml");
    fs::write(&other, BAD).unwrap();
    assert_eq!(place.sumun(&["apply", arg(&other)]).code, Some(2));
    fs::write(&other, place.text(&["lan0"], 99)).unwrap();
    let ran = place.sumun(&["apply", arg(&other)]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("not applied: needs a restart of sumun-dataplane: interfaces changed"), "{ran:?}");
    dataplane.memory.refuse("for no reason");
    fs::write(&other, place.text(PORTS, 99)).unwrap();
    let ran = place.sumun(&["apply", arg(&other)]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("refuses it: for no reason"), "{ran:?}");
    assert_eq!(dataplane.memory.ttl(), Some(61), "nothing was changed");
}

#[test]
fn standard_input_cannot_be_the_rules_of_both_families() {
    let ran = Place::new().sumun(&["apply", "--iptables", "-", "--ip6tables", "-"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("standard input cannot be the rules of both families"), "{ran:?}");
}

#[test]
fn without_control_every_question_says_how_to_start_it() {
    let place = Place::new();
    place.write(61);
    let socket = place.run_dir().join("control.sock");
    let says = format!("sumun control is not running (no socket at {})", socket.display());
    for question in
        [&["status"][..], &["conntrack"], &["drops"], &["zero"], &["neighbours"], &["apply", arg(&place.config())]]
    {
        let ran = place.sumun(question);
        assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""), "{question:?}");
        assert!(ran.err.contains(&says) && ran.err.contains("start it with `sumun control"), "{ran:?}");
    }
}

#[test]
fn without_the_dataplane_control_still_answers() {
    let place = Place::new();
    place.write(61);
    let _control = place.running_control();
    let says = "sumun-dataplane is not running (no socket at";
    let status = place.sumun(&["status"]);
    assert_eq!(status.code, Some(1));
    assert!(status.out.contains("control     running") && status.out.contains(says), "{status:?}");
    let json: serde_json::Value = serde_json::from_str(&place.sumun(&["status", "--json"]).out).unwrap();
    assert_eq!(json["dataplane"]["running"], false);
    for question in [&["rules"][..], &["conntrack"], &["drops"], &["zero"], &["apply", arg(&place.config())]] {
        let ran = place.sumun(question);
        assert_eq!(ran.code, Some(1), "{question:?}");
        assert!(ran.err.contains(says), "{ran:?}");
    }
}

#[test]
fn status_tells_of_both_processes() {
    let (place, _dataplane, _control) = both();
    let status = place.sumun(&["status"]);
    assert_eq!(status.code, Some(0));
    assert!(status.out.contains("generation 1, 0 rules") && status.out.contains("wan0"), "{status:?}");
    let json: serde_json::Value = serde_json::from_str(&place.sumun(&["status", "--json"]).out).unwrap();
    assert_eq!(json["dataplane"]["generation"], 1);
    assert_eq!(json["control"]["running"], arg(&place.config()));
}

#[test]
fn drops_are_told_with_their_reason() {
    let (place, _dataplane, _control) = both();
    let drops = place.sumun(&["drops"]);
    assert_eq!((drops.code, drops.out.lines().count()), (Some(0), 2), "{drops:?}");
    assert!(drops.out.contains("policy-drop"), "{drops:?}");
    assert!(place.sumun(&["drops", "--all"]).out.contains("tx-ring"));
}

#[test]
fn flows_are_listed_and_filtered() {
    let (place, _dataplane, _control) = both();
    let first = |args: &[&str]| place.sumun(args).out.split_whitespace().nth(3).unwrap_or_default().to_string();
    assert_eq!(place.sumun(&["conntrack"]).out.lines().count(), 2);
    let listed = place.sumun(&["conntrack", "list", "-o", "extended,id", "-6"]);
    assert!(listed.out.starts_with("ipv6     10 udp      17 30 src=fd00::2"), "{listed:?}");
    assert!(listed.out.ends_with("use=1 id=2\n"), "{listed:?}");
    assert_eq!(listed.err, "1 flow entries have been shown.\n");
    assert_eq!(first(&["conntrack", "-4"]), "src=10.0.0.2");
    assert_eq!(first(&["conntrack", "-6"]), "src=fd00::2");
    assert_eq!(first(&["conntrack", "--source", "fd00::2"]), "src=fd00::2");
    assert_eq!(place.sumun(&["conntrack", "--proto", "tcp"]).out, "");
    assert_eq!(place.sumun(&["conntrack", "--proto", "tpc"]).code, Some(2));
    let json: serde_json::Value = serde_json::from_str(&place.sumun(&["conntrack", "-4", "--json"]).out).unwrap();
    assert_eq!(json["original"]["dport"], 53);
}

#[test]
fn one_flow_is_got_whole_or_there_is_none() {
    let (place, _dataplane, _control) = both();
    let got = place
        .sumun(&"conntrack get -p udp -s 10.0.0.2 -d 10.0.1.2 --sport 1000 --dport 53".split(' ').collect::<Vec<_>>());
    let line = "udp      17 30 src=10.0.0.2 dst=10.0.1.2 sport=1000 dport=53 [UNREPLIED] src=10.0.1.2 dst=10.0.0.2 \
                sport=53 dport=1000 mark=0 use=1\n";
    assert_eq!((got.code, got.out.as_str(), got.err.as_str()), (Some(0), line, ""));
    let none = place
        .sumun(&"conntrack get -p tcp -s 10.0.0.2 -d 10.0.1.2 --sport 1000 --dport 53".split(' ').collect::<Vec<_>>());
    assert_eq!((none.code, none.out.as_str(), none.err.as_str()), (Some(1), "", "sumun: there is no such flow\n"));
    let marked = "conntrack get -p udp -s 10.0.0.2 -d 10.0.1.2 --sport 1000 --dport 53 -m 5";
    assert_eq!(place.sumun(&marked.split(' ').collect::<Vec<_>>()).code, Some(1), "every condition holds");
    let half = place.sumun(&["conntrack", "get", "-p", "udp", "-s", "10.0.0.2"]);
    assert_eq!(half.code, Some(2));
    assert!(half.err.contains("--dst is missing"), "{half:?}");
}

#[test]
fn flows_are_deleted_and_told_and_never_all_by_mistake() {
    let (place, _dataplane, _control) = both();
    let all = place.sumun(&["conntrack", "delete"]);
    assert_eq!((all.code, all.out.as_str()), (Some(2), ""));
    assert!(all.err.contains("`flush` deletes all"), "{all:?}");
    assert_eq!(place.sumun(&["conntrack", "count"]).out, "2\n");
    let ran = place.sumun(&["conntrack", "delete", "-s", "10.0.0.0/24"]);
    assert_eq!((ran.code, ran.out.lines().count()), (Some(0), 1), "{ran:?}");
    assert_eq!(ran.err, "1 flow entries have been deleted.\n");
    let again = place.sumun(&["conntrack", "delete", "-s", "10.0.0.0/24"]);
    assert_eq!((again.code, again.err.as_str()), (Some(1), "0 flow entries have been deleted.\n"));
    assert_eq!(place.sumun(&["conntrack", "count", "-p", "udp"]).out, "1\n");
    let flushed = place.sumun(&["conntrack", "flush"]);
    assert_eq!((flushed.code, flushed.err.as_str()), (Some(0), "connection tracking table has been emptied.\n"));
    assert_eq!(place.sumun(&["conntrack", "count"]).out, "0\n");
}

#[test]
fn events_are_told_as_they_happen_until_the_dataplane_ends() {
    let (place, dataplane, _control) = both();
    let line = "    [NEW] udp      17 30 src=10.0.0.2 dst=10.0.1.2 sport=1000 dport=53 [UNREPLIED] src=10.0.1.2 dst=10.0.0.2 \
                sport=53 dport=1000\n";
    let mut listener = place.start(&["conntrack", "events", "-o", "timestamp", "-e", "NEW,DESTROY"]);
    eventually("somebody listens", || dataplane.memory.listened() == 5);
    dataplane.memory.tell();
    let (mut out, mut err) = (BufReader::new(listener.stdout.take().unwrap()), listener.stderr.take().unwrap());
    let mut first = String::new();
    out.read_line(&mut first).unwrap();
    assert_eq!(first, format!("[5       .0     ]\t{line}"));
    let other = place.start(&["conntrack", "events", "-p", "tcp"]);
    eventually("both listen", || dataplane.memory.listened() == 7);
    drop(dataplane);
    let mut says = String::new();
    err.read_to_string(&mut says).unwrap();
    assert_eq!(says, "3 events were lost: more happened than could be told\nsumun: sumun-dataplane has ended\n");
    assert_eq!(listener.wait().unwrap().code(), Some(1));
    assert_eq!(other.wait_with_output().unwrap().stdout, b"");
    let wrong = place.sumun(&["conntrack", "events", "-e", "OLD"]);
    assert!(wrong.err.contains("events are ALL, NEW, UPDATES, DESTROY"), "{wrong:?}");
}

#[test]
fn expected_flows_are_listed() {
    let (place, _dataplane, _control) = both();
    let ran = place.sumun(&["conntrack", "expect"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "29 proto=17 src=10.0.1.2 dst=10.0.0.2\n"));
    assert_eq!(ran.err, "1 expectations have been shown.\n");
    let json: serde_json::Value = serde_json::from_str(&place.sumun(&["conntrack", "expect", "--json"]).out).unwrap();
    assert_eq!((&json["helper"], &json["tuple"]["dport"]), (&"tftp".into(), &1000.into()));
}

#[test]
fn conntrack_statistics_are_for_people_and_programs() {
    let (place, _dataplane, _control) = both();
    let ran = place.sumun(&["conntrack", "stats"]);
    assert!(ran.out.starts_with("cpu=0   \tfound=1 invalid=2 \n"), "{ran:?}");
    assert!(ran.out.contains("Its checksum is wrong."), "{ran:?}");
    let json: serde_json::Value = serde_json::from_str(&place.sumun(&["conntrack", "stats", "--json"]).out).unwrap();
    assert_eq!((&json["workers"][0]["found"], &json["invalid"]["checksum"]), (&1.into(), &2.into()));
}

#[test]
fn rules_are_printed_with_their_counters() {
    let (place, dataplane, _control) = both();
    let rules = "[filter.FORWARD]\npolicy = \"DROP\"\nrules = [\"-i lan0 -o wan0 -j ACCEPT\"]\n";
    place.replace(&(place.text(PORTS, 62) + rules));
    eventually("published", || dataplane.memory.ttl() == Some(62));
    let ran = place.sumun(&["rules", "--counters", "--table", "filter", "-4"]);
    let expected = "# generation 2\n# IPv4\n*filter\n:INPUT ACCEPT [1:100]\n:FORWARD DROP [7:700]\n:OUTPUT ACCEPT [0:0]\n\
                    [14:1400] -A FORWARD -i lan0 -o wan0 -j ACCEPT\nCOMMIT\n";
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), expected));
    assert_eq!(place.sumun(&["rules"]).out.matches("-A FORWARD -i lan0 -o wan0 -j ACCEPT").count(), 2);
    let json: serde_json::Value = serde_json::from_str(&place.sumun(&["rules", "--json", "-6"]).out).unwrap();
    assert_eq!(json["generation"], 2);
    assert!(place.sumun(&["status"]).out.contains("generation 2, 2 rules"));
}

#[test]
fn neighbours_are_listed() {
    let (place, _dataplane, _control) = both();
    let ran = place.sumun(&["neighbours"]);
    assert_eq!(ran.out, "10.0.0.2 dev lan0 lladdr 02:00:00:00:00:01 REACHABLE\n");
}

#[test]
fn lists_of_recent_and_tables_of_hashlimit_are_asked_by_name() {
    let (place, _dataplane, _control) = both();
    let asked = |args: &[&str]| {
        let ran = place.sumun(args);
        assert_eq!(ran.code, Some(0), "{args:?}: {}", ran.err);
        ran.out.trim_end().to_string()
    };
    let names = "list of recent ssh\nipv6 table of hashlimit flood";
    assert_eq!(asked(&["recent", "list"]), names);
    assert_eq!(asked(&["hashlimit", "list"]), names);
    let of = |what: &str| format!("Recent {{ name: \"ssh\", what: {what} }}");
    assert_eq!(asked(&["recent", "list", "ssh"]), of("List"));
    assert_eq!(asked(&["recent", "add", "ssh", "10.0.0.1"]), of("Add(10.0.0.1)"));
    assert_eq!(asked(&["recent", "remove", "ssh", "2001:db8::1"]), of("Remove(2001:db8::1)"));
    assert_eq!(asked(&["recent", "flush", "ssh"]), of("Flush"));
    assert_eq!(asked(&["hashlimit", "list", "flood"]), "Hashlimit { name: \"flood\", family: V4 }");
    assert_eq!(asked(&["hashlimit", "list", "flood", "-6"]), "Hashlimit { name: \"flood\", family: V6 }");
    let ran = place.sumun(&["recent", "flush", "web"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""));
    assert!(ran.err.contains("no rule has `web`"), "{}", ran.err);
    assert_eq!(place.sumun(&["recent", "add", "ssh", "10.0.0"]).code, Some(2));
}

#[test]
fn zero_reaches_the_counters() {
    let (place, dataplane, _control) = both();
    assert_eq!(place.sumun(&["zero"]).code, Some(0));
    assert_eq!(dataplane.memory.zeroed(), 1);
}

#[test]
fn wrong_command_line_has_status_2() {
    let place = Place::new();
    for args in [&["frobnicate"][..], &["check"], &["rules", "-4", "-6"], &["rules", "--table", "fliter"]] {
        assert_eq!(place.sumun(args).code, Some(2), "{args:?}");
    }
}

#[test]
fn packets_of_nflog_are_lines_json_or_a_capture_with_comments() {
    let (place, dataplane, _control) = both();
    let file = place.path("out.pcapng");
    let args: [&[&str]; 3] =
        [&["nflog"], &["nflog", "--group", "6", "--json"], &["nflog", "-w", file.to_str().unwrap()]];
    for (number, args) in args.iter().enumerate() {
        let mut listener = place.start(args);
        eventually("somebody listens", || dataplane.memory.listened_to_packets());
        dataplane.memory.tell_packets();
        let (mut out, mut err) = (BufReader::new(listener.stdout.take().unwrap()), listener.stderr.take().unwrap());
        let mut lines = String::new();
        match number {
            0 => {
                assert!((0..2).all(|_| out.read_line(&mut lines).unwrap() > 0));
                let ends: Vec<&str> = lines.lines().map(|line| line.split_once(' ').unwrap().1).collect();
                let line = |group| format!("{group} FORWARD refused: IN=lan0 OUT=wan0 PRIO=1:10");
                assert_eq!(ends, [line(5), line(6)]);
            }
            1 => {
                out.read_line(&mut lines).unwrap();
                let packet: serde_json::Value = serde_json::from_str(&lines).unwrap();
                assert_eq!((&packet["group"], &packet["packet"]), (&6.into(), &"450005dc".into()));
            }
            _ => {
                let mut told = [0; 4];
                err.read_exact(&mut told).unwrap();
                eventually("the file is written", || std::fs::metadata(&file).is_ok_and(|file| file.len() > 200));
                let bytes = std::fs::read(&file).unwrap();
                let comment = b"refused: group=5 hook=FORWARD IN=lan0 OUT=wan0 PRIO=1:10";
                assert!(bytes.windows(comment.len()).any(|window| window == comment));
            }
        }
        listener.kill().unwrap();
        listener.wait().unwrap();
        // The next one is not to hear of packets through this one's ear.
        eventually("nobody listens", || !dataplane.memory.listened_to_packets());
    }
}
