//! The PROXY protocol (haproxy's `proxy-protocol.txt`), versions 1 and 2, both directions: bytes in and bytes out. Not
//! here: sockets, and whose headers are believed.
//!
//! The grammar is exact, because whoever slips a header past us chooses the address that limits and routes see. The
//! length is known, and bounded, before anything else is looked at.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A version 1 header with its line end is never longer.
const V1_MAX: usize = 107;
/// `PROXY UNKNOWN` with its line end: no header of either version is shorter.
const SHORTEST: usize = 15;
/// Ours, as nginx has it: the format itself would allow 64 KiB.
const V2_MAX: usize = 4096;
/// Signature, command, family, length.
const V2_FIXED: usize = 16;
const V1_START: &[u8] = b"PROXY ";
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

const AUTHORITY: u8 = 0x02;
const CRC32C: u8 = 0x03;
const SSL: u8 = 0x20;
/// In the first byte of [`SSL`]: the client came over TLS.
const CLIENT_SSL: u8 = 0x01;

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxied {
    /// The client's address; `None`: keep the socket's (LOCAL, UNKNOWN, Unix sockets).
    pub source: Option<SocketAddr>,
    /// The address the client connected to; there exactly when `source` is.
    pub destination: Option<SocketAddr>,
    /// The client came to the balancer over TLS (version 2 only).
    pub secure: bool,
    /// The host name the client asked for, in lower case (version 2 only).
    pub server_name: Option<String>,
    /// 1 or 2.
    pub version: u8,
    /// The balancer speaks for itself, for instance to see whether we live.
    pub local: bool,
}

/// What the first bytes of a connection are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// Not yet a whole header.
    Incomplete {
        /// At least so many bytes more belong to it: reading so many never reads what stands behind it.
        missing: usize,
    },
    /// A header, and how many bytes it took.
    Done(Proxied, usize),
    /// No header; the connection is to be closed. The text is for our log.
    Bad(&'static str),
}

/// Reads the header at the start of `bytes`.
pub fn parse(bytes: &[u8]) -> Parsed {
    let parsed = if starts_alike(bytes, SIGNATURE) {
        parse_v2(bytes)
    } else if starts_alike(bytes, V1_START) {
        parse_v1(bytes)
    } else {
        Err(Fault::Bad("not a PROXY header"))
    };
    match parsed {
        Ok((proxied, used)) => Parsed::Done(proxied, used),
        Err(Fault::Missing(missing)) => Parsed::Incomplete { missing },
        Err(Fault::Bad(why)) => Parsed::Bad(why),
    }
}

/// A version 1 header. Addresses of different families are both written as IPv6.
pub fn encode_v1(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let (family, from, to): (_, IpAddr, IpAddr) = match same_family(source, destination) {
        Family::V4(from, to) => ("TCP4", from.into(), to.into()),
        Family::V6(from, to) => ("TCP6", from.into(), to.into()),
    };
    format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into_bytes()
}

/// A header that says that we speak for ourselves.
pub fn encode_local(is_v2: bool) -> Vec<u8> {
    if is_v2 { [&SIGNATURE[..], &[0x20, 0, 0, 0]].concat() } else { b"PROXY UNKNOWN\r\n".to_vec() }
}

/// A version 2 header. `secure`: the client came over TLS; `server_name`: what it sent as SNI.
pub fn encode_v2(source: SocketAddr, destination: SocketAddr, secure: bool, server_name: Option<&str>) -> Vec<u8> {
    let mut rest = Vec::with_capacity(64);
    let family = match same_family(source, destination) {
        Family::V4(from, to) => {
            rest.extend_from_slice(&from.octets());
            rest.extend_from_slice(&to.octets());
            0x11
        }
        Family::V6(from, to) => {
            rest.extend_from_slice(&from.octets());
            rest.extend_from_slice(&to.octets());
            0x21
        }
    };
    rest.extend_from_slice(&source.port().to_be_bytes());
    rest.extend_from_slice(&destination.port().to_be_bytes());
    if let Some(name) = server_name.and_then(host_name) {
        push_tlv(&mut rest, AUTHORITY, name.as_bytes());
    }
    if secure {
        // The four bytes: no certificate of the client's was verified (0 would say that one was).
        push_tlv(&mut rest, SSL, &[CLIENT_SSL, 0, 0, 0, 1]);
    }
    let mut header = Vec::with_capacity(V2_FIXED + rest.len());
    header.extend_from_slice(SIGNATURE);
    header.extend_from_slice(&[0x21, family]);
    header.extend_from_slice(&u16::try_from(rest.len()).unwrap_or(u16::MAX).to_be_bytes());
    header.extend_from_slice(&rest);
    header
}

