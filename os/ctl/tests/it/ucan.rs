//! `maculactl ucan`, from a delegation to its end.

use crate::owner::Owner;

const NODE: &str = "macula:did:key:z6MkrvzGHw5hwHrcLkzFGNrgWHguKNjQ9i2oNSGtrHGcCvhx";

/// What was printed, into a file.
fn save(owner: &Owner, name: &str, line: &str) {
    let text = owner.ok("", line);
    std::fs::write(owner.path(name), text).unwrap();
}

#[test]
fn a_delegation_is_passed_on_looked_at_and_taken_back() {
    for (format, only) in [("jwt", ""), ("dag-cbor", ", where every `if` holds")] {
        let owner = Owner::new();
        let (bob, carol) = (owner.new_key("bob"), owner.new_key("carol"));
        let issue = format!("ucan issue --can macula/app/* --with {NODE}/* --format {format}");
        save(&owner, "bob.ucan", &format!("{issue} --to {bob}"));
        let pass_on = "--key bob --can macula/app/deploy --expires 1d --proof bob.ucan";
        save(&owner, "carol.ucan", &format!("ucan issue --to {carol} {pass_on} --with {NODE}/app/web"));

        let text = owner.ok("", "ucan inspect carol.ucan");
        assert!(text.contains("link 1 of 2  good\n") && text.contains("link 2 of 2  good\n"), "{text}");
        assert!(text.ends_with(&format!("good, on what {} owns{only}\n", owner.id)), "{text}");
        let report = owner.json("", "ucan inspect carol.ucan");
        assert_eq!((&report["good"], &report["roots"][0]), (&true.into(), &owner.id.as_str().into()));
        assert_eq!(
            (&report["links"][0]["issuer"], &report["links"][0]["format"]),
            (&bob.into(), &format.into())
        );
        assert_eq!(report["links"][0]["audience"], carol);

        owner.ok("", "ucan revoke carol.ucan --link 2 --out bob.revocation");
        let shown = owner.ok("", "ucan inspect bob.revocation");
        assert!(shown.contains(&format!("by     {}", owner.id)), "{shown}");
        let error = owner.error("", "ucan inspect carol.ucan --revocation bob.revocation");
        assert!(error.contains("carol.ucan would be refused"), "{error}");
        let error = owner.error("", "ucan revoke carol.ucan --key carol --out x");
        assert!(error.contains("cannot revoke link 1 of carol.ucan: only its issuer"), "{error}");
        let error = owner.error("", "ucan revoke carol.ucan --key bob --link 2 --out x");
        assert!(error.contains("cannot revoke link 2"), "{error}");
        assert!(!owner.path("x").exists());
        owner.ok("", "ucan revoke carol.ucan --key bob --out leaf.revocation");
        assert!(owner.error("", "ucan revoke carol.ucan --link 3 --out x").contains("links 1 to 2"));
        // One that has nothing to do with it changes nothing.
        save(&owner, "other.ucan", &format!("{issue} --to {carol}"));
        owner.ok("", "ucan revoke other.ucan --out other.revocation");
        owner.ok("", "ucan inspect carol.ucan --revocation other.revocation");
    }
}

#[test]
fn what_a_node_would_refuse_is_not_signed() {
    let owner = Owner::new();
    let (bob, carol) = (owner.new_key("bob"), owner.new_key("carol"));
    for (format, other) in [("jwt", "dag-cbor"), ("dag-cbor", "jwt")] {
        let give = format!("ucan issue --to {bob} --can macula/os/* --with {NODE}/* --format {format}");
        save(&owner, "bob.ucan", &give);
        let pass_on = format!("ucan issue --key bob --to {carol} --proof bob.ucan --with {NODE}");
        for (line, expected) in [
            (format!("{pass_on} --can *"), "would be refused: it grants *"),
            (format!("{pass_on} --can macula/app/deploy"), "would be refused: it grants macula/app/deploy"),
            (format!("{pass_on} --can macula/os/update --key carol"), "is not for its issuer"),
            (format!("{pass_on} --can macula/os/update --format {other}"), "bob.ucan is in another format"),
            (format!("{pass_on} --can macula/os/update --proof nothing"), "cannot read nothing"),
        ] {
            let line = if line.contains("--key carol") { line.replace("--key bob ", "") } else { line };
            let error = owner.error("", &line);
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
    let error = owner.error("", &format!("ucan issue --to {bob} --can a --can b --with * --format dag-cbor"));
    assert!(error.contains("one --can"), "{error}");
    let error =
        owner.error("", &format!("ucan issue --to {bob} --can a --with macula:*/b --format dag-cbor"));
    assert!(error.contains("any owner"), "{error}");
}

#[test]
fn what_is_changed_foreign_or_no_delegation_is_said() {
    let owner = Owner::new();
    let bob = owner.new_key("bob");
    save(&owner, "bob.ucan", &format!("ucan issue --to {bob} --can macula/os/update --with {NODE}"));
    let good = std::fs::read_to_string(owner.path("bob.ucan")).unwrap();
    let seed = std::fs::read_to_string(owner.path("macula/owner.key")).unwrap();
    assert!(!good.contains(seed.trim()));
    // The last character but some of the signature.
    let at = good.len() - 20;
    let other = if &good[at..=at] == "A" { "B" } else { "A" };
    std::fs::write(owner.path("forged"), format!("{}{other}{}", &good[..at], &good[at + 1..])).unwrap();
    let forged = owner.run("", "ucan inspect forged");
    let text = String::from_utf8(forged.stdout).unwrap();
    assert!(!forged.status.success() && text.contains("does not bear its issuer's signature"), "{text}");
    assert!(text.ends_with("no node accepts this\n"), "{text}");
    // As Macula's SDK made it, by a name that nobody can look up.
    let known = "eyJhbGciOiJFZERTQSIsInR5cCI6IkpXVCIsInVjdiI6IjAuMTAuMCJ9.eyJpc3MiOiJkaWQ6bWFjdWxhOmlvLm1hY3VsYSIsImF1ZCI6ImRpZDptYWN1bGE6aW8ubWFjdWxhLmFjbWUiLCJleHAiOjQxMDI0NDQ4MDAsIm5uYyI6Im4tMSIsImNhcCI6W3siY2FuIjoibWVzaC9jYWxsIiwid2l0aCI6Im1yaTpwcm9jOmlvLm1hY3VsYS9hY21lL2VjaG8ifV0sInByZiI6W119.TOUVst6OinWzg47dkr52aWS0Bu1qdrtzP0F6uwPT9vtPJQ_NL474avRr4dvsfI77C2HTyRQ6FhloOWl8qQwhAw\n";
    std::fs::write(owner.path("foreign"), known).unwrap();
    let foreign = owner.run("", "ucan inspect foreign");
    let text = String::from_utf8(foreign.stdout).unwrap();
    assert!(text.contains("by     did:macula:io.macula\n") && text.contains("no Ed25519 did:key"), "{text}");
    assert!(text.contains("mesh/call with mri:proc:io.macula/acme/echo"), "{text}");
    for (junk, expected) in
        [(&b"hello"[..], "neither a JWT nor DAG-CBOR"), (&[0xff, 0], "neither a delegation")]
    {
        std::fs::write(owner.path("junk"), junk).unwrap();
        let found = owner.run("", "ucan inspect junk");
        let said = String::from_utf8([found.stdout, found.stderr].concat()).unwrap();
        assert!(!found.status.success() && said.contains(expected), "{said}");
    }
    std::fs::write(owner.path("large"), vec![b'a'; 100_000]).unwrap();
    assert!(owner.error("", "ucan inspect large").contains("too large"));
}
