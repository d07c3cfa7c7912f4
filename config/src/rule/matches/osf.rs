//! `-m osf`: which operating system sent a SYN, told by how it makes them (`xt_osf.c`, `nfnetlink_osf.c`). IPv4 and TCP, in
//! PREROUTING, INPUT and FORWARD.
//!
//! Fingerprints are read from the file that `fingerprints` in `[osf]` names, in the form of `pf.os` as nfnl_osf(8) loads it
//! into the kernel; without one nothing matches, as there. A fingerprint fits where the packet's length, its Don't Fragment,
//! its TTL, the order of its TCP options and its window are as it says.
//!
//! As in the kernel: a `!` before `--genre` changes nothing, and with `--log` any known system will do, not the named one
//! alone. What is logged stands before the packet's own line, in the same line.
//!
//! TOML: `{ protocol = "tcp", genre = "Windows", ttl = 2, match = "osf", jump = "DROP" }`

use super::{Condition, Match, yes};
use crate::facts::{Context, Facts, Family, proto};
use crate::rule::option::{Case, Complaint, Given, MatchExtension, Opt};
use crate::rule::{Cond, Families, Hook, Outcome, word};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::net::Ipv4Addr;

/// The options of one `-m osf`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Osf {
    /// The system that is meant.
    pub genre: Box<str>,
    /// A `!` stood before it.
    pub invert: bool,
    /// How the TTL is compared; as [`Ttl::Equal`] where it is not said.
    pub ttl: Option<Ttl>,
    /// What is logged.
    pub log: Option<Log>,
}

/// `--ttl`
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Ttl {
    /// 0: it is the fingerprint's.
    Equal,
    /// 1: it is at most that.
    Less,
    /// 2: it may be any.
    Any,
}

/// `--log`
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Log {
    /// 0
    All,
    /// 1: the first fingerprint that fits.
    First,
    /// 2
    Known,
}

/// How a system makes its SYNs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Fingerprint {
    /// `Linux`
    pub genre: String,
    /// `2.6`
    pub version: String,
    /// What it does besides.
    pub subtype: String,
    /// How the window is chosen.
    pub window: Window,
    /// TTL that it begins with.
    pub ttl: u8,
    /// Don't Fragment.
    pub df: bool,
    /// Length of the whole packet.
    pub len: u16,
    /// Kinds of its TCP options and their lengths, in order.
    pub options: Vec<(u8, u8)>,
}

/// The window of a SYN.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Window {
    /// So much; 0 is any.
    Plain(u32),
    /// So many times the MSS.
    Mss(u32),
    /// So many times the MTU.
    Mtu(u32),
    /// A multiple of so much, which is not 0.
    Multiple(u32),
}

/// Bytes of a name (`MAXGENRELEN` less its end).
pub const MAX_NAME: usize = 31;
/// Most fingerprints of a file.
pub const MAX_FINGERPRINTS: usize = 8192;
/// Most bytes of TCP options.
const MAX_OPTIONS: usize = 40;
/// MSS that modems change others to.
const SMART_MSS: [u32; 2] = [1460, 1448];
const MSS: u8 = 2;

