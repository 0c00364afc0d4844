//! Media as a phone sends and hears it: recorded speech in RTP over UDP, every packet known by its content.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::{set_ip_tos, set_socket_recv_buffer_size_force};

use crate::pace::Pace;
use crate::recording::{FRAME_BYTES, PAYLOAD_TYPE, Recording};
use crate::topology::Namespace;
use crate::worker::Worker;

/// Bytes of the IPv4 and UDP headers.
pub const IP_UDP_BYTES: u64 = 28;
const RTP_BYTES: usize = 12;
const PACKET_BYTES: usize = RTP_BYTES + FRAME_BYTES;
/// IP bytes of one packet of speech.
pub const SPEECH_IP_BYTES: u64 = IP_UDP_BYTES + PACKET_BYTES as u64;
/// Enough for a receiver that is not scheduled for a second.
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;
/// A-law has one byte per sample.
const SAMPLES: u32 = 160;
const _: () = assert!(SAMPLES as usize == FRAME_BYTES);

/// One direction of a call: which packets it consists of and when they go.
#[derive(Debug, Clone)]
pub struct Stream {
    /// Where its packets come from.
    pub source: SocketAddrV4,
    /// Where they go.
    pub destination: SocketAddrV4,
    /// Names it in RTP; first sequence number and timestamp follow from it.
    pub ssrc: u32,
    /// Between two packets.
    pub interval: Duration,
}

impl Stream {
    fn first_sequence(&self) -> u16 {
        self.ssrc.to_be_bytes().iter().fold(60_000_u16, |sum, byte| sum.wrapping_mul(31).wrapping_add((*byte).into()))
    }

    fn first_timestamp(&self) -> u32 {
        self.ssrc.wrapping_mul(2_654_435_761)
    }

    /// Streams start at different places of the recording, so that one cannot pass for another.
    fn frame_offset(&self) -> u64 {
        u64::from(self.ssrc) * 17
    }

    fn packet(&self, n: u64, recording: &Recording) -> [u8; PACKET_BYTES] {
        // Both wrap around by design.
        #[allow(clippy::cast_possible_truncation, reason = "RTP counts modulo 2^16 and 2^32")]
        let (n16, n32) = (n as u16, n as u32);
        let mut packet = [0; PACKET_BYTES];
        packet[0] = 0x80;
        packet[1] = PAYLOAD_TYPE;
        packet[2..4].copy_from_slice(&self.first_sequence().wrapping_add(n16).to_be_bytes());
        let timestamp = self.first_timestamp().wrapping_add(n32.wrapping_mul(SAMPLES));
        packet[4..8].copy_from_slice(&timestamp.to_be_bytes());
        packet[8..12].copy_from_slice(&self.ssrc.to_be_bytes());
        packet[RTP_BYTES..].copy_from_slice(recording.frame(n + self.frame_offset()));
        packet
    }

    /// Which packet of the stream this is; nothing if it differs from what was sent in a single byte.
    fn number(&self, packet: &[u8], recording: &Recording) -> Option<u64> {
        let timestamp = u32::from_be_bytes(packet.get(4..8)?.try_into().ok()?);
        let n = u64::from(timestamp.wrapping_sub(self.first_timestamp()) / SAMPLES);
        (packet == self.packet(n, recording)).then_some(n)
    }
}

/// The sockets of a site, one for each port; each sends and hears.
#[derive(Debug, Clone)]
pub struct Phones {
    sockets: Arc<Vec<UdpSocket>>,
}

impl Phones {
    /// Binds `ports` of `address` inside `namespace`.
    ///
    /// # Errors
    ///
    /// When a port is not to be had.
    pub fn bind(namespace: &Namespace, address: Ipv4Addr, ports: &[u16]) -> anyhow::Result<Self> {
        let sockets = namespace.run(|| {
            let bind = |port: &u16| {
                let socket = UdpSocket::bind((address, *port))?;
                set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER_BYTES)?;
                socket.set_nonblocking(true)?;
                Ok(socket)
            };
            let sockets: std::io::Result<Vec<_>> = ports.iter().map(bind).collect();
            sockets.with_context(|| format!("cannot bind the phones' ports at {address}"))
        })?;
        Ok(Self { sockets: Arc::new(sockets) })
    }
}

/// What became of the sends of one stream.
#[derive(Debug, Default)]
pub struct SendCount {
    sent: AtomicU64,
    refused: AtomicU64,
}

