//! `-m time`: when the packet comes (`xt_time.c`).
//!
//! All that is given must hold: the date lies from `--datestart` to `--datestop`, the time of day from `--timestart` to
//! `--timestop`, both ends included, and the day is one of `--monthdays` and `--weekdays`. Where the time of day stops before
//! it starts, it runs over midnight; the day is then the one of the packet, with `--contiguous` the one on which it started.
//! Everything is UTC. Without `--datestop` nothing holds after 2038-01-19T03:14:07, as in the kernel, which is why
//! iptables-save prints it.
//!
//! A day that a month does not have runs over into the next (`mktime`): 2023-02-30 is 2023-03-02.
//!
//! TOML: `{ timestart = "09:00", timestop = "17:30", weekdays = "Mon,Tue,Wed,Thu,Fri", jump = "ACCEPT" }`

use super::{Condition, Match, yes};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt, Word};
use crate::rule::{Cond, Families, Outcome, word};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// The options of one `-m time`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Time {
    /// First and last second, since 1970.
    pub date: (u32, u32),
    /// First and last second of the day.
    pub daytime: (u32, u32),
    /// Bits 1 to 31.
    pub monthdays: u32,
    /// Bits 1 (Monday) to 7.
    pub weekdays: u8,
    /// A time over midnight belongs to the day on which it started.
    pub contiguous: bool,
    /// `--kerneltz`, which prints so.
    pub kerneltz: bool,
}

const DATESTART: usize = 0;
const DATESTOP: usize = 1;
const TIMESTART: usize = 2;
const TIMESTOP: usize = 3;
const MONTHDAYS: usize = 4;
const WEEKDAYS: usize = 5;
const CONTIGUOUS: usize = 6;
const KERNELTZ: usize = 7;
const UTC: usize = 8;

