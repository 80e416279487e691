//! Instructions over the lanes of a warp: `shfl`, `vote`, `match`, `redux`, `activemask`, `elect`, `bar.red`.

mod isa;
use isa::*;

/// One row per lane.
fn lanes(f: impl Fn(u64) -> Vec<u64>) -> Vec<Vec<u64>> {
    (0..32).map(f).collect()
}

/// A number per lane, with repetitions.
fn number(lane: u64) -> u64 {
    [7, 0xffff_fff0, 3, 0x8000_0001, 7, 12, 3, 0][(lane * 5 % 8) as usize]
}

/// The pseudo-code of the ISA: the lane read, and whether it is in range.
fn source(mode: &str, lane: u64, b: u64, c: u64) -> (u64, bool) {
    let (b, clamp, segment) = (b & 31, c & 31, c >> 8 & 31);
    let most = lane & segment | clamp & !segment;
    let least = lane & segment;
    let (from, inside) = match mode {
        "up" => (lane.wrapping_sub(b), lane as i64 - b as i64 >= most as i64),
        "down" => (lane + b, lane + b <= most),
        "bfly" => (lane ^ b, lane ^ b <= most),
        _ => (least | b & !segment, least | b & !segment <= most),
    };
    if inside { (from, true) } else { (lane, false) }
}

#[test]
fn shuffles_follow_the_pseudo_code() {
    for mode in ["up", "down", "bfly", "idx"] {
        // Whole warp and segments of 16, 8 and 4 lanes; a clamp in the middle.
        for segment in [0u64, 16, 24, 28] {
            for b in [0u64, 1, 3, 8, 31] {
                let last = if mode == "up" { 0 } else { 31 };
                for clamp in [last, 20] {
                    let c = segment << 8 | clamp;
                    let body = format!("shfl.sync.{mode}.b32 %d0|%d1, %a0, {b}, {c}, 0xffffffff;");
                    let rows = lanes(|lane| vec![100 + lane]);
                    for (lane, seen) in run("b32 -> b32 pred", &body, &rows).into_iter().enumerate() {
                        let (from, inside) = source(mode, lane as u64, b, c);
                        assert_eq!(seen, [100 + from, inside.into()], "{body} lane {lane}");
                    }
                }
            }
        }
    }
}

#[test]
fn shuffle_indices_may_differ_between_lanes() {
    let rows = lanes(|lane| vec![100 + lane, lane * 7 % 32]);
    let seen = run("b32 b32 -> b32", "shfl.sync.idx.b32 %d0, %a0, %a1, 31, 0xffffffff;", &rows);
    for (lane, seen) in seen.iter().enumerate() {
        assert_eq!(seen[0], 100 + lane as u64 * 7 % 32);
    }
}

#[test]
fn votes() {
    for bits in [0u64, u64::from(u32::MAX), 0x8000_0001, 0x0000_ffff] {
        let rows = lanes(|lane| vec![bits >> lane & 1]);
        let all = bits == u64::from(u32::MAX);
        let results = [("all", all), ("any", bits != 0), ("uni", all || bits == 0)];
        for (mode, expected) in results {
            let body = format!("vote.sync.{mode}.pred %d0, %a0, 0xffffffff;");
            check("pred -> pred", &body, &rows, |_| expected.into());
        }
        check("pred -> pred", "vote.sync.any.pred %d0, !%a0, 0xffffffff;", &rows, |_| (!all).into());
        check("pred -> b32", "vote.sync.ballot.b32 %d0, %a0, 0xffffffff;", &rows, |_| bits);
    }
}