const GENRE: usize = 0;
const TTL: usize = 1;
const LOG: usize = 2;

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "osf",
    aliases: &[],
    families: Families::Only(Family::V4),
    protocol: Some(proto::TCP),
    tables: &[],
    hooks: Hook::Prerouting.bit() | Hook::Input.bit() | Hook::Forward.bit(),
    options: &[
        Opt::negatable("genre", &[]).about("NAME", "the system, as the fingerprints call it; a `!` changes nothing"),
        Opt::plain("ttl", &[]).about("0|1|2", "the TTL is the fingerprint's, at most that, or any"),
        Opt::plain("log", &[]).about("0|1|2", "tells what system it is: each that fits, the first, each; any will do then"),
    ],
    build,
    summary: "which operating system sent a SYN",
    example: r#"{ protocol = "tcp", osf = { genre = "Windows", ttl = 2 }, jump = "DROP" }"#,
    cases: &[
        Case::Prints(Family::V4, "-p tcp -m osf --genre Linux", "="),
        Case::Prints(Family::V4, "-p tcp -m osf ! --genre Linux --ttl 0 --log 0", "="),
        Case::Prints(Family::V4, "-p tcp -m osf --log 2 --ttl 2 --genre Windows", "-p tcp -m osf --genre Windows --ttl 2 --log 2"),
        Case::Prints(Family::V4, "-p tcp -m osf --genre FreeBSD --ttl 0x1 --log 1", "-p tcp -m osf --genre FreeBSD --ttl 1 --log 1"),
        Case::Prints(Family::V4, "-p tcp -m osf --genre abcdefghijklmnopqrstuvwxyz01234", "="),
        Case::Refused(Family::V4, "-p tcp -m osf --ttl 1", "osf asks for --genre"),
        Case::Refused(Family::V4, "-p tcp -m osf --genre Linux --ttl 3", "`3` is not a comparison of TTLs"),
        Case::Refused(Family::V4, "-p tcp -m osf --genre Linux --log 3", "`3` is not a level of logs"),
        Case::Refused(Family::V4, "-p tcp -m osf --genre Linux ! --log 1", "cannot be negated"),
        Case::Refused(Family::V4, "-p tcp -m osf --genre \"Mac OS\"", "`Mac OS` is not a system"),
        Case::Refused(Family::V4, "-p tcp -m osf --genre abcdefghijklmnopqrstuvwxyz012345", "is not a system"),
        Case::Refused(Family::V4, "-p udp -m osf --genre Linux", "for protocol tcp only"),
        Case::Refused(Family::V4, "-m osf --genre Linux", "for protocol tcp only"),
        Case::Refused(Family::V6, "-p tcp -m osf --genre Linux", "no match `osf` for ipv6"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let Some(option) = given.get(GENRE) else { return Err(given.complain("osf asks for --genre")) };
    let genre = &option.values[0];
    if !is_name(&genre.text) {
        let accepts = format!("up to {MAX_NAME} characters without blanks, such as Linux");
        return Err(genre.complain(format!("`{}` is not a system", genre.text), accepts));
    }
    let level = |option: usize, what: &str| {
        let given = given.value(option).map(|word| word::number(word, what, 0..=2));
        given.transpose().map(|level| level.map(|level| level as usize))
    };
    let ttl = level(TTL, "a comparison of TTLs")?.map(|level| [Ttl::Equal, Ttl::Less, Ttl::Any][level]);
    let log = level(LOG, "a level of logs")?.map(|level| [Log::All, Log::First, Log::Known][level]);
    let osf = Osf { genre: genre.text.as_str().into(), invert: option.negate, ttl, log };
    Ok(vec![Cond::new(false, Match::Osf(osf))])
}

/// Whether iptables-save prints a name so that it can be read: without quotes.
fn is_name(name: &str) -> bool {
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '"' | '\'' | '\\');
    (1..=MAX_NAME).contains(&name.len()) && name.chars().all(plain) && !name.starts_with(['-', '!'])
}

/// What a fingerprint looks at.
struct Syn<'a> {
    df: bool,
    ttl: u8,
    len: u16,
    window: u32,
    options: &'a [u8],
}

