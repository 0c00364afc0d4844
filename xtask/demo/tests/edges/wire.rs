//! Sends packets as they are, and sees packets as they come.

use std::net::{IpAddr, SocketAddrV4, SocketAddrV6};
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_recv_buffer_size, set_socket_timeout};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, recv, sendto, socket_with,
};
use turnpike_demo::topology::Namespace;

const ETHERNET_BYTES: usize = 14;
/// Every EtherType, in network order.
const ETH_P_ALL: u32 = 0x0300;
const PATIENCE: Duration = Duration::from_secs(5);
/// What comes later than this was not sent.
const QUIET: Duration = Duration::from_millis(150);

/// Raw sockets of a host: what they are given is the packet, IP header included.
pub(crate) struct Sender {
    v4: OwnedFd,
    v6: OwnedFd,
}

impl Sender {
    pub(crate) fn new(namespace: &Namespace) -> Self {
        let open = |family| {
            let made =
                namespace.run(|| Ok(socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::RAW))?));
            made.unwrap()
        };
        Self { v4: open(AddressFamily::INET), v6: open(AddressFamily::INET6) }
    }

    pub(crate) fn send(&self, packet: &[u8], destination: IpAddr) {
        let sent = match destination {
            IpAddr::V4(address) => sendto(&self.v4, packet, SendFlags::empty(), &SocketAddrV4::new(address, 0)),
            IpAddr::V6(address) => sendto(&self.v6, packet, SendFlags::empty(), &SocketAddrV6::new(address, 0, 0, 0)),
        };
        assert_eq!(sent.unwrap(), packet.len());
    }
}

/// The IP packets that come to a place, on all of its interfaces, until this is dropped.
pub(crate) struct Capture {
    packets: Arc<Mutex<Vec<Vec<u8>>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    pub(crate) fn new(namespace: &Namespace) -> Self {
        let socket = namespace.run(|| {
            let protocol = Protocol::from_raw(NonZeroU32::new(ETH_P_ALL).unwrap());
            let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, Some(protocol))?;
            set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_millis(20)))?;
            set_socket_recv_buffer_size(&socket, 1 << 21)?;
            Ok(socket)
        });
        let socket = socket.unwrap();
        let (packets, stop) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<AtomicBool>::default());
        let (kept, told) = (Arc::clone(&packets), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut frame = [0; 10_000];
            while !told.load(Ordering::Relaxed) {
                if let Ok((bytes, _)) = recv(&socket, &mut frame, RecvFlags::empty())
                    && let Some(packet) = packet_of(&frame[..bytes])
                {
                    kept.lock().unwrap().push(packet.to_vec());
                }
            }
        });
        Self { packets, stop, thread: Some(thread) }
    }

    /// Waits for so many packets that are wanted and a little longer, and gives all that came, in their order. What came is forgotten.
    pub(crate) fn take(&self, wanted: impl Fn(&[u8]) -> bool, count: usize) -> Vec<Vec<u8>> {
        let deadline = Instant::now() + PATIENCE;
        let found = || self.packets.lock().unwrap().iter().filter(|packet| wanted(packet)).count();
        while found() < count && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(QUIET);
        let mut packets = std::mem::take(&mut *self.packets.lock().unwrap());
        packets.retain(|packet| wanted(packet));
        packets
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The IP packet in a frame, without what fills the frame up; none if there is none.
fn packet_of(frame: &[u8]) -> Option<&[u8]> {
    let packet = frame.get(ETHERNET_BYTES..)?;
    let length = match frame.get(12..ETHERNET_BYTES)? {
        [0x08, 0x00] => usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?])),
        [0x86, 0xdd] => 40 + usize::from(u16::from_be_bytes([*packet.get(4)?, *packet.get(5)?])),
        _ => return None,
    };
    packet.get(..length)
}
