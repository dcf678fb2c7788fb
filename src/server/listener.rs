//! The socket of the server: dual-stack, and IPv4 only where the host has no IPv6.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tracing::info;

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 1024;
/// Error number of Linux for an address family that the kernel does not support.
const EAFNOSUPPORT: i32 = 97;

/// Listens on an address. The unspecified IPv6 address, `[::]`, stands for all addresses of both
/// families. On a host without IPv6 it stands for those of IPv4.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    or_on_ipv4(address, open)
}

/// Opens a socket on an address; if that is `[::]` and the host has no IPv6, on `0.0.0.0`.
fn or_on_ipv4<T>(address: SocketAddr, open: impl Fn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    let result = open(address);
    match &result {
        Err(error) if is_any_ipv6(address) && is_without_ipv6(error) => {
            let on_ipv4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
            info!(%address, %error, listen = %on_ipv4, "this host has no IPv6; listening on IPv4");
            open(on_ipv4)
        }
        _ => result,
    }
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // The default of the host is the sysctl net.ipv6.bindv6only.
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn is_any_ipv6(address: SocketAddr) -> bool {
    matches!(address.ip(), IpAddr::V6(ip) if ip.is_unspecified())
}

fn is_without_ipv6(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(EAFNOSUPPORT)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use tokio::net::TcpStream;

    use super::*;

    const ANY: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0);

    #[tokio::test]
    async fn the_unspecified_ipv6_address_serves_both_families() {
        let listener = listen(ANY).expect("a listener");
        let address = listener.local_addr().expect("an address");
        let port = address.port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.expect("a connection by IPv4");
        // A host without IPv6 can only show the other half.
        if address.is_ipv6() && TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.is_ok() {
            TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await.expect("a connection by IPv6");
        }
    }

    /// Opens no socket, and fails for IPv6 addresses with this error.
    fn without_ipv6(code: i32) -> impl Fn(SocketAddr) -> io::Result<SocketAddr> {
        move |address| match address {
            SocketAddr::V4(_) => Ok(address),
            SocketAddr::V6(_) => Err(io::Error::from_raw_os_error(code)),
        }
    }

    #[test]
    fn without_ipv6_the_same_port_is_served_by_ipv4() {
        let any = SocketAddr::new(ANY.ip(), 8080);
        // EADDRNOTAVAIL is 99.
        for code in [EAFNOSUPPORT, 99] {
            let address = or_on_ipv4(any, without_ipv6(code)).expect("an IPv4 address");
            assert_eq!(address.to_string(), "0.0.0.0:8080");
        }
    }

    #[test]
    fn other_errors_and_other_addresses_have_no_substitute() {
        // EADDRINUSE is 98.
        let any = SocketAddr::new(ANY.ip(), 8080);
        let error = or_on_ipv4(any, without_ipv6(98)).expect_err("the port is in use");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        let one = SocketAddr::from((Ipv6Addr::LOCALHOST, 8080));
        or_on_ipv4(one, without_ipv6(EAFNOSUPPORT)).expect_err("not the address that was named");
    }
}