impl<'a> Syn<'a> {
    /// Of a packet that is one; an answer to a SYN counts too.
    fn of(facts: &Facts, l3: &'a [u8]) -> Option<Syn<'a>> {
        const FLAG: u8 = 2;
        if facts.proto != proto::TCP || !facts.has_l4 || facts.tcp_flags & FLAG == 0 {
            return None;
        }
        let tcp = l3.get(usize::from(facts.l4_off)..)?;
        let header = usize::from(tcp.get(12)? >> 4) * 4;
        let options = if header > 20 { tcp.get(20..header)? } else { &[] };
        let window = u32::from(*tcp.get(14)?) << 8 | u32::from(*tcp.get(15)?);
        Some(Syn { df: facts.dont_frag, ttl: facts.ttl, len: facts.len, window, options })
    }
}

impl Fingerprint {
    /// `nf_osf_match_one`: of options the order counts, not what they say.
    fn fits(&self, syn: &Syn, ttl: Ttl) -> bool {
        let ttl_fits = match ttl {
            Ttl::Equal => syn.ttl == self.ttl,
            Ttl::Less => syn.ttl <= self.ttl,
            Ttl::Any => true,
        };
        let sizes = self.options.iter().map(|(_, len)| usize::from(*len)).sum::<usize>();
        if self.df != syn.df || self.len != syn.len || !ttl_fits || sizes != syn.options.len() {
            return false;
        }
        let (mut rest, mut mss) = (syn.options, 0);
        for &(kind, len) in &self.options {
            if rest.first() != Some(&kind) {
                return false;
            }
            if let (MSS, [_, _, high, low, ..]) = (kind, rest) {
                mss = u32::from(*high) << 8 | u32::from(*low);
            }
            rest = rest.get(usize::from(len)..).unwrap_or_default();
        }
        let any = |times: u32, more: u32| {
            [mss, SMART_MSS[0], SMART_MSS[1]].iter().any(|mss| syn.window == times.wrapping_mul(mss + more))
        };
        match self.window {
            Window::Plain(window) => window == 0 || syn.window == window,
            Window::Mss(times) => any(times, 0),
            Window::Mtu(times) => any(times, 40),
            Window::Multiple(of) => syn.window.checked_rem(of) == Some(0),
        }
    }

    /// Whether a value decoded from untrusted bytes could have been read from a file.
    pub fn verify(&self) -> Result<(), String> {
        let names = [&self.genre, &self.version, &self.subtype];
        let wrong = names.iter().any(|name| name.len() > MAX_NAME)
            || self.options.len() > MAX_OPTIONS
            || self.window == Window::Multiple(0);
        if wrong { Err(format!("the fingerprint of {:?}", self.genre)) } else { Ok(()) }
    }

    /// One line of a file: `WINDOW:TTL:DF:LENGTH:OPTIONS:GENRE:VERSION:SUBTYPE:DETAILS`.
    fn read(line: &str) -> Result<Fingerprint, String> {
        let fields: Vec<&str> = line.split(':').collect();
        let [window, ttl, df, len, options, genre, version, subtype, _] = fields[..] else {
            return Err(format!("{} fields, where 9 are expected", fields.len()));
        };
        let number = |text: &str| text.bytes().take_while(u8::is_ascii_digit).fold(0u32, |number, digit| {
            number.saturating_mul(10).saturating_add(u32::from(digit - b'0'))
        });
        let times = |text: &str| number(text.strip_prefix('%').unwrap_or(text));
        let window = match (window.chars().next(), window.get(1..).unwrap_or_default()) {
            (Some('S'), rest) => Window::Mss(times(rest)),
            (Some('T'), rest) => Window::Mtu(times(rest)),
            (Some('%'), rest) if number(rest) == 0 => return Err("a window that is a multiple of 0".to_string()),
            (Some('%'), rest) => Window::Multiple(number(rest)),
            _ => Window::Plain(number(window)),
        };
        let cut = |name: &str| name.chars().take(MAX_NAME).collect::<String>();
        let genre = cut(genre.strip_prefix(['@', '*']).unwrap_or(genre));
        let options = options.split(',').filter_map(|option| match option.chars().next()? {
            'N' => Some((1, 1)),
            'M' => Some((MSS, 4)),
            'W' => Some((3, 3)),
            'S' => Some((4, 2)),
            'T' => Some((8, 10)),
            'E' => Some((0, 1)),
            _ => None,
        });
        let found = Fingerprint {
            genre,
            version: cut(version),
            subtype: cut(subtype),
            window,
            ttl: number(ttl) as u8,
            df: number(df) != 0,
            len: number(len) as u16,
            options: options.collect(),
        };
        found.verify().map(|()| found)
    }
}

/// Reads a file in the form of `pf.os`; or the number of the line that is wrong, from 1, and why. The same twice counts once.
pub fn read(text: &str) -> Result<Vec<Fingerprint>, (usize, String)> {
    let mut found: Vec<Fingerprint> = Vec::new();
    for (at, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let fingerprint = Fingerprint::read(line).map_err(|why| (at + 1, why))?;
        if found.len() == MAX_FINGERPRINTS {
            return Err((at + 1, format!("more than {MAX_FINGERPRINTS} fingerprints")));
        }
        if !found.contains(&fingerprint) {
            found.push(fingerprint);
        }
    }
    Ok(found)
}

impl Osf {
    /// Logs every fingerprint that fits, or that none does; whether some did.
    #[cold]
    fn tell(&self, syn: &Syn, ttl: Ttl, log: Log, facts: &Facts, cx: &Context) -> bool {
        let (src, dst) = (Ipv4Addr::from(facts.src as u32), Ipv4Addr::from(facts.dst as u32));
        let (sport, dport) = (facts.sport, facts.dport);
        let mut known = false;
        for f in cx.around.fingerprints().iter().filter(|f| f.fits(syn, ttl)) {
            known = true;
            let (genre, version, subtype) = (&f.genre, &f.version, &f.subtype);
            let hops = i32::from(f.ttl) - i32::from(facts.ttl);
            cx.around.note(
                facts,
                cx.l3,
                format_args!("{genre} [{version}:{subtype}] : {src}:{sport} -> {dst}:{dport} hops={hops} "),
            );
            if log == Log::First {
                break;
            }
        }
        if !known {
            cx.around.note(facts, cx.l3, format_args!("Remote OS is not known: {src}:{sport} -> {dst}:{dport} "));
        }
        known
    }
}

impl Condition for Osf {
    fn test(&self, facts: &Facts, cx: &Context) -> Outcome {
        let Some(syn) = Syn::of(facts, cx.l3) else { return Outcome::No };
        let ttl = self.ttl.unwrap_or(Ttl::Equal);
        yes(match self.log {
            Some(log) => self.tell(&syn, ttl, log, facts, cx),
            None => cx.around.fingerprints().iter().any(|f| *f.genre == *self.genre && f.fits(&syn, ttl)),
        })
    }

