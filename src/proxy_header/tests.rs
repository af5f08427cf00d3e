//! What the PROXY protocol allows, what it does not, and that what is written is read.

use proptest::prelude::*;

use super::*;

fn v4(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// A version 2 header of any content, well-formed or not.
fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(body.len()).expect("short").to_be_bytes();
    [&SIGNATURE[..], &[command, family], &len, body].concat()
}

/// 192.0.2.1:1 to 192.0.2.2:143, with fields behind.
fn v2_with(tlvs: &[(u8, &[u8])]) -> Vec<u8> {
    let mut body = vec![192, 0, 2, 1, 192, 0, 2, 2, 0, 1, 0, 143];
    for (kind, value) in tlvs {
        push_tlv(&mut body, *kind, value);
    }
    v2(0x21, 0x11, &body)
}

fn done(bytes: &[u8]) -> Proxied {
    match parse(bytes) {
        Parsed::Done(proxied, used) => {
            assert_eq!(used, bytes.len());
            proxied
        }
        other => panic!("{other:?} from {}", bytes.escape_ascii()),
    }
}

fn is_bad(bytes: &[u8]) -> bool {
    matches!(parse(bytes), Parsed::Bad(_))
}

#[test]
fn version_1_is_read() {
    let proxied = done(b"PROXY TCP4 192.0.2.1 192.0.2.2 4711 143\r\n");
    assert_eq!((proxied.source, proxied.destination), (Some(v4("192.0.2.1:4711")), Some(v4("192.0.2.2:143"))));
    assert_eq!((proxied.version, proxied.secure, proxied.local), (1, false, false));
    let proxied = done(b"PROXY TCP6 2001:db8::1 ::1 65535 0\r\n");
    assert_eq!((proxied.source, proxied.destination), (Some(v4("[2001:db8::1]:65535")), Some(v4("[::1]:0"))));
    let full = b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    done(&[b"PROXY TCP6 ", &full[..], b" ", full, b" 65535 65535\r\n"].concat());
}

#[test]
fn an_unknown_source_keeps_the_sockets_address() {
    for line in [&b"PROXY UNKNOWN\r\n"[..], b"PROXY UNKNOWN whatever ::1 stands 0 here\r\n"] {
        assert_eq!(done(line).source, None);
    }
    assert!(is_bad(b"PROXY UNKNOWNX\r\n"));
    let longest = [b"PROXY UNKNOWN ", &[b'x'; 91][..], b"\r\n"].concat();
    assert_eq!(longest.len(), 107);
    assert_eq!(done(&longest).source, None);
}

#[test]
fn version_1_has_one_spelling() {
    for rest in [
        "TCP4 192.0.2.1 192.0.2.2 4711 143\n",
        "TCP4 192.0.2.1 192.0.2.2 4711 143\r \n",
        "TCP4  192.0.2.1 192.0.2.2 4711 143\r\n",
        "TCP4 192.0.2.1 192.0.2.2 4711 143 \r\n",
        "TCP4 192.0.2.1\t192.0.2.2 4711 143\r\n",
        "TCP4 192.0.2.01 192.0.2.2 4711 143\r\n",
        "TCP4 192.0.2 192.0.2.2 4711 143\r\n",
        "TCP4 192.0.2.1 192.0.2.2 04711 143\r\n",
        "TCP4 192.0.2.1 192.0.2.2 +4711 143\r\n",
        "TCP4 192.0.2.1 192.0.2.2 65536 143\r\n",
        "TCP4 192.0.2.1 192.0.2.2 4711\r\n",
        "TCP4 192.0.2.1 192.0.2.2  143\r\n",
        "TCP4 192.0.2.1 192.0.2.2 4711 143 1\r\n",
        "TCP4 ::1 ::1 4711 143\r\n",
        "TCP4 192.0.2.1 ::1 4711 143\r\n",
        "TCP6 192.0.2.1 192.0.2.2 4711 143\r\n",
        "TCP6 fe80::1%1 ::1 4711 143\r\n",
        "TCP6 [::1] ::1 4711 143\r\n",
        "TCP5 192.0.2.1 192.0.2.2 4711 143\r\n",
        "tcp4 192.0.2.1 192.0.2.2 4711 143\r\n",
        "UNKNOWN \u{e4}\r\n",
        "         \r\n",
    ] {
        assert!(is_bad(format!("PROXY {rest}").as_bytes()), "{rest:?}");
    }
    for start in ["proxy TCP4 1.1.1.1 1.1.1.1 1 1\r\n", " PROXY TCP4 1.1.1.1 1.1.1.1 1 1\r\n", "PROXY\tUNKNOWN\r\n"] {
        assert!(is_bad(start.as_bytes()), "{start:?}");
    }
}