#[test]
fn votes_of_part_of_a_warp() {
    // Odd lanes vote among themselves, the others do not take part.
    let body = ".reg .pred %odd; .reg .b32 %lane;\n mov.u32 %lane, %laneid; and.b32 %lane, %lane, 1;\n\
        setp.eq.u32 %odd, %lane, 1;\n mov.b32 %d0, 77;\n @%odd vote.sync.ballot.b32 %d0, %a0, 0xaaaaaaaa;";
    let rows = lanes(|lane| vec![u64::from(lane % 3 == 0)]);
    for (lane, seen) in run("pred -> b32", body, &rows).into_iter().enumerate() {
        let among: u64 = (0..32).filter(|l| l % 2 == 1 && l % 3 == 0).map(|l| 1 << l).sum();
        assert_eq!(seen[0], if lane % 2 == 1 { among } else { 77 });
    }
}

#[test]
fn matches() {
    let rows = lanes(|lane| vec![number(lane)]);
    let same =
        |lane: usize| (0..32u64).filter(|&l| number(l) == number(lane as u64)).map(|l| 1 << l).sum::<u64>();
    for (signature, body) in [
        ("b32 -> b32", "match.any.sync.b32 %d0, %a0, 0xffffffff;"),
        ("b64 -> b32", "match.any.sync.b64 %d0, %a0, 0xffffffff;"),
    ] {
        for (lane, seen) in run(signature, body, &rows).into_iter().enumerate() {
            assert_eq!(seen[0], same(lane), "{body} lane {lane}");
        }
    }
    let body = "match.all.sync.b32 %d0|%d1, %a0, 0xffffffff;";
    assert!(run("b32 -> b32 pred", body, &rows).iter().all(|seen| seen == &[0, 0]));
    let equal = lanes(|_| vec![9]);
    assert!(run("b32 -> b32 pred", body, &equal).iter().all(|seen| seen == &[0xffff_ffff, 1]));
}

#[test]
fn reductions() {
    let rows = lanes(|lane| vec![number(lane)]);
    let values: Vec<u32> = (0..32).map(|lane| number(lane) as u32).collect();
    let signed = || values.iter().map(|&x| x as i32);
    let table: [(&str, u32); 8] = [
        ("add.u32", values.iter().fold(0, |sum, x| sum.wrapping_add(*x))),
        ("add.s32", values.iter().fold(0, |sum, x| sum.wrapping_add(*x))),
        ("min.u32", *values.iter().min().unwrap()),
        ("max.u32", *values.iter().max().unwrap()),
        ("min.s32", signed().min().unwrap() as u32),
        ("max.s32", signed().max().unwrap() as u32),
        ("and.b32", values.iter().fold(u32::MAX, |all, x| all & x)),
        ("xor.b32", values.iter().fold(0, |all, x| all ^ x)),
    ];
    for (op, expected) in table {
        check("b32 -> b32", &format!("redux.sync.{op} %d0, %a0, 0xffffffff;"), &rows, |_| expected.into());
    }
}

#[test]
fn active_lanes_and_the_elected_one() {
    check("b32 -> b32", "activemask.b32 %d0;", &lanes(|_| vec![0]), |_| 0xffff_ffff);
    let body = "elect.sync %d0|%d1, 0xffffffff;";
    let seen = run("b32 -> b32 pred", body, &lanes(|_| vec![0]));
    assert!(seen.iter().all(|row| row[0] == seen[0][0]), "all lanes learn of the same leader");
    let leaders: Vec<usize> = (0..32).filter(|&lane| seen[lane][1] == 1).collect();
    assert_eq!(leaders, [seen[0][0] as usize]);
}

#[test]
fn barriers_reduce() {
    for bits in [0u64, u64::from(u32::MAX), 0x0010_0f01] {
        let rows = lanes(|lane| vec![bits >> lane & 1]);
        check("pred -> b32", "barrier.cta.red.popc.u32 %d0, 0, %a0;", &rows, |_| bits.count_ones().into());
        check("pred -> pred", "bar.red.and.pred %d0, 0, %a0;", &rows, |_| {
            u64::from(bits == u64::from(u32::MAX))
        });
        check("pred -> pred", "bar.red.or.pred %d0, 1, !%a0;", &rows, |_| {
            u64::from(bits != u64::from(u32::MAX))
        });
    }
}
