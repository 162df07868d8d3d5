use super::*;

const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 15);

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn sent(actions: &[Action]) -> &Outgoing {
    let packets: Vec<_> = actions.iter().filter(|action| matches!(action, Action::Send(_))).collect();
    match packets[..] {
        [Action::Send(outgoing)] => outgoing,
        _ => panic!("one packet expected: {actions:?}"),
    }
}

fn reply(kind: ReplyKind, xid: u32) -> Reply {
    Reply {
        kind,
        xid,
        client_mac: MAC,
        offered: ADDRESS,
        server: Some(SERVER),
        prefix: Some(24),
        routes: Vec::new(),
        dns: Vec::new(),
        lifetime_s: Some(1000),
        renewal_s: None,
        rebinding_s: None,
    }
}

fn started() -> (Client, u32) {
    let mut client = Client::new(MAC, 7, seconds(0));
    client.set_carrier(true, seconds(0));
    let xid = sent(&client.handle_timeout(seconds(0))).xid;
    (client, xid)
}

/// Bound at second 1 for 1000 seconds (the request was sent at second 0).
fn bound() -> Client {
    let (mut client, xid) = started();
    client.handle_reply(&reply(ReplyKind::Offer, xid), seconds(0)).unwrap();
    let actions = client.handle_reply(&reply(ReplyKind::Ack, xid), seconds(1)).unwrap();
    assert!(
        matches!(&actions[..], [Action::Configure(lease)] if lease.address == ADDRESS && lease.prefix == 24)
    );
    client
}

#[test]
fn discover_offer_request_ack() {
    let (mut client, xid) = started();
    let actions = client.handle_reply(&reply(ReplyKind::Offer, xid), seconds(2)).unwrap();
    let request = sent(&actions);
    assert_eq!(
        *request,
        Outgoing {
            is_request: true,
            xid,
            seconds: 2,
            client: Ipv4Addr::UNSPECIFIED,
            requested: Some(ADDRESS),
            server: Some(SERVER),
            to: Ipv4Addr::BROADCAST,
        }
    );
    client.handle_reply(&reply(ReplyKind::Ack, xid), seconds(3)).unwrap();
    assert_eq!(client.state(), "bound");
    // Half of 1000 s from second 2, when the request was sent.
    assert_eq!(client.next_deadline(), seconds(502));
}

#[test]
fn nobody_answers_and_pauses_grow() {
    let (mut client, _) = started();
    let mut last = seconds(0);
    let mut pauses = Vec::new();
    for _ in 0..9 {
        let now = client.next_deadline();
        assert!(!sent(&client.handle_timeout(now)).is_request);
        pauses.push((now - last).as_secs());
        last = now;
    }
    assert!(pauses.is_sorted_by(|a, b| *a <= b + 16) && pauses[0] == 1, "{pauses:?}");
    assert!((64..=80).contains(pauses.last().unwrap()), "{pauses:?}");
}

#[test]
fn unanswered_request_starts_over_with_a_new_transaction() {
    let (mut client, xid) = started();
    client.handle_reply(&reply(ReplyKind::Offer, xid), seconds(0)).unwrap();
    let mut outgoing = client.handle_timeout(client.next_deadline());
    while sent(&outgoing).is_request {
        outgoing = client.handle_timeout(client.next_deadline());
    }
    assert_eq!(client.state(), "selecting");
    assert_ne!(sent(&outgoing).xid, xid);
    assert_eq!(client.handle_reply(&reply(ReplyKind::Ack, xid), seconds(99)), Err(Ignored::NotForUs));
}

#[test]
fn renews_rebinds_and_expires() {
    let mut client = bound();
    assert!(client.handle_timeout(seconds(499)).is_empty());
    let renewal = client.handle_timeout(seconds(500));
    assert_eq!((sent(&renewal).to, sent(&renewal).client), (SERVER, ADDRESS));
    assert_eq!((sent(&renewal).requested, sent(&renewal).server), (None, None));
    let mut now = seconds(500);
    let mut destinations = Vec::new();
    let lost = loop {
        assert!(client.next_deadline() > now, "stands still at {now:?}");
        now = client.next_deadline();
        match &client.handle_timeout(now)[..] {
            [Action::Send(outgoing)] => destinations.push((now.as_secs(), outgoing.to)),
            other => break other.to_vec(),
        }
    };
    assert_eq!(now, seconds(1000));
    assert!(matches!(&lost[..], [Action::Unconfigure(lease)] if lease.address == ADDRESS));
    let rebinding: Vec<_> = destinations.iter().filter(|(_, to)| *to == Ipv4Addr::BROADCAST).collect();
    assert_eq!(rebinding[0].0, 875);
    assert!(!sent(&client.handle_timeout(now)).is_request);
}

