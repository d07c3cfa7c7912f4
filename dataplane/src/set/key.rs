//! Keys of elements as words: as few as the type and the family need, so that most sets have one word for an element.

use super::table::Words;
use sumun_config::facts::Family;
use sumun_config::set::{Header, Key, Kind, Part};

/// How the keys of a set are laid out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// A MAC address alone.
    Mac,
    /// One IPv4 address and what fits beside it: mark, or port, protocol and prefix length.
    Single4,
    /// An IPv4 address and a MAC address.
    Mac4,
    /// Two IPv4 addresses and the rest.
    Double4,
    /// An IPv4 network and the name of an interface.
    Iface4,
    /// An IPv6 address.
    Host6,
    /// An IPv6 address and the rest.
    Single6,
    /// Two IPv6 addresses, or one and the name of an interface, and the rest.
    Double6,
}

impl Shape {
    /// Of the keys of such a set.
    pub fn of(header: &Header) -> Shape {
        let second =
            matches!(header.kind, Kind::HashIpPortIp | Kind::HashIpPortNet | Kind::HashNetNet | Kind::HashNetPortNet);
        match (header.family.unwrap_or(Family::V4), header.kind) {
            (_, Kind::HashMac) => Shape::Mac,
            (Family::V4, Kind::HashIpMac) => Shape::Mac4,
            (Family::V4, Kind::HashNetIface) => Shape::Iface4,
            (Family::V4, _) if second => Shape::Double4,
            (Family::V4, _) => Shape::Single4,
            (Family::V6, Kind::HashIp) => Shape::Host6,
            (Family::V6, Kind::HashNetIface) => Shape::Double6,
            (Family::V6, _) if second => Shape::Double6,
            (Family::V6, _) => Shape::Single6,
        }
    }

    /// Words of a key.
    pub fn words(self) -> usize {
        match self {
            Shape::Mac | Shape::Single4 => 1,
            Shape::Mac4 | Shape::Double4 | Shape::Host6 => 2,
            Shape::Iface4 | Shape::Single6 => 3,
            Shape::Double6 => 5,
        }
    }

    /// A key as words.
    #[inline]
    pub fn pack(self, marked: bool, key: &Key) -> Words {
        let (high, low) = ((key.a >> 64) as u64, key.a as u64);
        match self {
            Shape::Mac => [key.rest, 0, 0, 0, 0],
            Shape::Single4 if marked => [low << 32 | u64::from(key.mark()), 0, 0, 0, 0],
            Shape::Single4 => {
                let rest = u64::from(key.port()) << 16 | u64::from(key.proto()) << 8 | u64::from(key.len_a());
                [low << 32 | rest, 0, 0, 0, 0]
            }
            Shape::Mac4 => [low, key.rest, 0, 0, 0],
            Shape::Double4 => [low << 32 | key.b as u64, key.rest, 0, 0, 0],
            Shape::Iface4 => {
                let rest = u64::from(key.is_physdev()) << 8 | u64::from(key.len_a());
                [low << 32 | rest, (key.b >> 64) as u64, key.b as u64, 0, 0]
            }
            Shape::Host6 => [high, low, 0, 0, 0],
            Shape::Single6 => [high, low, key.rest, 0, 0],
            Shape::Double6 => [high, low, key.rest, (key.b >> 64) as u64, key.b as u64],
        }
    }

