use super::*;
use Dir::{Original, Reply};

/// The kernel's table, a row for each kind and side; columns are the states in the order of their numbers.
/// `-` is invalid, `.` is ignored.
const TABLE: &[(Dir, Kind, &str)] = &[
    //                      NO SS SR ES FW CW LA TW CL S2
    (Original, Kind::Syn, "SS SS .  .  .  .  .  SS SS S2"),
    (Original, Kind::SynAck, "-  -  SR -  -  -  -  -  -  SR"),
    (Original, Kind::Fin, "-  -  FW FW LA LA LA TW CL - "),
    (Original, Kind::Ack, "ES -  ES ES CW CW TW TW CL - "),
    (Original, Kind::Rst, "-  CL CL CL CL CL CL CL CL CL"),
    (Original, Kind::None, "-  -  -  -  -  -  -  -  -  - "),
    (Reply, Kind::Syn, "-  S2 -  -  -  -  -  SS -  S2"),
    (Reply, Kind::SynAck, "-  SR .  .  .  .  .  .  .  SR"),
    (Reply, Kind::Fin, "-  -  FW FW LA LA LA TW CL - "),
    (Reply, Kind::Ack, "-  .  SR ES CW CW TW TW CL . "),
    (Reply, Kind::Rst, "-  CL CL CL CL CL CL CL CL CL"),
    (Reply, Kind::None, "-  -  -  -  -  -  -  -  -  - "),
];

fn short(next: Next) -> &'static str {
    match next {
        Next::Invalid => "-",
        Next::Ignore => ".",
        Next::To(state) => ["NO", "SS", "SR", "ES", "FW", "CW", "LA", "TW", "CL", "S2"][state as usize],
    }
}

#[test]
fn the_state_table_is_the_kernels() {
    for (dir, kind, row) in TABLE {
        let found: Vec<&str> = State::ALL.iter().map(|s| short(next(*s, *dir, *kind))).collect();
        assert_eq!(found, row.split_whitespace().collect::<Vec<_>>(), "{dir:?} {kind:?}");
    }
}

#[test]
fn flag_combinations_that_no_sane_sender_makes_are_refused() {
    let good: Vec<u8> = (0..64).filter(|f| f & PSH == 0 && has_valid_flags(*f)).collect();
    assert_eq!(good, [0x02, 0x04, 0x10, 0x11, 0x12, 0x14, 0x22, 0x30, 0x31]);
    assert!(has_valid_flags(ACK | PSH) && has_valid_flags(SYN | ECE | CWR));
    assert!(!has_valid_flags(0) && !has_valid_flags(FIN) && !has_valid_flags(SYN | FIN) && !has_valid_flags(0x3f));
}

#[test]
fn the_state_survives_its_word() {
    for state in State::ALL {
        for last in Kind::ALL {
            let c = Connection {
                state,
                last,
                last_dir: Reply,
                closing: true,
                challenge: false,
                simultaneous: true,
                stalled: true,
            };
            assert_eq!(Connection::from_bits(c.bits()), c);
        }
    }
    assert_eq!(Connection::from_bits(0), Connection::NEW);
    Connection::from_bits(u32::MAX);
}

/// A connection as a tracker would keep it.
struct Flow {
    c: Connection,
    status: u32,
    syn_end: u32,
    timeout: u64,
    s: Sysctl,
}

impl Flow {
    fn new() -> Flow {
        Flow { c: Connection::NEW, status: 0, syn_end: 0, timeout: 0, s: Sysctl::default() }
    }

    fn send(&mut self, dir: Dir, flags: u8, ack: u32, end: u32, window: u16) -> Step {
        let seg = Segment { kind: Kind::of(flags), ack, end, window };
        let step = judge(self.c, dir, &seg, self.status, self.syn_end, &self.s);
        match step {
            Step::Moved { to, status, timeout } => {
                self.c = to;
                self.status |= status | status::CONFIRMED;
                self.timeout = timeout.unwrap_or(self.timeout);
                if dir == Reply {
                    self.status |= status::SEEN_REPLY;
                }
            }
            Step::Ignored(c, end) => {
                self.c = c;
                self.syn_end = end.unwrap_or(self.syn_end);
            }
            _ => {}
        }
        step
    }

    fn go(&mut self, dir: Dir, flags: u8) -> (State, u64, bool) {
        self.send(dir, flags, 0, 0, 1000);
        (self.c.state, self.timeout / 1000, self.status & status::ASSURED != 0)
    }

    fn established() -> Flow {
        let mut f = Flow::new();
        f.go(Original, SYN);
        f.go(Reply, SYN | ACK);
        f.go(Original, ACK);
        f
    }
}

#[test]
fn a_connection_lives_and_dies_with_the_kernels_timeouts() {
    let mut f = Flow::new();
    assert_eq!(f.go(Original, SYN), (State::SynSent, 120, false));
    assert_eq!(f.go(Reply, SYN | ACK), (State::SynRecv, 60, false));
    assert_eq!(f.go(Original, ACK), (State::Established, 432_000, true));
    assert_eq!(f.go(Reply, ACK | PSH), (State::Established, 432_000, true));
    assert_eq!(f.go(Original, FIN | ACK), (State::FinWait, 120, true));
    assert_eq!(f.go(Reply, ACK), (State::CloseWait, 60, true));
    assert_eq!(f.go(Reply, FIN | ACK), (State::LastAck, 30, true));
    assert_eq!(f.go(Original, ACK), (State::TimeWait, 120, true));
}