enum Fault {
    Missing(usize),
    Bad(&'static str),
}

/// One is the beginning of the other.
fn starts_alike(bytes: &[u8], start: &[u8]) -> bool {
    bytes.iter().zip(start).all(|(a, b)| a == b)
}

fn parse_v1(bytes: &[u8]) -> Result<(Proxied, usize), Fault> {
    if bytes.len() < SHORTEST {
        return Err(Fault::Missing(SHORTEST - bytes.len()));
    }
    let window = &bytes[..bytes.len().min(V1_MAX)];
    let Some(end) = window.iter().position(|byte| *byte == b'\n') else {
        let missing = missing_v1(window).min(V1_MAX - window.len());
        return Err(if missing == 0 { Fault::Bad("version 1 header too long") } else { Fault::Missing(missing) });
    };
    let line = window[..end].strip_suffix(b"\r").ok_or(Fault::Bad("version 1 header without CRLF"))?;
    let line = std::str::from_utf8(line).ok().filter(|line| line.is_ascii());
    let line = line.ok_or(Fault::Bad("version 1 header is not ASCII"))?;
    let (source, destination) = match line.strip_prefix("PROXY ").unwrap_or_default() {
        rest if rest == "UNKNOWN" || rest.starts_with("UNKNOWN ") => (None, None),
        rest => addresses_v1(rest)
            .map(|(from, to)| (Some(from), Some(to)))
            .ok_or(Fault::Bad("version 1 header malformed"))?,
    };
    let proxied = Proxied { source, destination, secure: false, server_name: None, version: 1, local: false };
    Ok((proxied, end + 1))
}

/// How many bytes a version 1 header that begins like this still has at the least: a blank and a byte for each field
/// that is to come, and the line end.
fn missing_v1(window: &[u8]) -> usize {
    if window.ends_with(b"\r") {
        return 1;
    }
    let fields = if window.starts_with(b"PROXY TCP") {
        6_usize.saturating_sub(window.split(|byte| *byte == b' ').count())
    } else {
        0
    };
    2 * fields + 2
}

/// `TCP4 192.0.2.1 192.0.2.2 4711 143`, and nothing but it.
fn addresses_v1(rest: &str) -> Option<(SocketAddr, SocketAddr)> {
    let mut fields = rest.split(' ');
    let family = fields.next()?;
    let (from, to) = (fields.next()?, fields.next()?);
    let (from, to): (IpAddr, IpAddr) = match family {
        "TCP4" => (from.parse::<Ipv4Addr>().ok()?.into(), to.parse::<Ipv4Addr>().ok()?.into()),
        "TCP6" => (from.parse::<Ipv6Addr>().ok()?.into(), to.parse::<Ipv6Addr>().ok()?.into()),
        _ => return None,
    };
    let (from_port, to_port) = (port(fields.next()?)?, port(fields.next()?)?);
    fields.next().is_none().then(|| (address(from, from_port), address(to, to_port)))
}

/// Decimal, without sign and without leading zeros (which some read as octal).
fn port(digits: &str) -> Option<u16> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    if plain { digits.parse().ok() } else { None }
}

/// An IPv4 address in IPv6 clothes is the IPv4 address: else all of them would share one /64 in the limits, and an
/// IPv4 network in a rule would not match.
fn address(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip.to_canonical(), port)
}

fn parse_v2(bytes: &[u8]) -> Result<(Proxied, usize), Fault> {
    if bytes.len() < V2_FIXED {
        // Not more than the shortest header of version 1, while the bytes could still become one.
        return Err(Fault::Missing(if bytes.is_empty() { SHORTEST } else { V2_FIXED - bytes.len() }));
    }
    let local = match bytes[12] {
        0x20 => true,
        0x21 => false,
        _ => return Err(Fault::Bad("version 2 header: unknown version or command")),
    };
    let total = V2_FIXED + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if total > V2_MAX {
        return Err(Fault::Bad("version 2 header too long"));
    }
    let header = bytes.get(..total).ok_or_else(|| Fault::Missing(total - bytes.len()))?;
    let mut proxied = Proxied { source: None, destination: None, secure: false, server_name: None, version: 2, local };
    let body = &header[V2_FIXED..];
    // LOCAL: all the rest is to be discarded, the family too. UNSPEC: what the rest means is not known.
    if !local && bytes[13] != 0x00 {
        let tlvs = addresses_v2(bytes[13], body, &mut proxied).map_err(Fault::Bad)?;
        read_tlvs(tlvs, header, &mut proxied).map_err(Fault::Bad)?;
    }
    Ok((proxied, total))
}

