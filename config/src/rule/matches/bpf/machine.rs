//! The classic Berkeley packet filter: two registers, sixteen words of memory, jumps that only go forward.
//!
//! Offsets count from the IP header. Negative ones have a meaning of their own (`linux/filter.h`): from -0x1000 on there are
//! ancillary words, from -0x100000 on the packet again, from -0x200000 on its Ethernet header. A load that is not all inside
//! ends the program with 0, and so does a division by 0. A program runs each instruction once at most.

use crate::facts::{Context, Facts, Family};
use serde::{Deserialize, Serialize};

/// One instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Instruction {
    /// What it does.
    pub code: u16,
    /// Instructions that are left out where a condition holds.
    pub jt: u8,
    /// The same where it does not.
    pub jf: u8,
    /// Its operand.
    pub k: u32,
}

/// Most instructions of a program (`XT_BPF_MAX_NUM_INSTR`).
pub const MOST: usize = 64;
/// Words of memory (`BPF_MEMWORDS`).
const MEMORY: usize = 16;

/// Where ancillary words begin (`SKF_AD_OFF`).
const ANCILLARY: u32 = -0x1000i32 as u32;
/// Where the packet begins again (`SKF_NET_OFF`).
const NETWORK: u32 = -0x10_0000i32 as u32;
/// Where the link header begins (`SKF_LL_OFF`).
const LINK: u32 = -0x20_0000i32 as u32;
/// Bytes of a link header.
const ETHERNET: usize = 14;

/// Codes: class, size or operation, mode or source.
mod code {
    pub const LD_W_ABS: u16 = 0x20;
    pub const LD_H_ABS: u16 = 0x28;
    pub const LD_B_ABS: u16 = 0x30;
    pub const LD_W_IND: u16 = 0x40;
    pub const LD_H_IND: u16 = 0x48;
    pub const LD_B_IND: u16 = 0x50;
    pub const LD_IMM: u16 = 0x00;
    pub const LD_MEM: u16 = 0x60;
    pub const LD_LEN: u16 = 0x80;
    pub const LDX_IMM: u16 = 0x01;
    pub const LDX_MEM: u16 = 0x61;
    pub const LDX_LEN: u16 = 0x81;
    pub const LDX_MSH: u16 = 0xb1;
    pub const ST: u16 = 0x02;
    pub const STX: u16 = 0x03;
    pub const JUMP: u16 = 0x05;
    pub const RET_K: u16 = 0x06;
    pub const RET_A: u16 = 0x16;
    pub const TAX: u16 = 0x07;
    pub const TXA: u16 = 0x87;
    /// Classes that have an operation and [`SOURCE_X`].
    pub const ALU: u16 = 0x04;
    pub const JMP: u16 = 0x05;
    /// The operand is the register X.
    pub const SOURCE_X: u16 = 0x08;
    pub const ADD: u16 = 0x00;
    pub const SUB: u16 = 0x10;
    pub const MUL: u16 = 0x20;
    pub const DIV: u16 = 0x30;
    pub const OR: u16 = 0x40;
    pub const AND: u16 = 0x50;
    pub const LSH: u16 = 0x60;
    pub const RSH: u16 = 0x70;
    pub const NEG: u16 = 0x80;
    pub const MOD: u16 = 0x90;
    pub const XOR: u16 = 0xa0;
    pub const JEQ: u16 = 0x10;
    pub const JGT: u16 = 0x20;
    pub const JGE: u16 = 0x30;
    pub const JSET: u16 = 0x40;
}

/// What an instruction is, code and operand together.
enum Kind {
    /// An operation on A; true: with X.
    Alu(u16, bool),
    /// A condition on A; true: with X.
    Branch(u16, bool),
    /// A load from the packet of so many bytes; true: X is added to the offset.
    Load(usize, bool),
    /// Any other.
    Other,
}

impl Instruction {
    /// None where there is no such code.
    fn kind(&self) -> Option<Kind> {
        use code::*;
        let (operation, by_x) = (self.code & 0xf0, self.code & SOURCE_X != 0);
        Some(match self.code {
            LD_W_ABS => Kind::Load(4, false),
            LD_H_ABS => Kind::Load(2, false),
            LD_B_ABS => Kind::Load(1, false),
            LD_W_IND => Kind::Load(4, true),
            LD_H_IND => Kind::Load(2, true),
            LD_B_IND => Kind::Load(1, true),
            LD_IMM | LD_MEM | LD_LEN | LDX_IMM | LDX_MEM | LDX_LEN | LDX_MSH | ST | STX | JUMP | RET_K | RET_A | TAX
            | TXA => Kind::Other,
            0x100.. => return None,
            code if code & 7 == ALU && operation <= XOR && (operation != NEG || !by_x) => Kind::Alu(operation, by_x),
            code if code & 7 == JMP && matches!(operation, JEQ | JGT | JGE | JSET) => Kind::Branch(operation, by_x),
            _ => return None,
        })
    }

