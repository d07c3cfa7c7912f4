//! What the kernel's packetdrill scripts for connection tracking show, segment by segment, in both families.
//!
//! | tools/testing/selftests/net/netfilter/packetdrill | here |
//! |---|---|
//! | conntrack_syn_challenge_ack | [`an_old_connections_challenge_ack_passes_and_a_new_one_is_established`] |
//! | conntrack_rst_invalid | [`a_reset_that_is_not_exactly_next_is_invalid_and_the_connection_stays`] |
//! | conntrack_ack_loss_stall | [`what_was_acknowledged_long_ago_may_be_sent_again`] |
//! | conntrack_inexact_rst | [`an_inexact_reset_of_a_closing_connection_is_not_invalid`] |
//! | conntrack_synack_old | [`the_answer_to_an_old_syn_is_invalid_and_the_right_one_passes`] |
//! | conntrack_synack_reuse | [`a_connection_that_is_opened_again_is_challenged_and_reset_and_begins_anew`] |
//!
//! There the host that tracks is one of the two ends; here it stands between them, which tells the same of tracking.

use anyhow::Result;
use sumun_config::facts::Family;
use sumun_testbed::craft::{End, Ends, Sent, Tcp};
use sumun_testbed::{Lab, Router};

const DROP_INVALID: &str = r#"
[filter.FORWARD]
policy = "ACCEPT"
rules = ["-p tcp -m conntrack --ctstate INVALID -j DROP"]

"#;

/// MSS 1460, SACK permitted, time stamp, window scale 8.
const SYN_OPTIONS: &[u8] = &[2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 8];
/// MSS 1460, time stamp, window scale 0.
const SYNACK_OPTIONS: &[u8] = &[2, 4, 5, 180, 1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 1, 1, 3, 3, 0];
/// MSS 1460 alone.
const MSS: &[u8] = &[2, 4, 5, 180];

/// A router that drops what is INVALID, and a connection's two ends.
struct Script<'a> {
    ends: Ends,
    router: Router<'a>,
}

