//! `-j LOG`: a line in the kernel's format; the packet goes on.
//!
//! TOML: `{ target = "LOG", log-prefix = "refused: ", log-level = "info" }`.

use super::{Action, Target};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, Opt, TargetExtension, Word};
use crate::rule::word::{integer, named, print_text};
use crate::rule::{Effect, Families};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// Most bytes of a prefix: `struct xt_log_info` holds 30 with the terminating zero.
pub const MAX_PREFIX: usize = 29;

/// What the line contains.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Log {
    /// syslog level, 0 to 7.
    pub level: u8,
    /// Stands before the line; at most 29 bytes.
    pub prefix: String,
    /// `--log-tcp-sequence`
    pub tcp_sequence: bool,
    /// `--log-tcp-options`
    pub tcp_options: bool,
    /// `--log-ip-options`
    pub ip_options: bool,
    /// `--log-uid`
    pub uid: bool,
    /// `--log-macdecode`
    pub macdecode: bool,
}

const PREFIX: usize = 0;
const LEVEL: usize = 1;
const TCP_SEQUENCE: usize = 2;
const TCP_OPTIONS: usize = 3;
const IP_OPTIONS: usize = 4;
const UID: usize = 5;
const MACDECODE: usize = 6;

/// The level of a LOG without `--log-level`: warning.
const DEFAULT_LEVEL: u8 = 4;

const LEVELS: &[(&str, u8)] = &[
    ("emerg", 0),
    ("alert", 1),
    ("crit", 2),
    ("error", 3),
    ("warning", 4),
    ("notice", 5),
    ("info", 6),
    ("debug", 7),
    ("panic", 0),
];