const DAY: u32 = 86_400;
const LAST_SECOND: u32 = DAY - 1;
const ALL_MONTHDAYS: u32 = !1;
const ALL_WEEKDAYS: u8 = !1;
/// 2038-01-19T03:14:07, the last second where none is given.
const DEFAULT_STOP: u32 = i32::MAX as u32;
/// 2038-12-31T23:59:59, the last one that can be given.
const LAST_STOP: u32 = 2_177_452_799;
const WEEK: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "time",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[
        Opt::plain("datestart", &[]).about("YYYY[-MM[-DD[Thh[:mm[:ss]]]]]", "not before this second"),
        Opt::plain("datestop", &[]).about("YYYY[-MM[-DD[Thh[:mm[:ss]]]]]", "not after this second"),
        Opt::plain("timestart", &[]).about("hh:mm[:ss]", "not before this second of the day"),
        Opt::plain("timestop", &[]).about("hh:mm[:ss]", "not after this second of the day"),
        Opt::negatable("monthdays", &[]).about("DAY[,DAY...]", "on these days of the month, 1 to 31"),
        Opt::negatable("weekdays", &[]).about("DAY[,DAY...]", "on these days of the week: Mon to Sun, or 1 to 7"),
        Opt::flag("contiguous", &[]).about("", "a time over midnight belongs to the day on which it starts"),
        Opt::flag("kerneltz", &["localtz"]).about("", "in the kernel's time zone, which is UTC here"),
        Opt::flag("utc", &[]).about("", "in UTC, as without it"),
    ],
    build,
    summary: "when the packet comes: dates, times of day, days of the week and of the month",
    example: r#"{ timestart = "09:00", timestop = "17:30", weekdays = "Mon,Tue,Wed,Thu,Fri", jump = "ACCEPT" }"#,
    cases: &[
        Case::Prints(Family::V4, "-m time", "-m time --datestop 2038-01-19T03:14:07"),
        Case::Prints(
            Family::V4,
            "-m time --datestart 2024-01-01 --datestop 2024-12-31T23:59:59",
            "-m time --datestart 2024-01-01T00:00:00 --datestop 2024-12-31T23:59:59",
        ),
        Case::Prints(Family::V6, "-m time --datestart 2024 --datestop 2025-06", "-m time --datestart 2024-01-01T00:00:00 --datestop 2025-06-01T00:00:00"),
        Case::Prints(Family::V4, "-m time --datestart 2024-02-30 --datestop 2038", "-m time --datestart 2024-03-01T00:00:00 --datestop 2038-01-01T00:00:00"),
        Case::Prints(Family::V4, "-m time --datestart 2024-02-00", "-m time --datestart 2024-01-31T00:00:00 --datestop 2038-01-19T03:14:07"),
        Case::Prints(Family::V4, "-m time --datestart 2024-00-01", "-m time --datestart 2023-12-01T00:00:00 --datestop 2038-01-19T03:14:07"),
        Case::Prints(Family::V4, "-m time --datestart 2024-2-3T4", "-m time --datestart 2024-02-03T04:00:00 --datestop 2038-01-19T03:14:07"),
        Case::Prints(Family::V4, "-m time --datestart 2024-2-3T4:5", "-m time --datestart 2024-02-03T04:05:00 --datestop 2038-01-19T03:14:07"),
        Case::Prints(Family::V4, "-m time --datestart 2024-2-29T4:5:6", "-m time --datestart 2024-02-29T04:05:06 --datestop 2038-01-19T03:14:07"),
        Case::Prints(Family::V4, "-m time --datestart 1970", "-m time --datestop 2038-01-19T03:14:07"),
        Case::Prints(Family::V4, "-m time --datestop 2038-12-31T23:59:59", "="),
        Case::Prints(Family::V4, "-m time --datestart 2025 --datestop 2024", "-m time --datestart 2025-01-01T00:00:00 --datestop 2024-01-01T00:00:00"),
        Case::Prints(Family::V4, "-m time --timestart 9:30 --timestop 17:00", "-m time --timestart 09:30:00 --timestop 17:00:00 --datestop 2038-01-19T03:14:07"),
        Case::Prints(Family::V6, "-m time --timestart 09:30:15", "-m time --timestart 09:30:15 --timestop 23:59:59 --datestop 2038-01-19T03:14:07"),
        Case::Prints(Family::V4, "-m time --timestop 10:00", "-m time --timestart 00:00:00 --timestop 10:00:00 --datestop 2038-01-19T03:14:07"),
        Case::Prints(Family::V4, "-m time --timestart 00:00 --timestop 23:59:59", "-m time --datestop 2038-01-19T03:14:07"),
        Case::Prints(
            Family::V4,
            "-m time --timestart 22:00 --timestop 06:00 --contiguous",
            "-m time --timestart 22:00:00 --timestop 06:00:00 --datestop 2038-01-19T03:14:07 --contiguous",
        ),
        Case::Prints(
            Family::V4,
            "-m time --timestart 5:00 --timestop 5:00 --contiguous",
            "-m time --timestart 05:00:00 --timestop 05:00:00 --datestop 2038-01-19T03:14:07 --contiguous",
        ),
        Case::Prints(Family::V4, "-m time --monthdays 31,1,07", "-m time --monthdays 1,7,31 --datestop 2038-01-19T03:14:07"),
        Case::Prints(
            Family::V6,
            "-m time ! --monthdays 1,15",
            "-m time --monthdays 2,3,4,5,6,7,8,9,10,11,12,13,14,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31 \
             --datestop 2038-01-19T03:14:07",
        ),
        Case::Prints(Family::V4, "-m time --weekdays Monday,Su,3", "-m time --weekdays Mon,Wed,Sun --datestop 2038-01-19T03:14:07"),
        Case::Prints(Family::V4, "-m time ! --weekdays Sat,Sun", "-m time --weekdays Mon,Tue,Wed,Thu,Fri --datestop 2038-01-19T03:14:07"),
        Case::Prints(Family::V4, "-m time --weekdays 1,2,3,4,5,6,7", "-m time --datestop 2038-01-19T03:14:07"),
        Case::Prints(Family::V4, "-m time --kerneltz", "-m time --datestop 2038-01-19T03:14:07 --kerneltz"),
        Case::Prints(Family::V4, "-m time --localtz", "-m time --datestop 2038-01-19T03:14:07 --kerneltz"),
        Case::Prints(Family::V6, "-m time --utc", "-m time --datestop 2038-01-19T03:14:07"),
        Case::Prints(
            Family::V4,
            "-m time --weekdays Mon --kerneltz --timestart 1:00 --monthdays 5 --datestop 2030 --datestart 2020",
            "-m time --timestart 01:00:00 --timestop 23:59:59 --monthdays 5 --weekdays Mon \
             --datestart 2020-01-01T00:00:00 --datestop 2030-01-01T00:00:00 --kerneltz",
        ),
        Case::Refused(Family::V4, "-m time --datestart 1969", "`1969` is not a year"),
        Case::Refused(Family::V4, "-m time --datestop 2039", "`2039` is not a year"),
        Case::Refused(Family::V4, "-m time --datestart 2024-13", "`13` is not a month"),
        Case::Refused(Family::V4, "-m time --datestart 2024-01-32", "`32` is not a day"),
        Case::Refused(Family::V4, "-m time --datestart 2024-01-01T24", "`24` is not an hour"),
        Case::Refused(Family::V4, "-m time --datestart 2024-01-01T1:60", "`60` is not a minute"),
        Case::Refused(Family::V4, "-m time --datestop 2024-01-01T1:00:60", "`60` is not a second"),
        Case::Refused(Family::V4, "-m time --datestart 2024-01-01-01", "`01-01` is not a day"),
        Case::Refused(Family::V4, "-m time --datestart tomorrow", "`tomorrow` is not a year"),
        Case::Refused(Family::V4, "-m time ! --datestart 2024", "cannot be negated"),
        Case::Refused(Family::V4, "-m time --timestart 24:00", "`24` is not an hour"),
        Case::Refused(Family::V4, "-m time --timestop 1:60", "`60` is not a minute"),
        Case::Refused(Family::V4, "-m time --timestart 10", "`10` is not a time of day"),
        Case::Refused(Family::V4, "-m time --timestop 10:00:00:00", "`00:00` is not a second"),
        Case::Refused(Family::V4, "-m time --timestart 5:00 --timestart 6:00", "given twice"),
        Case::Refused(Family::V4, "-m time --monthdays 32", "`32` is not a day of the month"),
        Case::Refused(Family::V4, "-m time --monthdays 1-5", "`1-5` is not a day of the month"),
        Case::Refused(Family::V4, "-m time --monthdays 08", "`08` is not a day of the month"),
        Case::Refused(Family::V4, "-m time --weekdays 0", "`0` is not a day of the week"),
        Case::Refused(Family::V4, "-m time --weekdays mon", "`mon` is not a day of the week"),
        Case::Refused(Family::V6, "-m time --weekdays M", "`M` is not a day of the week"),
        Case::Refused(Family::V4, "-m time --timestart 06:00 --timestop 22:00 --contiguous", "does not run over midnight"),
        Case::Refused(Family::V4, "-m time --contiguous", "does not run over midnight"),
        Case::Refused(Family::V4, "-m time --kerneltz --utc", "cannot stand with"),
        Case::Refused(Family::V4, "-m time --localtz --utc", "cannot stand with"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let date = |option: usize, default| given.value(option).map_or(Ok(default), parse_date);
    let daytime = |option: usize, default| given.value(option).map_or(Ok(default), parse_daytime);
    let date = (date(DATESTART, 0)?, date(DATESTOP, DEFAULT_STOP)?);
    let daytime = (daytime(TIMESTART, 0)?, daytime(TIMESTOP, LAST_SECOND)?);
    let monthdays = days(given, MONTHDAYS, ALL_MONTHDAYS, parse_monthday)?;
    let weekdays = days(given, WEEKDAYS, ALL_WEEKDAYS.into(), parse_weekday)? as u8;
    let contiguous = given.get(CONTIGUOUS);
    if let Some(option) = contiguous.filter(|_| daytime.0 < daytime.1) {
        return Err(option.word.complain("the time of day does not run over midnight", "a --timestop before --timestart"));
    }
    if let (Some(_), Some(utc)) = (given.get(KERNELTZ), given.get(UTC)) {
        return Err(utc.word.complain("`--utc` cannot stand with `--kerneltz`", "one of the two"));
    }
    let kerneltz = given.get(KERNELTZ).is_some();
    let time = Time { date, daytime, monthdays, weekdays, contiguous: contiguous.is_some(), kerneltz };
    Ok(vec![Cond::new(false, Match::Time(time))])
}

/// A number of one or more decimal digits up to `max`.
fn part(word: &Word, what: &str, least: u32, most: u32) -> Result<u32, Complaint> {
    let digits = !word.text.is_empty() && word.text.bytes().all(|b| b.is_ascii_digit());
    let number = digits.then(|| word.text.parse().ok()).flatten();
    number.filter(|n| (least..=most).contains(n)).ok_or_else(|| {
        word.complain(format!("`{}` is not {what}", word.text), format!("a number from {least} to {most}"))
    })
}

/// Seconds since 1970 of a date that says as much as it wants.
fn parse_date(word: &Word) -> Result<u32, Complaint> {
    const PARTS: [(char, &str, u32, u32); 6] = [
        ('-', "a year", 1970, 2038),
        ('-', "a month", 0, 12),
        ('T', "a day", 0, 31),
        (':', "an hour", 0, 23),
        (':', "a minute", 0, 59),
        ('\0', "a second", 0, 59),
    ];
    let mut values = [1970, 1, 1, 0, 0, 0];
    let mut rest = Some(word.clone());
    for (value, (end, what, least, most)) in values.iter_mut().zip(PARTS) {
        let Some(text) = rest else { break };
        let (this, after) = match word::split_once(&text, end) {
            Some((this, after)) => (this, Some(after)),
            None => (text, None),
        };
        *value = part(&this, what, least, most)?;
        rest = after;
    }
    let [year, month, day, hour, minute, second] = values.map(i64::from);
    // Month 0 is December of the year before.
    let (year, month) = if month == 0 { (year - 1, 12) } else { (year, month) };
    let days = days_since_1970(year, month) + day - 1;
    let seconds = days * i64::from(DAY) + hour * 3600 + minute * 60 + second;
    u32::try_from(seconds).map_err(|_| word.complain(format!("`{}` is before 1970", word.text), "a date since 1970"))
}

/// Days from 1970-01-01 to the first of a month.
fn days_since_1970(year: i64, month: i64) -> i64 {
    // Years begin in March here, so that the leap day is the last one.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + (153 * month + 2) / 5 - 719_468
}

/// Year, month and day of the month of a day since 1970.
fn date_of(days: u32) -> (i64, i64, i64) {
    let days = i64::from(days);
    let mut year = 1970 + days / 366;
    while days_since_1970(year + 1, 1) <= days {
        year += 1;
    }
    let month = (1..=12).rev().find(|&month| days_since_1970(year, month) <= days).unwrap_or(1);
    (year, month, days - days_since_1970(year, month) + 1)
}

/// Second of the day of `hh:mm[:ss]`.
fn parse_daytime(word: &Word) -> Result<u32, Complaint> {
    let Some((hour, rest)) = word::split_once(word, ':') else {
        return Err(word.complain(format!("`{}` is not a time of day", word.text), "hh:mm or hh:mm:ss"));
    };
    let (minute, second) = match word::split_once(&rest, ':') {
        Some((minute, second)) => (minute, part(&second, "a second", 0, 59)?),
        None => (rest, 0),
    };
    Ok(part(&hour, "an hour", 0, 23)? * 3600 + part(&minute, "a minute", 0, 59)? * 60 + second)
}

/// A set of days, its complement where the option is negated.
fn days(given: &Given, option: usize, all: u32, read: fn(&Word) -> Result<u32, Complaint>) -> Result<u32, Complaint> {
    let Some(option) = given.get(option) else { return Ok(all) };
    let mut pieces = word::split(&option.values[0], ',');
    // A comma at the end is nothing.
    pieces.pop_if(|last| last.text.is_empty());
    let mut set = 0;
    for piece in &pieces {
        set |= 1 << read(piece)?;
    }
    let set = if option.negate { all & !set } else { set };
    match set {
        0 => Err(option.word.complain(format!("`{}` leaves no day", option.word.text), "at least one day")),
        set => Ok(set),
    }
}

fn parse_monthday(word: &Word) -> Result<u32, Complaint> {
    // iptables reads two characters, of which a first 0 means octal.
    let number = word::integer(&word.text).filter(|_| word.text.len() <= 2);
    number.filter(|n| (1..=31).contains(n)).map(|n| n as u32).ok_or_else(|| {
        word.complain(format!("`{}` is not a day of the month", word.text), "numbers from 1 to 31 with commas between")
    })
}

fn parse_weekday(word: &Word) -> Result<u32, Complaint> {
    let beginning = word.text.get(..2);
    let named = WEEK.iter().position(|name| name.get(..2) == beginning).map(|at| at as u32 + 1);
    let number = || word::integer(&word.text).filter(|n| (1..=7).contains(n)).map(|n| n as u32);
    named.filter(|_| beginning.is_some()).or_else(number).ok_or_else(|| {
        word.complain(format!("`{}` is not a day of the week", word.text), "Mon, Tue, Wed, Thu, Fri, Sat or Sun, or 1 to 7")
    })
}

fn print_daytime(out: &mut String, seconds: u32) {
    let _ = write!(out, "{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
}

fn print_date(out: &mut String, option: &str, seconds: u32) {
    let (year, month, day) = date_of(seconds / DAY);
    let _ = write!(out, " --{option} {year:04}-{month:02}-{day:02}T");
    print_daytime(out, seconds % DAY);
}

fn print_days(out: &mut String, option: &str, set: u32, name: impl Fn(u32) -> String) {
    let days: Vec<String> = (1..32).filter(|day| set >> day & 1 != 0).map(name).collect();
    let _ = write!(out, " --{option} {}", days.join(","));
}

impl Condition for Time {
    fn test(&self, _: &Facts, cx: &Context) -> Outcome {
        let now = cx.wall / 1_000_000_000;
        if now < self.date.0.into() || now > self.date.1.into() {
            return Outcome::No;
        }
        let now = now as u32;
        let second = now % DAY;
        let (start, stop) = self.daytime;
        let within = match start < stop {
            true => (start..=stop).contains(&second),
            false => second >= start || second <= stop,
        };
        if !within {
            return Outcome::No;
        }
        let started_yesterday = self.contiguous && second <= stop;
        let day = (now / DAY).saturating_sub(started_yesterday.into());
        // 1970-01-01 was a Thursday.
        let weekday = (day + 3) % 7 + 1;
        if self.weekdays >> weekday & 1 == 0 {
            return Outcome::No;
        }
        yes(self.monthdays == ALL_MONTHDAYS || self.monthdays >> date_of(day).2 & 1 != 0)
    }

    fn print(&self, _: bool, _: Family, out: &mut String) {
        if self.daytime != (0, LAST_SECOND) {
            out.push_str(" --timestart ");
            print_daytime(out, self.daytime.0);
            out.push_str(" --timestop ");
            print_daytime(out, self.daytime.1);
        }
        if self.monthdays != ALL_MONTHDAYS {
            print_days(out, "monthdays", self.monthdays, |day| day.to_string());
        }
        if self.weekdays != ALL_WEEKDAYS {
            let name = |day: u32| WEEK.get(day as usize - 1).copied().unwrap_or_default().to_string();
            print_days(out, "weekdays", self.weekdays.into(), name);
        }
        if self.date.0 != 0 {
            print_date(out, "datestart", self.date.0);
        }
        print_date(out, "datestop", self.date.1);
        if self.kerneltz {
            out.push_str(" --kerneltz");
        }
        if self.contiguous {
            out.push_str(" --contiguous");
        }
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        let days = |set: u32, all: u32| set != 0 && set & !all == 0;
        if !days(self.monthdays, ALL_MONTHDAYS) || !days(self.weekdays.into(), ALL_WEEKDAYS.into()) {
            return Err(format!("days {:#x} and {:#x}", self.monthdays, self.weekdays));
        }
        if self.daytime.0 > LAST_SECOND || self.daytime.1 > LAST_SECOND || self.date.0.max(self.date.1) > LAST_STOP {
            return Err("a time that cannot be given".to_string());
        }
        match self.contiguous && self.daytime.0 < self.daytime.1 {
            true => Err("a contiguous time that does not run over midnight".to_string()),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::Judge;
    use super::*;
    use Outcome::{No, Yes};

    #[test]
    fn dates_times_and_days_hold_to_their_last_second() {
        for (text, now, expected) in [
            ("", "2024-02-29T12:00:00", Yes),
            ("", "2038-01-19T03:14:07", Yes),
            ("", "2038-01-19T03:14:08", No),
            ("--datestop 2038-12-31T23:59:59", "2038-12-31T23:59:59", Yes),
            ("--datestart 2024-02-29", "2024-02-28T23:59:59", No),
            ("--datestart 2024-02-29", "2024-02-29", Yes),
            ("--datestop 2024-02-29", "2024-02-29T00:00:01", No),
            ("--timestart 9:30 --timestop 17:00", "2024-02-29T09:29:59", No),
            ("--timestart 9:30 --timestop 17:00", "2024-02-29T09:30", Yes),
            ("--timestart 9:30 --timestop 17:00", "2024-02-29T17:00:00", Yes),
            ("--timestart 9:30 --timestop 17:00", "2024-02-29T17:00:01", No),
            ("--timestart 22:00 --timestop 6:00", "2024-02-29T22:00", Yes),
            ("--timestart 22:00 --timestop 6:00", "2024-02-29T06:00", Yes),
            ("--timestart 22:00 --timestop 6:00", "2024-02-29T06:00:01", No),
            // Equal ends are all day.
            ("--timestart 5:00 --timestop 5:00", "2024-02-29T06:00", Yes),
            ("--weekdays Thu", "2024-02-29", Yes),
            ("--weekdays Thu", "1970-01-01", Yes),
            ("! --weekdays Thu", "2024-02-29", No),
            ("--weekdays Sun", "2024-03-03T23:59:59", Yes),
            ("--monthdays 29", "2024-02-29", Yes),
            ("--monthdays 29", "2023-03-01", No),
            ("--monthdays 1", "2023-03-01", Yes),
            ("--monthdays 31", "2023-12-31T23:59:59", Yes),
            ("! --monthdays 31", "2023-12-31T23:59:59", No),
            ("--monthdays 29 --weekdays Fri", "2024-02-29", No),
            // Monday from 23:00 on: which day is it at 0:30?
            ("--timestart 23:00 --timestop 1:00 --weekdays Mon", "2024-03-05T00:30", No),
            ("--timestart 23:00 --timestop 1:00 --weekdays Mon", "2024-03-04T00:30", Yes),
            ("--timestart 23:00 --timestop 1:00 --weekdays Mon --contiguous", "2024-03-05T00:30", Yes),
            ("--timestart 23:00 --timestop 1:00 --weekdays Mon --contiguous", "2024-03-04T00:30", No),
            ("--timestart 23:00 --timestop 1:00 --weekdays Mon --contiguous", "2024-03-04T23:30", Yes),
            ("--timestart 23:00 --timestop 1:00 --monthdays 29 --contiguous", "2024-03-01T01:00:00", Yes),
        ] {
            let judge = Judge::new(Family::V4, &format!("-m time {text}"));
            let second = parse_date(&Word { text: now.to_string(), at: 0..now.len() }).expect("a date");
            judge.wall.set(u64::from(second) * 1_000_000_000 + 999_999_999);
            assert_eq!(judge.ask(&Facts::blank(Family::V4), &[]), expected, "{text} at {now}");
        }
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        let mut expected = (1970, 1, 1);
        for day in 0..=LAST_STOP / DAY {
            assert_eq!(date_of(day), expected);
            let (year, month, last) = expected;
            assert_eq!(days_since_1970(year, month) + last - 1, i64::from(day));
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length = match month {
                4 | 6 | 9 | 11 => 30,
                2 => 28 + i64::from(leap),
                _ => 31,
            };
            expected = match (month, last) {
                (12, 31) => (year + 1, 1, 1),
                (_, last) if last == length => (year, month + 1, 1),
                _ => (year, month, last + 1),
            };
        }
    }

    #[test]
    fn values_that_cannot_be_written_do_not_verify() {
        let time = Time {
            date: (0, DEFAULT_STOP),
            daytime: (0, LAST_SECOND),
            monthdays: ALL_MONTHDAYS,
            weekdays: ALL_WEEKDAYS,
            contiguous: false,
            kerneltz: false,
        };
        assert_eq!(time.verify(Family::V4), Ok(()));
        for forged in [
            Time { date: (LAST_STOP + 1, DEFAULT_STOP), ..time },
            Time { daytime: (0, DAY), ..time },
            Time { monthdays: 0, ..time },
            Time { monthdays: u32::MAX, ..time },
            Time { weekdays: 1, ..time },
            Time { contiguous: true, ..time },
        ] {
            assert!(forged.verify(Family::V6).is_err(), "{forged:?}");
        }
    }
}
