//! The same case through two engines: one judges every packet, the other replays what a flow's packets have in common. No
//! packet, counter, flow, element or drop may differ.

use super::subject::Subject;
use super::{Case, First, RUN, input, show, wire};
use anyhow::{Result, ensure};
use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Times that a packet is sent: the first ones make the flow and note its way.
const TIMES: usize = 4;

/// What a case has shown.
#[derive(Default)]
pub struct Twins {
    /// Packets that came in.
    pub packets: u64,
    /// Those that were replayed.
    pub replayed: u64,
}

impl Case {
    /// Runs it through both; none where the rules are refused.
    ///
    /// # Errors
    /// In what they differ.
    pub fn run_twice(&self) -> Result<Option<Twins>> {
        let family = self.rules.family;
        let toml = self.rules.toml() + self.rules.sets().map_or("", |sets| &sets.sections);
        let (Ok(mut judging), Ok(mut replaying)) = (Subject::new(&toml), Subject::new(&toml)) else { return Ok(None) };
        judging.judge_all();
        replaying.share_time(&judging);
        let run = RUN.fetch_add(1, Ordering::Relaxed);
        let mut twins = Twins::default();
        let mut earlier: Vec<First> = vec![[None, None]; self.steps.len()];
        for (n, step) in self.steps.iter().enumerate() {
            let Some((port, frame)) = input(step.as_ref(), &earlier, 0, run) else { continue };
            for time in 0..TIMES {
                let now = Instant::now();
                let sides = [judging.send_at(now, port, &frame)?, replaying.send_at(now, port, &frame)?];
                twins.packets += 1;
                if sides[0] != sides[1] {
                    let mut text = format!("step {n}, time {time}: {}\n", wire::describe(&frame));
                    show(&mut text, "judged", &sides[0]);
                    show(&mut text, "replayed", &sides[1]);
                    anyhow::bail!("{text}{}", self.text());
                }
                if time == 0 {
                    earlier[n] = sides.map(|frames| frames.into_iter().next());
                }
            }
        }
        let now = Instant::now();
        let mut differences = String::new();
        let mut tell = |what: &str, of: [String; 2]| {
            if of[0] != of[1] {
                let lines = |text: &str| text.lines().map(String::from).collect::<Vec<_>>();
                let [a, b] = of.map(|text| lines(&text));
                let _ = writeln!(differences, "{what}:");
                super::compare::only("judged:  ", &a, &b).for_each(|line| differences.push_str(&(line + "\n")));
                super::compare::only("replayed:", &b, &a).for_each(|line| differences.push_str(&(line + "\n")));
            }
        };
        let both = [&judging, &replaying];
        tell("rules", both.map(|side| side.rules(family)));
        tell("flows", both.map(|side| side.flows(now)));
        tell("counts of conntrack", both.map(|side| format!("{:#?}", side.counts())));
        tell("drops", both.map(|side| format!("{:#?}", side.drops())));
        tell("sets", [judging.sets()?, replaying.sets()?]);
        ensure!(differences.is_empty(), "{differences}{}", self.text());
        replaying.census()?;
        twins.replayed = replaying.replayed();
        Ok(Some(twins))
    }
}
