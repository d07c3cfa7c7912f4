//! What a segment offers in its options, how options are written, and how a timestamp keeps them for a SYN's answer.

use sumun_config::rule::targets::synproxy::Synproxy;

const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
const SCALE: u8 = 3;
const SACK: u8 = 4;
const STAMPS: u8 = 8;
/// RFC 7323 2.3: more than this is taken for this.
const MAX_SCALE: u8 = 14;
/// Bytes of the longest options that [`Offer::write`] makes.
pub const LONGEST: usize = 20;
/// Nanoseconds in a unit of our timestamps.
const TICK: u64 = 1_000_000;

/// Bits of a timestamp that keep what a SYN offered: its scale, 15 for none.
const KEPT_SCALE: u32 = 0xf;
const KEPT_SACK: u32 = 1 << 4;
const KEPT_ECN: u32 = 1 << 5;
const KEPT: u32 = 0x3f;

/// The timestamps of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Stamps {
    /// Its sender's time.
    pub value: u32,
    /// The time of the other side that it answers.
    pub echo: u32,
}

/// What a segment offers.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Offer {
    /// The longest segment that its sender takes.
    pub mss: Option<u16>,
    /// By what its windows are shifted.
    pub scale: Option<u8>,
    /// Timestamps.
    pub stamps: Option<Stamps>,
    /// Selective acknowledgements.
    pub sack: bool,
    /// Congestion notification, which is not in the options but in the flags.
    pub ecn: bool,
}

impl Offer {
    /// Out of the options of a segment; ends where they are malformed (`synproxy_parse_options`).
    pub fn parse(mut options: &[u8]) -> Offer {
        let mut offer = Offer::default();
        loop {
            match *options {
                [NOP, ref rest @ ..] => options = rest,
                [kind, len, ..] if kind != END && len >= 2 => {
                    let Some(value) = options.get(2..usize::from(len)) else { return offer };
                    options = &options[usize::from(len)..];
                    match (kind, value) {
                        (MSS, [a, b]) => offer.mss = Some(u16::from_be_bytes([*a, *b])),
                        (SCALE, [scale]) => offer.scale = Some((*scale).min(MAX_SCALE)),
                        (SACK, []) => offer.sack = true,
                        (STAMPS, [a, b, c, d, e, f, g, h]) => {
                            let (value, echo) =
                                (u32::from_be_bytes([*a, *b, *c, *d]), u32::from_be_bytes([*e, *f, *g, *h]));
                            offer.stamps = Some(Stamps { value, echo });
                        }
                        _ => {}
                    }
                }
                _ => return offer,
            }
        }
    }

    /// What a rule answers to a SYN that offers this, now. What the client will need to be told again is kept in our timestamp; without
    /// timestamps it cannot be had (`synproxy_init_timestamp_cookie`).
    pub fn answer(&self, rule: &Synproxy, now: u64) -> Offer {
        let mss = self.mss.and(rule.mss);
        let Some(Stamps { value, .. }) = self.stamps.filter(|_| rule.timestamp) else {
            return Offer { mss, ..Offer::default() };
        };
        let scale = self.scale.filter(|_| rule.scale.is_some());
        let (sack, ecn) = (self.sack && rule.sack, self.ecn && rule.ecn);
        let kept =
            scale.map_or(KEPT_SCALE, u32::from) | if sack { KEPT_SACK } else { 0 } | if ecn { KEPT_ECN } else { 0 };
        let stamps = Some(Stamps { value: (now / TICK) as u32 & !KEPT | kept, echo: value });
        Offer { mss, scale: scale.and(rule.scale), stamps, sack, ecn }
    }

    /// What the client had offered that sends this back to us, with the MSS of its cookie (`synproxy_check_timestamp_cookie`).
    pub fn recall(&self, mss: u16) -> Offer {
        let offer = Offer { mss: Some(mss), ..*self };
        let Some(Stamps { echo, .. }) = self.stamps else { return offer };
        let kept = echo & KEPT_SCALE;
        let has_scale = kept != KEPT_SCALE || self.scale.is_some();
        Offer {
            scale: has_scale.then_some(kept as u8),
            sack: self.sack || echo & KEPT_SACK != 0,
            ecn: echo & KEPT_ECN != 0,
            ..offer
        }
    }

