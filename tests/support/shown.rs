//! Ties the README to tests: its snippets are code that a test runs.

/// Fails unless the lines between `// README` and `// end` in a function of a test file stand in the README,
/// in one snippet. Comments and white space may differ.
pub fn assert_shown(source: &str, function: &str) {
    let code = |text: &str| -> String {
        let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
        lines.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ")
    };
    let body = source.split(&format!("fn {function}(")).nth(1).unwrap();
    let snippet = body.split("// README\n").nth(1).and_then(|rest| rest.split("// end\n").next()).unwrap();
    assert!(snippet.lines().count() > 4, "no snippet in {function}");
    let mut shown = include_str!("../../README.md").split("```").skip(1).step_by(2).map(code);
    assert!(shown.any(|shown| shown.contains(&code(snippet))), "not in the README:\n{snippet}");
}