#[test]
fn version_1_ends_within_107_bytes() {
    let mut line = b"PROXY UNKNOWN ".to_vec();
    while line.len() < 107 {
        assert!(matches!(parse(&line), Parsed::Incomplete { .. }), "{}", line.len());
        line.push(b'x');
    }
    assert!(is_bad(&line));
    line.extend_from_slice(b"\r\n");
    assert!(is_bad(&line));
}

#[test]
fn what_is_no_header_is_seen_at_its_first_byte() {
    for other in [&b"\x16\x03\x01"[..], b"a", b"GET / HTTP/1.1\r\n", b"PRI * HTTP/2.0", b"\r\n\r\na", b"PROXZ"] {
        assert!(is_bad(other), "{}", other.escape_ascii());
    }
}

#[test]
fn version_2_is_read() {
    let ssl = [1, 0, 0, 0, 1, 0x21, 0, 7, b'T', b'L', b'S', b'v', b'1', b'.', b'3'];
    let proxied = done(&v2_with(&[
        (0x01, b"imap"),
        (SSL, &ssl),
        (AUTHORITY, b"Mail.Example.ORG"),
        (0x04, b"\0\0"),
        (0x05, b"unique"),
        (0xE0, b""),
    ]));
    assert_eq!((proxied.source, proxied.destination), (Some(v4("192.0.2.1:1")), Some(v4("192.0.2.2:143"))));
    assert_eq!((proxied.secure, proxied.server_name.as_deref()), (true, Some("mail.example.org")));
    assert_eq!((proxied.version, proxied.local), (2, false));
    // Bit 0 is TLS; a verified certificate alone (bits 1 and 2) says nothing of the kind.
    assert!(!done(&v2_with(&[(SSL, &[6, 0, 0, 0, 0])])).secure);
    assert!(!done(&v2_with(&[])).secure);
}

#[test]
fn local_and_unspecified_keep_the_sockets_address_and_discard_the_rest() {
    let local = done(&v2(0x20, 0x11, b"anything at all"));
    assert_eq!((local.source, local.local, local.secure), (None, true, false));
    let unspecified = done(&v2(0x21, 0x00, b"anything at all"));
    assert_eq!((unspecified.source, unspecified.local), (None, false));
    assert_eq!(done(&v2(0x20, 0x00, b"")).source, None);
    let unix = done(&v2(0x21, 0x31, &[0; 216]));
    assert_eq!((unix.source, unix.destination), (None, None));
    assert!(is_bad(&v2(0x21, 0x31, &[0; 215])));
}

#[test]
fn version_2_has_one_spelling() {
    let body = [0; 36];
    for (command, family) in [(0x11, 0x11), (0x22, 0x11), (0x31, 0x11), (0x21, 0x12), (0x21, 0x10), (0x21, 0x41)] {
        assert!(is_bad(&v2(command, family, &body)), "{command:x} {family:x}");
    }
    assert!(is_bad(&v2(0x21, 0x11, &body[..11])));
    assert!(is_bad(&v2(0x21, 0x21, &body[..35])));
    for tlvs in [&[0x04][..], &[0x04, 0], &[0x04, 0, 1], &[0x04, 0xff, 0xff, 0]] {
        assert!(is_bad(&v2(0x21, 0x21, &[&body, tlvs].concat())), "{tlvs:?}");
    }
}

#[test]
fn malformed_fields_are_refused() {
    let long = [b'a'; 64];
    for tlvs in [
        &[(AUTHORITY, &b""[..])][..],
        &[(AUTHORITY, b"a..b")],
        &[(AUTHORITY, b"a\r\nb")],
        &[(AUTHORITY, b"a b")],
        &[(AUTHORITY, b"-a.example")],
        &[(AUTHORITY, b"\xff")],
        &[(AUTHORITY, &long)],
        &[(AUTHORITY, b"a.example"), (AUTHORITY, b"b.example")],
        &[(SSL, &[1, 0, 0, 0])],
        &[(SSL, &[1, 0, 0, 0, 0, 0x21, 0, 9])],
        &[(SSL, &[0, 0, 0, 0, 0]), (SSL, &[1, 0, 0, 0, 0])],
        &[(CRC32C, &[0, 0, 0])],
        &[(CRC32C, &[0, 0, 0, 0])],
    ] {
        assert!(is_bad(&v2_with(tlvs)), "{tlvs:?}");
    }
}

#[test]
fn the_checksum_is_verified() {
    // The check value of CRC-32C, from its catalogue entry.
    assert_eq!(crc32c(b"123456789", 100), 0xE306_9283);
    let mut header = v2_with(&[(CRC32C, &[0; 4]), (AUTHORITY, b"a.example")]);
    let hole = V2_FIXED + 12 + 3;
    let sum = crc32c(&header, hole).to_be_bytes();
    header[hole..hole + 4].copy_from_slice(&sum);
    assert_eq!(done(&header).server_name.as_deref(), Some("a.example"));
    for at in V2_FIXED..V2_FIXED + 12 {
        let mut forged = header.clone();
        forged[at] ^= 1;
        assert!(is_bad(&forged), "byte {at}");
    }
}