    /// Writes the options as the kernel does; how many bytes they are (`synproxy_build_options`).
    pub fn write(&self, into: &mut [u8; LONGEST]) -> usize {
        let mut len = 0;
        let mut put = |bytes: &[u8]| {
            into[len..len + bytes.len()].copy_from_slice(bytes);
            len += bytes.len();
        };
        if let Some(mss) = self.mss {
            put(&[MSS, 4]);
            put(&mss.to_be_bytes());
        }
        match (self.stamps, self.sack) {
            (Some(Stamps { value, echo }), sack) => {
                put(if sack { &[SACK, 2] } else { &[NOP, NOP] });
                put(&[STAMPS, 10]);
                put(&value.to_be_bytes());
                put(&echo.to_be_bytes());
            }
            (None, true) => put(&[NOP, NOP, SACK, 2]),
            (None, false) => {}
        }
        if let Some(scale) = self.scale {
            put(&[NOP, SCALE, 3, scale]);
        }
        len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Synproxy = Synproxy { sack: true, timestamp: true, scale: Some(7), mss: Some(1460), ecn: true };
    const NOW: u64 = 1_000_000 * TICK;

    fn written(offer: &Offer) -> Vec<u8> {
        let mut bytes = [0; LONGEST];
        let len = offer.write(&mut bytes);
        bytes[..len].to_vec()
    }

    /// What Linux clients send.
    fn linux() -> Offer {
        Offer::parse(&[2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 9, 0, 0, 0, 0, 1, 3, 3, 10])
    }

    #[test]
    fn options_are_read_up_to_where_they_make_no_sense() {
        let stamps = Some(Stamps { value: 9, echo: 0 });
        assert_eq!(linux(), Offer { mss: Some(1460), scale: Some(10), stamps, sack: true, ecn: false });
        let cases: [(&[u8], Offer); 7] = [
            (&[], Offer::default()),
            (&[0, 4, 2, 0], Offer::default()),
            (&[3, 3, 200, 0], Offer { scale: Some(14), ..Offer::default() }),
            (&[4, 2, 3, 1], Offer { sack: true, ..Offer::default() }),
            (&[4, 2, 3, 9], Offer { sack: true, ..Offer::default() }),
            (&[2, 3, 9, 4, 2], Offer { sack: true, ..Offer::default() }),
            (&[1, 1, 1, 3], Offer::default()),
        ];
        for (bytes, offer) in cases {
            assert_eq!(Offer::parse(bytes), offer, "{bytes:?}");
        }
    }

    #[test]
    fn what_a_syn_offers_comes_back_in_its_timestamp() {
        let syn = Offer { ecn: true, ..linux() };
        let answer = syn.answer(&ALL, NOW);
        let value = 1_000_000 & !0x3f | 10 | 1 << 4 | 1 << 5;
        let stamps = Some(Stamps { value, echo: 9 });
        assert_eq!(answer, Offer { mss: Some(1460), scale: Some(7), stamps, sack: true, ecn: true });
        // The client's ACK has timestamps alone.
        let ack = Offer { stamps: Some(Stamps { value: 11, echo: value }), ..Offer::default() };
        assert_eq!(
            ack.recall(1300),
            Offer { mss: Some(1300), scale: Some(10), stamps: ack.stamps, sack: true, ecn: true }
        );
    }

    #[test]
    fn an_answer_has_what_both_the_client_and_the_rule_offer() {
        let plain = Synproxy { mss: Some(900), scale: Some(3), sack: true, ecn: true, timestamp: false };
        assert_eq!(
            linux().answer(&plain, NOW),
            Offer { mss: Some(900), ..Offer::default() },
            "without timestamps nothing more"
        );
        let stamps_alone = Synproxy { timestamp: true, ..Synproxy::default() };
        let stamps = Some(Stamps { value: 1_000_000 & !0x3f | 15, echo: 9 });
        assert_eq!(linux().answer(&stamps_alone, NOW), Offer { stamps, ..Offer::default() });
        assert_eq!(Offer::default().answer(&ALL, NOW), Offer::default());
        let none = Offer { stamps: Some(Stamps { value: 0, echo: 15 }), ..Offer::default() };
        assert_eq!(none.recall(536), Offer { mss: Some(536), ..none });
        assert_eq!(Offer::default().recall(536), Offer { mss: Some(536), ..Offer::default() });
    }

    #[test]
    fn options_are_written_in_words_of_four_bytes() {
        let stamps = Some(Stamps { value: 1, echo: 2 });
        let all = Offer { mss: Some(1460), scale: Some(7), stamps, sack: true, ecn: true };
        assert_eq!(written(&all), [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 3, 3, 7]);
        assert_eq!(
            written(&Offer { sack: false, mss: None, scale: None, ..all }),
            [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]
        );
        assert_eq!(written(&Offer { stamps: None, scale: None, ..all }), [2, 4, 5, 0xb4, 1, 1, 4, 2]);
        assert_eq!(written(&Offer::default()), []);
    }
}