    /// Of [`ANCILLARY`] on: what is asked for, or why it cannot be.
    fn ancillary(&self) -> Result<Ancillary, &'static str> {
        Ok(match self.k.wrapping_sub(ANCILLARY) {
            0 => Ancillary::Protocol,
            4 => Ancillary::PacketType,
            8 => return Err("the number of an interface: ports of Sumun have names"),
            12 | 16 => return Err("attributes of netlink, which packets do not have"),
            20 => Ancillary::Mark,
            24 => return Err("the number of a device's queue, which is not known here"),
            28 => return Err("the hardware type of a device, which is not known here"),
            32 => return Err("a hash that a device has made"),
            36 => Ancillary::Core,
            40 => Ancillary::XorX,
            // Tags are gone when rules see a packet: those of a VLAN have led to its port.
            44 | 48 | 60 => Ancillary::Zero,
            52 => return Err("the offset of the payload"),
            56 => Ancillary::Random,
            _ => return Err("there is no such ancillary word"),
        })
    }
}

/// A word about the packet that is not in it.
enum Ancillary {
    Protocol,
    PacketType,
    Mark,
    XorX,
    Zero,
    Core,
    Random,
}

/// Whether the kernel would take the program (`bpf_check_classic`); why not, for people.
pub fn check(program: &[Instruction]) -> Result<(), String> {
    if !(1..=MOST).contains(&program.len()) {
        return Err(format!("a program of {} instructions", program.len()));
    }
    let fits = |at: usize, jump: usize| jump < program.len() - at - 1;
    for (at, instruction) in program.iter().enumerate() {
        let wrong = |what: &str| Err(format!("instruction {at}: {what}"));
        let k = instruction.k;
        match instruction.kind() {
            None => return wrong(&format!("there is no code {}", instruction.code)),
            Some(Kind::Alu(code::DIV | code::MOD, false)) if k == 0 => return wrong("divides by 0"),
            Some(Kind::Alu(code::LSH | code::RSH, false)) if k >= 32 => {
                return wrong(&format!("shifts by {k}, of 32 bits"));
            }
            Some(Kind::Branch(..)) if !fits(at, instruction.jt.into()) || !fits(at, instruction.jf.into()) => {
                return wrong("jumps out of the program");
            }
            Some(Kind::Load(_, false)) if k >= ANCILLARY => {
                if let Err(what) = instruction.ancillary() {
                    return wrong(&format!("asks for {what}").replace("asks for there is", "there is"));
                }
            }
            Some(_) => {}
        }
        match instruction.code {
            code::JUMP if k as usize >= program.len() - at - 1 => return wrong("jumps out of the program"),
            code::LD_MEM | code::LDX_MEM | code::ST | code::STX if k as usize >= MEMORY => {
                return wrong(&format!("word {k} of a memory of {MEMORY} words"));
            }
            _ => {}
        }
    }
    if !matches!(program[program.len() - 1].code, code::RET_K | code::RET_A) {
        return Err("the program does not end with a return".to_string());
    }
    check_memory(program)
}

/// Whether memory is written on every way to where it is read (`check_load_and_stores`). Jumps go forward and inside.
fn check_memory(program: &[Instruction]) -> Result<(), String> {
    let mut known = [u16::MAX; MOST];
    let mut written = 0u16;
    for (at, instruction) in program.iter().enumerate() {
        written &= known[at];
        let mut leads_to = |distance: usize| known[at + 1 + distance] &= written;
        match (instruction.code, instruction.kind()) {
            (code::ST | code::STX, _) => written |= 1 << instruction.k,
            (code::LD_MEM | code::LDX_MEM, _) if written & 1 << instruction.k == 0 => {
                return Err(format!("instruction {at}: reads memory that is not written on every way to it"));
            }
            (code::JUMP, _) => {
                leads_to(instruction.k as usize);
                written = u16::MAX;
            }
            (_, Some(Kind::Branch(..))) => {
                leads_to(instruction.jt.into());
                leads_to(instruction.jf.into());
                written = u16::MAX;
            }
            _ => {}
        }
    }
    Ok(())
}

/// The packet as the program sees it.
struct Seen<'a> {
    facts: &'a Facts,
    cx: &'a Context<'a>,
}