#[test]
fn version_2_is_bounded_before_its_body_is_read() {
    let mut header = v2(0x21, 0x21, &[0; V2_MAX - V2_FIXED]);
    assert_eq!(done(&header).source, Some(v4("[::]:0")), "1348 empty fields are allowed");
    header[14..16].copy_from_slice(&4081_u16.to_be_bytes());
    assert!(is_bad(&header[..V2_FIXED]));
}

#[test]
fn ipv4_in_ipv6_clothes_is_ipv4() {
    let line = b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:192.0.2.2 4711 143\r\n";
    assert_eq!(done(line).source, Some(v4("192.0.2.1:4711")));
    // A dual-stack socket's own address against an IPv4 client: one family on the wire.
    let mixed = encode_v1(v4("192.0.2.1:4711"), v4("[::1]:143"));
    assert_eq!(mixed, b"PROXY TCP6 ::ffff:192.0.2.1 ::1 4711 143\r\n");
}

#[test]
fn what_we_say_is_what_the_specification_shows() {
    let (source, destination) = (v4("192.0.2.1:4711"), v4("192.0.2.2:143"));
    assert_eq!(encode_v1(source, destination), b"PROXY TCP4 192.0.2.1 192.0.2.2 4711 143\r\n");
    let header = encode_v2(source, destination, true, Some("a.example"));
    let expected = [
        &b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x20"[..],
        &[192, 0, 2, 1, 192, 0, 2, 2, 0x12, 0x67, 0, 143],
        b"\x02\x00\x09a.example",
        b"\x20\x00\x05\x01\x00\x00\x00\x01",
    ];
    assert_eq!(header, expected.concat());
    // Nothing that is no host name goes out.
    assert_eq!(encode_v2(source, destination, false, Some("a\r\nb")), encode_v2(source, destination, false, None));
}

fn addresses() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip.to_canonical(), port))
}

fn names() -> impl Strategy<Value = Option<String>> {
    proptest::option::of("[a-z0-9]{1,20}(\\.[a-z0-9]{1,20}){0,5}")
}

fn headers() -> impl Strategy<Value = (Vec<u8>, Proxied)> {
    (addresses(), addresses(), any::<bool>(), names(), any::<bool>()).prop_map(|(from, to, secure, name, first)| {
        let header = if first { encode_v1(from, to) } else { encode_v2(from, to, secure, name.as_deref()) };
        let proxied = Proxied {
            source: Some(from),
            destination: Some(to),
            secure: secure && !first,
            server_name: name.filter(|_| !first),
            version: if first { 1 } else { 2 },
            local: false,
        };
        (header, proxied)
    })
}

/// Reads as a socket would be read: never more than is said to be missing. Gives the header's length.
fn read_in_steps(bytes: &[u8]) -> Parsed {
    let mut have = 0;
    loop {
        match parse(&bytes[..have]) {
            Parsed::Incomplete { missing } => {
                assert!(missing > 0 && have + missing <= V2_MAX);
                if have + missing > bytes.len() {
                    return Parsed::Incomplete { missing };
                }
                have += missing;
            }
            Parsed::Done(proxied, used) => {
                assert_eq!(used, have, "not one byte of what stands behind the header");
                return Parsed::Done(proxied, used);
            }
            bad @ Parsed::Bad(_) => return bad,
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read((header, proxied) in headers(), behind in any::<Vec<u8>>()) {
        let all = [&header[..], &behind].concat();
        prop_assert_eq!(parse(&all), Parsed::Done(proxied.clone(), header.len()));
        prop_assert_eq!(read_in_steps(&all), Parsed::Done(proxied, header.len()));
    }

    #[test]
    fn no_part_of_a_header_is_a_header((header, _) in headers()) {
        for end in 0..header.len() {
            match parse(&header[..end]) {
                Parsed::Incomplete { missing } => prop_assert!(missing > 0 && missing <= header.len() - end),
                other => prop_assert!(false, "{:?} after {} bytes", other, end),
            }
        }
    }

    #[test]
    fn a_second_header_is_data((first, proxied) in headers(), (second, _) in headers()) {
        prop_assert_eq!(parse(&[&first[..], &second].concat()), Parsed::Done(proxied, first.len()));
    }

    #[test]
    fn nothing_panics_or_reads_beyond_its_bound(
        start in prop_oneof![Just(&b""[..]), Just(&SIGNATURE[..]), Just(&b"PROXY TCP4 "[..]), Just(V1_START)],
        command in 0x1F_u8..0x23,
        rest in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let bytes = [start, &rest].concat();
        read_in_steps(&bytes);
        if let Parsed::Done(_, used) = parse(&bytes) {
            prop_assert!(used <= bytes.len());
        }
        let _ = parse(&v2(command, 0x11, &rest));
        let _ = parse(&v2(command, 0x21, &rest));
    }
}
