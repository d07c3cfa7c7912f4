//! `-m bpf`: a program of the classic Berkeley packet filter (`xt_bpf.c`); not zero is a match.
//!
//! It is text as `nfbpf_compile RAW` and `tcpdump -ddd` (in one line, with commas) make it: the number of instructions, then each
//! as code, two jumps and operand, all decimal. Programs are checked as the kernel checks them; see [`machine`] for their meaning.
//! Programs of eBPF (`--object-pinned`) live in a kernel and are refused.
//!
//! TOML: `{ bytecode = "4,48 0 0 9,21 0 1 6,6 0 0 1,6 0 0 0", jump = "ACCEPT" }`

use super::{Condition, Match, yes};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt, Word};
use crate::rule::{Cond, Families, Outcome, word};
use machine::Instruction;
use serde::{Deserialize, Serialize};
use std::fmt::Write;

pub mod machine;

/// `--bytecode`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Bpf(pub Box<[Instruction]>);

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "bpf",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[
        Opt::plain("bytecode", &[]).about("N,CODE JT JF K[,...]", "program of the classic packet filter"),
        Opt::plain("object-pinned", &[]).about("PATH", "refused: there is no eBPF outside of a kernel"),
    ],
    build,
    summary: "what a program of the Berkeley packet filter says",
    example: r#"{ bytecode = "4,48 0 0 9,21 0 1 6,6 0 0 1,6 0 0 0", jump = "ACCEPT" }"#,
    cases: &[
        Case::Prints(Family::V4, r#"-m bpf --bytecode "4,48 0 0 9,21 0 1 6,6 0 0 1,6 0 0 0""#, "="),
        Case::Prints(Family::V6, r#"-m bpf --bytecode "1,6 0 0 1""#, "="),
        Case::Prints(Family::V4, r#"-m bpf --bytecode " 1, 06  0 0	010 ,""#, r#"-m bpf --bytecode "1,6 0 0 10""#),
        Case::Prints(Family::V4, r#"-m bpf --bytecode "1,6 255 255 4294967295""#, "="),
        Case::Prints(Family::V4, r#"-m bpf --bytecode "1,22 0 0 0""#, "="),
        Case::Prints(Family::V4, r#"-m bpf --bytecode "2,5 0 0 0,6 0 0 1""#, "="),
        Case::Prints(Family::V4, r#"-m bpf --bytecode "3,2 0 0 15,96 0 0 15,22 0 0 0""#, "="),
        Case::Prints(Family::V4, r#"-m bpf --bytecode "2,164 0 0 5,6 0 0 1""#, "="),
        Case::Prints(Family::V4, r#"-m bpf --bytecode "2,40 0 0 4294963200,22 0 0 0""#, "="),
        Case::Prints(Family::V4, r#"-m bpf --bytecode "2,40 0 0 4293918720,22 0 0 0""#, "="),
        Case::Prints(Family::V6, r#"-m bpf --bytecode "3,32 0 0 4294963236,84 0 0 0,22 0 0 0""#, "="),
        Case::Prints(Family::V4, r#"-m bpf --bytecode "1,6 0 0 1" -m bpf --bytecode "1,6 0 0 0""#, "="),
        Case::Refused(Family::V4, "-m bpf", "bpf asks for --bytecode"),
        Case::Refused(Family::V4, r#"-m bpf ! --bytecode "1,6 0 0 1""#, "cannot be negated"),
        Case::Refused(Family::V4, r#"-m bpf --bytecode """#, "`` is not a number of instructions"),
        Case::Refused(Family::V4, "-m bpf --bytecode 0,", "`0` is not a number of instructions"),
        Case::Refused(Family::V4, r#"-m bpf --bytecode "65,6 0 0 1""#, "`65` is not a number of instructions"),
        Case::Refused(Family::V4, r#"-m bpf --bytecode "2,6 0 0 1""#, "2 instructions announced, 1 given"),
        Case::Refused(Family::V4, r#"-m bpf --bytecode "1,6 0 0 1,6 0 0 0""#, "1 instructions announced, 2 given"),
        Case::Refused(Family::V4, r#"-m bpf --bytecode "1,6 0 0""#, "`6 0 0` is not an instruction"),
        Case::Refused(Family::V4, r#"-m bpf --bytecode "1,ret 0 0 1""#, "`ret 0 0 1` is not an instruction"),
        Case::Refused(Family::V4, r#"-m bpf --bytecode "2,999 0 0 0,6 0 0 1""#, "instruction 0: there is no code 999"),
        Case::Refused(Family::V4, r#"-m bpf --bytecode "2,14 0 0 0,6 0 0 1""#, "there is no code 14"),
        Case::Refused(Family::V4, r#"-m bpf --bytecode "1,48 0 0 9""#, "does not end with a return"),
        Case::Refused(Family::V4, r#"-m bpf --bytecode "2,5 0 0 1,6 0 0 1""#, "jumps out of the program"),
        Case::Refused(Family::V4, r#"-m bpf --bytecode "2,21 1 0 0,6 0 0 1""#, "jumps out of the program"),
        Case::Refused(Family::V4, r#"-m bpf --bytecode "2,21 0 1 0,6 0 0 1""#, "jumps out of the program"),
        Case::Refused(Family::V4, r#"-m bpf --bytecode "2,96 0 0 0,6 0 0 1""#, "reads memory that is not written"),
        Case::Refused(Family::V4, r#"-m bpf --bytecode "2,2 0 0 16,6 0 0 1""#, "memory of 16 words"),
        Case::Refused(Family::V4, r#"-m bpf --bytecode "2,52 0 0 0,6 0 0 1""#, "divides by 0"),
        Case::Refused(Family::V4, r#"-m bpf --bytecode "2,148 0 0 0,6 0 0 1""#, "divides by 0"),
        Case::Refused(Family::V4, r#"-m bpf --bytecode "2,100 0 0 32,6 0 0 1""#, "shifts by 32"),
        Case::Refused(Family::V4, r#"-m bpf --bytecode "2,40 0 0 4294963264,6 0 0 1""#, "no such ancillary word"),
        Case::Refused(Family::V4, r#"-m bpf --bytecode "2,32 0 0 4294963208,6 0 0 1""#, "the number of an interface"),
        Case::Refused(Family::V4, "-m bpf --object-pinned /sys/fs/bpf/filter", "only a kernel has pinned objects"),
        Case::Refused(Family::V4, "-m bpf ! --object-pinned /sys/fs/bpf/filter", "cannot be negated"),
    ],
};

const SHAPE: &str = "COUNT,CODE JT JF K,... in decimal, as nfbpf_compile makes it";

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    if let Some(pinned) = given.get(1) {
        return Err(pinned.word.complain("only a kernel has pinned objects of eBPF", "--bytecode with a classic program"));
    }
    let Some(word) = given.value(0) else { return Err(given.complain("bpf asks for --bytecode")) };
    let program = parse(word)?;
    machine::check(&program).map_err(|what| word.complain(what, "a program that the kernel accepts"))?;
    Ok(vec![Cond::new(false, Match::Bpf(Bpf(program.into())))])
}

fn parse(word: &Word) -> Result<Vec<Instruction>, Complaint> {
    let mut parts = word::split(word, ',');
    // A comma may stand at the end.
    if parts.len() > 2 && parts.last().is_some_and(|last| last.text.trim().is_empty()) {
        parts.pop();
    }
    let Some((count, instructions)) = parts.split_first() else { return Ok(Vec::new()) };
    let announced = count.text.trim_start().parse().ok().filter(|n| (1..=machine::MOST).contains(n));
    let Some(announced) = announced else {
        let what = format!("`{}` is not a number of instructions", count.text);
        return Err(count.complain(what, format!("1 to {}, then the instructions: {SHAPE}", machine::MOST)));
    };
    let program: Vec<Instruction> = instructions.iter().map(instruction).collect::<Result<_, _>>()?;
    if program.len() != announced {
        return Err(word.complain(format!("{announced} instructions announced, {} given", program.len()), SHAPE));
    }
    Ok(program)
}

fn instruction(part: &Word) -> Result<Instruction, Complaint> {
    let read = || {
        let mut fields = part.text.split_ascii_whitespace();
        let mut field = || fields.next()?.parse::<u32>().ok();
        let (code, jt, jf, k) = (field()?, field()?, field()?, field()?);
        let end = fields.next().is_none();
        end.then_some(Instruction {
            code: code.try_into().ok()?,
            jt: jt.try_into().ok()?,
            jf: jf.try_into().ok()?,
            k,
        })
    };
    read().ok_or_else(|| part.complain(format!("`{}` is not an instruction", part.text), SHAPE))
}

impl Condition for Bpf {
    fn test(&self, facts: &Facts, cx: &Context) -> Outcome {
        yes(machine::run(&self.0, facts, cx) != 0)
    }

    fn print(&self, _: bool, _: Family, out: &mut String) {
        let _ = write!(out, " --bytecode \"{}", self.0.len());
        for Instruction { code, jt, jf, k } in &self.0 {
            let _ = write!(out, ",{code} {jt} {jf} {k}");
        }
        out.push('"');
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        machine::check(&self.0)
    }
}
