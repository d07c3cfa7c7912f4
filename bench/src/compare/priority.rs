//! What else runs on the machine should take little from a measurement. The kernel's scheduler weighs threads by their nice value,
//! and before that sessions by that of their autogroup (sched(7)), so both are raised.

use std::process::{Child, Command, Stdio};

const GROUP: &str = "/proc/self/autogroup";

/// Puts the session's value back when its input ends: however this process dies, the kernel closes that. What ends this process
/// from a terminal or a service manager reaches the whole group, so the shell does not listen to it.
const GUARD: &str = "trap '' INT TERM HUP QUIT; read line; echo \"$1\" > /proc/self/autogroup";

/// This process and what it starts go before others, until this is dropped or the process is gone.
pub struct Priority {
    /// Puts the session's value back.
    guard: Option<Child>,
}

impl Priority {
    /// As far as that is allowed; says where it is not.
    pub fn raise() -> Priority {
        prefer(std::process::id() as i32);
        // `/autogroup-25 nice 0`; no such file where the kernel has no autogroups.
        let group = std::fs::read_to_string(GROUP).unwrap_or_default();
        let Some(before) = group.rsplit("nice ").next().map(str::trim).filter(|nice| !nice.is_empty()) else {
            return Priority { guard: None };
        };
        let mut guard = guard(before).ok();
        if guard.is_none() || std::fs::write(GROUP, "-20").is_err() {
            eprintln!("note: other sessions take their share of the cores: {GROUP} cannot be written");
            release(guard.take());
        }
        Priority { guard }
    }
}

impl Drop for Priority {
    fn drop(&mut self) {
        release(self.guard.take());
    }
}

fn guard(before: &str) -> std::io::Result<Child> {
    let mut guard = Command::new("sh");
    guard.args(["-c", GUARD, "guard", before]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    guard.spawn()
}

/// Returns when the guard has done its work.
fn release(guard: Option<Child>) {
    if let Some(mut guard) = guard {
        // Waiting closes its input. There is nobody to tell of an error.
        let _ = guard.wait();
    }
}

/// Lets a thread of the machine go before others. What it starts later inherits that.
pub fn prefer(id: i32) {
    let mut renice = Command::new("renice");
    let quiet = renice.args(["-n", "-20", "-p", &id.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
    if !quiet.status().is_ok_and(|status| status.success()) {
        eprintln!("note: what else runs here takes its share from the measurement: `renice` did not work");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    use std::io::{BufRead, BufReader, Read};

    #[test]
    fn the_session_is_as_it_was_afterwards() {
        let group = || std::fs::read_to_string(GROUP).unwrap_or_default();
        let before = group();
        let raised = Priority::raise();
        let during = group();
        drop(raised);
        assert_eq!(group(), before);
        assert!(before.is_empty() || during.trim_end().ends_with("nice -20"), "{during}");
    }

    #[test]
    fn the_session_is_as_it_was_when_the_process_is_killed() {
        // In a session of its own: this one is the other test's.
        let session = "exec 3<&0; sh -c \"$1\" guard 3 <&3 & echo $!; wait; cat /proc/self/autogroup";
        let mut shell = Command::new("setsid");
        shell.args(["-w", "sh", "-c", session, "sh", GUARD]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = shell.spawn().expect("setsid and a shell");
        let mut said = BufReader::new(shell.stdout.take().expect("its output"));
        let mut id = String::new();
        said.read_line(&mut id).expect("the guard's number");
        let guard = Pid::from_raw(id.trim().parse().expect("a number"));
        // HUP, INT, QUIT and TERM.
        let is_deaf = |status: &str| status.lines().any(|line| line.starts_with("SigIgn:") && line.ends_with("4007"));
        while !is_deaf(&std::fs::read_to_string(format!("/proc/{guard}/status")).expect("it lives")) {
            std::thread::yield_now();
        }
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            kill(guard, signal).expect("it lives");
        }
        let has_groups = std::fs::read_to_string(GROUP).is_ok();
        let group = || std::fs::read_to_string(format!("/proc/{guard}/autogroup")).unwrap_or_default();
        assert!(!has_groups || group().trim_end().ends_with("nice 0"), "it waits: {}", group());
        drop(shell.stdin.take());
        let mut after = String::new();
        said.read_to_string(&mut after).expect("what it is now");
        shell.wait().expect("a child");
        assert!(!has_groups || after.trim_end().ends_with("nice 3"), "{after}");
    }
}
