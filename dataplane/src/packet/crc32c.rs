//! CRC32c (Castagnoli), the checksum of SCTP: RFC 9260 appendix A.

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = i as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
};

fn update(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, byte| TABLE[(crc as u8 ^ byte) as usize] ^ crc >> 8)
}

/// The CRC of some bytes.
pub fn crc32c(bytes: &[u8]) -> u32 {
    !update(!0, bytes)
}

/// The bytes of the checksum field (offset 8) of an SCTP packet, taken as if the field were zero. None if shorter than
/// the common header.
pub fn sctp(packet: &[u8]) -> Option<[u8; 4]> {
    let (front, rest) = packet.split_at_checked(8)?;
    let (_, chunks) = rest.split_at_checked(4)?;
    let crc = !update(update(update(!0, front), &[0; 4]), chunks);
    Some(crc.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_values_of_rfc_3720() {
        // RFC 3720 appendix B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn the_old_field_does_not_count() {
        let packet = [1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 9];
        let mut filled = packet;
        filled[8..12].copy_from_slice(&[0xaa; 4]);
        assert_eq!(sctp(&packet), sctp(&filled));
        assert_eq!(sctp(&packet), Some(crc32c(&packet).to_le_bytes()));
        assert_eq!(sctp(&packet[..11]), None);
    }
}