impl SendCount {
    /// Packets that the kernel took.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Sends that the sending host's own kernel refused; such a packet is sent again later.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

/// Plays streams until it is stopped.
#[derive(Debug)]
pub struct Sender {
    counts: Arc<Vec<SendCount>>,
    worker: Option<Worker>,
}

impl Sender {
    /// Stream `i` of `streams` goes out by phone `phone_of[i]`, staggered over its interval.
    ///
    /// # Errors
    ///
    /// When there can be no thread.
    pub fn start(
        name: &str,
        phones: &Phones,
        streams: Vec<(usize, Stream)>,
        recording: Arc<Recording>,
    ) -> anyhow::Result<Self> {
        let counts: Arc<Vec<_>> = Arc::new(streams.iter().map(|_| SendCount::default()).collect());
        let (phones, theirs) = (phones.clone(), Arc::clone(&counts));
        let worker = Worker::start(name, move |stop| send(&phones, &streams, &theirs, &recording, stop))?;
        Ok(Self { counts, worker: Some(worker) })
    }

    /// By stream, in the order given.
    #[must_use]
    pub fn counts(&self) -> &[SendCount] {
        &self.counts
    }

    /// Hangs up.
    pub fn stop(&mut self) {
        self.worker = None;
    }
}

fn send(phones: &Phones, streams: &[(usize, Stream)], counts: &[SendCount], recording: &Recording, stop: &AtomicBool) {
    let start = Instant::now();
    let count = u32::try_from(streams.len()).unwrap_or(u32::MAX);
    let staggered =
        |(i, (_, stream)): (u32, &(usize, Stream))| Pace::new(start + stream.interval * i / count, stream.interval);
    let mut paces: Vec<Pace> = (0..).zip(streams).map(staggered).collect();
    while !stop.load(Ordering::Relaxed) {
        let next = (0..paces.len()).min_by_key(|i| paces[*i].due());
        let Some(i) = next else { return };
        std::thread::sleep(paces[i].due().saturating_duration_since(Instant::now()));
        let (phone, stream) = &streams[i];
        let packet = stream.packet(counts[i].sent(), recording);
        let outcome = phones.sockets[*phone].send_to(&packet, stream.destination);
        let counter = if outcome.is_ok() { &counts[i].sent } else { &counts[i].refused };
        counter.fetch_add(1, Ordering::Relaxed);
        paces[i].sent(Instant::now());
    }
}

/// What was heard of one stream.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    /// Packets from the right source.
    pub packets: u64,
    /// Their IP bytes.
    pub ip_bytes: u64,
    /// Packets that differ from what was sent, come twice or come from somebody else.
    pub mismatches: u64,
    /// Packets in the settled time.
    pub settled_packets: u64,
    settled_ip_bytes: u64,
    settled_first: Option<Instant>,
    last: Option<Instant>,
    seen: Vec<u64>,
}

impl Heard {
    /// Notes a packet; `number` is its place in the stream if it is right in every byte.
    fn note(&mut self, number: Option<u64>, length: usize, now: Instant, settled: bool) {
        let ip_bytes = length as u64 + IP_UDP_BYTES;
        self.packets += 1;
        self.ip_bytes += ip_bytes;
        self.last = Some(now);
        if settled {
            // Time begins with the first arrival, so the first packet's bytes came before it.
            match self.settled_first {
                None => self.settled_first = Some(now),
                Some(_) => {
                    self.settled_packets += 1;
                    self.settled_ip_bytes += ip_bytes;
                }
            }
        }
        if !number.is_some_and(|number| self.see(number)) {
            self.mismatches += 1;
        }
    }

    /// Whether it was not seen before. What is beyond any stream's length is not from ours.
    fn see(&mut self, number: u64) -> bool {
        const NUMBER_MAX: u64 = 1 << 26;
        let Ok(word) = usize::try_from(number / 64) else {
            return false;
        };
        if number > NUMBER_MAX {
            return false;
        }
        if word >= self.seen.len() {
            self.seen.resize(word + 1, 0);
        }
        let bit = 1 << (number % 64);
        let is_new = self.seen[word] & bit == 0;
        self.seen[word] |= bit;
        is_new
    }

    /// Packets of `range` that have not come.
    #[must_use]
    pub fn missing(&self, range: std::ops::Range<u64>) -> u64 {
        let has = |number: &u64| {
            let word = usize::try_from(number / 64).ok().and_then(|word| self.seen.get(word));
            word.is_some_and(|word| word & (1 << (number % 64)) != 0)
        };
        range.filter(|number| !has(number)).count() as u64
    }

