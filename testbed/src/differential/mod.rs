//! The differential tester: the same frames through the kernel's netfilter and through Sumun's engine, one by one.
//!
//! | file | thought |
//! |---|---|
//! | [`net`] | the network that both stand in |
//! | [`kernel`] | the kernel's router, in a namespace |
//! | [`subject`] | Sumun's engine, in memory |
//! | [`rules`] | random rulesets |
//! | [`aim`] | what they speak of |
//! | [`traffic`], [`scenes`], [`wire`] | traffic aimed at it |
//! | [`compare`] | what counts as equal, and what differs on purpose |
//! | [`rng`] | chance from a seed |
//! | [`script`] | what happens step by step, written down |
//! | [`shapes`] | rulesets as people bring them |
//!
//! A case is a ruleset and its traffic, both fixed by seed, family and number. What comes out is compared after each frame;
//! counters of all rules and the flow table at the end. A case that differs is shrunk, by leaving out rules and frames.

pub mod aim;
pub mod compare;
pub mod kernel;
pub mod net;
pub mod rng;
pub mod rules;
pub mod scenes;
pub mod script;
pub mod shapes;
pub mod subject;
pub mod traffic;
pub mod twins;
pub mod wire;

use aim::Aim;
use anyhow::{Context, Result};
use compare::Choices;
use kernel::Kernel;
use net::{HOST, ROUTER};
use rng::Rng;
use rules::Rules;
use shapes::Shape;
use std::fmt::Write;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;
use subject::Subject;
use sumun_config::facts::{Family, PortId};
use traffic::Step;
use wire::ETHERNET;

/// Number of the next run of a case or script. The kernel remembers fragments for half a minute, so each has ids of its own.
static RUN: AtomicU32 = AtomicU32::new(0);

/// The first frame that came out of the kernel and of the engine at a step, and its port.
type First = [Option<(PortId, Vec<u8>)>; 2];

/// A ruleset and its traffic.
#[derive(Clone)]
pub struct Case {
    /// The ruleset.
    pub rules: Rules,
    /// What happens; a step that was left out keeps its number.
    pub steps: Vec<Option<Step>>,
}

/// The end of a case.
pub enum Outcome {
    /// Both did the same; so many packets came in.
    Same(usize),
    /// Both refuse the ruleset.
    Refused,
    /// They differ: in what, for people.
    Differs(String),
}

impl Case {
    /// Case number `n` of a seed.
    pub fn new(seed: u64, family: Family, n: u64, packets: usize) -> Case {
        let n = n * 4 + family.index() as u64 * 2;
        let rules = rules::rules(family, Rng::stream(seed, n)).without_returning_copies();
        let steps = traffic::traffic(family, packets, Aim::at(&rules), Rng::stream(seed, n + 1));
        let asks_for_others = rules.changes_sources_in_input();
        let copies = family == Family::V6 && rules.lines().any(|rule| rule.contains("-j TEE"));
        let maps = rules.maps_sources_in_input();
        let wanted = |step: &Step| match step {
            Step::Fresh { frame, .. } => match (wire::is_discovery(frame), wire::is_to_many(frame)) {
                (true, is_to_many) => !(asks_for_others || copies && is_to_many),
                (false, is_to_many) => {
                    !(copies && is_to_many || maps && (is_to_many || wire::is_ping_in_pieces(frame)))
                }
            },
            Step::Answer { .. } => true,
        };
        Case { rules, steps: steps.into_iter().map(|step| Some(step).filter(wanted)).collect() }
    }

    /// A ruleset as somebody brings it, and traffic aimed at it.
    pub fn of_shape(shape: &Shape, seed: u64, packets: usize) -> Case {
        let rules = Rules::of_text(shape.family, &shape.text);
        let steps = traffic::traffic(shape.family, packets, Aim::at(&rules), Rng::stream(seed, 0));
        Case { rules, steps: steps.into_iter().map(Some).collect() }
    }

