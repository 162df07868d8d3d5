use os_identity::NodeKey;
use proptest::prelude::*;
use qrcode::{EcLevel, QrCode, Version};

use super::*;

fn code(addresses: &[&str]) -> PairCode {
    PairCode {
        fingerprint: Fingerprint::of(&NodeKey::from_seed(&[1; 32]).node_id()),
        secret: Secret::from_random(&std::array::from_fn(|i| i as u8 * 37)),
        slot: Slot::Screen,
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        name: Some("roof-3".into()),
    }
}

#[test]
fn golden() {
    let code = code(&["192.0.2.7:4433", "[2001:db8::7]:4433"]);
    assert_eq!(
        code.uri(),
        "macula:pair?k=6WV2MRDXC49DTCC190EB6X4CK4&s=05AFMSY38DJQ&a=192.0.2.7:4433,[2001:db8::7]:4433&n=roof-3"
    );
    assert_eq!(
        code.web().unwrap(),
        "https://192.0.2.7:4433/pair#k=6WV2MRDXC49DTCC190EB6X4CK4&s=05AFMSY38DJQ&a=[2001:db8::7]:4433&n=roof-3"
    );
    assert_eq!(code.qr(), "HTTPS://192.0.2.7:4433/PAIR#K=6WV2MRDXC49DTCC190EB6X4CK4&S=05AFMSY38DJQ");
    assert_eq!(code.secret.grouped(), "05AF-MSY3-8DJQ");
    assert_eq!(code.fingerprint.prefix(), code.fingerprint.to_string()[..8]);
}

#[test]
fn all_forms_say_the_same() {
    for addresses in [&[][..], &["192.0.2.7:4433"], &["[2001:db8::7]:4433", "192.0.2.7:5000"]] {
        for slot in Slot::ALL {
            let code = PairCode { slot, ..code(addresses) };
            assert_eq!(code.uri().parse(), Ok(code.clone()));
            assert_eq!(code.uri().to_uppercase().parse(), Ok(code.clone()));
            if let Some(web) = code.web() {
                assert_eq!(web.parse(), Ok(code.clone()));
            }
            let scanned: PairCode = code.qr().parse().unwrap();
            assert_eq!(
                (scanned.fingerprint, &scanned.secret, scanned.slot),
                (code.fingerprint, &code.secret, slot)
            );
            assert_eq!(scanned.addresses.first(), code.addresses.first());
        }
    }
}

/// 37 modules and a quiet zone of four on each side are 23 lines of half blocks.
#[test]
fn the_qr_code_fits_a_serial_screen() {
    let longest = "[2001:db8:1111:2222:3333:4444:5555:6666]:44330";
    for (addresses, level, version) in [
        (&[][..], EcLevel::M, 4),
        (&["192.0.2.7:4433"], EcLevel::M, 5),
        (&["192.168.100.200:44330"], EcLevel::L, 4),
        (&[longest], EcLevel::M, 6),
        (&["192.168.100.200:44330", longest], EcLevel::M, 5),
    ] {
        let qr = QrCode::with_error_correction_level(code(addresses).qr(), level).unwrap();
        let Version::Normal(found) = qr.version() else { panic!() };
        assert!(found <= version, "{}: version {found}", code(addresses).qr());
    }
}

#[test]
fn what_is_unknown_is_skipped_and_what_is_wrong_is_named() {
    let good = code(&["192.0.2.7:4433"]);
    let more = format!("{}&z=1&flag&=&x", good.uri());
    assert_eq!(more.parse(), Ok(good.clone()));
    assert_eq!(format!("  {}\n", good.uri()).parse(), Ok(good.clone()));
    let named =
        good.web().unwrap().replace("192.0.2.7:4433", "roof-3.local:4433").parse::<PairCode>().unwrap();
    assert_eq!(named.addresses, []);
    let (k, s) = (good.fingerprint, good.secret.symbols());
    for (text, error) in [
        (String::new(), ParseCodeError::NotACode),
        ("macula:pair".into(), ParseCodeError::NotACode),
        (format!("macula:meet?k={k}&s={s}"), ParseCodeError::NotACode),
        (format!("http://192.0.2.7:4433/pair#k={k}&s={s}"), ParseCodeError::NotACode),
        (format!("https://192.0.2.7:4433/other#k={k}&s={s}"), ParseCodeError::NotACode),
        (format!("https://192.0.2.7:4433/pair?k={k}&s={s}"), ParseCodeError::NotACode),
        (format!("macula:pair?s={s}"), ParseCodeError::Fingerprint),
        (format!("macula:pair?k={}&s={s}", &k.to_string()[1..]), ParseCodeError::Fingerprint),
        (format!("macula:pair?k={k}"), ParseCodeError::Secret),
        (format!("macula:pair?k={k}&s={s}0"), ParseCodeError::Secret),
        (format!("macula:pair?k={k}&s={s}&s={s}"), ParseCodeError::Twice('s')),
        (format!("macula:pair?k={k}&s={s}&c=x"), ParseCodeError::NotACode),
        (format!("macula:pair?k={k}&s={s}&a=roof"), ParseCodeError::Address),
        (format!("macula:pair?k={k}&s={s}&n=Roof 3"), ParseCodeError::Name),
        ("x".repeat(MAX_TEXT + 1), ParseCodeError::TooLong),
    ] {
        assert_eq!(text.parse::<PairCode>(), Err(error), "{text}");
    }
}

#[test]
fn a_secret_does_not_show_itself() {
    let code = code(&[]);
    assert!(!format!("{code:?}").contains(code.secret.symbols()));
}

proptest! {
    #[test]
    fn any_text_is_parsed_or_refused(text in "\\PC{0,200}") {
        let _ = text.parse::<PairCode>();
    }

    #[test]
    fn any_parameters_too(text in "[a-zA-Z]=[0-9A-Z:.,&=-]{0,80}", scheme in 0..2usize) {
        let scheme = ["macula:pair?", "https://192.0.2.1:1/pair#"][scheme];
        if let Ok(code) = format!("{scheme}{text}").parse::<PairCode>() {
            prop_assert_eq!(code.uri().parse::<PairCode>().unwrap(), code);
        }
    }

    #[test]
    fn every_code_survives_both_forms(seed: [u8; 32], port in 1u16.., v4: [u8; 4], v6: [u8; 16]) {
        let code = PairCode {
            fingerprint: Fingerprint::of(&os_identity::NodeId::from_bytes(seed)),
            secret: Secret::from_random(&seed),
            slot: Slot::File,
            addresses: vec![(v4, port).into(), (v6, port).into()],
            name: None,
        };
        prop_assert_eq!(code.uri().parse::<PairCode>().unwrap(), code.clone());
        prop_assert_eq!(code.web().unwrap().parse::<PairCode>().unwrap(), code);
    }
}