    /// Bits per second of IP between the first and the last arrival in the settled time, and that time.
    #[must_use]
    pub fn settled_rate(&self) -> Option<(f64, Duration)> {
        let time = self.last?.saturating_duration_since(self.settled_first?);
        if time.is_zero() {
            return None;
        }
        // Exact below 2^53.
        #[allow(clippy::cast_precision_loss, reason = "a demo's bytes are far below 2^53")]
        let bits = self.settled_ip_bytes as f64 * 8.0;
        Some((bits / time.as_secs_f64(), time))
    }
}

/// What a site has heard.
#[derive(Debug, Clone, Default)]
pub struct Ear {
    /// By phone, as far as it expects a stream.
    pub streams: Vec<Heard>,
    /// Packets on the port without a session.
    pub unadmitted: u64,
}

/// Hears a site's phones until it is dropped.
#[derive(Debug)]
pub struct Receiver {
    ear: Arc<Mutex<Ear>>,
    _worker: Worker,
}

impl Receiver {
    /// Expects stream `i` at phone `i`. A phone beyond the streams is the port without a session. From `settle` on, rates
    /// are measured.
    ///
    /// # Errors
    ///
    /// When there can be no thread.
    pub fn start(
        name: &str,
        phones: &Phones,
        streams: Vec<Stream>,
        recording: Arc<Recording>,
        settle: Instant,
    ) -> anyhow::Result<Self> {
        let heard = streams.iter().map(|_| Heard::default()).collect();
        let ear = Arc::new(Mutex::new(Ear { streams: heard, unadmitted: 0 }));
        let (phones, theirs) = (phones.clone(), Arc::clone(&ear));
        let worker = Worker::start(name, move |stop| {
            while !stop.load(Ordering::Relaxed) {
                if let Err(error) = hear(&phones, &streams, &theirs, &recording, settle) {
                    eprintln!("cannot listen to the phones: {error}");
                    return;
                }
            }
        })?;
        Ok(Self { ear, _worker: worker })
    }

