//! Where the router is: the default route of the system with the least metric, if it leads to a router.
//!
//! Linux tells it in /proc. On other systems nothing is told, and no port is mapped.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use peers_nat::portmap::{GATEWAY_PORT, Network};

/// What is to be mapped for sockets at `addresses`, and where: nothing without a router, or if what goes to it leaves from none of the addresses.
pub(super) fn network(v6: bool, addresses: &[SocketAddr]) -> Option<Network> {
    let gateway = if v6 { default_v6() } else { default_v4() }?;
    if v6 {
        // The mapping is for the address outside, which is a global one: not the one that a link-local router is asked from by itself.
        let global = |address: &&SocketAddr| matches!(address, SocketAddr::V6(ip) if is_global(*ip.ip()));
        let address = addresses.iter().find(global)?;
        return Some(Network { gateway, client: address.ip(), port: address.port() });
    }
    let client = leaves_from(gateway)?;
    let address = addresses.iter().find(|address| address.ip() == client)?;
    Some(Network { gateway, client, port: address.port() })
}

fn is_global(ip: Ipv6Addr) -> bool {
    !ip.is_loopback() && !ip.is_unspecified() && !ip.is_unique_local() && !ip.is_unicast_link_local()
}

/// The address that the system sends from to `remote`; nothing is sent for that.
fn leaves_from(remote: SocketAddr) -> Option<IpAddr> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(remote).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

fn default_v4() -> Option<SocketAddr> {
    least_v4(&std::fs::read_to_string("/proc/net/route").ok()?)
}

fn default_v6() -> Option<SocketAddr> {
    let (ip, interface) = least_v6(&std::fs::read_to_string("/proc/net/ipv6_route").ok()?)?;
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let index = interfaces.into_iter().find(|found| found.name == interface)?.index?;
    Some(SocketAddrV6::new(ip, GATEWAY_PORT, 0, index).into())
}

/// Bits of a route's flags: it is up, and it leads to a router.
const USABLE: u32 = 1 | 2;

/// The router of the best default route in /proc/net/route: interface, destination, gateway, flags, and, after two others, metric and mask.
fn least_v4(table: &str) -> Option<SocketAddr> {
    let routes = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let hex = |field: usize| u32::from_str_radix(fields.get(field)?, 16).ok();
        let is_default = hex(1)? == 0 && hex(7)? == 0;
        is_default.then_some((fields.get(6)?.parse::<u32>().ok()?, hex(3)?, hex(2)?))
    });
    let (_, flags, gateway) = routes.min_by_key(|(metric, ..)| *metric)?;
    // The kernel prints the address as a number of the machine's own byte order.
    (flags & USABLE == USABLE).then(|| SocketAddr::new(Ipv4Addr::from(gateway.to_ne_bytes()).into(), GATEWAY_PORT))
}

/// The router of the best default route in /proc/net/ipv6_route, and its interface: destination, its length, two of the source, gateway, metric, two counters, flags, interface.
fn least_v6(table: &str) -> Option<(Ipv6Addr, String)> {
    let routes = table.lines().filter_map(|line| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let hex = |field: usize| u128::from_str_radix(fields.get(field)?, 16).ok();
        let is_default = hex(0)? == 0 && hex(1)? == 0 && *fields.get(9)? != "lo";
        is_default.then_some((hex(5)?, hex(8)?, hex(4)?, *fields.get(9)?))
    });
    let (_, flags, gateway, interface) = routes.min_by_key(|(metric, ..)| *metric)?;
    (flags & u128::from(USABLE) == u128::from(USABLE)).then(|| (Ipv6Addr::from(gateway), interface.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";

    /// Addresses as a little-endian kernel prints them.
    fn v4(routes: &str) -> Option<SocketAddr> {
        if cfg!(target_endian = "big") {
            return None;
        }
        least_v4(&format!("{HEAD}{routes}"))
    }

    #[test]
    fn the_router_of_the_default_route_with_the_least_metric_is_found() {
        let lan = "wlan0\t0001A8C0\t00000000\t0001\t0\t0\t600\t00FFFFFF\t0\t0\t0\n";
        let wifi = "wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n";
        let cable = "eth0\t00000000\tFE00000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n";
        assert_eq!(v4(&[lan, wifi].concat()), Some("192.168.1.1:5351".parse().unwrap()));
        assert_eq!(v4(&[lan, wifi, cable].concat()), Some("10.0.0.254:5351".parse().unwrap()));
        assert_eq!(v4(lan), None);
        assert_eq!(v4("what is this\n\n0 0 0 0 0 0 0 0\n"), None);
    }

    #[test]
    fn a_default_route_without_a_router_has_none_even_if_a_worse_one_has() {
        let tunnel = "tun0\t00000000\t00000000\t0001\t0\t0\t50\t00000000\t0\t0\t0\n";
        let wifi = "wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n";
        assert_eq!(v4(&[wifi, tunnel].concat()), None);
    }

    #[test]
    fn the_router_of_ipv6_is_found_with_its_interface() {
        let zero = "00000000000000000000000000000000";
        let router = "fe800000000000000000000000000001";
        let route =
            |gateway, metric, flags, interface| format!("{zero} 00 {zero} 00 {gateway} {metric} 00000001 00000000 {flags} {interface}\n");
        let table = [
            format!("20010db8000000000000000000000000 40 {zero} 00 {zero} 00000100 00000001 00000000 00000001 eth0\n"),
            route(router, "00000400", "00000003", "eth0"),
            route(zero, "ffffffff", "00200200", "lo"),
        ]
        .concat();
        assert_eq!(least_v6(&table), Some(("fe80::1".parse().unwrap(), "eth0".to_owned())));
        assert_eq!(least_v6(&route(zero, "00000001", "00000001", "tun0")), None);
    }

    #[test]
    fn a_socket_on_loopback_alone_has_no_network() {
        assert_eq!(network(false, &["127.0.0.1:4000".parse().unwrap()]), None);
        assert_eq!(network(true, &["[::1]:4000".parse().unwrap()]), None);
    }
}
