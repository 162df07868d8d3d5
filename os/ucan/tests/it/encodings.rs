//! Tokens that say something good in a way that is not good: header tricks, second spellings, unknown fields.

use crate::common::*;
use data_encoding::{BASE64, BASE64URL, BASE64URL_NOPAD};
use ipld_core::ipld::Ipld;
use os_ucan::{Refusal, TokenError};

use TokenError::*;

/// What is wrong with it, the token, and whether that is what is said.
type Row<'a> = (&'a str, Vec<u8>, fn(&TokenError) -> bool);

/// Each is shown alone, rightly signed by the root, to do what it grants; what must be said of it.
fn check(rows: Vec<Row<'_>>) {
    let mut wrong = Vec::new();
    for (name, token, expected) in rows {
        match ask().answer(&[token]) {
            Err(Refusal::Unreadable { number: 1, why }) if expected(&why) => {}
            Err(other) => wrong.push(format!("{name}: {other}")),
            Ok(_) => wrong.push(format!("{name}: ALLOWED")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_unchanged_ones_are_allowed() {
    assert!(ask().answer(&[raw_jwt(HEADER, &payload("", ""), ROOT)]).is_ok());
    assert!(ask().answer(&[raw_cbor(fields())]).is_ok());
}

#[test]
fn jwt_headers() {
    let with = |header: &str| raw_jwt(header, &payload("", ""), ROOT);
    let unsigned = |header: &str| {
        let part = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
        format!("{}.{}.", part(header), part(&payload("", ""))).into_bytes()
    };
    check(vec![
        ("none", with(r#"{"alg":"none","typ":"JWT","ucv":"0.10.0"}"#), |e| matches!(e, Algorithm(_))),
        ("none, unsigned", unsigned(r#"{"alg":"none","typ":"JWT","ucv":"0.10.0"}"#), |e| {
            matches!(e, Algorithm(_))
        }),
        ("EdDSA, unsigned", unsigned(HEADER), |e| matches!(e, SignatureLength)),
        ("NONE", with(r#"{"alg":"NONE","typ":"JWT","ucv":"0.10.0"}"#), |e| matches!(e, Algorithm(_))),
        ("HS256", with(r#"{"alg":"HS256","typ":"JWT","ucv":"0.10.0"}"#), |e| matches!(e, Algorithm(_))),
        ("ES256", with(r#"{"alg":"ES256","typ":"JWT","ucv":"0.10.0"}"#), |e| matches!(e, Algorithm(_))),
        ("another case", with(r#"{"alg":"eddsa","typ":"JWT","ucv":"0.10.0"}"#), |e| {
            matches!(e, Algorithm(_))
        }),
        ("alg no string", with(r#"{"alg":["EdDSA"],"typ":"JWT","ucv":"0.10.0"}"#), |e| {
            matches!(e, Field { .. })
        }),
        ("no alg", with(r#"{"typ":"JWT","ucv":"0.10.0"}"#), |e| matches!(e, Field { .. })),
        ("alg twice", with(r#"{"alg":"none","alg":"EdDSA","typ":"JWT","ucv":"0.10.0"}"#), |e| {
            matches!(e, Json { .. })
        }),
        (
            "alg twice, escaped",
            with(r#"{"\u0061lg":"none","alg":"EdDSA","typ":"JWT","ucv":"0.10.0"}"#),
            |e| matches!(e, Json { .. }),
        ),
        ("typ", with(r#"{"alg":"EdDSA","typ":"jose","ucv":"0.10.0"}"#), |e| matches!(e, Header { .. })),
        ("no version", with(r#"{"alg":"EdDSA","typ":"JWT"}"#), |e| matches!(e, Field { .. })),
        ("older version", with(r#"{"alg":"EdDSA","typ":"JWT","ucv":"0.9.0"}"#), |e| {
            matches!(e, Header { .. })
        }),
        ("crit", with(r#"{"alg":"EdDSA","typ":"JWT","ucv":"0.10.0","crit":["exp"]}"#), |e| {
            matches!(e, Field { .. })
        }),
        ("jwk", with(r#"{"alg":"EdDSA","typ":"JWT","ucv":"0.10.0","jwk":{"kty":"OKP"}}"#), |e| {
            matches!(e, Field { .. })
        }),
        ("kid", with(r#"{"alg":"EdDSA","typ":"JWT","ucv":"0.10.0","kid":"../key"}"#), |e| {
            matches!(e, Field { .. })
        }),
        ("b64", with(r#"{"alg":"EdDSA","typ":"JWT","ucv":"0.10.0","b64":false}"#), |e| {
            matches!(e, Field { .. })
        }),
        ("header is a list", with(r#"["EdDSA","JWT","0.10.0"]"#), |e| {
            matches!(e, UnknownFormat | Field { .. })
        }),
    ]);
}

#[test]
fn jwt_payloads() {
    let with = |old: &str, new: &str| raw_jwt(HEADER, &payload(old, new), ROOT);
    let end = r#""prf":[]}"#;
    let many = vec![r#"{"can":"a","with":"*"}"#; 33].join(",");
    let deep = format!(r#""fct":{{"a":{}1{}}},"#, "[".repeat(40), "]".repeat(40));
    let proofs = vec![r#""ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0""#; 16].join(",");
    let can = |can: &str| with(r#""can":"*""#, &format!(r#""can":"{can}""#));
    let on = |on: &str| with(r#""with":"*""#, &format!(r#""with":"{on}""#));
    check(vec![
        ("iss twice", with(r#"{"iss""#, r#"{"iss":"did:web:a","iss""#), |e| matches!(e, Json { .. })),
        ("exp twice", with(r#""exp""#, r#""exp":1,"exp""#), |e| matches!(e, Json { .. })),
        ("can twice", with(r#""can":"*""#, r#""can":"a","can":"*""#), |e| matches!(e, Json { .. })),
        ("a fact twice", with(r#""prf""#, r#""fct":{"a":{"b":1,"b":2}},"prf""#), |e| {
            matches!(e, Json { .. })
        }),
        ("facts too deep", with(r#""prf""#, &(deep + r#""prf""#)), |e| matches!(e, Json { .. })),
        ("something behind it", with(end, &format!("{end} {{}}")), |e| matches!(e, Json { .. })),
        (
            "not UTF-8 inside",
            {
                let text = payload("\"n\"", "\"\u{fffd}\"");
                let bytes = replaced(text.as_bytes(), "\u{fffd}".as_bytes(), &[0xff]);
                let signed = format!(
                    "{}.{}",
                    BASE64URL_NOPAD.encode(HEADER.as_bytes()),
                    BASE64URL_NOPAD.encode(&bytes)
                );
                let signature = key(ROOT).sign_raw(signed.as_bytes());
                format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature)).into_bytes()
            },
            |e| matches!(e, Json { .. }),
        ),
        ("a field that we do not know", with(end, r#""prf":[],"only":"mondays"}"#), |e| {
            matches!(e, Field { .. })
        }),
        ("version twice", with(end, r#""prf":[],"ucv":"0.10.0"}"#), |e| matches!(e, Field { .. })),
        ("a condition", with(r#""with":"*""#, r#""with":"*","nb":{"max":1}"#), |e| matches!(e, Field { .. })),
        ("exp a string", with(r#""exp":1"#, r#""exp":"1","x":1"#), |e| matches!(e, Field { .. })),
        ("exp a fraction", with(r#""nnc""#, r#""nbf":1.5,"nnc""#), |e| matches!(e, Field { .. })),
        ("nbf negative", with(r#""nnc""#, r#""nbf":-1,"nnc""#), |e| matches!(e, Field { .. })),
        ("nbf too large", with(r#""nnc""#, r#""nbf":9007199254740992,"nnc""#), |e| matches!(e, Field { .. })),
        ("nbf beyond integers", with(r#""nnc""#, r#""nbf":1e400,"nnc""#), |e| matches!(e, Json { .. })),
        ("ends before it begins", with(r#""nnc""#, r#""nbf":9000000000,"nnc""#), |e| {
            matches!(e, EndsBeforeItBegins)
        }),
        ("nonce a number", with(r#""nnc":"n""#, r#""nnc":1"#), |e| matches!(e, Field { .. })),
        ("nonce too long", with(r#""nnc":"n""#, &format!(r#""nnc":"{}""#, "n".repeat(129))), |e| {
            matches!(e, Field { .. })
        }),
        ("no cap", with(r#""cap""#, r#""fct""#), |e| matches!(e, Field { .. })),
        ("empty cap", with(r#"[{"can":"*","with":"*"}]"#, "[]"), |e| matches!(e, GrantsNothing)),
        ("empty cap, 0.10 proper", with(r#"[{"can":"*","with":"*"}]"#, "{}"), |e| matches!(e, GrantsNothing)),
        ("cap of strings", with(r#"[{"can":"*","with":"*"}]"#, r#"["*"]"#), |e| matches!(e, Field { .. })),
        ("too many capabilities", with(r#"{"can":"*","with":"*"}"#, &many), |e| {
            matches!(e, TooManyCapabilities)
        }),
        ("no with", with(r#","with":"*""#, ""), |e| matches!(e, Field { .. })),
        ("can a list", with(r#""can":"*""#, r#""can":["*"]"#), |e| matches!(e, Field { .. })),
        ("too many proofs", with(r#""prf":[]"#, &format!(r#""prf":[{proofs}]"#)), |e| {
            matches!(e, Field { .. })
        }),
        ("proof no id", with(r#""prf":[]"#, r#""prf":["x"]"#), |e| matches!(e, Field { .. })),
        ("proofs no list", with(r#""prf":[]"#, r#""prf":"x""#), |e| matches!(e, Field { .. })),
        ("facts a list", with(r#""prf""#, r#""fct":[1],"prf""#), |e| matches!(e, Field { .. })),
        ("iss no did", with(&format!(r#""iss":"{}""#, id(ROOT)), r#""iss":"root""#), |e| matches!(e, Did(_))),
        ("aud no did", with(&format!(r#""aud":"{}""#, id(CAROL)), r#""aud":"""#), |e| matches!(e, Did(_))),
        ("ability empty", can(""), |e| matches!(e, Ability { .. })),
        ("star in the middle", can("macula/*/update"), |e| matches!(e, Ability { .. })),
        ("star within", can("macula/o*"), |e| matches!(e, Ability { .. })),
        ("two stars", can("**"), |e| matches!(e, Ability { .. })),
        ("star and slash", can("*/"), |e| matches!(e, Ability { .. })),
        ("leading slash", can("/macula"), |e| matches!(e, Ability { .. })),
        ("trailing slash", can("macula/"), |e| matches!(e, Ability { .. })),
        ("empty segment", can("macula//os/*"), |e| matches!(e, Ability { .. })),
        ("capitals", can("Macula/os/*"), |e| matches!(e, Ability { .. })),
        ("up", can("macula/app/../os/*"), |e| matches!(e, Ability { .. })),
        ("a letter that looks the same", can("m\u{430}cula/*"), |e| matches!(e, Ability { .. })),
        ("a zero byte", can(r"macula\u0000/*"), |e| matches!(e, Ability { .. })),
        ("a space", can("macula/os/* "), |e| matches!(e, Ability { .. })),
        ("resource without scheme", on("slot/a"), |e| matches!(e, Resource { .. })),
        ("resource going up", on("macula:a/../*"), |e| matches!(e, Resource { .. })),
        ("resource with a star within", on("macula:a/s*"), |e| matches!(e, Resource { .. })),
        ("resource with any scheme", on("*:a"), |e| matches!(e, Resource { .. })),
        ("resource in capitals", on("MACULA:a"), |e| matches!(e, Resource { .. })),
        ("resource percent-encoded", on("macula:a/%2e%2e"), |e| matches!(e, Resource { .. })),
        ("resource of a did that is no key", on("macula:did:web:a/*"), |e| matches!(e, Resource { .. })),
    ]);
}

#[test]
fn jwt_spellings() {
    let good = String::from_utf8(raw_jwt(HEADER, &payload("", ""), ROOT)).unwrap();
    let parts: Vec<&str> = good.split('.').collect();
    let signature = BASE64URL_NOPAD.decode(parts[2].as_bytes()).unwrap();
    let join = |a: &str, b: &str, c: &str| format!("{a}.{b}.{c}").into_bytes();
    // 64 bytes leave four bits of the last character over.
    let spare = format!("{}{}", &parts[2][..85], if parts[2].ends_with('A') { 'B' } else { 'x' });
    let standard = (0..200u32).find_map(|n| {
        let token = String::from_utf8(raw_jwt(HEADER, &payload("\"n\"", &format!("\"{n}\"")), ROOT)).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let signature = BASE64URL_NOPAD.decode(parts[2].as_bytes()).unwrap();
        let text = BASE64.encode(&signature);
        text.contains(['+', '/']).then(|| join(parts[0], parts[1], text.trim_end_matches('=')))
    });
    check(vec![
        ("padded", join(parts[0], parts[1], &BASE64URL.encode(&signature)), |e| matches!(e, Base64 { .. })),
        ("spare bits", join(parts[0], parts[1], &spare), |e| matches!(e, Base64 { .. })),
        ("the other alphabet", standard.unwrap(), |e| matches!(e, Base64 { .. })),
        ("a line break", join(parts[0], parts[1], &format!("{}\n", parts[2])), |e| {
            matches!(e, Base64 { .. })
        }),
        ("two parts", format!("{}.{}", parts[0], parts[1]).into_bytes(), |e| matches!(e, JwtParts)),
        ("four parts", format!("{good}.").into_bytes(), |e| matches!(e, JwtParts)),
        ("five parts", format!("{good}.a.b").into_bytes(), |e| matches!(e, JwtParts)),
        ("not UTF-8", [good.as_bytes(), &[0xff]].concat(), |e| matches!(e, JwtParts)),
        ("a space before", format!(" {good}").into_bytes(), |e| matches!(e, UnknownFormat)),
        ("Bearer", format!("Bearer {good}").into_bytes(), |e| matches!(e, UnknownFormat)),
        ("empty", vec![], |e| matches!(e, UnknownFormat)),
        ("signature too short", join(parts[0], parts[1], &BASE64URL_NOPAD.encode(&signature[..63])), |e| {
            matches!(e, SignatureLength)
        }),
    ]);
}

#[test]
fn dag_cbor_payloads() {
    let text = |t: &str| Some(Ipld::String(t.into()));
    let with = |name: &str, value: Option<Ipld>| raw_cbor(changed(name, value));
    let statement = |op: &str| {
        Some(Ipld::List(vec![Ipld::List(vec![
            Ipld::String(op.into()),
            Ipld::String(".a".into()),
            Ipld::Integer(1),
        ])]))
    };
    let field = |e: &TokenError| matches!(e, Field { .. });
    let ability = |e: &TokenError| matches!(e, Ability { .. });
    let mut rows: Vec<Row<'_>> = vec![
        ("a field that we do not know", with("only", text("mondays")), field),
        ("args", with("args", Some(Ipld::Map(Default::default()))), field),
        ("iss null", with("iss", Some(Ipld::Null)), field),
        ("iss no did", with("iss", text("root")), |e| matches!(e, Did(_))),
        ("sub a list", with("sub", Some(Ipld::List(vec![]))), field),
        ("exp a float", with("exp", Some(Ipld::Float(9e9))), field),
        ("exp negative", with("exp", Some(Ipld::Integer(-1))), field),
        ("exp too large", with("exp", Some(Ipld::Integer(1 << 53))), field),
        ("nbf after exp", with("nbf", Some(Ipld::Integer(9_000_000_000))), |e| {
            matches!(e, EndsBeforeItBegins)
        }),
        ("nonce text", with("nonce", text("n")), field),
        ("nonce too long", with("nonce", Some(Ipld::Bytes(vec![0; 129]))), field),
        ("meta a list", with("meta", Some(Ipld::List(vec![]))), field),
        ("cmd empty", with("cmd", text("")), ability),
        ("cmd without slash", with("cmd", text("macula")), ability),
        ("cmd with trailing slash", with("cmd", text("/macula/")), ability),
        ("cmd with empty segment", with("cmd", text("//")), ability),
        ("cmd with a star", with("cmd", text("/macula/*")), ability),
        ("cmd in capitals", with("cmd", text("/Macula")), ability),
        ("pol a map", with("pol", Some(Ipld::Map(Default::default()))), |e| matches!(e, Policy(_))),
        ("pol with an unknown operator", with("pol", statement("match")), |e| matches!(e, Policy(_))),
        (
            "pol with a bad selector",
            with(
                "pol",
                Some(Ipld::List(vec![Ipld::List(vec![
                    Ipld::String("==".into()),
                    Ipld::String("a".into()),
                    Ipld::Null,
                ])])),
            ),
            |e| matches!(e, Policy(_)),
        ),
    ];
    for name in ["iss", "aud", "sub", "cmd", "pol", "nonce", "exp"] {
        rows.push((name, with(name, None), field));
    }
    check(rows);
    // A condition that is understood and does not hold.
    let found = ask().answer(&[with("pol", statement("=="))]);
    assert!(matches!(found, Err(Refusal::Policy { .. })), "{found:?}");
}

#[test]
fn dag_cbor_envelopes() {
    let good = signed_part(&VARSIG, TAG, fields());
    let with = |varsig: &[u8], tag: &str| envelope(&signed_part(varsig, tag, fields()), ROOT);
    let cbor = |e: &TokenError| matches!(e, Cbor(_));
    let bad_varsig = |e: &TokenError| matches!(e, Varsig);
    let body = &good[1..];
    // The map {"h": ..., tag: ...}: its entries, to be put together wrongly.
    let (first, second) = body.split_at(2 + 1 + VARSIG.len());
    let seconds = |n: u64| [&[0x1a][..], &(n as u32).to_be_bytes()].concat();
    let exp = seconds(NOW + 3600);
    let wide = [&[0x1b][..], &(NOW + 3600).to_be_bytes()].concat();
    let tagged = [&[0xc1][..], &exp].concat();
    let mut three = signed_part(&VARSIG, TAG, fields());
    three[0] = 0xa3;
    three.extend([0x78, 0x1a]);
    three.extend(b"ucan/zzz@9.9.9-rc.1-xxxxxx");
    three.push(0xa0);
    let token = envelope(&good, ROOT);
    check(vec![
        ("varsig of secp256k1", with(&[0x34, 0x01, 0xec, 0x01, 0xe7, 0x01, 0x12, 0x71], TAG), bad_varsig),
        (
            "varsig over DAG-JSON",
            with(&[0x34, 0x01, 0xed, 0x01, 0xed, 0x01, 0x13, 0xa9, 0x02], TAG),
            bad_varsig,
        ),
        ("varsig version 2", with(&[0x34, 0x02, 0xed, 0x01, 0xed, 0x01, 0x13, 0x71], TAG), bad_varsig),
        (
            "varsig with another hash",
            with(&[0x34, 0x01, 0xed, 0x01, 0xed, 0x01, 0x12, 0x71], TAG),
            bad_varsig,
        ),
        ("varsig and more", with(&[&VARSIG[..], &[0]].concat(), TAG), bad_varsig),
        ("varsig empty", with(&[], TAG), bad_varsig),
        ("no varsig", envelope(&[&[0xa1], second].concat(), ROOT), bad_varsig),
        ("no payload", envelope(&[&[0xa1], first].concat(), ROOT), |e| matches!(e, Envelope)),
        ("two payloads", envelope(&three, ROOT), |e| matches!(e, Envelope)),
        ("an invocation's tag", with(&VARSIG, "ucan/inv@1.0.0-rc.1"), |e| matches!(e, Tag(..))),
        ("a newer version's tag", with(&VARSIG, "ucan/dlg@2.0.0"), |e| matches!(e, Tag(..))),
        ("something behind it", [&token[..], &[0]].concat(), cbor),
        ("cut off", token[..token.len() - 1].to_vec(), cbor),
        ("entries out of order", envelope(&[&[0xa2], second, first].concat(), ROOT), cbor),
        ("an entry twice", envelope(&[&[0xa3], first, first, second].concat(), ROOT), cbor),
        ("a number too wide", envelope(&replaced(&good, &exp, &wide), ROOT), cbor),
        ("a number with a tag", envelope(&replaced(&good, &exp, &tagged), ROOT), cbor),
        ("a half float", envelope(&replaced(&good, &exp, &[0xf9, 0x3c, 0]), ROOT), cbor),
        ("no definite length", envelope(&[&[0xbf], body, &[0xff]].concat(), ROOT), cbor),
        ("an array of three", [&[0x83], &token[1..], &[0]].concat(), |e| matches!(e, UnknownFormat)),
        ("a long array head", [&[0x98, 0x02], &token[1..]].concat(), |e| matches!(e, UnknownFormat)),
        ("signature too short", [&[0x82, 0x58, 0x3f], &token[4..]].concat(), |e| {
            matches!(e, SignatureLength)
        }),
        ("signature a list", [&[0x82, 0x80], &token[67..]].concat(), |e| matches!(e, Envelope)),
        ("payload a list", [&token[..67], &[0x80]].concat(), |e| matches!(e, Envelope)),
        ("deep within", [&token[..67], &[0x81; 300][..], &[0]].concat(), cbor),
    ]);
}

#[test]
fn names_that_are_no_keys() {
    let issuer = |did: &str| {
        let jwt = raw_jwt(HEADER, &payload(&id(ROOT).to_string(), did), ROOT);
        let cbor = raw_cbor(changed("iss", Some(Ipld::String(did.into()))));
        [jwt, cbor]
    };
    let fragment = format!("{0}#{1}", id(ROOT), &id(ROOT).to_string()[8..]);
    let p256 = "did:key:zDnaerx9CtbPJ1q36T5Ln5wYt3MQYeGRG5ehnPAmxcf5mDZpv";
    for did in ["did:macula:io.macula", "did:web:example.org", p256, &fragment] {
        for token in issuer(did) {
            let found = ask().answer(&[token]);
            let said = found.as_ref().map_err(ToString::to_string).unwrap_err();
            assert!(matches!(&found, Err(Refusal::IssuerIsNoKey { .. })), "{said}");
            assert!(said.contains(did) && said.contains("did:key"), "{said}");
        }
    }
    let audience = raw_jwt(HEADER, &payload(&id(CAROL).to_string(), "did:macula:io.macula"), ROOT);
    assert!(matches!(ask().answer(&[audience]), Err(Refusal::WrongAudience { .. })));
}