    /// Everything up to now.
    #[must_use]
    pub fn heard(&self) -> Ear {
        self.ear.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Waits a little, then takes all that has come.
fn hear(
    phones: &Phones,
    streams: &[Stream],
    ear: &Mutex<Ear>,
    recording: &Recording,
    settle: Instant,
) -> std::io::Result<()> {
    const WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
    let mut ready: Vec<_> = phones.sockets.iter().map(|socket| PollFd::new(socket, PollFlags::IN)).collect();
    match poll(&mut ready, Some(&WAIT)) {
        Err(rustix::io::Errno::INTR) => return Ok(()),
        outcome => outcome?,
    };
    let mut packet = [0; 2048];
    for (phone, socket) in phones.sockets.iter().enumerate() {
        if ready[phone].revents().is_empty() {
            continue;
        }
        loop {
            let (length, from) = match socket.recv_from(&mut packet) {
                Ok(received) => received,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            let now = Instant::now();
            let mut ear = ear.lock().unwrap_or_else(PoisonError::into_inner);
            match (streams.get(phone), ear.streams.get_mut(phone)) {
                (Some(stream), Some(heard)) if from == SocketAddr::V4(stream.source) => {
                    heard.note(stream.number(&packet[..length], recording), length, now, now >= settle);
                }
                (_, Some(heard)) => heard.mismatches += 1,
                _ => ear.unadmitted += 1,
            }
        }
    }
    Ok(())
}

/// Traffic of no session, far above what the link carries.
#[derive(Debug)]
pub struct Flood {
    sent: Arc<AtomicU64>,
    worker: Option<Worker>,
}

impl Flood {
    /// IP bytes of each packet.
    pub const IP_BYTES: u64 = Self::PAYLOAD_BYTES as u64 + IP_UDP_BYTES;
    const PAYLOAD_BYTES: usize = 972;
    const BATCH: u32 = 8;
    const EXPEDITED: u8 = 46 << 2;

    /// Sends `rate_bps` from inside `namespace`; every second packet claims the DSCP of reserved traffic.
    ///
    /// # Errors
    ///
    /// When there can be no socket or no thread.
    pub fn start(
        namespace: &Namespace,
        source: Ipv4Addr,
        destination: SocketAddrV4,
        rate_bps: u64,
    ) -> anyhow::Result<Self> {
        let sockets = namespace.run(|| {
            let plain = UdpSocket::bind((source, 0)).context("cannot bind a port")?;
            let marked = UdpSocket::bind((source, 0)).context("cannot bind a port")?;
            set_ip_tos(&marked, Self::EXPEDITED).context("cannot set the DSCP")?;
            Ok([plain, marked])
        })?;
        let sent = Arc::new(AtomicU64::new(0));
        let theirs = Arc::clone(&sent);
        let interval = Duration::from_nanos(Self::IP_BYTES * 8 * 1_000_000_000 / rate_bps.max(1)) * Self::BATCH;
        let worker = Worker::start("flood", move |stop| {
            let payload = [0x55; Self::PAYLOAD_BYTES];
            let mut pace = Pace::new(Instant::now(), interval);
            while !stop.load(Ordering::Relaxed) {
                std::thread::sleep(pace.due().saturating_duration_since(Instant::now()));
                for (socket, _) in sockets.iter().cycle().zip(0..Self::BATCH) {
                    if socket.send_to(&payload, destination).is_ok() {
                        theirs.fetch_add(1, Ordering::Relaxed);
                    }
                }
                pace.sent(Instant::now());
            }
        })?;
        Ok(Self { sent, worker: Some(worker) })
    }

    /// Packets that the kernel took.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends it.
    pub fn stop(&mut self) {
        self.worker = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recording() -> Option<Recording> {
        let read = Recording::find().and_then(|path| Recording::read(&path));
        read.inspect_err(|error| println!("skipped: {error:#}")).ok()
    }

    fn stream(ssrc: u32) -> Stream {
        Stream {
            source: SocketAddrV4::new(Ipv4Addr::new(10, 1, 0, 10), 20_000),
            destination: SocketAddrV4::new(Ipv4Addr::new(10, 2, 0, 10), 20_000),
            ssrc,
            interval: Duration::from_millis(20),
        }
    }

    #[test]
    fn a_packet_is_known_by_every_byte() {
        let Some(recording) = recording() else { return };
        let stream = stream(5);
        for n in [0, 1, 65_535, 65_536, 1_000_000] {
            let packet = stream.packet(n, &recording);
            assert_eq!(packet.len() as u64 + IP_UDP_BYTES, SPEECH_IP_BYTES);
            assert_eq!(stream.number(&packet, &recording), Some(n));
            for at in 0..packet.len() {
                let mut broken = packet;
                broken[at] ^= 1;
                assert_eq!(stream.number(&broken, &recording), None, "byte {at}");
            }
            assert_eq!(stream.number(&packet[..171], &recording), None);
        }
        assert_eq!(stream.number(&[], &recording), None);
    }

    #[test]
    fn sequence_and_timestamp_go_on_over_the_loop() {
        let Some(recording) = recording() else { return };
        let stream = stream(9);
        let end = recording.frames() as u64;
        let (last, first) = (stream.packet(end - 1, &recording), stream.packet(end, &recording));
        let sequence = |packet: &[u8]| u16::from_be_bytes([packet[2], packet[3]]);
        let timestamp = |packet: &[u8]| u32::from_be_bytes(packet[4..8].try_into().unwrap());
        assert_eq!(sequence(&first), sequence(&last).wrapping_add(1));
        assert_eq!(timestamp(&first), timestamp(&last).wrapping_add(160));
        assert_eq!(first[12..], stream.packet(0, &recording)[12..]);
    }

    #[test]
    fn what_is_lost_doubled_or_wrong_is_told_apart() {
        let mut heard = Heard::default();
        let now = Instant::now();
        for number in [Some(0), Some(1), Some(64), Some(64), None, Some(u64::MAX)] {
            heard.note(number, 172, now, false);
        }
        assert_eq!((heard.packets, heard.ip_bytes, heard.mismatches), (6, 1200, 3));
        assert_eq!(heard.missing(0..65), 62);
        assert_eq!(heard.missing(64..65), 0);
        assert_eq!(heard.missing(60..70), 9);
    }

    #[test]
    fn the_rate_counts_from_the_first_settled_arrival() {
        let mut heard = Heard::default();
        let start = Instant::now();
        for n in 0..=100 {
            let now = start + Duration::from_millis(20) * u32::try_from(n).unwrap();
            heard.note(Some(n), 172, now, n >= 50);
        }
        let (rate, time) = heard.settled_rate().unwrap();
        assert_eq!(time, Duration::from_secs(1));
        assert!((rate - 80_000.0).abs() < 1e-6, "{rate}");
        assert_eq!(Heard::default().settled_rate(), None);
    }
}