#[test]
fn a_closed_connection_is_reopened_by_a_syn() {
    let mut f = Flow::established();
    for (dir, flags) in [(Original, FIN | ACK), (Reply, FIN | ACK), (Original, ACK)] {
        f.go(dir, flags);
    }
    assert_eq!(f.c.state, State::TimeWait);
    assert_eq!(f.send(Original, SYN, 0, 1, 1000), Step::Reopen);
    assert_eq!(f.send(Reply, SYN, 0, 1, 1000), Step::Reopen, "roles may change");

    let mut f = Flow::established();
    f.go(Original, RST | ACK);
    assert_eq!((f.c.state, f.timeout), (State::Close, 10_000));
    assert_eq!(f.send(Original, SYN, 0, 1, 1000), Step::Reopen, "aborted by the same side");

    let mut f = Flow::established();
    f.go(Reply, RST);
    assert!(matches!(f.send(Original, SYN, 0, 1, 1000), Step::Ignored(..)), "aborted by the other side");
    assert_eq!(f.c.state, State::Close);
}

#[test]
fn a_refused_connection_ends_at_once() {
    let mut f = Flow::new();
    f.go(Original, SYN);
    assert_eq!(f.send(Reply, RST | ACK, 1, 0, 0), Step::Refused);
}

#[test]
fn a_repeated_syn_does_not_prolong() {
    let mut f = Flow::new();
    f.go(Original, SYN);
    assert!(matches!(f.send(Original, SYN, 0, 1, 9), Step::Moved { timeout: None, .. }));
}

#[test]
fn a_connection_picked_up_in_the_middle_has_little_time_until_answered() {
    let mut f = Flow::new();
    assert_eq!(f.go(Original, ACK), (State::Established, 300, false));
    assert_eq!(f.go(Reply, ACK), (State::Established, 300, false));
    assert_eq!(f.go(Original, ACK), (State::Established, 432_000, true));
    for flags in [SYN | ACK, FIN | ACK, RST] {
        assert_eq!(Flow::new().send(Original, flags, 0, 0, 1), Step::Invalid);
    }
    let mut strict = Flow::new();
    strict.s.nf_conntrack_tcp_loose = false;
    assert_eq!(strict.send(Original, ACK, 0, 0, 1), Step::Invalid);
}

#[test]
fn a_syn_in_an_established_connection_is_ignored_until_it_is_answered() {
    let mut f = Flow::established();
    assert!(matches!(f.send(Original, SYN, 0, 5001, 1000), Step::Ignored(_, Some(5001))));
    assert_eq!(f.c.state, State::Established);
    assert!(matches!(f.send(Reply, SYN | ACK, 77, 9, 1000), Step::Ignored(_, None)), "acknowledges something else");
    f.send(Original, SYN, 0, 5001, 1000);
    assert!(matches!(f.send(Reply, SYN | ACK, 5001, 9, 1000), Step::Moved { .. }));
    assert_eq!(f.c.state, State::SynRecv);
    assert_eq!(f.go(Original, ACK).0, State::Established);
}

#[test]
fn a_challenge_ack_does_not_end_last_ack() {
    let mut f = Flow::established();
    f.go(Original, FIN | ACK);
    f.go(Reply, FIN | ACK);
    assert_eq!(f.c.state, State::LastAck);
    f.send(Original, SYN, 0, 5001, 1000);
    assert!(matches!(f.send(Reply, ACK, 1, 1, 1000), Step::Ignored(..)));
    assert_eq!(f.c.state, State::LastAck);
    assert_eq!(f.go(Reply, ACK).0, State::TimeWait);
}

#[test]
fn a_simultaneous_open_is_established() {
    let mut f = Flow::new();
    assert_eq!(f.go(Original, SYN).0, State::SynSent);
    assert_eq!(f.go(Reply, SYN).0, State::SynSent2);
    assert_eq!(f.go(Original, SYN | ACK).0, State::SynRecv);
    assert_eq!(f.go(Reply, ACK).0, State::Established);
}

#[test]
fn a_stalled_connection_has_the_time_of_retransmissions() {
    let mut f = Flow::established();
    f.send(Reply, ACK, 0, 0, 0);
    assert_eq!(f.timeout, 300_000);
    f.send(Reply, ACK, 0, 0, 1);
    assert_eq!(f.timeout, 432_000_000);
}

#[test]
fn segments_of_an_assured_connection_change_nothing() {
    let mut f = Flow::established();
    f.go(Reply, ACK);
    let before = f.c;
    for (dir, flags) in [(Original, ACK), (Reply, ACK | PSH), (Reply, ACK)] {
        f.go(dir, flags);
        assert_eq!(f.c, before);
    }
}
