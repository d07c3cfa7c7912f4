//! What is kept of a connection that SYNPROXY opened in its server's place (`struct nf_conn_synproxy`).
//!
//! | what | where |
//! |---|---|
//! | the number that the client was told the server begins at | place of the server's shift |
//! | the time that the client was told the server has | place of the client's shift |
//! | by how much the server's numbers are moved | the server's shift |
//! | by how much the server's time is ahead | the private line |
//!
//! A shift's place means nothing for numbers as long as it is the same before and behind it, which it is until a helper
//! changes a segment ([`super::seqadj`]). By then the server has answered, and the two numbers are no longer wanted; but for
//! resets, which are left as they are then.

use super::seqadj::Shift;
use super::{Ct, Flow, Tracker, change, tcp};
use crate::sync::atomic::Ordering;
use sumun_config::facts::{CtState, Dir, Facts, status};

impl Tracker {
    /// A flow begins that SYNPROXY opens. Its cold line is clear.
    pub(super) fn begin_proxied(&self, id: u32) {
        self.shared.private(id).stamps.store(0, Ordering::Relaxed);
        self.shared.entry(id).set_status(status::EXTRA | status::PROXIED);
    }

    /// Makes a packet of the router's own the server's part in the flow of its cause. Sets the facts. Ends with confirm or
    /// abandon as well.
    pub fn answer(&mut self, cause: Ct, facts: &mut Facts) -> Ct {
        let Ct::Flow(Flow { id, .. }) = cause else { return Ct::None };
        self.hold_pending(id);
        let flow = Flow { id, dir: Dir::Reply, related: false };
        self.describe(flow, CtState::Established, facts);
        Ct::Flow(flow)
    }

    /// The state of a TCP flow.
    pub fn tcp_state(&self, flow: Flow) -> tcp::State {
        tcp::State::from_bits(self.shared.entry(flow.id).word().protocol())
    }

    /// The widest window that the client of a TCP flow ever announced.
    pub fn widest_window(&self, flow: Flow) -> u32 {
        let private = self.shared.private(flow.id);
        let _held = (!self.alone).then(|| private.hold());
        tcp::Connection::from_words(self.shared.entry(flow.id).word().protocol(), &private.words()).widest()
    }

    /// A SYN goes to the server: what its client was told, the time only where it was.
    pub fn proxy_opens(&self, flow: Flow, number: u32, time: Option<u32>) {
        let (private, cold) = (self.shared.private(flow.id), self.shared.cold(flow.id));
        let _held = (!self.alone).then(|| private.hold());
        cold.set_shift(Dir::Reply, &Shift { position: number, ..cold.shift(Dir::Reply) });
        if let Some(time) = time {
            cold.set_shift(Dir::Original, &Shift { position: time, ..cold.shift(Dir::Original) });
        }
    }

    /// The connection was closed, and its client opens it anew.
    pub fn proxy_reopens(&self, flow: Flow) {
        self.counts().conn_reopened.bump();
        self.shared.private(flow.id).stamps.store(0, Ordering::Relaxed);
    }

    /// The server has answered and has this time: from now on it is moved.
    pub fn proxy_has_time(&self, flow: Flow, time: u32) {
        let private = self.shared.private(flow.id);
        let _held = (!self.alone).then(|| private.hold());
        let told = self.shared.cold(flow.id).shift(Dir::Original).position;
        private.stamps.store(time.wrapping_sub(told), Ordering::Relaxed);
    }

    /// The server has answered with this number: from now on its numbers are moved.
    pub fn proxy_answered(&self, flow: Flow, number: u32, facts: &mut Facts) {
        let told = self.shared.cold(flow.id).shift(Dir::Reply).position;
        self.move_server(flow, told.wrapping_sub(number), facts);
        self.changed(flow.id, change::SEQADJ);
    }

    /// The server has reset the connection with a segment of this number: it becomes the one that its client awaits.
    pub fn proxy_reset(&self, flow: Flow, number: u32, facts: &mut Facts) {
        let told = self.shared.cold(flow.id).shift(Dir::Reply).position;
        self.move_server(flow, told.wrapping_sub(number).wrapping_add(1), facts);
    }

    /// From now on all numbers of the server move by this (`nf_ct_seqadj_init`).
    fn move_server(&self, flow: Flow, by: u32, facts: &mut Facts) {
        let (private, cold) = (self.shared.private(flow.id), self.shared.cold(flow.id));
        let _held = (!self.alone).then(|| private.hold());
        let shift = cold.shift(Dir::Reply);
        if by != 0 && shift.before == shift.after {
            cold.set_shift(Dir::Reply, &Shift { before: by, after: by, ..shift });
            facts.ct_status = self.shared.entry(flow.id).set_status(status::SEQ_ADJUST).status();
        }
    }

    /// By how much the server's time is ahead of what its client was told.
    pub fn time_ahead(&self, flow: Flow) -> u32 {
        self.shared.private(flow.id).stamps.load(Ordering::Relaxed)
    }
}