impl<'a> Script<'a> {
    fn new(lab: &'a Lab) -> Result<Script<'a>> {
        let ends = Ends::new(lab)?;
        let router = Router::start(lab, &format!("{DROP_INVALID}{}", ends.neighbours()))?;
        Ok(Script { ends, router })
    }

    fn passes(&self, sent: Sent) -> Result<bool> {
        self.ends.passes(&sent)
    }

    /// The connection as it is listed, but for times and counters: its state, and the words in brackets.
    fn state(&self, family: Family) -> Result<String> {
        let near = format!(" src={} ", family.address(End::Near.address(family)));
        let flows = self.router.flows(&["tcp ", &near])?;
        let Some(flow) = flows.first() else { return Ok("none".into()) };
        let mut words = flow.split_whitespace().skip(3).take(1).collect::<Vec<_>>();
        words.extend(flow.split_whitespace().filter(|word| word.starts_with('[')));
        Ok(words.join(" "))
    }
}

/// The client's and the server's side of a connection; the client is [`End::Near`].
fn sides(family: Family) -> (Tcp, Tcp) {
    let client = Tcp { family, from: End::Near, ports: (34_500, 8080) };
    (client, Tcp { from: End::Far, ports: (8080, 34_500), ..client })
}

#[test]
fn an_old_connections_challenge_ack_passes_and_a_new_one_is_established() -> Result<()> {
    let lab = Lab::new(1)?;
    let s = Script::new(&lab)?;
    for family in Family::ALL {
        let (c, srv) = sides(family);
        assert!(s.passes(c.segment("S", 0, 0, 65_535, SYN_OPTIONS, 0))?);
        assert!(s.passes(srv.segment(".", 145_824_453, 643_160_523, 240, SYNACK_OPTIONS, 0))?, "the challenge");
        assert!(s.passes(c.segment("R", 643_160_523, 0, 0, &[], 0))?);
        assert_eq!(s.state(family)?, "CLOSE", "as the kernel has it between the two ends");
        assert!(s.passes(c.segment("S", 0, 0, 65_535, SYN_OPTIONS, 0))?, "again");
        assert_eq!(s.state(family)?, "SYN_SENT [UNREPLIED]");
        assert!(s.passes(srv.segment("S.", 0, 1, 250, SYNACK_OPTIONS, 0))?);
        assert!(s.passes(c.segment(".", 1, 1, 256, &[], 0))?);
        assert_eq!(s.state(family)?, "ESTABLISHED [ASSURED]");
    }
    assert_eq!(s.router.dropped("rule-drop")?, 0);
    Ok(())
}

#[test]
fn a_reset_that_is_not_exactly_next_is_invalid_and_the_connection_stays() -> Result<()> {
    let lab = Lab::new(1)?;
    let s = Script::new(&lab)?;
    for family in Family::ALL {
        let (c, srv) = sides(family);
        assert!(s.passes(c.segment("S", 0, 0, 65_535, SYN_OPTIONS, 0))?);
        assert!(s.passes(srv.segment("S.", 1, 1, 65_535, MSS, 0))?);
        assert!(s.passes(c.segment(".", 1, 2, 65_535, &[], 0))?);
        for seq in [2, 1002, 2002] {
            assert!(s.passes(srv.segment(".", seq, 1, 65_535, &[], 1000))?);
            assert!(s.passes(c.segment(".", 1, seq + 1000, 65_535, &[], 0))?);
        }
        let stays = |flags, seq, ack| -> Result<()> {
            assert!(!s.passes(srv.segment(flags, seq, ack, 0, &[], 0))?, "{family:?} {flags} {seq}");
            assert_eq!(s.state(family)?, "ESTABLISHED [ASSURED]");
            Ok(())
        };
        stays("R", 0, 0)?;
        stays("R", 1_000_000, 0)?;
        stays("R", 43, 0)?;
        assert!(s.passes(c.segment("P.", 1, 3002, 65_535, &[], 1000))?);
        assert!(s.passes(srv.segment(".", 3002, 1001, 65_535, &[], 0))?);
        stays("R.", 3001, 1001)?;
        assert!(s.passes(srv.segment("R.", 3002, 1001, 0, &[], 0))?, "exactly next");
        assert_eq!(s.state(family)?, "CLOSE [ASSURED]");
    }
    assert_eq!(s.router.dropped("rule-drop")?, 8);
    Ok(())
}

#[test]
fn what_was_acknowledged_long_ago_may_be_sent_again() -> Result<()> {
    let lab = Lab::new(1)?;
    let s = Script::new(&lab)?;
    for family in Family::ALL {
        let (c, srv) = sides(family);
        assert!(s.passes(c.segment("S", 0, 0, 32_792, &[2, 4, 3, 232], 0))?);
        assert!(s.passes(srv.segment("S.", 0, 1, 65_535, MSS, 0))?);
        assert!(s.passes(c.segment(".", 1, 1, 65_535, &[], 0))?);
        for n in 0..46 {
            assert!(s.passes(c.segment("P.", 1 + 1400 * n, 1, 257, &[], 1400))?);
            assert!(s.passes(srv.segment(".", 1, 1 + 1400 * (n + 1), 65_535, &[], 0))?);
        }
        // Further behind than the window that the client ever announced.
        assert!(s.passes(c.segment("P.", 1, 1, 257, &[], 1400))?, "{family:?}: sent again");
    }
    assert_eq!(s.router.dropped("rule-drop")?, 0);
    Ok(())
}

#[test]
fn an_inexact_reset_of_a_closing_connection_is_not_invalid() -> Result<()> {
    let lab = Lab::new(1)?;
    let s = Script::new(&lab)?;
    for family in Family::ALL {
        let (c, srv) = sides(family);
        assert!(s.passes(c.segment("S", 0, 0, 65_535, SYN_OPTIONS, 0))?);
        assert!(s.passes(srv.segment("S.", 1, 1, 65_535, MSS, 0))?);
        assert!(s.passes(c.segment(".", 1, 2, 65_535, &[], 0))?);
        for seq in [2, 1002, 2002] {
            assert!(s.passes(srv.segment(".", seq, 1, 65_535, &[], 1000))?);
            assert!(s.passes(c.segment(".", 1, seq + 1000, 65_535, &[], 0))?);
        }
        assert!(s.passes(c.segment("P.", 1, 3002, 65_535, &[], 1000))?);
        assert!(s.passes(srv.segment("F.", 3002, 1001, 65_535, &[], 0))?);
        assert!(s.passes(c.segment(".", 1001, 3003, 65_535, &[], 0))?);
        assert_eq!(s.state(family)?, "CLOSE_WAIT [ASSURED]");
        assert!(s.passes(c.segment("R.", 1001, 3003, 65_535, &[], 0))?, "data was left unread");
        assert_eq!(s.state(family)?, "CLOSE [ASSURED]");
        assert!(s.passes(srv.segment("R", 2002, 0, 0, &[], 0))?, "{family:?}: inexact, and harmless");
    }
    assert_eq!(s.router.dropped("rule-drop")?, 0);
    Ok(())
}

#[test]
fn the_answer_to_an_old_syn_is_invalid_and_the_right_one_passes() -> Result<()> {
    let lab = Lab::new(1)?;
    let s = Script::new(&lab)?;
    for family in Family::ALL {
        let (c, srv) = sides(family);
        assert!(s.passes(c.segment("S", 0, 0, 65_535, SYN_OPTIONS, 0))?);
        assert!(!s.passes(srv.segment("S.", 145_824_453, 643_160_523, 240, SYNACK_OPTIONS, 0))?, "an old one");
        assert!(s.passes(c.segment("S", 0, 0, 65_535, SYN_OPTIONS, 0))?, "sent again");
        assert_eq!(s.state(family)?, "SYN_SENT [UNREPLIED]");
        assert!(s.passes(srv.segment("S.", 145_758_918, 1, 250, SYNACK_OPTIONS, 0))?);
        assert!(s.passes(c.segment("P.", 1, 145_758_919, 256, &[], 1))?);
        assert_eq!(s.state(family)?, "ESTABLISHED [ASSURED]");
    }
    assert_eq!(s.router.dropped("rule-drop")?, 2);
    Ok(())
}

#[test]
fn a_connection_that_is_opened_again_is_challenged_and_reset_and_begins_anew() -> Result<()> {
    let lab = Lab::new(1)?;
    let s = Script::new(&lab)?;
    for family in Family::ALL {
        let (c, srv) = sides(family);
        assert!(s.passes(c.segment("S", 0, 0, 32_792, SYN_OPTIONS, 0))?);
        assert!(s.passes(srv.segment("S.", 0, 1, 65_535, SYN_OPTIONS, 0))?);
        assert!(s.passes(c.segment(".", 1, 1, 257, &[], 0))?);
        assert!(s.passes(c.segment("P.", 1, 1, 257, &[], 100))?);
        assert!(s.passes(srv.segment(".", 1, 101, 256, &[], 0))?);
        assert!(s.passes(c.segment("S", 2000, 0, 32_792, SYN_OPTIONS, 0))?, "opened again");
        assert!(s.passes(srv.segment(".", 1, 101, 256, &[], 0))?, "the challenge");
        assert!(s.passes(c.segment("R.", 101, 1, 257, &[], 0))?, "there is no such connection any more");
        assert!(s.passes(c.segment("S", 2000, 0, 32_792, SYN_OPTIONS, 0))?);
        assert!(s.passes(srv.segment("S.", 7000, 2001, 65_535, SYN_OPTIONS, 0))?);
        assert_eq!(s.state(family)?, "SYN_RECV");
    }
    assert_eq!(s.router.dropped("rule-drop")?, 0);
    Ok(())
}
