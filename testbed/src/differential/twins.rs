//! The same case through three engines: one remembers nothing, one asks rules about every packet and remembers the rest, one
//! replays what a flow's packets have in common. No packet, counter, flow, element or drop may differ.

use super::subject::Subject;
use super::{Case, First, RUN, input, show, wire};
use anyhow::{Result, ensure};
use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::time::Instant;
use sumun_dataplane::engine::Remembered;

/// Times that a packet is sent: the first ones make the flow and note its way.
const TIMES: usize = 4;

/// What a case has shown.
#[derive(Default)]
pub struct Twins {
    /// Packets that came in.
    pub packets: u64,
    /// Those that were replayed.
    pub replayed: u64,
    /// Those that rules were asked about, by the second engine, and whose flow told the rest.
    pub recalled: u64,
}

/// How the engines are called, the one that remembers nothing first.
const NAMES: [&str; 3] = ["judged", "recalled", "replayed"];

impl Case {
    /// Runs it through all; none where the rules are refused.
    ///
    /// # Errors
    /// In what they differ.
    pub fn run_twice(&self) -> Result<Option<Twins>> {
        let family = self.rules.family;
        let toml = self.rules.toml() + self.rules.sets().map_or("", |sets| &sets.sections);
        let Ok(mut judging) = Subject::new(&toml) else { return Ok(None) };
        let (mut recalling, mut replaying) = (again(&toml, &judging)?, again(&toml, &judging)?);
        judging.remember_only(Remembered::Nothing);
        recalling.remember_only(Remembered::Ways);
        let run = RUN.fetch_add(1, Ordering::Relaxed);
        let mut twins = Twins::default();
        let mut earlier: Vec<First> = vec![[None, None]; self.steps.len()];
        for (n, step) in self.steps.iter().enumerate() {
            let Some((port, frame)) = input(step.as_ref(), &earlier, 0, run) else { continue };
            for time in 0..TIMES {
                let now = Instant::now();
                let sides = [
                    judging.send_at(now, port, &frame)?,
                    recalling.send_at(now, port, &frame)?,
                    replaying.send_at(now, port, &frame)?,
                ];
                twins.packets += 1;
                if sides.iter().any(|side| *side != sides[0]) {
                    let mut text = format!("step {n}, time {time}: {}\n", wire::describe(&frame));
                    for (name, side) in NAMES.iter().zip(&sides) {
                        show(&mut text, name, side);
                    }
                    anyhow::bail!("{text}{}", self.text());
                }
                if time == 0 {
                    let [judged, _, replayed] = sides;
                    earlier[n] = [judged, replayed].map(|frames| frames.into_iter().next());
                }
            }
        }
        let now = Instant::now();
        let mut differences = String::new();
        let mut tell = |what: &str, of: [String; 3]| {
            let lines = |text: &str| text.lines().map(String::from).collect::<Vec<_>>();
            for (name, other) in NAMES.iter().zip(&of).skip(1).filter(|(_, other)| **other != of[0]) {
                let (a, b) = (lines(&of[0]), lines(other));
                let _ = writeln!(differences, "{what}:");
                for (name, one, other) in [(NAMES[0], &a, &b), (name, &b, &a)] {
                    super::compare::only(&format!("{name}:"), one, other)
                        .for_each(|line| differences.push_str(&(line + "\n")));
                }
            }
        };
        let all = [&judging, &recalling, &replaying];
        tell("rules", all.map(|side| side.rules(family)));
        tell("flows", all.map(|side| side.flows(now)));
        tell("counts of conntrack", all.map(|side| format!("{:#?}", side.counts())));
        tell("drops", all.map(|side| format!("{:#?}", side.drops())));
        tell("sets", [judging.sets(now)?, recalling.sets(now)?, replaying.sets(now)?]);
        ensure!(differences.is_empty(), "{differences}{}", self.text());
        recalling.census()?;
        replaying.census()?;
        (twins.replayed, twins.recalled) = (replaying.replayed(), recalling.recalled());
        Ok(Some(twins))
    }
}

/// Another engine with the same rules and the same clock.
fn again(toml: &str, first: &Subject) -> Result<Subject> {
    let mut subject = Subject::new(toml).map_err(anyhow::Error::msg)?;
    subject.share_time(first);
    Ok(subject)
}