    /// The key back.
    pub fn unpack(self, marked: bool, words: &Words) -> Key {
        let [w0, w1, w2, w3, w4] = *words;
        let wide = |high: u64, low: u64| u128::from(high) << 64 | u128::from(low);
        let of = |a: u128, b: u128, rest: u64| Key { a, b, rest };
        match self {
            Shape::Mac => of(0, 0, w0),
            Shape::Single4 if marked => of((w0 >> 32).into(), 0, w0 & 0xffff_ffff),
            Shape::Single4 => of((w0 >> 32).into(), 0, w0 >> 16 & 0xffff | (w0 >> 8 & 0xff) << 16 | (w0 & 0xff) << 48),
            Shape::Mac4 => of(w0.into(), 0, w1),
            Shape::Double4 => of((w0 >> 32).into(), (w0 & 0xffff_ffff).into(), w1),
            Shape::Iface4 => of((w0 >> 32).into(), wide(w1, w2), w0 >> 8 & 1 | (w0 & 0xff) << 48),
            Shape::Host6 => of(wide(w0, w1), 0, 0),
            Shape::Single6 => of(wide(w0, w1), 0, w2),
            Shape::Double6 => of(wide(w0, w1), wide(w3, w4), w2),
        }
    }
}

/// How keys of a set are written as words, and where they are looked for.
#[derive(Clone, Copy, Debug)]
pub struct Keys {
    shape: Shape,
    marked: bool,
    /// Words that the hash is made of: those of an interface's name are not, so that all elements of a network lie together.
    hashed: usize,
    seed: u64,
}

impl Keys {
    /// Of such a set. With another seed the same keys lie elsewhere.
    pub fn of(header: &Header, seed: u64) -> Keys {
        let shape = Shape::of(header);
        let hashed = match (header.has(Part::Iface), shape) {
            (true, Shape::Iface4) => 1,
            (true, _) => 3,
            (false, _) => shape.words(),
        };
        Keys { shape, marked: header.kind == Kind::HashIpMark, hashed, seed }
    }

    /// Words of a key.
    pub fn words(&self) -> usize {
        self.shape.words()
    }

    /// A key as words.
    #[inline]
    pub fn pack(&self, key: &Key) -> Words {
        self.shape.pack(self.marked, key)
    }

    /// The key back.
    pub fn unpack(&self, words: &Words) -> Key {
        self.shape.unpack(self.marked, words)
    }

    /// Where a key is looked for: product and fold, as wyhash and its kin.
    #[inline]
    pub fn hash(&self, words: &Words) -> u64 {
        const K: u64 = 0x9e37_79b9_7f4a_7c15;
        let fold = |a: u64, b: u64| {
            let product = u128::from(a) * u128::from(b);
            product as u64 ^ (product >> 64) as u64
        };
        let mixed =
            words.iter().take(self.hashed).fold(self.seed, |hash, word| fold(hash ^ word, K ^ word.rotate_left(32)));
        fold(mixed ^ K, 0xd6e8_feb8_6659_fd93)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keys_come_back_from_their_words(kind in 0..15usize, v6: bool, a: u128, b: u128, rest: u64, len_a in 0..=32u8, len_b in 0..=32u8) {
            let mut header = Header::new("s", Kind::ALL[kind].1);
            if header.family.is_some() && !header.kind.is_bitmap() && v6 {
                header.family = Some(Family::V6);
            }
            let family = header.family.unwrap_or(Family::V4);
            let parts = header.kind.parts();
            let mut key = Key::default();
            for (i, part) in parts.iter().enumerate() {
                key = match part {
                    Part::Ip if i == 0 => Key { a: a & family.ones(), ..key },
                    Part::Net if i == 0 => key.with_a(family, a & family.ones(), len_a),
                    Part::Ip => Key { b: b & family.ones(), ..key },
                    Part::Net => key.with_b(family, b & family.ones(), len_b),
                    Part::Mac if header.kind == Kind::BitmapIpMac => key,
                    Part::Mac => key.with_mac(rest),
                    Part::Mark => key.with_mark(rest as u32),
                    Part::Port if header.kind == Kind::BitmapPort => key.with_port(0, rest as u16),
                    Part::Port => key.with_port((rest >> 16) as u8, rest as u16),
                    Part::Iface => key.with_iface(b, rest & 1 != 0),
                    Part::Set => key,
                };
            }
            let keys = Keys::of(&header, 7);
            prop_assert_eq!(keys.unpack(&keys.pack(&key)), key);
        }
    }
}
