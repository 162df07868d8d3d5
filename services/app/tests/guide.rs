//! The guide shows the example as it is.

#[test]
fn the_guide_shows_the_example_as_it_is() {
    let guide = include_str!("../../../docs/guides/apps.md");
    for (language, text) in [
        ("rust", include_str!("../examples/hello/main.rs")),
        ("toml", include_str!("../examples/hello/unit.toml")),
    ] {
        assert!(guide.contains(&format!("```{language}\n{}\n```", text.trim_end())), "{language}");
    }
    assert!(include_str!("../examples/hello/main.rs").lines().count() <= 30);
}
