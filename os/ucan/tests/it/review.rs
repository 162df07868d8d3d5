//! What `maculactl ucan inspect` says is what a check would say.

use crate::common::*;
use os_ucan::review::{review, verdict};
use os_ucan::{Format, TokenId};

fn problems(tokens: &[Vec<u8>]) -> Vec<Vec<String>> {
    review(tokens, NOW, |_, _| false)
        .into_iter()
        .map(|link| link.map_or_else(|e| vec![e.to_string()], |l| l.problems))
        .collect()
}

#[test]
fn a_good_chain_has_no_problems_and_one_root() {
    for format in FORMATS {
        let links = review(&chain_of(format, &good()), NOW, |_, _| false);
        let found = verdict(&links);
        assert!(found.good, "{links:?}");
        assert_eq!(found.roots, [id(ROOT)]);
    }
}

#[test]
fn what_is_wrong_is_said_of_the_link_that_has_it() {
    for format in FORMATS {
        let wrong = |n: usize, change: &dyn Fn(Give) -> Give, expected: &str| {
            let mut chain = good();
            chain[n] = change(chain[n].clone());
            let tokens = chain_of(format, &chain);
            let found = problems(&tokens);
            assert!(found[2 - n].iter().any(|p| p.contains(expected)), "{expected}: {found:?}");
            assert!(!verdict(&review(&tokens, NOW, |_, _| false)).good);
            assert!(ask().answer(&tokens).is_err());
        };
        wrong(0, &|g| g.until(NOW - 100), "expired");
        wrong(1, &|g| g.not_before(NOW + 100), "not valid yet");
        wrong(2, &|g| g.signed_by(MALLORY), "signature");
        wrong(2, &|g| Give { from: MALLORY, ..g }.signed_by(MALLORY), "is not for its issuer");
        wrong(2, &|g| g.can("*", "NODE/*"), "it grants *");
        let tokens = chain_of(format, &good());
        let middle = TokenId::of(&tokens[1]);
        for (by, bad) in [(ROOT, true), (ALICE, true), (BOB, false), (MALLORY, false)] {
            let links = review(&tokens, NOW, |t, k| *t == middle && *k == id(by));
            assert_eq!(verdict(&links).good, !bad, "{by}");
        }
    }
    let jwt = chain_of(Format::Jwt, &good());
    assert!(problems(&jwt[..2])[1][0].contains("is not here"));
    assert!(problems(&[jwt[0].clone(), b"junk".to_vec()])[1][0].contains("neither"));
    assert!(problems(&chain_of(Format::DagCbor, &good())[..2])[1][0].contains("nothing shows"));
}
