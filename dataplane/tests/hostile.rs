//! Whatever the bytes are: no panic, every frame accounted for, every packet with exactly one fate.

mod common;

use common::hostile::{self, RULES, seeds};
use common::*;
use proptest::prelude::*;
use sumun_config::facts::PortId;

/// A seed with some bytes changed, cut or grown.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    let seeds = seeds();
    (prop::sample::select(seeds), changes, prop::option::of(0usize..1600), any::<bool>()).prop_map(
        |(mut frame, changes, cut, keep_link)| {
            for (at, byte) in changes {
                // Mostly behind the link header, so that frames get past the first check.
                let low = if keep_link { 14.min(frame.len()) } else { 0 };
                if frame.len() > low {
                    let at = low + at.index(frame.len() - low);
                    frame[at] = byte;
                }
            }
            if let Some(len) = cut {
                frame.resize(len.min(1700), 0xa5);
            }
            frame
        },
    )
}

fn random() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..1700)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_the_engine_panic_or_lose_a_frame(
        frames in prop::collection::vec((prop_oneof![4 => mutated(), 1 => random()], any::<bool>()), 1..60)
    ) {
        let mut rig = Rig::new(RULES);
        for (bytes, from_lan) in &frames {
            let port: PortId = if *from_lan { LAN } else { WAN };
            rig.send(port, bytes);
            rig.now += 50_000_000;
            rig.assert_census();
        }
        // What waited for neighbours has been answered for in the end.
        for _ in 0..40 {
            rig.wait(500_000_000);
        }
        rig.assert_census();
        prop_assert_eq!(rig.engine.held(), 0);
    }

    #[test]
    fn no_program_of_frames_time_and_rules_makes_the_engine_panic_or_lose_a_frame(
        program in prop::collection::vec(any::<u8>(), 0..600)
    ) {
        hostile::engine(&program);
    }

    #[test]
    fn a_forged_policy_is_refused_or_runs(
        seed in prop::sample::select(hostile::policy_seeds()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut forged = seed;
        for (at, byte) in changes {
            let at = 2 + at.index(forged.len() - 2);
            forged[at] = byte;
        }
        hostile::policy(&forged);
    }

    #[test]
    fn no_text_makes_a_configuration_that_cannot_run(
        seed in prop::sample::select(hostile::text_seeds()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut text = seed;
        for (at, byte) in changes {
            let at = at.index(text.len());
            text[at] = byte;
        }
        hostile::text(&text);
    }
}