    /// Runs it on both.
    pub fn run(&self, kernel: &mut Kernel) -> Result<Outcome> {
        let family = self.rules.family;
        let sets = self.rules.sets();
        if let Some(sets) = sets {
            kernel.fill_sets(family, &sets.commands)?;
        }
        let toml = self.rules.toml() + sets.map_or("", |sets| &sets.sections);
        let mut subject = match (kernel.load(family, &self.rules.restore())?, Subject::new(&toml)) {
            (Ok(()), Ok(subject)) => subject,
            (Err(_), Err(_)) => return Ok(Outcome::Refused),
            (Err(why), Ok(_)) => return Ok(Outcome::Differs(format!("the kernel refuses the rules: {why}"))),
            (Ok(()), Err(why)) => return Ok(Outcome::Differs(format!("Sumun refuses the rules: {why}"))),
        };
        let run = RUN.fetch_add(1, Ordering::Relaxed);
        let mut choices = Choices::default();
        let mut earlier: Vec<First> = vec![[None, None]; self.steps.len()];
        let mut packets = 0;
        for (n, step) in self.steps.iter().enumerate() {
            let [Some(k), Some(e)] = [0, 1].map(|side| input(step.as_ref(), &earlier, side, run)) else { continue };
            packets += 1;
            let drops = subject.drops();
            // The engine's time is the kernel's, however late it is its turn.
            let time = Instant::now();
            let from_kernel = kernel.send(k.0, &k.1)?;
            if compare::tells_path_mtu(&k.1) {
                kernel.forget_paths(family)?;
            }
            let from_engine = subject.send_at(time, e.0, &e.1)?;
            if !choices.equal(&e.1, &from_kernel, &from_engine) {
                let mut text = format!("step {n}: {}\n", wire::describe(&k.1));
                show(&mut text, "kernel", &from_kernel);
                show(&mut text, "sumun", &from_engine);
                for (after, before) in subject.drops().iter().zip(drops).filter(|(a, b)| a.1 != b.1) {
                    let _ = writeln!(text, "    dropped: {} {}", after.0, after.1 - before.1);
                }
                return Ok(Outcome::Differs(text));
            }
            earlier[n] = [from_kernel.into_iter().next(), from_engine.into_iter().next()];
        }
        subject.census()?;
        let time = Instant::now();
        let of_kernel = kernel.flows(family)?;
        let mut differences = choices.flows(&of_kernel, &subject.flows(time), time.elapsed());
        differences.extend(compare::rules(&kernel.rules(family)?, &subject.rules(family)));
        if sets.is_some() {
            differences.extend(compare::sets(&kernel.sets()?, &subject.sets(Instant::now())?));
        }
        Ok(match differences.is_empty() {
            true => Outcome::Same(packets),
            false => Outcome::Differs(format!("at the end:\n    {}\n", differences.join("\n    "))),
        })
    }

    /// A smaller case that differs too, and in what.
    pub fn shrink(&self, kernel: &mut Kernel, why: String) -> Result<(Case, String)> {
        let (mut best, mut why) = (self.clone(), why);
        let mut tries = 600;
        let mut worse = |case: &Case| -> Result<Option<String>> {
            tries -= 1;
            match tries > 0 {
                true => Ok(match case.run(kernel)? {
                    Outcome::Differs(why) if !why.contains("refuses") => Some(why),
                    _ => None,
                }),
                false => Ok(None),
            }
        };
        let mut chunk = best.steps.len();
        while chunk > 0 {
            let mut from = 0;
            while from < best.steps.len() {
                let to = (from + chunk).min(best.steps.len());
                let mut case = best.clone();
                case.steps[from..to].fill(None);
                if best.steps[from..to].iter().any(Option::is_some)
                    && let Some(now) = worse(&case)?
                {
                    (best, why) = (case, now);
                }
                from = to;
            }
            chunk /= 2;
        }
        loop {
            let before = best.rules.len();
            for n in (0..before).rev() {
                let case = Case { rules: best.rules.without(n), steps: best.steps.clone() };
                if let Some(now) = worse(&case)? {
                    (best, why) = (case, now);
                }
            }
            if best.rules.len() == before {
                return Ok((best, why));
            }
        }
    }

