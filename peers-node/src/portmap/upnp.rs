//! UPnP: a mapping by the Internet Gateway Device protocol, for routers that speak nothing better.
//!
//! Anyone on the LAN may answer a search, so that only what the router itself answers is used. The crate `igd-next` sees to the rest: every URL must be at the address of who answered, no
//! redirect is followed, a response has at most 1 MiB and 64 nested elements.

use std::future::{Future, pending};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use igd_next::aio::Gateway;
use igd_next::aio::tokio::{Tokio, search_gateway};
use igd_next::{AddPortError, GatewayIpVersion, PortMappingProtocol, SearchOptions};
use peers_nat::portmap::Network;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::Outcome;
use crate::types::MappedAddress;

/// Keeps a port mapped by UPnP.
pub(super) struct Task {
    stop: oneshot::Sender<()>,
    outcomes: mpsc::Receiver<Outcome>,
    task: JoinHandle<()>,
}

impl Task {
    pub(super) fn start(network: Network) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (sender, outcomes) = mpsc::channel(1);
        Self { stop, outcomes, task: tokio::spawn(keep(network, sender, stopped)) }
    }

    /// What became of the mapping, each time that it changes.
    pub(super) async fn outcome(task: &mut Option<Self>) -> Outcome {
        let outcome = match task {
            Some(task) => task.outcomes.recv().await,
            None => None,
        };
        match outcome {
            Some(outcome) => outcome,
            None => pending().await,
        }
    }

    /// Deletes the mapping.
    pub(super) async fn end(mut self) {
        self.outcomes.close();
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

/// A mapping at a router.
struct Lease {
    gateway: Gateway<Tokio>,
    external: SocketAddr,
    /// Seconds; 0 where the router has mappings without end only.
    lifetime: u32,
}

async fn keep(network: Network, outcomes: mpsc::Sender<Outcome>, mut stop: oneshot::Receiver<()>) {
    let mut pause = RETRY.0;
    loop {
        let gateway = tokio::select! {
            biased;
            _ = &mut stop => return,
            gateway = find(network) => gateway,
        };
        // From here on there may be a mapping: what is begun is ended, and only then it is looked whether to stop.
        let lease = match gateway {
            Ok(gateway) => add(gateway, network).await,
            Err(reason) => Err(reason),
        };
        match lease {
            Ok(lease) => {
                pause = RETRY.0;
                let stopped = hold(lease, network, &outcomes, &mut stop).await;
                if stopped {
                    return;
                }
            }
            Err(reason) => {
                let _ = outcomes.send(Err(reason)).await;
            }
        }
        tokio::select! {
            biased;
            _ = &mut stop => return,
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(RETRY.1),
        }
    }
}

/// Renews a mapping until it is lost; or deletes it when told to stop, and says so.
async fn hold(mut lease: Lease, network: Network, outcomes: &mpsc::Sender<Outcome>, stop: &mut oneshot::Receiver<()>) -> bool {
    let mapped = |address| Ok(MappedAddress { address, by: "upnp".to_owned() });
    let _ = outcomes.send(mapped(lease.external)).await;
    loop {
        tokio::select! {
            biased;
            _ = &mut *stop => {
                let port = lease.external.port();
                if let Err(error) = bounded(lease.gateway.remove_port(PortMappingProtocol::UDP, port)).await {
                    tracing::debug!("the router keeps the mapping of port {port} until it ends: {error}");
                }
                return true;
            }
            () = tokio::time::sleep(RENEW) => {}
        }
        match renew(&lease, network).await {
            Ok(external) if external == lease.external => {}
            Ok(external) => {
                lease.external = external;
                let _ = outcomes.send(mapped(external)).await;
            }
            Err(reason) => {
                let _ = outcomes.send(Err(reason)).await;
                return false;
            }
        }
    }
}

/// The router of `network`: asked directly, which others cannot answer, and then as the protocol has it.
async fn find(network: Network) -> Result<Gateway<Tokio>, String> {
    let gateway = network.gateway.ip();
    let mut answered = None;
    for (asked, time) in [(SocketAddr::new(gateway, SSDP.port()), DIRECT_TIME), (SSDP, SEARCH_TIME)] {
        let mut options = SearchOptions::default();
        options.bind_addr = SocketAddr::new(network.client, 0);
        options.broadcast_address = asked;
        options.timeout = Some(time);
        options.gateway_ip_version = GatewayIpVersion::V4;
        match search_gateway(options).await {
            Ok(found) if found.addr.ip() == gateway => return Ok(found),
            Ok(other) => answered = Some(other.addr),
            Err(error) => tracing::debug!("UPnP at {asked}: {error}"),
        }
    }
    Err(answered.map_or_else(
        || "the router speaks neither PCP nor NAT-PMP nor UPnP: allow one of them in its settings, or forward the port by hand".to_owned(),
        |other| format!("{other} answers for the router by UPnP and is not the router, {gateway}: it is not trusted"),
    ))
}

/// Has the router map the port, to the same outside if that is free.
async fn add(gateway: Gateway<Tokio>, network: Network) -> Result<Lease, String> {
    let ip = external_ip(&gateway).await?;
    let client = SocketAddr::new(network.client, network.port);
    let mut lifetime = LIFETIME;
    let mut added = add_port(&gateway, network.port, client, lifetime).await;
    if matches!(added, Err(Refusal::Permanent)) {
        lifetime = 0;
        added = add_port(&gateway, network.port, client, lifetime).await;
    }
    let port = match added {
        Ok(()) => network.port,
        Err(Refusal::Taken) => {
            bounded(gateway.add_any_port(PortMappingProtocol::UDP, client, lifetime, DESCRIPTION)).await.map_err(|error| refused(&error))?
        }
        Err(Refusal::Permanent) => return Err(refused(&"it gives neither mappings that end nor such that do not")),
        Err(Refusal::Other(error)) => return Err(refused(&error)),
    };
    Ok(Lease { gateway, external: SocketAddr::new(ip, port), lifetime })
}

/// Renews a mapping, and returns where it leads from now.
async fn renew(lease: &Lease, network: Network) -> Result<SocketAddr, String> {
    let ip = external_ip(&lease.gateway).await?;
    let client = SocketAddr::new(network.client, network.port);
    match add_port(&lease.gateway, lease.external.port(), client, lease.lifetime).await {
        Ok(()) => Ok(SocketAddr::new(ip, lease.external.port())),
        Err(Refusal::Taken) => Err(refused(&"the port is another's now")),
        Err(Refusal::Permanent) => Err(refused(&"it gives no mappings that end any more")),
        Err(Refusal::Other(error)) => Err(refused(&error)),
    }
}

async fn external_ip(gateway: &Gateway<Tokio>) -> Result<IpAddr, String> {
    let ip = bounded(gateway.get_external_ip()).await.map_err(|error| refused(&error))?;
    match ip {
        IpAddr::V4(v4) if !v4.is_unspecified() && !v4.is_loopback() && !v4.is_multicast() && !v4.is_broadcast() => Ok(ip),
        _ => Err(refused(&format!("its address outside is {ip}, where nobody can be reached"))),
    }
}

/// Why a port is not mapped.
enum Refusal {
    /// Another host has it.
    Taken,
    /// A mapping has to be without end.
    Permanent,
    Other(String),
}

async fn add_port(gateway: &Gateway<Tokio>, port: u16, client: SocketAddr, lifetime: u32) -> Result<(), Refusal> {
    let added = tokio::time::timeout(CALL_TIME, gateway.add_port(PortMappingProtocol::UDP, port, client, lifetime, DESCRIPTION)).await;
    match added {
        Ok(Ok(())) => Ok(()),
        Ok(Err(AddPortError::PortInUse | AddPortError::ActionNotAuthorized)) => Err(Refusal::Taken),
        Ok(Err(AddPortError::OnlyPermanentLeasesSupported)) if lifetime > 0 => Err(Refusal::Permanent),
        Ok(Err(error)) => Err(Refusal::Other(error.to_string())),
        Err(_) => Err(Refusal::Other(NO_ANSWER.to_owned())),
    }
}

/// Runs a call to the router for no longer than [`CALL_TIME`].
async fn bounded<T, E: std::fmt::Display>(call: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    match tokio::time::timeout(CALL_TIME, call).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err(NO_ANSWER.to_owned()),
    }
}

fn refused(reason: &dyn std::fmt::Display) -> String {
    format!("the router maps no port by UPnP ({reason}): allow it in its settings, or forward the port by hand")
}

const NO_ANSWER: &str = "it does not answer in time";
/// What a person sees in the router's list of mappings.
const DESCRIPTION: &str = "Peers";
/// Where devices are searched for. Source: UPnP Device Architecture 1.1, section 1.3.2.
const SSDP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(239, 255, 255, 250)), 1900);
/// How long the router is asked directly, and then by multicast.
const DIRECT_TIME: Duration = Duration::from_secs(2);
const SEARCH_TIME: Duration = Duration::from_secs(4);
/// Longest time of one call: it connects, asks and reads.
const CALL_TIME: Duration = Duration::from_secs(5);
/// Seconds that a mapping lasts.
const LIFETIME: u32 = 3600;
/// How often it is renewed: this is how a restart of the router is noticed as well.
const RENEW: Duration = Duration::from_secs(20 * 60);
/// First and longest pause before it is tried again.
const RETRY: (Duration, Duration) = (Duration::from_secs(120), Duration::from_secs(3840));
