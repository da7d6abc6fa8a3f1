//! What a datagram is and whom it is for, from its first bytes.

/// What a datagram is, by its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatagramKind {
    /// The first of an IK handshake.
    IkInitiation = 1,
    /// The second of an IK handshake.
    IkResponse = 2,
    /// Under load: a cookie to repeat the first datagram with.
    CookieReply = 3,
    /// A sealed datagram of a session.
    Data = 4,
    /// One of the others behind a relay's route.
    Relayed = 5,
    /// The first of an XX handshake.
    XxFirst = 6,
    /// The second of an XX handshake.
    XxSecond = 7,
    /// The third of an XX handshake.
    XxThird = 8,
    /// An announcement on the local network.
    Beacon = 9,
    /// A probe of an address: two tokens in clear, which mean something to those only who agreed on them in a session.
    Probe = 10,
}

impl DatagramKind {
    /// The kind of a datagram; `None` if it is empty or of no known kind.
    pub fn of(datagram: &[u8]) -> Option<Self> {
        Some(match *datagram.first()? {
            1 => Self::IkInitiation,
            2 => Self::IkResponse,
            3 => Self::CookieReply,
            4 => Self::Data,
            5 => Self::Relayed,
            6 => Self::XxFirst,
            7 => Self::XxSecond,
            8 => Self::XxThird,
            9 => Self::Beacon,
            10 => Self::Probe,
            _ => return None,
        })
    }
}

/// The index of the session or handshake that a datagram is for; `None` if it begins a handshake, is no such datagram, or is too short.
pub fn receiver_index(datagram: &[u8]) -> Option<u32> {
    match DatagramKind::of(datagram)? {
        DatagramKind::IkResponse | DatagramKind::CookieReply | DatagramKind::Data | DatagramKind::XxSecond | DatagramKind::XxThird => {
            Some(u32::from_be_bytes(*datagram.get(1..)?.first_chunk()?))
        }
        DatagramKind::IkInitiation | DatagramKind::Relayed | DatagramKind::XxFirst | DatagramKind::Beacon | DatagramKind::Probe => None,
    }
}
