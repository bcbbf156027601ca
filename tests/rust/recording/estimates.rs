//! What samples stand for, against populations that are known.

use gdb_leak::recording::Estimate;

/// Numbers between zero and one, the same in each run (Steele and others, `SplitMix64`).
struct Random(u64);

impl Random {
    #[allow(clippy::cast_precision_loss)]
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// The bytes to the next sample, counted as the recorder does: byte by byte with chance 1/N each.
fn gap(random: &mut Random, sample: f64) -> f64 {
    -(1.0 - random.next()).ln() * sample
}

/// Which of the sizes a recorder samples: a stream of bytes, in which samples start.
fn sampled(sizes: &[u64], sample: u64, seed: u64) -> Estimate {
    #[allow(clippy::cast_precision_loss)]
    let each = sample as f64;
    let mut random = Random(seed);
    let mut left = gap(&mut random, each);
    let mut estimate = Estimate::default();
    for size in sizes {
        #[allow(clippy::cast_precision_loss)]
        let bytes = (*size).max(1) as f64;
        left -= bytes;
        if left < 0.0 {
            estimate.add(*size, sample);
            // What follows a sample does not depend on it.
            left = gap(&mut random, each);
        }
    }
    estimate
}

/// One of the numbers of an estimate.
type Of = fn(&Estimate) -> f64;

#[test]
#[allow(clippy::cast_precision_loss)]
fn estimates_are_right_on_average_and_so_are_their_errors() {
    const RUNS: u64 = 2000;
    let sizes: Vec<u64> = (0..400).map(|number| [0, 16, 100, 600, 5000, 70_000][number % 6]).collect();
    let (blocks, bytes) = (sizes.len() as f64, sizes.iter().sum::<u64>() as f64);
    for sample in [64, 4096, 65_536] {
        let runs: Vec<Estimate> = (0..RUNS).map(|seed| sampled(&sizes, sample, seed * 7 + 1)).collect();
        let mean = |of: &dyn Fn(&Estimate) -> f64| runs.iter().map(of).sum::<f64>() / RUNS as f64;
        let both: [(&str, f64, Of, Of); 2] = [
            ("blocks", blocks, |run| run.blocks, Estimate::blocks_error),
            ("bytes", bytes, |run| run.bytes, Estimate::bytes_error),
        ];
        for (what, truth, of, error) in both {
            let (found, spread) = (mean(&of), mean(&|run| (of(run) - truth).powi(2)));
            let told = mean(&|run| error(run).powi(2));
            // Four standard errors of a mean over all runs.
            let allowed = 4.0 * (spread / RUNS as f64).sqrt() + 1e-6 * truth;
            assert!((found - truth).abs() <= allowed, "{what} at {sample}: {found} of {truth} +- {allowed}");
            // Blocks of 16 bytes are sampled so rarely that their variance is told with an error itself.
            assert!(
                (told / (spread + 1e-9) - 1.0).abs() < 0.35 || spread < 1.0,
                "{what} at {sample}: {told} {spread}"
            );
        }
    }
}

#[test]
fn a_block_that_is_sure_to_be_sampled_stands_for_itself() {
    let mut estimate = Estimate::default();
    estimate.add(1 << 40, 4096);
    assert!((estimate.blocks - 1.0).abs() < 1e-12 && estimate.blocks_error() < 1e-6);
    assert_eq!(estimate.whole_bytes(), 1 << 40);
}

#[test]
fn sizes_and_rates_at_their_limits_give_numbers() {
    for (size, sample) in [(0, 0), (0, u64::MAX), (u64::MAX, 1), (u64::MAX, u64::MAX), (1, 1)] {
        let mut estimate = Estimate::default();
        estimate.add(size, sample);
        assert!(estimate.blocks.is_finite() && estimate.bytes.is_finite(), "{size} {sample}");
        assert!(estimate.blocks_error().is_finite() && estimate.bytes_error().is_finite());
    }
}