#[test]
fn renewal_extends_and_a_new_address_replaces_the_old() {
    let mut client = bound();
    let xid = sent(&client.handle_timeout(seconds(500))).xid;
    let mut ack = reply(ReplyKind::Ack, xid);
    // Some servers leave the identifier out here.
    ack.server = None;
    ack.offered = Ipv4Addr::new(192, 0, 2, 99);
    let actions = client.handle_reply(&ack, seconds(501)).unwrap();
    assert!(matches!(&actions[..], [Action::Unconfigure(old), Action::Configure(new)]
        if old.address == ADDRESS && new.address == ack.offered && new.server == SERVER));
    assert_eq!(client.next_deadline(), seconds(1000));
}

#[test]
fn refusal_drops_the_lease_and_waits() {
    let mut client = bound();
    let xid = sent(&client.handle_timeout(seconds(500))).xid;
    let actions = client.handle_reply(&reply(ReplyKind::Nak, xid), seconds(501)).unwrap();
    assert!(matches!(&actions[..], [Action::Unconfigure(_)]));
    assert!(client.next_deadline() >= seconds(506));
    assert!(!sent(&client.handle_timeout(client.next_deadline())).is_request);
}

#[test]
fn cable_out_is_silence_and_cable_in_asks_for_the_old_address() {
    let mut client = bound();
    client.set_carrier(false, seconds(10));
    assert!(client.handle_timeout(seconds(600)).is_empty());
    assert_eq!(client.next_deadline(), seconds(1000));
    client.set_carrier(true, seconds(700));
    let actions = client.handle_timeout(seconds(700));
    assert_eq!((sent(&actions).requested, sent(&actions).server), (Some(ADDRESS), None));
    // Another network, where nobody knows the address: it is given up.
    let gave_up = loop {
        let actions = client.handle_timeout(client.next_deadline());
        if let Some(Action::Unconfigure(lease)) = actions.first() {
            assert!(!sent(&actions).is_request);
            break lease.address;
        }
    };
    assert_eq!(gave_up, ADDRESS);
}

#[test]
fn bad_replies_change_nothing() {
    let (mut client, xid) = started();
    let offer = reply(ReplyKind::Offer, xid);
    let cases: [(Reply, Ignored); 6] = [
        (Reply { xid: xid ^ 1, ..offer.clone() }, Ignored::NotForUs),
        (Reply { client_mac: [0; 6], ..offer.clone() }, Ignored::NotForUs),
        (reply(ReplyKind::Ack, xid), Ignored::Unexpected("selecting")),
        (Reply { server: None, ..offer.clone() }, Ignored::NoServer),
        (Reply { offered: Ipv4Addr::LOCALHOST, ..offer.clone() }, Ignored::BadAddress(Ipv4Addr::LOCALHOST)),
        (Reply { offered: Ipv4Addr::BROADCAST, ..offer.clone() }, Ignored::BadAddress(Ipv4Addr::BROADCAST)),
    ];
    for (bad, why) in cases {
        assert_eq!(client.handle_reply(&bad, seconds(0)), Err(why));
    }
    client.handle_reply(&offer, seconds(0)).unwrap();
    let ack = reply(ReplyKind::Ack, xid);
    let cases: [(Reply, Ignored); 4] = [
        (Reply { server: Some(ADDRESS), ..ack.clone() }, Ignored::NotForUs),
        (Reply { lifetime_s: Some(0), ..ack.clone() }, Ignored::BadLifetime(Some(0))),
        (Reply { lifetime_s: None, ..ack.clone() }, Ignored::BadLifetime(None)),
        (Reply { prefix: Some(0), ..ack.clone() }, Ignored::BadPrefix(0)),
    ];
    for (bad, why) in cases {
        assert_eq!(client.handle_reply(&bad, seconds(0)), Err(why));
    }
    assert_eq!(client.state(), "requesting");
    client.handle_reply(&ack, seconds(0)).unwrap();
    assert_eq!(client.handle_reply(&ack, seconds(0)), Err(Ignored::NotForUs));
}

#[test]
fn odd_times_of_a_server_are_replaced() {
    let times = |lifetime, renewal_s, rebinding_s| {
        let reply = Reply { renewal_s, rebinding_s, ..reply(ReplyKind::Ack, 0) };
        renewal_times(Some(seconds(lifetime)), &reply)
    };
    assert_eq!(times(80, Some(20), Some(60)), (Some(seconds(20)), Some(seconds(60))));
    for odd in [times(80, Some(70), Some(60)), times(80, Some(0), None), times(80, None, Some(u32::MAX))] {
        assert_eq!(odd, (Some(seconds(40)), Some(seconds(70))));
    }
}

#[test]
fn endless_lease_never_asks_again() {
    let (mut client, xid) = started();
    client.handle_reply(&reply(ReplyKind::Offer, xid), seconds(0)).unwrap();
    let ack = Reply { lifetime_s: Some(u32::MAX), ..reply(ReplyKind::Ack, xid) };
    client.handle_reply(&ack, seconds(0)).unwrap();
    assert_eq!(client.next_deadline(), Duration::MAX);
}