    fn print(&self, _: bool, _: Family, out: &mut String) {
        let _ = write!(out, "{} --genre {}", super::not(self.invert), self.genre);
        if let Some(ttl) = self.ttl {
            let _ = write!(out, " --ttl {}", ttl as u8);
        }
        if let Some(log) = self.log {
            let _ = write!(out, " --log {}", log as u8);
        }
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        if is_name(&self.genre) { Ok(()) } else { Err(format!("the system {:?}", self.genre)) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::Judge;
    use super::*;
    use Outcome::{No, Yes};

    const FILE: &str = "\
# of some systems

S4:64:1:60:M*,S,T,N,W7:Linux:2.6::Linux 2.6
*:64:1:44:M*:@Tiny:1:sub:Tiny 1
T2:128:0:48:M1460,N,N,S:Windows:XP:SP1:Windows XP
%8192:64:0:40:.:*Zero:0::Zero
%8192:64:0:40:.:*Zero:0::Zero
65535:64:1:64:M*,N,W3,N,N,T,S,E:FreeBSD:7:x,y:BSD
";

    /// An IPv4 header's place and a SYN.
    fn syn(options: &[u8], window: u16, dont_frag: bool, ttl: u8) -> (Facts, Vec<u8>) {
        let mut l3 = vec![0; 40];
        l3[32] = (((20 + options.len()) / 4) << 4) as u8;
        l3[34..36].copy_from_slice(&window.to_be_bytes());
        l3.extend_from_slice(options);
        let facts = Facts {
            proto: proto::TCP,
            has_l4: true,
            tcp_flags: 2,
            dont_frag,
            ttl,
            len: l3.len() as u16,
            src: 0x0a00_0001,
            dst: 0x0a00_0002,
            sport: 5,
            dport: 80,
            ..Facts::blank(Family::V4)
        };
        (facts, l3)
    }

    fn judge(text: &str) -> Judge {
        let mut judge = Judge::new(Family::V4, &format!("-p tcp -m osf {text}"));
        judge.fingerprints = read(FILE).expect("a file");
        judge
    }

    const MSS_1460: [u8; 4] = [2, 4, 5, 0xb4];
    const LINUX: [u8; 20] = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 1, 3, 3, 9];

    #[test]
    fn a_fingerprint_fits_by_length_df_ttl_options_and_window() {
        for (text, (facts, l3), expected) in [
            ("--genre Tiny", syn(&MSS_1460, 500, true, 64), Yes),
            ("! --genre Tiny", syn(&MSS_1460, 500, true, 64), Yes),
            ("--genre Tiny", syn(&MSS_1460, 500, false, 64), No),
            ("--genre Tiny", syn(&MSS_1460, 500, true, 63), No),
            ("--genre Tiny --ttl 1", syn(&MSS_1460, 500, true, 63), Yes),
            ("--genre Tiny --ttl 1", syn(&MSS_1460, 500, true, 65), No),
            ("--genre Tiny --ttl 2", syn(&MSS_1460, 500, true, 65), Yes),
            ("--genre Tiny", syn(&[1, 1, 1, 1], 500, true, 64), No),
            ("--genre Linux", syn(&LINUX, 4 * 1460, true, 64), Yes),
            ("--genre Linux", syn(&LINUX, 4 * 1448, true, 64), Yes),
            ("--genre Linux", syn(&LINUX, 4 * 1400, true, 64), No),
            ("--genre Windows", syn(&[2, 4, 4, 0, 1, 1, 4, 2], 2 * 1064, false, 128), Yes),
            ("--genre Windows", syn(&[2, 4, 4, 0, 1, 1, 4, 2], 2 * 1024, false, 128), No),
            ("--genre Zero", syn(&[], 16384, false, 64), Yes),
            ("--genre Zero", syn(&[], 5, false, 64), No),
            ("--genre Windows --log 0", syn(&[], 16384, false, 64), Yes),
            ("--genre Zero --log 0", syn(&[], 5, false, 64), No),
        ] {
            assert_eq!(judge(text).ask(&facts, &l3), expected, "{text} {facts:?}");
        }
        let (facts, l3) = syn(&[], 16384, false, 64);
        assert_eq!(judge("--genre Zero").ask(&Facts { tcp_flags: 16, ..facts }, &l3), No);
        assert_eq!(judge("--genre Zero").ask(&facts, &l3[..34]), No);
    }

    #[test]
    fn what_fits_is_told_before_the_packets_line() {
        for (text, (facts, l3), expected) in [
            ("--genre x --log 0", syn(&MSS_1460, 500, true, 64), "Tiny [1:sub] : 10.0.0.1:5 -> 10.0.0.2:80 hops=0 "),
            ("--genre x --log 1 --ttl 2", syn(&[], 8192, false, 70), "Zero [0:] : 10.0.0.1:5 -> 10.0.0.2:80 hops=-6 "),
            ("--genre x --log 2", syn(&[], 1, true, 64), "Remote OS is not known: 10.0.0.1:5 -> 10.0.0.2:80 "),
            ("--genre Tiny", syn(&MSS_1460, 500, true, 64), ""),
        ] {
            let judge = judge(text);
            judge.ask(&facts, &l3);
            assert_eq!(judge.notes.take(), expected, "{text}");
        }
    }

    #[test]
    fn a_file_is_read_as_nfnl_osf_reads_it_and_a_wrong_line_is_named() {
        let read_all = read(FILE).expect("a file");
        let names: Vec<&str> = read_all.iter().map(|f| f.genre.as_str()).collect();
        assert_eq!(names, ["Linux", "Tiny", "Windows", "Zero", "FreeBSD"]);
        assert_eq!(read_all[4].options, [(2, 4), (1, 1), (3, 3), (1, 1), (1, 1), (8, 10), (4, 2), (0, 1)]);
        assert_eq!(read_all[2].window, Window::Mtu(2));
        for (text, line, words) in [
            ("\n#\nS4:64:1:60:M*:Linux:2.6:Linux", 3, "8 fields"),
            ("%0:64:1:60:M*:a:b:c:d", 1, "multiple of 0"),
            (&format!("0:64:1:60:{}:a:b:c:d", "N,".repeat(41)), 1, "the fingerprint of \"a\""),
        ] {
            let (at, why) = read(text).expect_err(words);
            assert!(at == line && why.contains(words), "{at} {why}");
        }
    }
}
