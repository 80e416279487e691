//! Golden bits of the sampler's contract: a table of words, draws, factors and permutations that no version
//! may change.

use multimix::sampler::{Domain, Gamma, Stream, column_alpha, factor, partner};
use multimix::{Alpha, Factor};

/// One line for each value: what is drawn, from which numbers, and its bits. `#` begins a comment.
const TABLE: &str = include_str!("golden.txt");

/// The fields of a line, taken one after another.
struct Fields<'a>(std::str::SplitWhitespace<'a>);

impl<'a> Fields<'a> {
    fn text(&mut self) -> &'a str {
        self.0.next().expect("a field is missing")
    }

    fn number(&mut self) -> u64 {
        self.text().parse().expect("not a number")
    }

    fn index(&mut self) -> u32 {
        self.number().try_into().expect("not an index")
    }

    fn stream(&mut self) -> Stream {
        Stream::new(self.number(), self.number())
    }

    /// `1.7`, or `0.5..2` for an α drawn per column.
    fn alpha(&mut self) -> Alpha {
        let text = self.text();
        let number = |text: &str| text.parse().expect("not a concentration");
        match text.split_once("..") {
            Some((lo, hi)) => Alpha::Uniform { lo: number(lo), hi: number(hi) },
            None => Alpha::Fixed(number(text)),
        }
    }

    fn rest(self) -> Vec<u32> {
        self.0.map(|word| u32::from_str_radix(word, 16).expect("not a hexadecimal word")).collect()
    }
}

/// What the sampler gives for a line, and what the table says.
fn evaluate(line: &str) -> (Vec<u32>, Vec<u32>) {
    let mut fields = Fields(line.split_whitespace());
    let kind = fields.text();
    let stream = fields.stream();
    let values = match kind {
        "words" => {
            let domain =
                [Domain::Weight, Domain::Alpha, Domain::Factor, Domain::Permutation][fields.index() as usize];
            let [k, p, j, attempt] = [(); 4].map(|()| fields.index());
            stream.block(domain, k, p, j, attempt).to_vec()
        }
        "draw" => {
            let (alpha, [j, i, k]) = (fields.alpha(), [(); 3].map(|()| fields.index()));
            let gamma = Gamma::new(column_alpha(stream, alpha, j, k), alpha);
            let draw = gamma.draw(stream, Domain::Weight, j, i, k);
            vec![draw.to_bits(), gamma.draw_log2(stream, Domain::Weight, j, i, k).to_bits()]
        }
        "alpha" => {
            let (alpha, [j, k]) = (fields.alpha(), [(); 2].map(|()| fields.index()));
            vec![column_alpha(stream, alpha, j, k).to_bits()]
        }
        "factor" => {
            let alpha = fields.alpha();
            let kind = if fields.text() == "batch" { Factor::PerBatch } else { Factor::PerColumn };
            factor(stream, alpha, kind, fields.index()).map(f32::to_bits).to_vec()
        }
        "partner" => {
            let (b, round) = (fields.index(), fields.index());
            partner(stream, b as usize, round)
        }
        other => panic!("unknown kind {other}"),
    };
    (values, fields.rest())
}

#[test]
fn the_sampler_gives_the_golden_bits() {
    let (mut counts, mut changed) = ([0; 5], Vec::new());
    for line in TABLE.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        let (given, golden) = evaluate(line);
        let hex: Vec<String> = given.iter().map(|word| format!("{word:08x}")).collect();
        if given != golden {
            let from: Vec<&str> = line.split_whitespace().collect();
            let numbers = from.len() - golden.len();
            changed.push(format!("{} {}", from[..numbers].join(" "), hex.join(" ")));
        }
        let kinds = ["words", "draw", "alpha", "factor", "partner"];
        counts[kinds.iter().position(|kind| line.starts_with(kind)).unwrap()] += 1;
    }
    assert!(changed.is_empty(), "the sampler now gives\n{}", changed.join("\n"));
    println!("lines checked (words, draw, alpha, factor, partner): {counts:?}");
    assert!(
        counts[0] >= 8 && counts[1] >= 100 && counts[2] >= 8 && counts[3] >= 12 && counts[4] >= 6,
        "{counts:?}"
    );
}
