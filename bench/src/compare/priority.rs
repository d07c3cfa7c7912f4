//! What else runs on the machine should take little from a measurement. The kernel's scheduler weighs threads by their nice value,
//! and before that sessions by that of their autogroup (sched(7)), so both are raised.

use std::process::{Command, Stdio};

const GROUP: &str = "/proc/self/autogroup";

/// This process and what it starts go before others, until this is dropped.
pub struct Priority {
    /// The session's value before.
    group: Option<String>,
}

impl Priority {
    /// As far as that is allowed; says where it is not.
    pub fn raise() -> Priority {
        prefer(std::process::id() as i32);
        // `/autogroup-25 nice 0`; no such file where the kernel has no autogroups.
        let group = std::fs::read_to_string(GROUP).unwrap_or_default();
        let group = group.rsplit("nice ").next().map(|nice| nice.trim().to_string()).filter(|nice| !nice.is_empty());
        if group.is_some() && std::fs::write(GROUP, "-20").is_err() {
            eprintln!("note: other sessions take their share of the cores: {GROUP} cannot be written");
        }
        Priority { group }
    }
}

impl Drop for Priority {
    fn drop(&mut self) {
        if let Some(group) = &self.group {
            // It could be raised, so it can be put back.
            let _ = std::fs::write(GROUP, group);
        }
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
}