/// Reads the address block and gives what stands behind it.
fn addresses_v2<'a>(family: u8, body: &'a [u8], proxied: &mut Proxied) -> Result<&'a [u8], &'static str> {
    let block = match family {
        0x11 => block::<4, Ipv4Addr>(body),
        0x21 => block::<16, Ipv6Addr>(body),
        // A Unix socket has no address that means anything here.
        0x31 => return body.get(216..).ok_or("version 2 header: address block cut short"),
        _ => return Err("version 2 header: not a stream"),
    };
    let (source, destination, tlvs) = block.ok_or("version 2 header: address block cut short")?;
    proxied.source = Some(source);
    proxied.destination = Some(destination);
    Ok(tlvs)
}

/// Two addresses of `N` bytes, two ports, and what stands behind them.
fn block<const N: usize, A: From<[u8; N]> + Into<IpAddr>>(body: &[u8]) -> Option<(SocketAddr, SocketAddr, &[u8])> {
    let (from, rest) = body.split_first_chunk::<N>()?;
    let (to, rest) = rest.split_first_chunk::<N>()?;
    let ([a, b, c, d], tlvs) = rest.split_first_chunk::<4>()?;
    let at = |ip: [u8; N], port: [u8; 2]| address(A::from(ip).into(), u16::from_be_bytes(port));
    Some((at(*from, [*a, *b]), at(*to, [*c, *d]), tlvs))
}

fn read_tlvs(mut tlvs: &[u8], header: &[u8], proxied: &mut Proxied) -> Result<(), &'static str> {
    let (mut secure, mut checked) = (None, false);
    while !tlvs.is_empty() {
        let (kind, value, rest) = split_tlv(tlvs)?;
        match kind {
            AUTHORITY if proxied.server_name.is_none() => {
                let name = std::str::from_utf8(value).ok().and_then(host_name);
                proxied.server_name = Some(name.ok_or("version 2 header: AUTHORITY is no host name")?);
            }
            CRC32C if !checked => {
                let sum = value.try_into().map(u32::from_be_bytes).map_err(|_| "version 2 header: malformed CRC32C")?;
                let at = header.len() - rest.len() - value.len();
                if crc32c(header, at) != sum {
                    return Err("version 2 header: CRC32C does not match");
                }
                checked = true;
            }
            SSL if secure.is_none() => secure = Some(read_ssl(value)?),
            // Which of the two would count?
            AUTHORITY | CRC32C | SSL => return Err("version 2 header: a field stands there twice"),
            _ => {}
        }
        tlvs = rest;
    }
    proxied.secure = secure.unwrap_or(false);
    Ok(())
}

/// Whether the client came over TLS. Its certificate's name stands in here too and is not believed: the header says
/// nothing about who issued it (dovecot 2.4.4 had to learn that).
fn read_ssl(value: &[u8]) -> Result<bool, &'static str> {
    let (fixed, mut rest) = value.split_first_chunk::<5>().ok_or("version 2 header: SSL cut short")?;
    while !rest.is_empty() {
        (_, _, rest) = split_tlv(rest)?;
    }
    Ok(fixed[0] & CLIENT_SSL != 0)
}

fn split_tlv(bytes: &[u8]) -> Result<(u8, &[u8], &[u8]), &'static str> {
    const SHORT: &str = "version 2 header: field cut short";
    let ([kind, high, low], rest) = bytes.split_first_chunk::<3>().ok_or(SHORT)?;
    let (value, rest) = rest.split_at_checked(u16::from_be_bytes([*high, *low]).into()).ok_or(SHORT)?;
    Ok((*kind, value, rest))
}

fn push_tlv(out: &mut Vec<u8>, kind: u8, value: &[u8]) {
    if let Ok(len) = u16::try_from(value.len()) {
        out.push(kind);
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(value);
    }
}

/// The name in lower case if it is a DNS host name (RFC 1123 2.1, underscores let through).
fn host_name(name: &str) -> Option<String> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    (name.len() <= 253 && name.split('.').all(label)).then(|| name.to_ascii_lowercase())
}

/// CRC-32C (RFC 3720 appendix B.4) of the header, with the four bytes at `hole` taken as zero. Bit by bit: a header is
/// short and comes once per connection.
fn crc32c(header: &[u8], hole: usize) -> u32 {
    let crc = header.iter().enumerate().fold(u32::MAX, |crc, (at, byte)| {
        let byte = if (hole..hole + 4).contains(&at) { 0 } else { *byte };
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 0 { crc >> 1 } else { (crc >> 1) ^ 0x82F6_3B78 })
    });
    !crc
}

enum Family {
    V4(Ipv4Addr, Ipv4Addr),
    V6(Ipv6Addr, Ipv6Addr),
}

fn same_family(source: SocketAddr, destination: SocketAddr) -> Family {
    let wide = |ip| match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => Family::V4(from, to),
        (from, to) => Family::V6(wide(from), wide(to)),
    }
}

#[cfg(test)]
mod tests;
