//! Recorded speech: a classic pcap file of one G.711 A-law call, read without trusting it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

/// RTP payload type of G.711 A-law (RFC 3551).
pub const PAYLOAD_TYPE: u8 = 8;
/// G.711 has one byte per sample at 8 kHz: 20 ms.
pub const FRAME_BYTES: usize = 160;

const FILE_NAME: &str = "g711a.pcap";
const PACKAGE: &str = "sip-tester";

/// Speech cut into frames of 20 ms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recording {
    frames: Vec<[u8; FRAME_BYTES]>,
}

impl Recording {
    /// Where the package `sip-tester` has put its recorded call.
    ///
    /// # Errors
    ///
    /// When the package or the file is not there.
    pub fn find() -> anyhow::Result<PathBuf> {
        let listed = Command::new("dpkg").args(["-L", PACKAGE]).output();
        let listed = listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        listed
            .lines()
            .map(PathBuf::from)
            .chain([Path::new("/usr/share").join(PACKAGE).join(FILE_NAME)])
            .find(|path| path.file_name().is_some_and(|name| name == FILE_NAME) && path.is_file())
            .with_context(|| format!("no {FILE_NAME}: install the package {PACKAGE} (cargo xtask setup does)"))
    }

    /// Reads the pcap file.
    ///
    /// # Errors
    ///
    /// When it is not a pcap file of RTP with G.711 A-law.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let file = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&file).with_context(|| format!("{} is no recording of a G.711 A-law call", path.display()))
    }

    fn parse(file: &[u8]) -> anyhow::Result<Self> {
        let mut packets = Vec::new();
        for frame in pcap_frames(file)? {
            if let Some(packet) = rtp(frame) {
                packets.push(packet);
            }
        }
        let ssrc = packets.first().context("no RTP packet with payload type 8 in it")?.ssrc;
        let mut speech = Vec::new();
        let mut next_sequence = None;
        for packet in packets.iter().filter(|packet| packet.ssrc == ssrc) {
            ensure!(
                next_sequence.is_none_or(|next| next == packet.sequence),
                "RTP sequence number {} comes out of turn",
                packet.sequence
            );
            next_sequence = Some(packet.sequence.wrapping_add(1));
            speech.extend_from_slice(packet.payload);
        }
        let (frames, _rest) = speech.as_chunks::<FRAME_BYTES>();
        ensure!(!frames.is_empty(), "less than 20 ms of speech");
        Ok(Self { frames: frames.to_vec() })
    }

    /// The `n`th frame of the recording played in a loop.
    #[must_use]
    pub fn frame(&self, n: u64) -> &[u8; FRAME_BYTES] {
        let length = self.frames.len() as u64;
        // Smaller than the length, which is a usize.
        #[allow(clippy::cast_possible_truncation, reason = "a remainder of a usize")]
        &self.frames[(n % length) as usize]
    }

    /// Frames before it begins again.
    #[must_use]
    pub fn frames(&self) -> usize {
        self.frames.len()
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// The Ethernet frames of a classic pcap file, in either byte order.
fn pcap_frames(file: &[u8]) -> anyhow::Result<Vec<&[u8]>> {
    const HEADER: usize = 24;
    const RECORD_HEADER: usize = 16;
    const ETHERNET: u32 = 1;
    let little = match file.first_chunk::<4>() {
        Some([0xd4, 0xc3, 0xb2, 0xa1] | [0x4d, 0x3c, 0xb2, 0xa1]) => true,
        Some([0xa1, 0xb2, 0xc3, 0xd4] | [0xa1, 0xb2, 0x3c, 0x4d]) => false,
        _ => anyhow::bail!("it does not begin like a pcap file"),
    };
    let word = |at: usize| -> Option<u32> {
        let bytes = file.get(at..at + 4)?.try_into().ok()?;
        Some(if little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    };
    let link_type = word(20).context("its header is cut off")?;
    ensure!(link_type == ETHERNET, "its link type is {link_type}, not Ethernet");
    let mut frames = Vec::new();
    let mut at = HEADER;
    while at < file.len() {
        let captured = word(at + 8).context("a record's header is cut off")? as usize;
        let original = word(at + 12).context("a record's header is cut off")? as usize;
        ensure!(captured == original, "record {} was not captured whole", frames.len());
        let start = at + RECORD_HEADER;
        let frame = start.checked_add(captured).and_then(|end| file.get(start..end));
        frames.push(frame.with_context(|| format!("record {} is cut off", frames.len()))?);
        at = start + captured;
    }
    Ok(frames)
}

struct Rtp<'a> {
    ssrc: u32,
    sequence: u16,
    payload: &'a [u8],
}

/// The RTP packet with G.711 A-law in a frame, if there is one.
fn rtp(frame: &[u8]) -> Option<Rtp<'_>> {
    const IPV4: u16 = 0x0800;
    const UDP: u8 = 17;
    if be16(frame, 12)? != IPV4 {
        return None;
    }
    let ip = frame.get(14..)?;
    let first = *ip.first()?;
    let header = usize::from(first & 0x0f) * 4;
    let total = usize::from(be16(ip, 2)?);
    let is_fragment = be16(ip, 6)? & 0x3fff != 0;
    if first >> 4 != 4 || header < 20 || *ip.get(9)? != UDP || is_fragment {
        return None;
    }
    let udp = ip.get(header..total)?;
    let rtp = udp.get(8..usize::from(be16(udp, 4)?))?;
    let [flags, kind, ..] = rtp else { return None };
    // Version 2 without padding, extension or contributing sources.
    if *flags != 0x80 || kind & 0x7f != PAYLOAD_TYPE {
        return None;
    }
    Some(Rtp {
        ssrc: u32::from_be_bytes(rtp.get(8..12)?.try_into().ok()?),
        sequence: be16(rtp, 2)?,
        payload: rtp.get(12..)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAYLOAD: usize = 240;

    fn frame(sequence: u16, payload_type: u8, fill: u8) -> Vec<u8> {
        let mut rtp = vec![0x80, payload_type];
        rtp.extend(sequence.to_be_bytes());
        rtp.extend(0_u32.to_be_bytes());
        rtp.extend(7_u32.to_be_bytes());
        rtp.extend([fill; PAYLOAD]);
        let udp_length = u16::try_from(rtp.len() + 8).unwrap();
        let mut udp = vec![0, 1, 0, 2];
        udp.extend(udp_length.to_be_bytes());
        udp.extend([0, 0]);
        udp.extend(rtp);
        let mut ip = vec![0x45, 0];
        ip.extend((udp_length + 20).to_be_bytes());
        ip.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        ip.extend(udp);
        let mut frame = vec![0; 12];
        frame.extend([8, 0]);
        frame.extend(ip);
        frame
    }

    fn pcap(frames: &[Vec<u8>], little: bool) -> Vec<u8> {
        let word = |value: u32| {
            if little { value.to_le_bytes() } else { value.to_be_bytes() }
        };
        let mut file = Vec::new();
        for value in [0xa1b2_c3d4, 0, 0, 0, 65535, 1] {
            file.extend(word(value));
        }
        for frame in frames {
            let length = u32::try_from(frame.len()).unwrap();
            for value in [0, 0, length, length] {
                file.extend(word(value));
            }
            file.extend(frame);
        }
        file
    }

    #[test]
    fn speech_is_cut_anew_into_20_ms() {
        for little in [true, false] {
            let frames = [frame(65535, 8, 1), frame(0, 8, 2), frame(1, 0, 9)];
            let recording = Recording::parse(&pcap(&frames, little)).unwrap();
            assert_eq!(recording.frames(), 3);
            assert_eq!(recording.frame(0), &[1; FRAME_BYTES]);
            assert_eq!(recording.frame(1)[79..81], [1, 2]);
            assert_eq!(recording.frame(5), &[2; FRAME_BYTES], "it begins again");
        }
    }

    #[test]
    fn what_is_no_recording_is_refused() {
        let good = pcap(&[frame(1, 8, 1), frame(2, 8, 1)], true);
        let said = |file: &[u8]| format!("{:#}", Recording::parse(file).unwrap_err());
        assert!(said(b"").contains("does not begin"));
        assert!(said(b"RIFF, not a capture").contains("does not begin"));
        assert!(said(&good[..24]).contains("no RTP packet"));
        assert!(said(&good[..30]).contains("cut off"));
        assert!(said(&good[..good.len() - 1]).contains("cut off"));
        assert!(said(&pcap(&[frame(1, 8, 1), frame(3, 8, 1)], true)).contains("out of turn"));
        assert!(said(&pcap(&[frame(1, 0, 1)], true)).contains("no RTP packet"));
        let mut wrong_link = good;
        wrong_link[20] = 113;
        assert!(said(&wrong_link).contains("link type is 113"));
    }

    #[test]
    fn no_cut_and_no_broken_byte_makes_it_panic() {
        let good = pcap(&[frame(1, 8, 1)], true);
        for length in 0..good.len() {
            let _ = Recording::parse(&good[..length]);
        }
        for at in 0..good.len() {
            let mut broken = good.clone();
            broken[at] ^= 0xff;
            let _ = Recording::parse(&broken);
        }
    }

    #[test]
    fn the_packaged_recording_is_read() {
        let Ok(path) = Recording::find() else {
            println!("skipped: no recording, package {PACKAGE} is not installed");
            return;
        };
        let recording = Recording::read(&path).unwrap();
        assert!(recording.frames() > 100, "only {} frames", recording.frames());
        assert_ne!(recording.frame(0), recording.frame(100));
    }
}
