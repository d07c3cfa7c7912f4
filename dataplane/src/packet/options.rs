//! IPv4 options: are they well-formed, is there a source route among them, and what is behind their end?
//!
//! The checks are those of the kernel's `ip_options_compile`, which drops a packet with a malformed option on its way in.

const END: u8 = 0;
const NOP: u8 = 1;
const RECORD_ROUTE: u8 = 7;
const TIMESTAMP: u8 = 68;
const LOOSE_SOURCE_ROUTE: u8 = 131;
const STRICT_SOURCE_ROUTE: u8 = 137;
const ROUTER_ALERT: u8 = 148;

/// Checks the options of an IPv4 header. The error is the offset in the header that a parameter problem points at.
pub fn check(header: &[u8]) -> Result<(), u8> {
    let mut seen_route = false;
    let mut seen_record = false;
    let mut seen_time = false;
    each(header, |at, option| {
        let [kind, len, rest @ ..] = option else { return Err(at) };
        // Pointers are 1-based within the option.
        let pointer = rest.first().copied();
        match *kind {
            LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE => {
                let pointer = pointer.ok_or(at + 1)?;
                if pointer < 4 {
                    return Err(at + 2);
                }
                if std::mem::replace(&mut seen_route, true) {
                    return Err(at);
                }
            }
            RECORD_ROUTE => {
                if std::mem::replace(&mut seen_record, true) {
                    return Err(at);
                }
                let pointer = pointer.ok_or(at + 1)?;
                if pointer < 4 || (pointer <= *len && pointer + 3 > *len) {
                    return Err(at + 2);
                }
            }
            TIMESTAMP => {
                if std::mem::replace(&mut seen_time, true) {
                    return Err(at);
                }
                let [pointer, flags, ..] = *rest else { return Err(at + 1) };
                if pointer < 5 {
                    return Err(at + 2);
                }
                let room = match flags & 0xf {
                    0 => 3,
                    _ => 7,
                };
                if pointer <= *len && u16::from(pointer) + room > u16::from(*len) {
                    return Err(at + 2);
                }
            }
            ROUTER_ALERT if *len < 4 => return Err(at + 1),
            _ => {}
        }
        Ok(())
    })
}

/// Whether an IPv4 packet carries a loose or strict source route. The bytes start at its header, which parsed.
pub fn has_source_route(l3: &[u8]) -> bool {
    let header = l3.first().and_then(|first| l3.get(..usize::from(first & 0xf) * 4)).unwrap_or(&[]);
    each(header, |_, option| match option[0] {
        LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE => Err(0),
        _ => Ok(()),
    })
    .is_err()
}

/// Makes everything behind the end of the options a further end, as the kernel leaves it (`ip_options_compile`). The header's
/// checksum stays as it is.
pub fn end_for_good(header: &mut [u8]) {
    let mut end = 20;
    while let Some(&kind) = header.get(end).filter(|kind| **kind != END) {
        let len = if kind == NOP { 1 } else { header.get(end + 1).map_or(usize::MAX, |len| usize::from(*len).max(2)) };
        end = end.saturating_add(len);
    }
    if let Some(rest) = header.get_mut(end..) {
        rest.fill(END);
    }
}

/// Calls `f` with offset and bytes (kind and length included) of each option that has a length.
fn each(header: &[u8], mut f: impl FnMut(u8, &[u8]) -> Result<(), u8>) -> Result<(), u8> {
    let mut at = 20;
    while let Some(&kind) = header.get(at) {
        match kind {
            END => break,
            NOP => at += 1,
            _ => {
                let len = usize::from(*header.get(at + 1).ok_or(at as u8)?);
                if len < 2 {
                    return Err(at as u8);
                }
                f(at as u8, header.get(at..at + len).ok_or(at as u8)?)?;
                at += len;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(options: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 20];
        bytes.extend(options);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes[0] = 0x40 | (bytes.len() / 4) as u8;
        bytes
    }

    #[test]
    fn options_are_checked_as_the_kernel_does() {
        let cases: &[(&[u8], Result<(), u8>)] = &[
            (&[1, 1, 1, 0], Ok(())),
            (&[0, 9, 9, 9], Ok(())),
            (&[7, 7, 4, 0, 0, 0, 0, 0], Ok(())),
            (&[7, 7, 8, 0, 0, 0, 0, 0], Ok(())),
            (&[7, 7, 6, 0, 0, 0, 0, 0], Err(22)),
            (&[7, 7, 3, 0, 0, 0, 0, 0], Err(22)),
            (&[7, 2, 1, 1], Err(21)),
            (&[7, 3, 4, 7, 3, 4, 0, 0], Err(23)),
            (&[131, 7, 4, 10, 0, 0, 1, 0], Ok(())),
            (&[131, 7, 3, 10, 0, 0, 1, 0], Err(22)),
            (&[68, 8, 5, 0, 0, 0, 0, 0], Ok(())),
            (&[68, 8, 5, 1, 0, 0, 0, 0], Err(22)),
            (&[68, 8, 4, 0, 0, 0, 0, 0], Err(22)),
            (&[148, 4, 0, 0], Ok(())),
            (&[148, 3, 0, 0], Err(21)),
            (&[99, 1, 0, 0], Err(20)),
            (&[99, 9, 0, 0], Err(20)),
            (&[1, 1, 1, 99], Err(23)),
            (&[99, 4, 0, 0], Ok(())),
        ];
        for (options, expected) in cases {
            assert_eq!(check(&header(options)), *expected, "{options:?}");
        }
    }

    #[test]
    fn nothing_stands_behind_the_end() {
        let cases: &[(&[u8], &[u8])] = &[
            (&[1, 1, 1, 0], &[1, 1, 1, 0]),
            (&[0, 9, 9, 9], &[0, 0, 0, 0]),
            (&[148, 4, 0, 0, 1, 0, 5, 5], &[148, 4, 0, 0, 1, 0, 0, 0]),
            (&[1, 1, 1, 1], &[1, 1, 1, 1]),
            (&[1, 1, 1, 99], &[1, 1, 1, 99]),
            (&[99, 9, 0, 7], &[99, 9, 0, 7]),
            (&[], &[]),
        ];
        for (options, expected) in cases {
            let mut bytes = header(options);
            end_for_good(&mut bytes);
            assert_eq!(&bytes[20..], *expected, "{options:?}");
        }
    }

    #[test]
    fn finds_source_routes() {
        assert!(has_source_route(&header(&[1, 131, 7, 4, 10, 0, 0, 1])));
        assert!(has_source_route(&header(&[137, 7, 4, 10, 0, 0, 1, 0])));
        assert!(!has_source_route(&header(&[148, 4, 0, 0])));
        assert!(!has_source_route(&header(&[0, 131, 3, 4])));
        assert!(!has_source_route(&header(&[])));
        assert!(!has_source_route(&[]));
    }
}
