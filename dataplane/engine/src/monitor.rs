//! Hears of changes to links, addresses, routes and neighbours, so that next hops follow them.

use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

const GROUP_LINK: u32 = 0x1;
const GROUP_NEIGHBOUR: u32 = 0x4;
const GROUP_IPV4_ADDRESS: u32 = 0x10;
const GROUP_IPV4_ROUTE: u32 = 0x40;
const GROUP_IPV6_ADDRESS: u32 = 0x100;
const GROUP_IPV6_ROUTE: u32 = 0x400;
const GROUPS: u32 =
    GROUP_LINK | GROUP_NEIGHBOUR | GROUP_IPV4_ADDRESS | GROUP_IPV4_ROUTE | GROUP_IPV6_ADDRESS | GROUP_IPV6_ROUTE;

/// Most messages taken at a time; what is left is taken the next time.
const MESSAGES_MAX: usize = 4_096;

/// Listens in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Monitor(Socket);

impl Monitor {
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, GROUPS))?;
        socket.set_non_blocking(true)?;
        Ok(Self(socket))
    }

    /// Whether anything has changed since the last call. What exactly does not matter: the kernel is asked anew.
    pub(crate) fn changed(&self) -> io::Result<bool> {
        let mut buffer = Vec::with_capacity(1 << 15);
        for taken in 0..MESSAGES_MAX {
            buffer.clear();
            match self.0.recv(&mut buffer, 0) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(taken > 0),
                // More came than the socket holds: something has changed.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}