impl Seen<'_> {
    /// So many bytes, one to four, as a number; none where they are not all there.
    fn load(&self, offset: u32, bytes: usize) -> Option<u32> {
        let (mut at, link) = match offset {
            0..0x8000_0000 => (offset as usize, false),
            NETWORK.. => ((offset - NETWORK) as usize, false),
            LINK..NETWORK => ((offset - LINK) as usize, true),
            _ => return None,
        };
        let mut header = [0; ETHERNET];
        if link {
            header = self.link()?;
        }
        let mut value = 0;
        for _ in 0..bytes {
            let byte = match link {
                true if at < ETHERNET => header.get(at),
                true => self.cx.l3.get(at - ETHERNET),
                false => self.cx.l3.get(at),
            };
            value = value << 8 | u32::from(*byte?);
            at += 1;
        }
        Some(value)
    }

    fn ethertype(&self) -> u16 {
        match self.facts.family {
            Family::V4 => 0x0800,
            Family::V6 => 0x86dd,
        }
    }

    fn link(&self) -> Option<[u8; ETHERNET]> {
        let mut header = [0; ETHERNET];
        header[..6].copy_from_slice(&self.facts.dmac);
        header[6..12].copy_from_slice(&self.facts.smac);
        header[12..].copy_from_slice(&self.ethertype().to_be_bytes());
        self.facts.has_link.then_some(header)
    }
}

/// What the program returns for a packet.
pub fn run(program: &[Instruction], facts: &Facts, cx: &Context) -> u32 {
    step(program, &Seen { facts, cx }).unwrap_or(0)
}

/// None where the program ends with 0 before its return.
fn step(program: &[Instruction], seen: &Seen) -> Option<u32> {
    let (mut a, mut x, mut memory) = (0u32, 0u32, [0u32; MEMORY]);
    let mut at = 0;
    loop {
        let instruction = program.get(at)?;
        let k = instruction.k;
        at += 1;
        match instruction.kind()? {
            Kind::Alu(operation, by_x) => a = compute(operation, a, if by_x { x } else { k })?,
            Kind::Branch(operation, by_x) => {
                let holds = compare(operation, a, if by_x { x } else { k });
                at += usize::from(if holds { instruction.jt } else { instruction.jf });
            }
            Kind::Load(_, false) if k >= ANCILLARY => match instruction.ancillary().ok()? {
                Ancillary::Protocol => a = seen.ethertype().into(),
                Ancillary::PacketType => a = seen.facts.pkt_type as u32,
                Ancillary::Mark => a = seen.facts.mark,
                Ancillary::XorX => a ^= x,
                Ancillary::Zero => a = 0,
                Ancillary::Core => a = seen.cx.around.core(),
                Ancillary::Random => a = seen.cx.around.random(),
            },
            Kind::Load(bytes, indirect) => {
                a = seen.load(if indirect { x.wrapping_add(k) } else { k }, bytes)?;
            }
            Kind::Other => match instruction.code {
                code::LD_IMM => a = k,
                code::LD_MEM => a = *memory.get(k as usize)?,
                code::LD_LEN => a = seen.cx.l3.len() as u32,
                code::LDX_IMM => x = k,
                code::LDX_MEM => x = *memory.get(k as usize)?,
                code::LDX_LEN => x = seen.cx.l3.len() as u32,
                code::LDX_MSH => x = (seen.load(k, 1)? & 0xf) << 2,
                code::ST => *memory.get_mut(k as usize)? = a,
                code::STX => *memory.get_mut(k as usize)? = x,
                code::JUMP => at = at.checked_add(k as usize)?,
                code::RET_K => return Some(k),
                code::RET_A => return Some(a),
                code::TAX => x = a,
                _ => a = x,
            },
        }
    }
}

/// None for a division by 0.
fn compute(operation: u16, a: u32, operand: u32) -> Option<u32> {
    Some(match operation {
        code::ADD => a.wrapping_add(operand),
        code::SUB => a.wrapping_sub(operand),
        code::MUL => a.wrapping_mul(operand),
        code::DIV => a.checked_div(operand)?,
        code::MOD => a.checked_rem(operand)?,
        code::OR => a | operand,
        code::AND => a & operand,
        code::XOR => a ^ operand,
        // Of a shift by X only five bits count, as on the machine.
        code::LSH => a.wrapping_shl(operand),
        code::RSH => a.wrapping_shr(operand),
        _ => a.wrapping_neg(),
    })
}

fn compare(operation: u16, a: u32, operand: u32) -> bool {
    match operation {
        code::JEQ => a == operand,
        code::JGT => a > operand,
        code::JGE => a >= operand,
        _ => a & operand != 0,
    }
}

#[cfg(test)]
mod tests;