/// LOG
pub static EXTENSION: TargetExtension = TargetExtension {
    name: "LOG",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[
        Opt::plain("log-prefix", &[]).about("TEXT", "stands before the line; at most 29 bytes"),
        Opt::plain("log-level", &[]).about("LEVEL", "0 to 7, or emerg, alert, crit, error, warning, notice, info, debug"),
        Opt::flag("log-tcp-sequence", &[]).about("", "tells sequence and acknowledgement numbers"),
        Opt::flag("log-tcp-options", &[]).about("", "tells the options of TCP"),
        Opt::flag("log-ip-options", &[]).about("", "tells the options of IP, and IPv6 extension headers"),
        Opt::flag("log-uid", &[]).about("", "tells whose socket sent it: what the router sends has none"),
        Opt::flag("log-macdecode", &[]).about("", "tells MAC addresses and EtherType each by itself"),
    ],
    build,
    summary: "Writes a line about the packet to the log and goes on to the next rule.",
    example: r#"{ target = "LOG", log-prefix = "refused: ", log-level = "info" }"#,
    cases: &[
        Case::Prints(Family::V4, "-j LOG", "="),
        Case::Prints(Family::V4, "-j LOG --log-level 4", "-j LOG"),
        Case::Prints(Family::V6, "-j LOG --log-level warning", "-j LOG"),
        Case::Prints(Family::V4, "-j LOG --log-level 0", "="),
        Case::Prints(Family::V4, "-j LOG --log-level panic", "-j LOG --log-level 0"),
        Case::Prints(Family::V4, "-j LOG --log-level error", "-j LOG --log-level 3"),
        Case::Prints(Family::V4, "-j LOG --log-level 0x5", "-j LOG --log-level 5"),
        Case::Prints(Family::V4, r#"-j LOG --log-prefix "hello: ""#, "="),
        Case::Prints(
            Family::V6,
            "-j LOG --log-macdecode --log-uid --log-ip-options --log-tcp-options --log-tcp-sequence --log-level debug --log-prefix hello",
            "-j LOG --log-prefix hello --log-level 7 --log-tcp-sequence --log-tcp-options --log-ip-options --log-uid --log-macdecode",
        ),
        Case::Prints(Family::V4, r#"-j LOG --log-prefix "he\"l'lo\\x ""#, r#"-j LOG --log-prefix "he\"l\'lo\\x ""#),
        Case::Prints(Family::V4, "-j LOG --log-prefix 12345678901234567890123456789", "="),
        Case::Refused(Family::V4, "-j LOG --log-prefix 123456789012345678901234567890", "30 bytes"),
        Case::Refused(Family::V4, "-j LOG --log-prefix ''", "empty"),
        Case::Refused(Family::V4, "-j LOG --log-prefix 'a\nb'", "line break"),
        Case::Refused(Family::V4, "-j LOG --log-level 8", "not a log level"),
        Case::Refused(Family::V4, "-j LOG --log-level warn", "not a log level"),
        Case::Refused(Family::V4, "-j LOG --log-level 1 --log-level 2", "twice"),
        Case::Prints(Family::V4, "-j LOG --log-tcp-sequence", "="),
        Case::Prints(Family::V6, "-j LOG --log-tcp-options", "="),
        Case::Prints(Family::V4, "-j LOG --log-ip-options", "="),
        Case::Prints(Family::V6, "-j LOG --log-uid", "="),
        Case::Prints(Family::V4, "-j LOG --log-macdecode", "="),
        Case::Refused(Family::V4, "-j LOG ! --log-prefix a", "cannot be negated"),
        Case::Refused(Family::V4, "-j LOG ! --log-tcp-sequence", "cannot be negated"),
        Case::Refused(Family::V4, "-j LOG --log-tcp-options --log-tcp-options", "twice"),
        Case::Refused(Family::V6, "-j LOG ! --log-ip-options", "cannot be negated"),
        Case::Refused(Family::V4, "-j LOG --log-uid --log-uid", "twice"),
        Case::Refused(Family::V4, "-j LOG ! --log-macdecode", "cannot be negated"),
    ],
};

fn build(given: &Given) -> Result<Target, Complaint> {
    let level = match given.value(LEVEL) {
        None => DEFAULT_LEVEL,
        Some(word) => match integer(&word.text) {
            Some(level @ 0..=7) => level as u8,
            _ => named(word, "a log level", LEVELS)?,
        },
    };
    let prefix = given.value(PREFIX).map_or(Ok(String::new()), |word| read_prefix(word, MAX_PREFIX))?;
    let has = |option| given.get(option).is_some();
    Ok(Target::Log(Log {
        level,
        prefix,
        tcp_sequence: has(TCP_SEQUENCE),
        tcp_options: has(TCP_OPTIONS),
        ip_options: has(IP_OPTIONS),
        uid: has(UID),
        macdecode: has(MACDECODE),
    }))
}

/// What stands before a line, of at most so many bytes.
pub(super) fn read_prefix(word: &Word, most: usize) -> Result<String, Complaint> {
    let fault = match &word.text {
        text if text.is_empty() => "the prefix is empty".to_string(),
        text if text.len() > most => format!("the prefix has {} bytes", text.len()),
        text if text.contains('\n') => "there is a line break in the prefix".to_string(),
        text => return Ok(text.clone()),
    };
    Err(word.complain(fault, format!("1 to {most} bytes on one line")))
}

/// Whether a prefix is one that was read, or none.
pub(super) fn is_prefix(text: &str, most: usize) -> bool {
    text.len() <= most && !text.contains('\n')
}

impl Action for Log {
    #[inline]
    fn act(&self, _: &Facts, _: &Context) -> Effect<'_> {
        Effect::Log(self)
    }

    fn changes_packets(&self) -> bool {
        false
    }

    fn extension(&self, _: Family) -> Option<&'static TargetExtension> {
        Some(&EXTENSION)
    }

    fn print(&self, _: Family, out: &mut String) {
        if !self.prefix.is_empty() {
            out.push_str(" --log-prefix ");
            print_text(out, &self.prefix);
        }
        if self.level != DEFAULT_LEVEL {
            let _ = write!(out, " --log-level {}", self.level);
        }
        let flags = [self.tcp_sequence, self.tcp_options, self.ip_options, self.uid, self.macdecode];
        for (set, option) in flags.into_iter().zip(&EXTENSION.options[TCP_SEQUENCE..]) {
            if set {
                let _ = write!(out, " --{}", option.name);
            }
        }
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        if self.level > 7 || !is_prefix(&self.prefix, MAX_PREFIX) {
            return Err("LOG with a level or a prefix that cannot be".to_string());
        }
        Ok(())
    }
}
