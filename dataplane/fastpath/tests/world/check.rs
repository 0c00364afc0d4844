//! Checksums from scratch, over frames of either family with whatever stands before the UDP header.

/// Where things stand in a frame.
pub struct Layout {
    pub ip: usize,
    pub udp: usize,
    /// End of the IP packet.
    pub end: usize,
    pub v6: bool,
}

/// Finds the headers of a good UDP frame.
pub fn layout(frame: &[u8]) -> Layout {
    let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let mut ip = 14;
    while matches!(word(ip - 2), 0x8100 | 0x88a8) {
        ip += 4;
    }
    if word(ip - 2) == 0x0800 {
        let udp = ip + usize::from(frame[ip] & 15) * 4;
        return Layout { ip, udp, end: ip + usize::from(word(ip + 2)), v6: false };
    }
    let (mut next, mut udp) = (frame[ip + 6], ip + 40);
    while matches!(next, 0 | 43 | 60) {
        next = frame[udp];
        udp += (usize::from(frame[udp + 1]) + 1) * 8;
    }
    Layout { ip, udp, end: ip + 40 + usize::from(word(ip + 4)), v6: true }
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The checksum of an IPv4 header; zero over a valid one.
pub fn ip_checksum(header: &[u8]) -> u16 {
    !fold(sum(header))
}

fn udp_checksum(frame: &[u8], layout: &Layout) -> u16 {
    let addresses = if layout.v6 { layout.ip + 8..layout.ip + 40 } else { layout.ip + 12..layout.ip + 20 };
    let datagram = &frame[layout.udp..layout.end];
    !fold(sum(&frame[addresses]) + 17 + datagram.len() as u32 + sum(datagram))
}

/// Recomputes both checksums of a good UDP frame.
pub fn fix_checksums(frame: &mut [u8]) {
    let layout = layout(frame);
    fix_ip_checksum(frame);
    let at = layout.udp + 6;
    frame[at..at + 2].fill(0);
    let checksum = udp_checksum(frame, &layout);
    let checksum = if checksum == 0 { 0xffff } else { checksum };
    frame[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// Recomputes the checksum of the IPv4 header, where there is one.
pub fn fix_ip_checksum(frame: &mut [u8]) {
    let layout = layout(frame);
    if !layout.v6 {
        let at = layout.ip + 10;
        frame[at..at + 2].fill(0);
        let checksum = ip_checksum(&frame[layout.ip..layout.udp]);
        frame[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// Whether both checksums are right; a UDP checksum of zero is none. Ethernet padding does not count.
pub fn checksums_hold(frame: &[u8]) -> bool {
    let layout = layout(frame);
    let none = frame[layout.udp + 6..layout.udp + 8] == [0, 0];
    let ip = layout.v6 || ip_checksum(&frame[layout.ip..layout.udp]) == 0;
    ip && (none || udp_checksum(frame, &layout) == 0)
}