    /// For people: what is left of it.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for chain in self.rules.chains.iter().filter(|c| !c.rules.is_empty() || c.policy == Some("DROP")) {
            let _ = writeln!(text, "    {} {} {}", chain.table, chain.name, chain.policy.unwrap_or("-"));
            for rule in &chain.rules {
                let _ = writeln!(text, "      {rule}");
            }
        }
        for (n, step) in self.steps.iter().enumerate() {
            if let Some(step) = step {
                let _ = writeln!(text, "    {n}: {step}");
            }
        }
        text
    }
}

/// What a step of run number `run` sends into one side's router; nothing if it answers to what never came, or to what went to
/// the router itself: the answer would have its address as a source.
fn input(step: Option<&Step>, earlier: &[First], side: usize, run: u32) -> Option<(PortId, Vec<u8>)> {
    match step? {
        Step::Fresh { port, frame } => Some((*port, wire::of_run(frame, run))),
        Step::Answer { to, with } => {
            let (port, frame) = earlier[*to][side].as_ref()?;
            let packet = with.packet(&frame[ETHERNET..])?;
            if traffic::own(wire::family(&packet)).contains(&wire::source(&packet)) {
                return None;
            }
            let p = port.0 as usize;
            Some((*port, wire::frame(wire::family(&packet), HOST[p], ROUTER[p], &packet)))
        }
    }
}

fn show(text: &mut String, who: &str, frames: &[(PortId, Vec<u8>)]) {
    if frames.is_empty() {
        let _ = writeln!(text, "    {who}: nothing");
    }
    for (port, frame) in frames {
        let _ = writeln!(text, "    {who}: port {} {}\n      {}", port.0, wire::describe(frame), wire::hex(frame));
    }
}

/// What a run found.
#[derive(Default)]
pub struct Summary {
    /// Rulesets compared.
    pub rulesets: usize,
    /// Rulesets that neither takes.
    pub refused: usize,
    /// Packets that came in.
    pub packets: usize,
    /// Differences.
    pub differences: usize,
    /// Cases that differed once and not when they ran again: the kernel said something of its own meanwhile (it joins groups,
    /// and its timers are late on a busy machine).
    pub unsteady: usize,
}

/// Runs cases of a family; says each difference, shrunk, to `say`. Stops after `most` of them.
pub fn run(
    kernel: &mut Kernel,
    seed: u64,
    family: Family,
    cases: std::ops::Range<u64>,
    packets: usize,
    most: usize,
    say: &mut dyn FnMut(&str),
) -> Result<Summary> {
    let mut summary = Summary::default();
    for n in cases {
        let case = Case::new(seed, family, n, packets);
        let context = || format!("case {n} of {} of seed {seed}", family.name());
        let mut outcome = case.run(kernel).with_context(context)?;
        if let Outcome::Differs(why) = &outcome {
            let why = format!("{}, once: {why}", context());
            outcome = case.run(kernel).with_context(context)?;
            if matches!(outcome, Outcome::Same(_)) {
                summary.unsteady += 1;
                say(&why);
            }
        }
        match outcome {
            Outcome::Same(packets) => {
                summary.rulesets += 1;
                summary.packets += packets;
            }
            Outcome::Refused => summary.refused += 1,
            Outcome::Differs(why) => {
                summary.differences += 1;
                let text = match why.contains("refuses") {
                    true => why + "\n" + &Case { rules: case.rules, steps: Vec::new() }.text(),
                    false => {
                        let (case, why) = case.shrink(kernel, why)?;
                        why + &case.text()
                    }
                };
                say(&format!("seed {seed}, {}, case {n}: {text}", family.name()));
                if summary.differences >= most {
                    break;
                }
            }
        }
    }
    Ok(summary)
}
